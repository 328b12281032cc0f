package smt

import (
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var insertField = &class{
	name: "InsertField", pkg: apache, halves: true,
	doc: "Adds fields with the record's topic, partition, offset or timestamp, or a fixed text. A field's name ends in ! for a required field and in ? for an optional one, which is the default.",
	spec: configdef.New(
		configdef.Key{Name: "topic.field", Type: configdef.String, Default: "", Doc: "Name of the field for the topic."},
		configdef.Key{Name: "partition.field", Type: configdef.String, Default: "", Doc: "Name of the field for the topic partition."},
		configdef.Key{Name: "offset.field", Type: configdef.String, Default: "", Doc: "Name of the field for the offset; sinks only."},
		configdef.Key{Name: "timestamp.field", Type: configdef.String, Default: "", Doc: "Name of the field for the record's timestamp."},
		configdef.Key{Name: "static.field", Type: configdef.String, Default: "", Doc: "Name of the field for static.value."},
		configdef.Key{Name: "static.value", Type: configdef.String, Default: "", Doc: "Its text."},
		replaceNull,
	),
	build: func(b builder) (transform, []configdef.Problem) {
		t := &insert{part: b.part, opts: b.opts, replace: b.Bool("replace.null.with.default"), cache: schemas{}}
		for _, f := range []struct {
			key    string
			schema record.Schema
			of     func(r *record.Record) any
		}{
			{"topic.field", record.Schema{Type: record.TypeString}, func(r *record.Record) any { return r.Topic }},
			{"partition.field", record.Schema{Type: record.TypeInt32}, partitionOf},
			{"offset.field", record.Schema{Type: record.TypeInt64}, func(r *record.Record) any { return r.Offset }},
			{"timestamp.field", record.Schema{Type: record.TypeInt64, Name: record.LogicalTimestamp, Version: 1}, timestampOf},
			{"static.field", record.Schema{Type: record.TypeString}, func(*record.Record) any { return b.String("static.value") }},
		} {
			name := b.String(f.key)
			if name == "" {
				continue
			}
			schema := f.schema
			schema.Optional = !strings.HasSuffix(name, "!")
			t.fields = append(t.fields, inserted{strings.TrimRight(name, "!?"), &schema, f.of})
		}
		switch {
		case len(t.fields) == 0:
			return nil, wrong("static.field", "", "No field insertion configured")
		case b.String("static.field") != "" && !b.IsSet("static.value"):
			return nil, wrong("static.value", "null", "No value specified for static field: %s", b.String("static.field"))
		case b.String("offset.field") != "" && b.opts.Source:
			return nil, wrong("offset.field", b.String("offset.field"), "a source's records have no offset yet; only sinks can insert it")
		}
		return t, nil
	},
}

func partitionOf(r *record.Record) any {
	if r.Partition == record.AnyPartition {
		return nil
	}
	return int64(r.Partition)
}

func timestampOf(r *record.Record) any {
	if r.TimestampMS == 0 {
		return nil
	}
	return r.TimestampMS
}

type inserted struct {
	name   string
	schema *record.Schema
	of     func(r *record.Record) any
}

type insert struct {
	part    part
	opts    Options
	fields  []inserted
	replace bool
	cache   schemas
}

func (t *insert) apply(r *record.Record) (bool, error) {
	if (isTombstone{}).holds(r) {
		return true, nil
	}
	v, err := t.part.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	o, err := objectOf(v, "field insertion")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := cloneMap(o.m)
		for _, f := range t.fields {
			out[f.name] = f.of(r)
		}
		t.part.set(r, out)
		return true, nil
	}
	names := make([]record.Field, len(t.fields))
	values := make([]any, len(t.fields))
	for i, f := range t.fields {
		names[i], values[i] = record.Field{Name: f.name, Schema: f.schema}, f.of(r)
	}
	t.part.set(r, extended(o.st, t.cache, names, values, t.replace))
	return true, nil
}

// extended is a struct with further fields; one that is there already gets the new value and schema.
func extended(st *record.Struct, cache schemas, fields []record.Field, values []any, replace bool) *record.Struct {
	out := &record.Struct{Values: make([]any, 0, len(st.Values)+len(values))}
	for i, f := range st.Schema.Fields {
		out.Values = append(out.Values, orDefault(f.Schema, st.Values[i], replace))
	}
	out.Schema = cache.of(st.Schema, func() *record.Schema {
		all := append([]record.Field(nil), st.Schema.Fields...)
		s := withFields(st.Schema, all)
		for _, f := range fields {
			if i := s.Index(f.Name); i >= 0 {
				s.Fields[i] = f
			} else {
				s.Fields = append(s.Fields, f)
			}
		}
		return s
	})
	for i, f := range fields {
		if at := out.Schema.Index(f.Name); at < len(out.Values) {
			out.Values[at] = values[i]
		} else {
			out.Values = append(out.Values, values[i])
		}
	}
	return out
}
