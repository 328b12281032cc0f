package smt

import (
	"errors"
	"fmt"
)

var (
	// errNoSchema: the transform works on schemas, and the record has none.
	errNoSchema = errors.New("Schema required for [updating schema metadata]; plain JSON has none: set schemas.enable=true on the converter")
	// errPairs: a list of renames is not one.
	errPairs = errors.New("expected a list of colon-delimited pairs, e.g. foo:bar,abc:xyz")
)

func missingField(name string) error {
	return fmt.Errorf("Field does not exist: %s", name)
}
