package smt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

func unknownField(name string) error {
	return fmt.Errorf("Unknown field: %s", name)
}

// parsePath reads a field's path: the name itself in V1; dotted steps in V2, with backticks around names that hold a dot.
func parsePath(s, version string) ([]string, error) {
	if version != "V2" {
		return []string{s}, nil
	}
	var out []string
	for {
		name, rest, more, err := pathStep(s)
		if err != nil {
			return nil, err
		}
		if out = append(out, name); !more {
			return out, nil
		}
		s = rest
	}
}

func pathStep(s string) (name, rest string, more bool, err error) {
	if !strings.HasPrefix(s, "`") {
		name, rest, more = strings.Cut(s, ".")
		return name, rest, more, nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '`':
			i++
			b.WriteByte('`')
		case s[i] == '`' && (i+1 == len(s) || s[i+1] == '.'):
			if i+1 == len(s) {
				return b.String(), "", false, nil
			}
			return b.String(), s[i+2:], true, nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false, errors.New("Incomplete backtick pair; every backtick that opens must be closed before a dot or the end")
}

// schemaAt finds the schema of a path; false: there is no such field.
func schemaAt(s *record.Schema, path []string) (*record.Schema, bool) {
	for _, name := range path {
		i := s.Index(name)
		if i < 0 {
			return nil, false
		}
		s = s.Fields[i].Schema
	}
	return s, true
}

// valueAt finds the value of a path; nil where a step is null or missing.
func valueAt(v any, path []string, replace bool) (any, error) {
	for _, name := range path {
		if v == nil {
			return nil, nil
		}
		o, err := objectOf(v, "field extraction")
		if err != nil {
			return nil, err
		}
		s, x, _ := o.get(name)
		v = orDefault(s, x, replace)
	}
	return v, nil
}
