package smt

import (
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var flattenClass = &class{
	name: "Flatten", pkg: apache, halves: true, doc: "Makes the fields of nested structs, or maps, fields of the outermost one; arrays stay.",
	spec: configdef.New(configdef.Key{Name: "delimiter", Type: configdef.String, Default: ".", Doc: "What stands between the names."}),
	build: func(b builder) (transform, []configdef.Problem) {
		return &flatten{part: b.part, opts: b.opts, delimiter: b.String("delimiter"), cache: schemas{}}, nil
	},
}

type flatten struct {
	part      part
	opts      Options
	delimiter string
	cache     schemas
}

func (t *flatten) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	o, err := objectOf(v, "flattening")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := map[string]any{}
		t.maps(out, "", o.m)
		t.part.set(r, out)
		return true, nil
	}
	s := o.st.Schema
	out := &record.Struct{Schema: t.cache.of(s, func() *record.Schema {
		return withFields(s, t.fields(nil, "", s, s.Optional))
	})}
	out.Values = values(out.Values, s, o.st)
	t.part.set(r, out)
	return true, nil
}

func (t *flatten) name(prefix, field string) string {
	if prefix == "" {
		return field
	}
	return prefix + t.delimiter + field
}

func (t *flatten) maps(out map[string]any, prefix string, m map[string]any) {
	for f, v := range m {
		if inner, ok := v.(map[string]any); ok {
			t.maps(out, t.name(prefix, f), inner)
		} else {
			out[t.name(prefix, f)] = v
		}
	}
}

// fields are those of a struct's schema, flat. What is inside an optional struct is optional.
func (t *flatten) fields(dst []record.Field, prefix string, s *record.Schema, optional bool) []record.Field {
	for _, f := range s.Fields {
		opt := optional || f.Schema.Optional
		switch {
		case f.Schema.Type == record.TypeStruct:
			dst = t.fields(dst, t.name(prefix, f.Name), f.Schema, opt)
		case opt == f.Schema.Optional:
			dst = append(dst, record.Field{Name: t.name(prefix, f.Name), Schema: f.Schema})
		default:
			s := *f.Schema
			s.Optional = true
			dst = append(dst, record.Field{Name: t.name(prefix, f.Name), Schema: &s})
		}
	}
	return dst
}

// values are those of a struct, flat; all are null where it is null itself.
func values(dst []any, s *record.Schema, st *record.Struct) []any {
	for i, f := range s.Fields {
		var v any
		if st != nil {
			v = st.Values[i]
		}
		if f.Schema.Type == record.TypeStruct {
			inner, _ := v.(*record.Struct)
			dst = values(dst, f.Schema, inner)
		} else {
			dst = append(dst, v)
		}
	}
	return dst
}
