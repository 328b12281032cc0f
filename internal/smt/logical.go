package smt

import (
	"regexp"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var byLogicalTable = &class{
	name: "ByLogicalTableRouter", pkg: debezium, doc: "Debezium's router that brings the change events of many tables of one shape into one topic; the key gets a field that keeps their rows apart.",
	spec: configdef.New(
		configdef.Key{Name: "topic.regex", Type: configdef.String, Required: true, Check: checkRegex, Importance: configdef.High, Doc: "Regular expression of the topics to bring together; it must match the whole name."},
		configdef.Key{Name: "topic.replacement", Type: configdef.String, Required: true, Importance: configdef.High, Doc: "Their new name; $1 is what the first group matched."},
		configdef.Key{Name: "key.enforce.uniqueness", Type: configdef.Boolean, Default: "true", Doc: "Whether the key gets the field."},
		configdef.Key{Name: "key.field.name", Type: configdef.String, Default: "__dbz__physicalTableIdentifier", Doc: "Name of the field."},
		configdef.Key{Name: "key.field.regex", Type: configdef.String, Default: "", Check: checkRegex, Doc: "Regular expression on the old topic that makes the field's value, together with key.field.replacement. Empty: the old topic."},
		configdef.Key{Name: "key.field.replacement", Type: configdef.String, Default: "", Doc: "What of the match the value is."},
		configdef.Key{Name: "schema.name.adjustment.mode", Type: configdef.String, Default: "none", OneOf: []string{"none"}, Hidden: true, Doc: "Names of schemas are as the topics'."},
		configdef.Key{Name: "logical.table.cache.size", Type: configdef.Int, Default: "16", Hidden: true, Doc: "Accepted for existing configs."},
	),
	build: func(b builder) (transform, []configdef.Problem) {
		t := &logical{opts: b.opts, keyed: b.Bool("key.enforce.uniqueness"), field: b.String("key.field.name"), schemas: map[*record.Schema]map[string]*record.Schema{}}
		var problems []configdef.Problem
		read := func(re, to string) route {
			r := route{regex: regexp.MustCompile(b.String(re))}
			var err error
			if r.to, err = javaReplacement(r.regex, b.String(to)); err != nil {
				problems = append(problems, wrong(to, b.String(to), "%v", err)...)
			}
			return r
		}
		t.topic = read("topic.regex", "topic.replacement")
		if b.String("key.field.regex") != "" {
			t.id = read("key.field.regex", "key.field.replacement")
		}
		return t, problems
	},
}

type logical struct {
	opts      Options
	topic, id route
	keyed     bool
	field     string
	// schemas are the renamed ones: by the old one and the new topic.
	schemas map[*record.Schema]map[string]*record.Schema
}

func (t *logical) apply(r *record.Record) (bool, error) {
	old := r.Topic
	topic := t.topic.rename(old)
	if topic == old {
		return true, nil
	}
	k, err := key.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	v, err := value.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	if _, ok := envelopeOf(v); !ok && v != nil {
		return true, nil
	}
	id := old
	if t.id.regex != nil {
		id = t.id.rename(old)
	}
	switch k := k.(type) {
	case *record.Struct:
		s := t.renamed(k.Schema, topic, func(s *record.Schema) {
			s.Name = topic + ".Key"
			if t.keyed {
				s.Fields = append(s.Fields, record.Field{Name: t.field, Schema: &record.Schema{Type: record.TypeString}})
			}
		})
		values := append([]any(nil), k.Values...)
		if t.keyed {
			values = append(values, id)
		}
		r.Key = &record.Struct{Schema: s, Values: values}
	case map[string]any:
		m := cloneMap(k)
		if t.keyed {
			m[t.field] = id
		}
		r.Key = m
	}
	if st, ok := v.(*record.Struct); ok {
		v = t.envelope(st, topic)
	}
	r.Value = v
	return true, move(r, topic)
}

// renamed returns a schema as change makes it for a topic.
func (t *logical) renamed(s *record.Schema, topic string, change func(*record.Schema)) *record.Schema {
	out := t.schemas[s][topic]
	if out == nil {
		if len(t.schemas) >= schemasMax {
			clear(t.schemas)
		}
		out = withFields(s, append([]record.Field(nil), s.Fields...))
		change(out)
		if t.schemas[s] == nil {
			t.schemas[s] = map[string]*record.Schema{}
		}
		t.schemas[s][topic] = out
	}
	return out
}

// envelope is a change event whose schemas are named for the topic.
func (t *logical) envelope(st *record.Struct, topic string) *record.Struct {
	row := func(s *record.Schema) *record.Schema {
		return t.renamed(s, topic, func(s *record.Schema) { s.Name = topic + ".Value" })
	}
	out := &record.Struct{Values: append([]any(nil), st.Values...), Schema: t.renamed(st.Schema, topic, func(s *record.Schema) {
		s.Name = topic + ".Envelope"
		for i, f := range s.Fields {
			if isRow(f.Name) {
				s.Fields[i].Schema = row(f.Schema)
			}
		}
	})}
	for i, f := range st.Schema.Fields {
		if inner, ok := out.Values[i].(*record.Struct); ok && isRow(f.Name) {
			out.Values[i] = &record.Struct{Schema: out.Schema.Fields[i].Schema, Values: inner.Values}
		}
	}
	return out
}

func isRow(field string) bool { return field == "before" || field == "after" }
