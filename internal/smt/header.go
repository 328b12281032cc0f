package smt

import (
	"slices"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var (
	dropHeaders = &class{
		name: "DropHeaders", pkg: apache, doc: "Removes headers.",
		spec: configdef.New(configdef.Key{Name: "headers", Type: configdef.List, Required: true, Importance: configdef.High, Doc: "Names of the headers."}),
		build: func(b builder) (transform, []configdef.Problem) {
			return headerDrop(b.List("headers")), nil
		},
	}
	insertHeader = &class{
		name: "InsertHeader", pkg: apache, doc: "Adds a header to each record.",
		spec: configdef.New(
			configdef.Key{Name: "header", Type: configdef.String, Required: true, Importance: configdef.High, Doc: "Name of the header."},
			configdef.Key{Name: "value.literal", Type: configdef.String, Required: true, Importance: configdef.High, Doc: "Its value, written as it is."},
		),
		build: func(b builder) (transform, []configdef.Problem) {
			return headerInsert{Key: b.String("header"), Value: []byte(b.String("value.literal"))}, nil
		},
	}
	headerFrom = &class{
		name: "HeaderFrom", pkg: apache, halves: true, doc: "Moves or copies fields into headers, as text.",
		spec: configdef.New(
			configdef.Key{Name: "fields", Type: configdef.List, Required: true, Importance: configdef.High, Doc: "Names of the fields."},
			configdef.Key{Name: "headers", Type: configdef.List, Required: true, Importance: configdef.High, Doc: "Names of their headers, in the same order."},
			configdef.Key{Name: "operation", Type: configdef.String, Required: true, OneOf: []string{"move", "copy"}, Importance: configdef.High, Doc: "move takes the fields out of the record, copy leaves them."},
			replaceNull,
		),
		build: func(b builder) (transform, []configdef.Problem) {
			t := &fieldHeaders{part: b.part, opts: b.opts, fields: b.List("fields"), headers: b.List("headers"), move: b.String("operation") == "move", replace: b.Bool("replace.null.with.default"), cache: schemas{}}
			if len(t.fields) != len(t.headers) {
				return nil, wrong("headers", b.Given()["headers"], "'fields' config must have the same number of elements as 'headers' config")
			}
			return t, nil
		},
	}
)

type headerDrop []string

func (t headerDrop) apply(r *record.Record) (bool, error) {
	drop := func(h record.Header) bool { return slices.Contains(t, h.Key) }
	if slices.ContainsFunc(r.Headers, drop) {
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), drop)
	}
	return true, nil
}

type headerInsert record.Header

func (t headerInsert) apply(r *record.Record) (bool, error) {
	addHeader(r, record.Header(t))
	return true, nil
}

// addHeader adds to headers that other records may share.
func addHeader(r *record.Record, h record.Header) {
	r.Headers = append(slices.Clip(r.Headers), h)
}

type fieldHeaders struct {
	part            part
	opts            Options
	fields, headers []string
	move, replace   bool
	cache           schemas
}

func (t *fieldHeaders) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	o, err := objectOf(v, "header from")
	if err != nil {
		return false, err
	}
	for i, f := range t.fields {
		s, x, ok := o.get(f)
		if !ok && o.st != nil {
			return false, unknownField(f)
		}
		h := record.Header{Key: t.headers[i]}
		if text, ok := text(s, orDefault(s, x, t.replace)); ok {
			h.Value = []byte(text)
		}
		addHeader(r, h)
	}
	if t.move {
		t.part.set(r, o.without(t.fields, t.cache))
	}
	return true, nil
}

// without returns the object less some fields.
func (o object) without(fields []string, cache schemas) any {
	if o.st == nil {
		out := cloneMap(o.m)
		for _, f := range fields {
			delete(out, f)
		}
		return out
	}
	out := &record.Struct{Schema: cache.of(o.st.Schema, func() *record.Schema {
		return withFields(o.st.Schema, slices.DeleteFunc(slices.Clone(o.st.Schema.Fields), func(f record.Field) bool { return slices.Contains(fields, f.Name) }))
	})}
	for i, f := range o.st.Schema.Fields {
		if !slices.Contains(fields, f.Name) {
			out.Values = append(out.Values, o.st.Values[i])
		}
	}
	return out
}
