package convert

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

// nullable is allTypes with columns that take its nulls.
func nullable() (*record.Table, []record.Row) {
	t, rows := allTypes()
	for i := range t.Columns {
		t.Columns[i].Nullable = i > 0
	}
	return t, rows
}

// dbzRoundTrip writes an event and its key as Debezium's envelope and reads them back.
func dbzRoundTrip(t *testing.T, schemas string, c *record.ChangeEvent) *record.ChangeEvent {
	t.Helper()
	opts := map[string]string{"schemas.enable": schemas}
	conf := Config{Key: Debezium, Value: Debezium, KeyOptions: opts, ValueOptions: opts}
	e, err := NewEncoder(conf)
	if err != nil {
		t.Fatal(err)
	}
	row := c.After
	if row == nil {
		row = c.Before
	}
	k, _, err := e.Key(nil, "p.shop.t", &record.KeyRow{Table: c.Table, Row: row})
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := e.Value(nil, "p.shop.t", c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(conf)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Decode(nil, kafka.Fetched{Topic: "p.shop.t", Key: k, Value: v})
	if err != nil {
		t.Fatalf("%v\n%s", err, v)
	}
	if err := (&Folder{}).Fold(&out[0]); err != nil {
		t.Fatalf("%v\n%s", err, v)
	}
	got, ok := out[0].Value.(*record.ChangeEvent)
	if !ok {
		t.Fatalf("a %T", out[0].Value)
	}
	return got
}

// What is written as Debezium's envelope with schemas is read as the same row: for each type the value that a sink writes is the same.
func TestDebeziumRoundTrip(t *testing.T) {
	t.Parallel()
	table, rows := nullable()
	for _, row := range rows {
		got := dbzRoundTrip(t, "true", &record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: row, After: row, Source: record.Source{TimeMS: 5, File: "f", Pos: 7, GTID: "g"}})
		if got.Op != record.OpUpdate || got.Source.TimeMS != 5 || got.Source.File != "f" || got.Source.Pos != 7 || got.Source.GTID != "g" {
			t.Errorf("event %+v", got)
		}
		if diff := cmp.Diff([]int{0}, got.Table.Key); diff != "" || got.Table.Name != "t" || got.Table.Database != "shop" {
			t.Errorf("table %+v", got.Table)
		}
		if got.Before == nil {
			t.Error("no row before")
		}
		for i := range row {
			c := &table.Columns[i]
			// The canonical text of a value, which both kinds of columns have.
			want, have := string(appendNatural(nil, c, row[i])), string(appendNatural(nil, &got.Table.Columns[i], got.After[i]))
			switch c.Name {
			case "bu": // BIGINT UNSIGNED wraps, as Debezium's default says
				want = string(appendNatural(nil, c, record.Int(int64(row[i].Uint()))))
				if row[i].IsNull() {
					want = "null"
				}
			case "ts": // scale 6 is what the envelope can have; the zero timestamp is null
				if want = string(appendNatural(nil, &got.Table.Columns[i], row[i])); row[i].Int() == 0 {
					want = "null"
				}
			case "dtm", "tm":
				want = string(appendNatural(nil, &got.Table.Columns[i], row[i]))
				if c.Name == "tm" && !row[i].IsNull() {
					want = want[:len(want)-1] + `000"`
				}
			case "dt": // a zero date is null in nullable columns
				want = "null"
			case "j":
				if !row[i].IsNull() {
					want = `"{\"a\":1,\"b\":[1.0,\"x\"]}"`
				}
			case "geo": // the test's value is no geometry
				continue
			}
			if want != have {
				t.Errorf("column %s: %s became %s (%s)", c.Name, want, have, got.Table.Columns[i].Type)
			}
		}
	}
}

func TestDebeziumWithoutSchemas(t *testing.T) {
	t.Parallel()
	table := &record.Table{Database: "shop", Name: "t", Key: []int{1}, Columns: []record.Column{column("name", "varchar(10)"), column("id", "int"), column("f", "double")}}
	row := record.Row{record.Text([]byte("x")), record.Int(3), record.Float64(1.5)}
	del := dbzRoundTrip(t, "false", &record.ChangeEvent{Table: table, Op: record.OpDelete, Before: row})
	if del.Op != record.OpDelete || del.After != nil || len(del.Before) != 3 {
		t.Fatalf("event %+v", del)
	}
	// Without schemas the columns come in order of name.
	for i, want := range []string{"double f 1.5", "bigint id 3", `longtext name "x"`} {
		c := &del.Table.Columns[i]
		if got := c.Type + " " + c.Name + " " + string(appendNatural(nil, c, del.Before[i])); got != want {
			t.Errorf("column %d: %s, want %s", i, got, want)
		}
	}
	if diff := cmp.Diff([]int{1}, del.Table.Key); diff != "" {
		t.Error(diff)
	}
}

