package smt

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var (
	extractField = &class{
		name: "ExtractField", pkg: apache, halves: true, doc: "Makes one field the whole key or value.",
		spec: configdef.New(
			configdef.Key{Name: "field", Type: configdef.String, Required: true, Importance: configdef.Medium, Doc: "Name of the field."},
			configdef.Key{Name: "field.syntax.version", Type: configdef.String, Default: "V1", OneOf: []string{"V1", "V2"}, Importance: configdef.High, Doc: "V2 reads the field as a path with dots; backticks quote names that hold one."},
			replaceNull,
		),
		build: func(b builder) (transform, []configdef.Problem) {
			path, err := parsePath(b.String("field"), b.String("field.syntax.version"))
			if err != nil {
				return nil, wrong("field", b.String("field"), "%v", err)
			}
			return &extract{part: b.part, opts: b.opts, name: b.String("field"), path: path, replace: b.Bool("replace.null.with.default")}, nil
		},
	}
	filter = &class{
		name: "Filter", pkg: apache, doc: "Drops the record; use it with a predicate.", spec: configdef.New(),
		build: func(builder) (transform, []configdef.Problem) { return drop{}, nil },
	}
	hoistField = &class{
		name: "HoistField", pkg: apache, halves: true, doc: "Wraps the key or value into a struct, or a map, of one field.",
		spec: configdef.New(configdef.Key{Name: "field", Type: configdef.String, Required: true, Importance: configdef.Medium, Doc: "Name of the field."}),
		build: func(b builder) (transform, []configdef.Problem) {
			return &hoist{part: b.part, opts: b.opts, field: b.String("field"), cache: schemas{}}, nil
		},
	}
	replaceField = &class{
		name: "ReplaceField", pkg: apache, halves: true, doc: "Leaves fields out, or renames them.",
		spec: configdef.New(
			configdef.Key{Name: "exclude", Type: configdef.List, Default: "", Doc: "Fields to leave out; this wins over include."},
			configdef.Key{Name: "include", Type: configdef.List, Default: "", Doc: "Fields to keep; empty: all."},
			configdef.Key{Name: "renames", Type: configdef.List, Default: "", Check: pairs, Example: "foo:bar,abc:xyz", Doc: "Fields to rename, as old:new."},
			replaceNull,
		),
		build: func(b builder) (transform, []configdef.Problem) {
			t := &replace{part: b.part, opts: b.opts, exclude: b.List("exclude"), include: b.List("include"), renames: map[string]string{}, replace: b.Bool("replace.null.with.default"), cache: schemas{}}
			for _, p := range b.List("renames") {
				from, to, _ := strings.Cut(p, ":")
				t.renames[strings.TrimSpace(from)] = strings.TrimSpace(to)
			}
			return t, nil
		},
	}
	setSchemaMetadata = &class{
		name: "SetSchemaMetadata", pkg: apache, halves: true, doc: "Sets the name or version of the schema of the key or value.",
		spec: configdef.New(
			configdef.Key{Name: "schema.name", Type: configdef.String, NoDefault: true, Importance: configdef.High, Doc: "Name of the schema."},
			configdef.Key{Name: "schema.version", Type: configdef.Int, NoDefault: true, Importance: configdef.High, Doc: "Version of the schema."},
			replaceNull,
		),
		build: func(b builder) (transform, []configdef.Problem) {
			if !b.IsSet("schema.name") && !b.IsSet("schema.version") {
				return nil, wrong("schema.name", "null", "Neither schema name nor version configured")
			}
			return &metadata{part: b.part, opts: b.opts, name: b.String("schema.name"), version: int(b.Int("schema.version")), cache: schemas{}}, nil
		},
	}
	valueToKey = &class{
		name: "ValueToKey", pkg: apache, doc: "Makes a new key of fields of the value.",
		spec: configdef.New(configdef.Key{Name: "fields", Type: configdef.List, Required: true, Importance: configdef.High, Doc: "Names of the fields."}, replaceNull),
		build: func(b builder) (transform, []configdef.Problem) {
			return &toKey{opts: b.opts, fields: b.List("fields"), replace: b.Bool("replace.null.with.default"), cache: schemas{}}, nil
		},
	}
)

type extract struct {
	part    part
	opts    Options
	name    string
	path    []string
	replace bool
}

