package smt

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// castTypes are the types that Cast can make, by their names in configs.
var castTypes = map[string]record.Type{
	"int8": record.TypeInt8, "int16": record.TypeInt16, "int32": record.TypeInt32, "int64": record.TypeInt64,
	"float32": record.TypeFloat, "float64": record.TypeDouble, "boolean": record.TypeBoolean, "string": record.TypeString,
}

var castClass = &class{
	name: "Cast", pkg: apache, halves: true, doc: "Makes fields, or the whole key or value, another type: int8, int16, int32, int64, float32, float64, boolean or string.",
	spec: configdef.New(
		configdef.Key{Name: "spec", Type: configdef.List, Required: true, Importance: configdef.High, Check: checkCast, Example: "id:int64,price:float64", Doc: "Fields with their new types as field:type, or a single type for the whole key or value."},
		replaceNull,
	),
	build: func(b builder) (transform, []configdef.Problem) {
		t := &cast{part: b.part, opts: b.opts, fields: map[string]record.Type{}, replace: b.Bool("replace.null.with.default"), cache: schemas{}}
		for _, item := range b.List("spec") {
			if field, typ, ok := strings.Cut(item, ":"); ok {
				t.fields[strings.TrimSpace(field)] = castTypes[strings.ToLower(strings.TrimSpace(typ))]
			} else {
				t.all = castTypes[strings.ToLower(item)]
			}
		}
		return t, nil
	},
}

func checkCast(v string) error {
	whole, items := false, 0
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		items++
		typ := item
		if strings.Contains(item, ":") {
			var field string
			if field, typ, _ = strings.Cut(item, ":"); field == "" {
				return fmt.Errorf("Invalid rename mapping: %s", item)
			}
		} else {
			whole = true
		}
		if _, ok := castTypes[strings.ToLower(strings.TrimSpace(typ))]; !ok {
			return fmt.Errorf("Invalid type specified for casting: %s; it must be int8, int16, int32, int64, float32, float64, boolean or string", typ)
		}
	}
	if items == 0 {
		return errors.New("Must specify at least one field to cast")
	}
	if whole && items > 1 {
		return errors.New("Cast transformations that specify a type to cast the entire value to may only specify a single cast in their spec")
	}
	return nil
}

type cast struct {
	part    part
	opts    Options
	fields  map[string]record.Type
	all     record.Type
	replace bool
	cache   schemas
}

func (t *cast) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	s, x := split(v)
	if t.all != "" {
		out, err := castTo(s, x, t.all)
		if err != nil {
			return false, err
		}
		if s != nil {
			s = t.cache.of(s, func() *record.Schema { return castSchema(s, t.all) })
		}
		t.part.set(r, join(s, out))
		return true, nil
	}
	o, err := objectOf(v, "cast types")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := cloneMap(o.m)
		for f, typ := range t.fields {
			if was, ok := out[f]; ok {
				if out[f], err = castTo(nil, was, typ); err != nil {
					return false, fmt.Errorf("field %s: %w", f, err)
				}
			}
		}
		t.part.set(r, out)
		return true, nil
	}
	out := &record.Struct{Values: slices.Clone(o.st.Values), Schema: t.cache.of(s, func() *record.Schema {
		fields := slices.Clone(s.Fields)
		for i, f := range fields {
			if typ, ok := t.fields[f.Name]; ok {
				fields[i].Schema = castSchema(f.Schema, typ)
			}
		}
		return withFields(s, fields)
	})}
	for i, f := range s.Fields {
		was := orDefault(f.Schema, out.Values[i], t.replace)
		if typ, ok := t.fields[f.Name]; ok {
			if was, err = castTo(f.Schema, was, typ); err != nil {
				return false, fmt.Errorf("field %s: %w", f.Name, err)
			}
		}
		out.Values[i] = was
	}
	t.part.set(r, out)
	return true, nil
}

// castSchema is the schema of a cast: the new type, with the default cast too.
func castSchema(s *record.Schema, to record.Type) *record.Schema {
	out := &record.Schema{Type: to, Optional: s.Optional}
	if d, err := castTo(s, s.Default, to); err == nil {
		out.Default = d
	}
	return out
}

// castTo makes v another type, with the rules of Java's casts and parsers.
func castTo(s *record.Schema, v any, to record.Type) (any, error) {
	if v == nil {
		return nil, nil
	}
	if to == record.TypeString {
		switch v.(type) {
		case *record.Struct, []any, map[string]any:
			return nil, fmt.Errorf("Unexpected type in Cast transformation: %s", nameOf(s, v))
		}
		out, _ := text(s, v)
		return out, nil
	}
	if b, ok := v.([]byte); ok && s != nil && s.Name == record.LogicalDecimal {
		f, err := strconv.ParseFloat(decimalText(s, b), 64)
		if err != nil {
			return nil, err
		}
		v = f
	}
	if n, f, integral, ok := number(v); ok {
		return castNumber(n, f, integral, to), nil
	}
	switch v := v.(type) {
	case bool:
		n := int64(0)
		if v {
			n = 1
		}
		return castNumber(n, float64(n), true, to), nil
	case string:
		return castText(v, to)
	}
	return nil, fmt.Errorf("Unexpected type in Cast transformation: %s", nameOf(s, v))
}

func castNumber(n int64, f float64, integral bool, to record.Type) any {
	if !integral {
		n = narrow(f, math.MinInt64, math.MaxInt64)
		if to != record.TypeInt64 { // Java narrows to int first
			n = narrow(f, math.MinInt32, math.MaxInt32)
		}
	}
	switch to {
	case record.TypeInt8:
		return int64(int8(n))
	case record.TypeInt16:
		return int64(int16(n))
	case record.TypeInt32:
		return int64(int32(n))
	case record.TypeInt64:
		return n
	case record.TypeFloat:
		return float64(float32(f))
	case record.TypeBoolean:
		return n != 0
	default:
		return f
	}
}

// narrow cuts a number's fraction off and holds it within bounds; no number is 0.
func narrow(f float64, low, high int64) int64 {
	switch {
	case math.IsNaN(f):
		return 0
	case f >= float64(high):
		return high
	case f <= float64(low):
		return low
	}
	return int64(f)
}

func castText(s string, to record.Type) (any, error) {
	switch to {
	case record.TypeBoolean:
		return strings.EqualFold(s, "true"), nil
	case record.TypeFloat, record.TypeDouble:
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if to == record.TypeFloat {
			f = float64(float32(f))
		}
		if err != nil && !math.IsInf(f, 0) {
			return nil, fmt.Errorf("Value (%s) was out of range or not a number", s)
		}
		return f, nil
	default:
		n, err := strconv.ParseInt(s, 10, intBits(&record.Schema{Type: to}))
		if err != nil {
			return nil, fmt.Errorf("Value (%s) was out of range for requested data type", s)
		}
		return n, nil
	}
}
