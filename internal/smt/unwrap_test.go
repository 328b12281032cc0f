package smt_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/smt"
)

func table() *record.Table {
	t := &record.Table{Database: "shop", Name: "orders_1", Key: []int{0}, Columns: []record.Column{record.ParseMySQLType("int"), record.ParseMySQLType("varchar(10)")}}
	t.Columns[0].Name, t.Columns[1].Name, t.Columns[1].Nullable = "id", "v", true
	return t
}

// events are an insert, a delete, its tombstone and a truncate of one table.
func events() []record.Record {
	t := table()
	row := record.Row{record.Int(1), record.Text([]byte("x"))}
	key := &record.KeyRow{Table: t, Row: row}
	src := record.Source{TimeMS: 1000, File: "bin.1"}
	topic := "p.shop.orders_1"
	return []record.Record{
		{Topic: topic, Key: key, Value: &record.ChangeEvent{Table: t, Op: record.OpCreate, After: row, Source: src}},
		{Topic: topic, Key: key, Value: &record.ChangeEvent{Table: t, Op: record.OpDelete, Before: row, Source: src}},
		{Topic: topic, Key: key},
		{Topic: topic, Value: &record.ChangeEvent{Table: t, Op: record.OpTruncate, Source: src}},
	}
}

func chain(t *testing.T, o smt.Options, settings string) *smt.Chain {
	t.Helper()
	given := map[string]string{"transforms": "t"}
	for s := range strings.SplitSeq(settings, ";") {
		k, v, _ := strings.Cut(s, "=")
		given["transforms.t."+k] = v
	}
	o.Unfold = convert.NewUnfolder()
	c, err := smt.New(given, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Debezium's modes for deletes and tombstones.
func TestUnwrap(t *testing.T) {
	t.Parallel()
	const row = `{"id":1,"v":"x"}`
	for _, c := range []struct {
		settings string
		want     []string // of the insert, the delete and the tombstone; "-" is dropped
	}{
		{"", []string{row, "-", "null"}},
		{";delete.tombstone.handling.mode=drop", []string{row, "-", "-"}},
		{";delete.tombstone.handling.mode=rewrite", []string{`{"id":1,"v":"x","__deleted":"false"}`, `{"id":1,"v":"x","__deleted":"true"}`, "-"}},
		{";delete.tombstone.handling.mode=rewrite-with-tombstone;add.fields=op,table", []string{`{"id":1,"v":"x","__deleted":"false","__op":"c","__table":"orders_1"}`, `{"id":1,"v":"x","__deleted":"true","__op":"d","__table":"orders_1"}`, "null"}},
		{";delete.tombstone.handling.mode=delete-to-tombstone", []string{row, "null", "-"}},
		{";delete.handling.mode=rewrite;drop.tombstones=false", []string{`{"id":1,"v":"x","__deleted":"false"}`, `{"id":1,"v":"x","__deleted":"true"}`, "null"}},
		{";drop.tombstones=false", []string{row, "-", "null"}},
		{";add.fields=source.ts_ms:at,file,transaction.id,nope;add.fields.prefix=_", []string{`{"id":1,"v":"x","_at":1000,"_file":"bin.1","_transaction_id":null,"_nope":null}`, "-", "null"}},
		{";route.by.field=v", []string{row, "-", "null"}},
	} {
		u := chain(t, smt.Options{Source: true}, "type=io.debezium.transforms.ExtractNewRecordState"+c.settings)
		var got []string
		for _, r := range events() {
			keep, err := u.Apply(&r)
			switch {
			case err != nil:
				t.Fatalf("%s: %v", c.settings, err)
			case keep:
				got = append(got, text(t, r.Value))
				if strings.Contains(c.settings, "route") && r.Value != nil && r.Topic != "x" {
					t.Errorf("topic %s", r.Topic)
				}
			default:
				got = append(got, "-")
			}
		}
		if diff := cmp.Diff(append(c.want, "-"), got); diff != "" { // a truncate has no row
			t.Errorf("%s (-want +got):\n%s", c.settings, diff)
		}
	}
}

func TestUnwrapHeadersAndPlainRecords(t *testing.T) {
	t.Parallel()
	u := chain(t, smt.Options{Source: true}, "type=ExtractNewRecordState;add.headers=op,source.file")
	r := events()[0]
	if _, err := u.Apply(&r); err != nil || len(r.Headers) != 2 || r.Headers[0].Key != "__op" || string(r.Headers[1].Value) != "bin.1" {
		t.Errorf("headers %v, %v", r.Headers, err)
	}
	for _, v := range []any{"text", map[string]any{"a": true}} {
		r := record.Record{Value: v}
		if keep, err := u.Apply(&r); !keep || err != nil || text(t, r.Value) != text(t, v) {
			t.Errorf("%v became %v, %t, %v", v, r.Value, keep, err)
		}
	}
	// Plain JSON is unwrapped as well.
	m := map[string]any{"before": nil, "after": map[string]any{"id": 1.0}, "source": map[string]any{}, "op": "c"}
	r = record.Record{Value: m}
	if _, err := u.Apply(&r); err != nil || text(t, r.Value) != `{"id":1}` {
		t.Errorf("%v, %v", r.Value, err)
	}
}

func TestByLogicalTable(t *testing.T) {
	t.Parallel()
	c := chain(t, smt.Options{Source: true}, `type=io.debezium.transforms.ByLogicalTableRouter;topic.regex=(.*)orders_\d+;topic.replacement=$1orders;key.field.regex=.*_(\d+);key.field.replacement=$1`)
	r := events()[0]
	if _, err := c.Apply(&r); err != nil {
		t.Fatal(err)
	}
	k, v := r.Key.(*record.Struct), r.Value.(*record.Struct)
	if r.Topic != "p.shop.orders" || text(t, k) != `{"id":1,"__dbz__physicalTableIdentifier":"1"}` {
		t.Errorf("topic %s, key %s", r.Topic, text(t, k))
	}
	if k.Schema.Name != "p.shop.orders.Key" || v.Schema.Name != "p.shop.orders.Envelope" || v.Schema.Fields[1].Schema.Name != "p.shop.orders.Value" {
		t.Errorf("schemas %s, %s, %s", k.Schema.Name, v.Schema.Name, v.Schema.Fields[1].Schema.Name)
	}
	other := record.Record{Topic: "p.shop.users", Value: "x"}
	if _, err := c.Apply(&other); err != nil || other.Topic != "p.shop.users" {
		t.Errorf("%+v, %v", other, err)
	}
}

// A router alone leaves change events as they are; with schemas, these keep the names that the source gave.
func TestRoutersAndChangeEvents(t *testing.T) {
	t.Parallel()
	for _, named := range []bool{false, true} {
		c := chain(t, smt.Options{Source: true, NamesSchemas: named}, "type=RegexRouter;regex=.*;replacement=orders")
		r := events()[0]
		if _, err := c.Apply(&r); err != nil || r.Topic != "orders" || r.From() != "p.shop.orders_1" {
			t.Errorf("topic %s from %s, %v", r.Topic, r.From(), err)
		}
		st, unfolded := r.Value.(*record.Struct)
		if unfolded != named || named && st.Schema.Name != "p.shop.orders_1.Envelope" {
			t.Errorf("named %t: a %T", named, r.Value)
		}
	}
}

// Sinks get change events back where a transform leaves the envelope one.
func TestFolding(t *testing.T) {
	t.Parallel()
	c := chain(t, smt.Options{Fold: (&convert.Folder{}).Fold}, "type=InsertField$Value;static.field=x;static.value=y")
	r := events()[0]
	if _, err := c.Apply(&r); err != nil {
		t.Fatal(err)
	}
	if e, ok := r.Value.(*record.ChangeEvent); !ok || e.Op != record.OpCreate || e.Table.Name != "orders_1" || string(e.After[1].B) != "x" || len(e.Table.Key) != 0 {
		t.Errorf("%+v", r.Value)
	}
}
