package smt

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var maskField = &class{
	name: "MaskField", pkg: apache, halves: true, doc: "Puts the empty value of a field's type in its place (0, empty text, false), or the replacement.",
	spec: configdef.New(
		configdef.Key{Name: "fields", Type: configdef.List, Required: true, Importance: configdef.High, Doc: "Names of the fields."},
		configdef.Key{Name: "replacement", Type: configdef.String, NoDefault: true, Importance: configdef.Low, Check: notEmpty, Doc: "What numbers and texts become instead."},
		replaceNull,
	),
	build: func(b builder) (transform, []configdef.Problem) {
		t := &mask{part: b.part, opts: b.opts, fields: b.List("fields"), replacement: b.String("replacement"), replace: b.Bool("replace.null.with.default")}
		return t, nil
	},
}

func notEmpty(v string) error {
	if v == "" {
		return fmt.Errorf("String must be non-empty")
	}
	return nil
}

type mask struct {
	part        part
	opts        Options
	fields      []string
	replacement string
	replace     bool
}

func (t *mask) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	o, err := objectOf(v, "mask fields")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := cloneMap(o.m)
		for _, f := range t.fields {
			if out[f], err = t.masked(nil, out[f]); err != nil {
				return false, fmt.Errorf("field %s: %w", f, err)
			}
		}
		t.part.set(r, out)
		return true, nil
	}
	out := &record.Struct{Schema: o.st.Schema, Values: append([]any(nil), o.st.Values...)}
	for _, f := range t.fields {
		i := o.st.Schema.Index(f)
		if i < 0 {
			continue
		}
		s := o.st.Schema.Fields[i].Schema
		if out.Values[i], err = t.masked(s, orDefault(s, out.Values[i], t.replace)); err != nil {
			return false, fmt.Errorf("field %s: %w", f, err)
		}
	}
	t.part.set(r, out)
	return true, nil
}

func (t *mask) masked(s *record.Schema, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	if t.replacement != "" {
		return t.custom(s, v)
	}
	switch v.(type) {
	case bool:
		return false, nil
	case int64, uint64, json.Number:
		return int64(0), nil
	case float64:
		return float64(0), nil
	case string:
		return "", nil
	case []any:
		return []any{}, nil
	case map[string]any:
		return map[string]any{}, nil
	case []byte:
		if s != nil && s.Name == record.LogicalDecimal {
			return []byte{0}, nil
		}
	}
	return nil, fmt.Errorf("Cannot mask value of type: %s", nameOf(s, v))
}

// nameOf is the type of a value for messages.
func nameOf(s *record.Schema, v any) string {
	if s != nil {
		return string(s.Type)
	}
	return typeName(v)
}

func (t *mask) custom(s *record.Schema, v any) (any, error) {
	var out any
	var err error
	switch v.(type) {
	case string:
		return t.replacement, nil
	case int64, uint64:
		out, err = strconv.ParseInt(t.replacement, 10, intBits(s))
	case json.Number:
		if _, err = strconv.ParseFloat(t.replacement, 64); err == nil {
			out = json.Number(t.replacement)
		}
	case float64:
		out, err = strconv.ParseFloat(t.replacement, 64)
	default:
		return nil, fmt.Errorf("Cannot mask value of type %s with custom replacement", nameOf(s, v))
	}
	if err != nil {
		return nil, fmt.Errorf("Unable to convert %s to number", t.replacement)
	}
	return out, nil
}

// intBits is the width of an integer type.
func intBits(s *record.Schema) int {
	if s != nil {
		switch s.Type {
		case record.TypeInt8:
			return 8
		case record.TypeInt16:
			return 16
		case record.TypeInt32:
			return 32
		default:
		}
	}
	return 64
}
