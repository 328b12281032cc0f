package smt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var extractNewRecordState = &class{
	name: "ExtractNewRecordState", pkg: debezium, doc: "Debezium's unwrap: makes the row after the change the value, in place of the whole change event. What is no change event passes.",
	spec: configdef.New(
		configdef.Key{
			Name: "delete.tombstone.handling.mode", Type: configdef.String, Default: "tombstone", OneOf: []string{"drop", "tombstone", "rewrite", "rewrite-with-tombstone", "delete-to-tombstone"},
			Doc: "What becomes of deletes and the tombstones behind them. drop: both go; tombstone: the tombstone stays; rewrite: the old row with __deleted=true, no tombstone; rewrite-with-tombstone: both; delete-to-tombstone: the delete becomes the tombstone.",
		},
		configdef.Key{Name: "delete.handling.mode", Type: configdef.String, NoDefault: true, OneOf: []string{"drop", "rewrite", "none"}, DeprecatedBy: "delete.tombstone.handling.mode", Doc: "What becomes of deletes; none makes them tombstones."},
		configdef.Key{Name: "drop.tombstones", Type: configdef.Boolean, NoDefault: true, DeprecatedBy: "delete.tombstone.handling.mode", Doc: "Whether tombstones go; true is the default beside delete.handling.mode."},
		configdef.Key{Name: "add.fields", Type: configdef.List, Default: "", Example: "op,table,source.ts_ms:ts", Doc: "Members of the change event that the row gets as fields: those of its source block without or with source., and op, ts_ms, transaction.id; name:other gives another name."},
		configdef.Key{Name: "add.fields.prefix", Type: configdef.String, Default: "__", Doc: "What their names begin with."},
		configdef.Key{Name: "add.headers", Type: configdef.List, Default: "", Doc: "As add.fields, for headers."},
		configdef.Key{Name: "add.headers.prefix", Type: configdef.String, Default: "__", Doc: "What their names begin with."},
		configdef.Key{Name: "route.by.field", Type: configdef.String, Default: "", Doc: "Field of the row whose value is the record's new topic."},
		configdef.Key{Name: "drop.fields.header.name", Type: configdef.String, Default: "", Hidden: true, Check: refused, Doc: "Not supported."},
		configdef.Key{Name: "drop.fields.from.key", Type: configdef.Boolean, Default: "false", Hidden: true, Doc: "Has a meaning only with drop.fields.header.name."},
		configdef.Key{Name: "drop.fields.keep.schema.compatible", Type: configdef.Boolean, Default: "true", Hidden: true, Doc: "Has a meaning only with drop.fields.header.name."},
		replaceNull,
	),
	build: func(b builder) (transform, []configdef.Problem) {
		t := &unwrap{
			opts: b.opts, mode: unwrapMode(b.Values), topicField: b.String("route.by.field"), replace: b.Bool("replace.null.with.default"), cache: map[pairOf]*record.Schema{},
		}
		t.fields = references(b.List("add.fields"), b.String("add.fields.prefix"))
		t.headers = references(b.List("add.headers"), b.String("add.headers.prefix"))
		return t, nil
	},
}

func refused(v string) error {
	if v != "" {
		return fmt.Errorf("it is not supported; leave columns out with column.exclude.list or ReplaceField")
	}
	return nil
}

// unwrapMode reads the mode, also from the two keys that it took the place of.
func unwrapMode(v configdef.Values) string {
	if v.IsSet("delete.tombstone.handling.mode") || !v.IsSet("delete.handling.mode") && !v.IsSet("drop.tombstones") {
		return v.String("delete.tombstone.handling.mode")
	}
	keep := v.IsSet("drop.tombstones") && !v.Bool("drop.tombstones")
	switch v.String("delete.handling.mode") {
	case "rewrite":
		if keep {
			return "rewrite-with-tombstone"
		}
		return "rewrite"
	case "none":
		return "delete-to-tombstone"
	}
	if keep {
		return "tombstone"
	}
	return "drop"
}

// reference is a member of the envelope with the name that it gets.
type reference struct {
	path []string
	name string
}

func references(list []string, prefix string) []reference {
	var out []reference
	for _, item := range list {
		from, to, named := strings.Cut(item, ":")
		path := strings.Split(strings.TrimSpace(from), ".")
		if !named {
			to = strings.Join(path, "_")
		}
		if len(path) == 1 && !slices.Contains([]string{"op", "ts_ms", "ts_us", "ts_ns"}, path[0]) {
			path = []string{"source", path[0]}
		}
		out = append(out, reference{path, prefix + strings.TrimSpace(to)})
	}
	return out
}