func (t *extract) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	s, x := split(v)
	var fs *record.Schema
	if s != nil {
		var ok bool
		if fs, ok = schemaAt(s, t.path); !ok {
			return false, unknownField(t.name)
		}
	}
	if x != nil {
		if x, err = valueAt(x, t.path, t.replace); err != nil {
			return false, err
		}
	}
	t.part.set(r, join(fs, x))
	return true, nil
}

type drop struct{}

func (drop) apply(*record.Record) (bool, error) { return false, nil }

type hoist struct {
	part  part
	opts  Options
	field string
	cache schemas
}

func (t *hoist) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	s, x := split(v)
	if s == nil {
		t.part.set(r, map[string]any{t.field: x})
		return true, nil
	}
	wrapped := t.cache.of(s, func() *record.Schema {
		return &record.Schema{Type: record.TypeStruct, Fields: []record.Field{{Name: t.field, Schema: s}}}
	})
	t.part.set(r, &record.Struct{Schema: wrapped, Values: []any{x}})
	return true, nil
}

// pairs checks a list of old:new.
func pairs(v string) error {
	for item := range strings.SplitSeq(v, ",") {
		if from, to, ok := strings.Cut(strings.TrimSpace(item), ":"); item != "" && (!ok || from == "" || to == "" || strings.Contains(to, ":")) {
			return errPairs
		}
	}
	return nil
}

type replace struct {
	part             part
	opts             Options
	exclude, include []string
	renames          map[string]string
	replace          bool
	cache            schemas
}

// name returns a field's new name; false: it is left out.
func (t *replace) name(field string) (string, bool) {
	if slices.Contains(t.exclude, field) || len(t.include) > 0 && !slices.Contains(t.include, field) {
		return "", false
	}
	if to, ok := t.renames[field]; ok {
		return to, true
	}
	return field, true
}

func (t *replace) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	o, err := objectOf(v, "field replacement")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := make(map[string]any, len(o.m))
		for f, x := range o.m {
			if name, ok := t.name(f); ok {
				out[name] = x
			}
		}
		t.part.set(r, out)
		return true, nil
	}
	out := &record.Struct{Schema: t.cache.of(o.st.Schema, func() *record.Schema {
		var fields []record.Field
		for _, f := range o.st.Schema.Fields {
			if name, ok := t.name(f.Name); ok {
				fields = append(fields, record.Field{Name: name, Schema: f.Schema})
			}
		}
		return withFields(o.st.Schema, fields)
	})}
	for i, f := range o.st.Schema.Fields {
		if _, ok := t.name(f.Name); ok {
			out.Values = append(out.Values, orDefault(f.Schema, o.st.Values[i], t.replace))
		}
	}
	t.part.set(r, out)
	return true, nil
}

type metadata struct {
	part    part
	opts    Options
	name    string
	version int
	cache   schemas
}

func (t *metadata) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	s, x := split(v)
	if s == nil {
		return false, errNoSchema
	}
	named := t.cache.of(s, func() *record.Schema {
		out := *s
		if t.name != "" {
			out.Name = t.name
		}
		if t.version != 0 {
			out.Version = t.version
		}
		return &out
	})
	if st, ok := x.(*record.Struct); ok {
		x = &record.Struct{Schema: named, Values: st.Values}
	}
	t.part.set(r, join(named, x))
	return true, nil
}

type toKey struct {
	opts    Options
	fields  []string
	replace bool
	cache   schemas
}

func (t *toKey) apply(r *record.Record) (bool, error) {
	v, err := value.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	o, err := objectOf(v, "copying fields from value to key")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		k := make(map[string]any, len(t.fields))
		for _, f := range t.fields {
			k[f] = o.m[f]
		}
		r.Key = k
		return true, nil
	}
	k := &record.Struct{}
	for _, f := range t.fields {
		s, x, ok := o.get(f)
		if !ok {
			return false, missingField(f)
		}
		k.Values = append(k.Values, orDefault(s, x, t.replace))
	}
	k.Schema = t.cache.of(o.st.Schema, func() *record.Schema {
		s := &record.Schema{Type: record.TypeStruct}
		for _, f := range t.fields {
			s.Fields = append(s.Fields, record.Field{Name: f, Schema: o.st.Schema.Fields[o.st.Schema.Index(f)].Schema})
		}
		return s
	})
	r.Key = k
	return true, nil
}