// Flat rows and tombstones become changes for sinks that ask for them, and for no others.
func TestRows(t *testing.T) {
	t.Parallel()
	key := map[string]any{"id": json.Number("1")}
	value := map[string]any{"id": json.Number("1"), "v": "x"}
	plain := record.Record{Topic: "p.shop.orders", Key: key, Value: value}
	if err := (&Folder{}).Fold(&plain); err != nil {
		t.Fatal(err)
	}
	if _, ok := plain.Value.(map[string]any); !ok {
		t.Errorf("a %T", plain.Value)
	}
	f := &Folder{Rows: true}
	if err := f.Fold(&plain); err != nil {
		t.Fatal(err)
	}
	c := plain.Value.(*record.ChangeEvent)
	if c.Op != record.OpUpdate || c.Table.Name != "orders" || len(c.Table.Key) != 1 || c.Before != nil {
		t.Errorf("event %+v of %+v", c, c.Table)
	}
	gone := record.Record{Topic: "p.shop.orders", Key: key}
	if err := f.Fold(&gone); err != nil {
		t.Fatal(err)
	}
	c = gone.Value.(*record.ChangeEvent)
	if c.Op != record.OpDelete || c.Table.HasKey() || len(c.Table.MessageKey) != 1 || c.Before[0].Int() != 1 {
		t.Errorf("event %+v of %+v", c, c.Table)
	}
	keyless := record.Record{Topic: "x"}
	if err := f.Fold(&keyless); err != nil || keyless.Value != nil {
		t.Errorf("a tombstone without key became %v, %v", keyless.Value, err)
	}
}

// What is unfolded for a transform and written again is what the envelope's own writer gives.
func TestUnfoldedIsTheSame(t *testing.T) {
	t.Parallel()
	table, rows := nullable()
	table.Columns[3].HasDefault, table.Columns[3].Default, table.Columns[3].Nullable = true, "5", true
	table.Columns[6].HasDefault, table.Columns[6].Default = true, "1.50"
	for _, schemas := range []string{"true", "false"} {
		for _, numeric := range []string{"BASE64", "NUMERIC"} {
			opts := map[string]string{"schemas.enable": schemas, "replace.null.with.default": "true", "decimal.format": numeric}
			e, err := NewEncoder(Config{Key: Debezium, Value: Debezium, KeyOptions: opts, ValueOptions: opts})
			if err != nil {
				t.Fatal(err)
			}
			u := NewUnfolder()
			for _, row := range rows {
				row[18] = record.Bytes([]byte{0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
				c := &record.ChangeEvent{Table: table, Op: record.OpCreate, After: row}
				s, err := u.Value("p.shop.t", c)
				if err != nil {
					t.Fatal(err)
				}
				want, _, _ := e.Value(nil, "p.shop.t", c)
				got, _, err := e.Value(nil, "p.shop.t", s)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(timeless(want), timeless(got)); diff != "" {
					t.Fatalf("schemas %s, %s (-want +got):\n%s", schemas, numeric, diff)
				}
				k, err := u.Key("p.shop.t", &record.KeyRow{Table: table, Row: row})
				if err != nil {
					t.Fatal(err)
				}
				want, _, _ = e.Key(nil, "p.shop.t", &record.KeyRow{Table: table, Row: row})
				if got, _, _ = e.Key(nil, "p.shop.t", k); string(got) != string(want) {
					t.Errorf("key %s, want %s", got, want)
				}
			}
		}
	}
}

// timeless is an envelope without the time at which it was written.
func timeless(b []byte) any {
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		return string(b)
	}
	m := v
	if p, ok := v["payload"].(map[string]any); ok {
		m = p
	}
	for _, k := range []string{"ts_ms", "ts_us", "ts_ns"} {
		delete(m, k)
	}
	return v
}