// pairOf is an envelope's schema with the schema of one of its rows.
type pairOf struct{ envelope, row *record.Schema }

type unwrap struct {
	opts            Options
	mode            string
	fields, headers []reference
	topicField      string
	replace         bool
	cache           map[pairOf]*record.Schema
}

// envelopeOf returns a value's fields where it is a change event.
func envelopeOf(v any) (object, bool) {
	o, err := objectOf(v, "unwrapping")
	for _, f := range []string{"before", "after", "op", "source"} {
		if _, _, ok := o.get(f); err != nil || !ok {
			return o, false
		}
	}
	return o, true
}

func (t *unwrap) rewrites() bool { return strings.HasPrefix(t.mode, "rewrite") }

func (t *unwrap) apply(r *record.Record) (bool, error) {
	if (isTombstone{}).holds(r) {
		return t.mode == "tombstone" || t.mode == "rewrite-with-tombstone", nil
	}
	v, err := value.get(&t.opts, r)
	if err != nil {
		return false, err
	}
	o, ok := envelopeOf(v)
	if !ok {
		return true, nil
	}
	for _, h := range t.headers {
		s, x := t.member(o, h.path)
		header := record.Header{Key: h.name}
		if text, ok := text(s, x); ok {
			header.Value = []byte(text)
		}
		addHeader(r, header)
	}
	_, op, _ := o.get("op")
	_, row, _ := o.get("after")
	deleted := op == "d"
	switch {
	case deleted && t.mode == "delete-to-tombstone":
		r.Value = nil
		return true, nil
	case deleted && !t.rewrites():
		return false, nil
	case deleted:
		_, row, _ = o.get("before")
	}
	if row == nil {
		return false, nil // a truncate has no row
	}
	inner, err := objectOf(row, "unwrapping")
	if err != nil {
		return false, err
	}
	if t.topicField != "" {
		s, x, _ := inner.get(t.topicField)
		name, ok := text(s, x)
		if !ok {
			return false, fmt.Errorf("route.by.field: the row's field %s is null or missing", t.topicField)
		}
		if err := move(r, name); err != nil {
			return false, err
		}
	}
	r.Value = t.row(o, inner, deleted)
	return true, nil
}

// member finds a member of the envelope; nil where it has none.
func (t *unwrap) member(o object, path []string) (s *record.Schema, v any) {
	for i, name := range path {
		s, v, _ = o.get(name)
		v = orDefault(s, v, t.replace)
		if i == len(path)-1 {
			break
		}
		next, err := objectOf(v, "unwrapping")
		if err != nil {
			if s != nil {
				s, _ = schemaAt(s, path[i+1:])
			}
			return s, nil
		}
		o = next
	}
	return s, v
}

// row is the row with the added fields.
func (t *unwrap) row(envelope, row object, deleted bool) any {
	mark := "false"
	if deleted {
		mark = "true"
	}
	if row.st == nil {
		out := cloneMap(row.m)
		for _, f := range t.fields {
			_, out[f.name] = t.member(envelope, f.path)
		}
		if t.rewrites() {
			out["__deleted"] = mark
		}
		return out
	}
	if len(t.fields) == 0 && !t.rewrites() {
		return row.st
	}
	out := &record.Struct{Values: slices.Clone(row.st.Values)}
	var schemas []record.Field
	if t.rewrites() {
		schemas = append(schemas, record.Field{Name: "__deleted", Schema: optionalText})
		out.Values = append(out.Values, mark)
	}
	for _, f := range t.fields {
		s, v := t.member(envelope, f.path)
		if s == nil {
			s = optionalText // as Debezium's, a member that the event does not have is a null text
		}
		schemas = append(schemas, record.Field{Name: f.name, Schema: s})
		out.Values = append(out.Values, v)
	}
	k := pairOf{envelope.st.Schema, row.st.Schema}
	if out.Schema = t.cache[k]; out.Schema == nil {
		if len(t.cache) >= schemasMax {
			clear(t.cache)
		}
		out.Schema = withFields(row.st.Schema, slices.Concat(row.st.Schema.Fields, schemas))
		out.Schema.Optional = false
		t.cache[k] = out.Schema
	}
	return out
}

var optionalText = &record.Schema{Type: record.TypeString, Optional: true}
