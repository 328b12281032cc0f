package convert

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

func column(name, decl string) record.Column {
	c := record.ParseMySQLType(decl)
	c.Name = name
	return c
}

// allTypes is a table with a column of each family, and rows with edge values of each.
func allTypes() (*record.Table, []record.Row) {
	t := &record.Table{Database: "shop", Name: "t", Key: []int{0}, Columns: []record.Column{
		column("id", "bigint unsigned"), column("ti", "tinyint(4)"), column("tu", "tinyint unsigned"), column("i", "int"), column("iu", "int(10) unsigned"),
		column("bu", "bigint unsigned"), column("d", "decimal(10,2)"), column("f", "float"), column("g", "double"), column("b1", "bit(1)"), column("b64", "bit(64)"),
		column("c", "char(4)"), column("v", "varchar(32)"), column("bin", "binary(4)"), column("blob", "blob"), column("e", "enum('a','b''c','d,e')"),
		column("s", "set('x','y','z')"), column("j", "json"), column("geo", "point"), column("dt", "date"), column("tm", "time(3)"), column("dtm", "datetime(6)"),
		column("ts", "timestamp(3)"), column("y", "year"),
	}}
	text := func(s string) record.Datum { return record.Text([]byte(s)) }
	full := record.Row{
		record.Uint(1), record.Int(-128), record.Uint(200), record.Int(math.MinInt32), record.Uint(4294967295), record.Uint(math.MaxUint64), text("-0.10"),
		record.Float32(1), record.Float64(1e7), record.Uint(1), record.Uint(math.MaxUint64), text("ab"), text("héé \"q\" \\ \n 🎁"), record.Bytes([]byte{0, 255, 34, 128}),
		record.Bytes([]byte{1, 2, 3}), record.Uint(2), record.Uint(5), text(`{"a": 1, "b": [1.0, "x"]}`), record.Bytes([]byte{0, 0, 0, 0, 1}), text("0000-00-00"),
		text("-838:59:59.000"), text("2024-02-29 10:11:12.000001"), record.Int(1700000000123000), record.Int(0),
	}
	nulls := make(record.Row, len(full))
	nulls[0] = record.Uint(2)
	for i := 1; i < len(nulls); i++ {
		nulls[i] = record.Null()
	}
	zero := append(record.Row(nil), full...)
	zero[0], zero[22], zero[7], zero[8] = record.Uint(3), record.Int(0), record.Float32(float32(3.4028235e38)), record.Float64(-1.5e-4)
	return t, []record.Row{full, nulls, zero}
}

func encodeDecode(t *testing.T, c *record.ChangeEvent) *record.ChangeEvent {
	t.Helper()
	e, err := NewEncoder(Config{})
	if err != nil {
		t.Fatal(err)
	}
	b, ok, err := e.Value(nil, "", c)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if !json.Valid(b) {
		t.Fatalf("no JSON: %s", b)
	}
	d, err := NewDecoder(Config{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Decode(nil, kafka.Fetched{Value: b})
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if len(out) != 1 {
		t.Fatalf("%d records", len(out))
	}
	got, ok := out[0].Value.(*record.ChangeEvent)
	if !ok {
		t.Fatalf("a %T", out[0].Value)
	}
	return got
}

// Writing and reading gives the same values, for each type.
func TestCanalRoundTrip(t *testing.T) {
	t.Parallel()
	table, rows := allTypes()
	for i, row := range rows {
		got := encodeDecode(t, &record.ChangeEvent{Table: table, Op: record.OpCreate, After: row})
		for c := range row {
			if !got.After[c].Equal(row[c]) {
				t.Errorf("row %d, column %s: %+v became %+v", i, table.Columns[c].Name, row[c], got.After[c])
			}
		}
	}
	up := encodeDecode(t, &record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: rows[1], After: rows[0]})
	for c := range rows[1] {
		if !up.Before[c].Equal(rows[1][c]) {
			t.Errorf("before, column %s: %+v became %+v", table.Columns[c].Name, rows[1][c], up.Before[c])
		}
	}
	if del := encodeDecode(t, &record.ChangeEvent{Table: table, Op: record.OpDelete, Before: rows[0]}); !del.Before[6].Equal(rows[0][6]) || del.After != nil {
		t.Errorf("delete became %+v", del)
	}
}

func TestCanalForm(t *testing.T) {
	t.Parallel()
	table := &record.Table{Database: "shop", Name: "t", Key: []int{0}, Columns: []record.Column{
		column("id", "bigint unsigned"), column("name", "varchar(32)"), column("n", "int"),
	}}
	text := func(s string) record.Datum { return record.Text([]byte(s)) }
	before := record.Row{record.Uint(1), text("a"), record.Null()}
	after := record.Row{record.Uint(1), text("b"), record.Int(5)}
	src := record.Source{TimeMS: 1700000001000}
	for _, c := range []struct {
		name string
		ev   record.ChangeEvent
		want string
	}{
		{
			"insert",
			record.ChangeEvent{Table: table, Op: record.OpRead, After: before, Source: src},
			`{"data":[{"id":"1","name":"a","n":null}],"database":"shop","es":1700000001000,"gtid":"","id":1,"isDdl":false,"mysqlType":{"id":"bigint unsigned","name":"varchar(32)","n":"int"},"old":null,"pkNames":["id"],"sql":"","sqlType":{"id":-5,"name":12,"n":4},"table":"t","ts":0,"type":"INSERT"}`,
		},
		{
			"update",
			record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: before, After: after, Source: src},
			`{"data":[{"id":"1","name":"b","n":"5"}],"database":"shop","es":1700000001000,"gtid":"","id":1,"isDdl":false,"mysqlType":{"id":"bigint unsigned","name":"varchar(32)","n":"int"},"old":[{"name":"a","n":null}],"pkNames":["id"],"sql":"","sqlType":{"id":-5,"name":12,"n":4},"table":"t","ts":0,"type":"UPDATE"}`,
		},
		{
			"ddl",
			record.ChangeEvent{Table: &record.Table{Database: "shop", Name: "t"}, Op: record.OpDDL, SQL: "ALTER TABLE t ADD c int", DDLType: "ALTER", Source: src},
			`{"data":null,"database":"shop","es":1700000001000,"gtid":"","id":1,"isDdl":true,"mysqlType":null,"old":null,"pkNames":null,"sql":"ALTER TABLE t ADD c int","sqlType":null,"table":"t","ts":0,"type":"ALTER"}`,
		},
	} {
		e, _ := NewEncoder(Config{})
		b, _, err := e.Value(nil, "", &c.ev)
		if err != nil {
			t.Fatal(err)
		}
		got := regexp.MustCompile(`"ts":\d+`).ReplaceAllString(string(b), `"ts":0`)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// The codes that depend on the value.
func TestSQLType(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		decl string
		d    record.Datum
		want int
	}{
		{"tinyint unsigned", record.Uint(127), -6},
		{"tinyint unsigned", record.Uint(128), 5},
		{"smallint unsigned", record.Uint(32768), 4},
		{"int unsigned", record.Uint(1), 4},
		{"int unsigned", record.Uint(1 << 31), -5},
		{"bigint unsigned", record.Uint(1 << 63), 3},
		{"mediumint unsigned", record.Uint(1 << 23), 4},
		{"set('a')", record.Uint(1), -7},
		{"set('a')", record.Null(), 2004},
		{"json", record.Null(), 1111},
		{"json", record.Text(nil), 12},
		{"year", record.Int(2024), 12},
		{"binary(3)", record.Bytes(nil), 2004},
	} {
		col := column("c", c.decl)
		if got := sqlType(&col, c.d); got != c.want {
			t.Errorf("%s %+v: %d, want %d", c.decl, c.d, got, c.want)
		}
	}
}

func TestJavaFloat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    float64
		bits int
		want string
	}{
		{1, 32, "1.0"},
		{1.5, 32, "1.5"},
		{1e10, 32, "1.0E10"},
		{float64(float32(3.4028235e38)), 32, "3.4028235E38"},
		{float64(float32(0.1)), 32, "0.1"},
		{1e7, 64, "1.0E7"},
		{9999999, 64, "9999999.0"},
		{1e-3, 64, "0.001"},
		{9.99e-4, 64, "9.99E-4"},
		{0, 64, "0.0"},
		{math.Copysign(0, -1), 64, "-0.0"},
		{-123.25, 64, "-123.25"},
	} {
		if got := string(appendJavaFloat(nil, c.f, c.bits)); got != c.want {
			t.Errorf("%v: %s, want %s", c.f, got, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	table, rows := allTypes()
	e, _ := NewEncoder(Config{})
	b, ok, err := e.Key(nil, "", &record.KeyRow{Table: table, Row: rows[0]})
	if err != nil || !ok || string(b) != `{"id":1}` {
		t.Errorf("key %s, %v, %v", b, ok, err)
	}
	if _, ok, _ := e.Key(nil, "", nil); ok {
		t.Error("a nil key is no null")
	}
}

// Messages of other writers are understood.
func TestForeignCanal(t *testing.T) {
	t.Parallel()
	d, _ := NewDecoder(Config{})
	for name, c := range map[string]struct {
		in   string
		rows int
	}{
		"many rows":   {`{"data":[{"id":"1"},{"id":"2"}],"database":"d","table":"t","type":"INSERT","mysqlType":{"id":"int"},"pkNames":["id"],"old":null}`, 2},
		"typed":       {`{"data":[{"id":1,"ok":true,"x":1.5}],"database":"d","table":"t","type":"INIT","mysqlType":{"id":"int","ok":"tinyint(1)","x":"double"},"pkNames":["id"]}`, 1},
		"no types":    {`{"data":[{"id":"1","b":"x"}],"database":"d","table":"t","type":"UPDATE","old":[{"b":null}]}`, 1},
		"enum name":   {`{"data":[{"e":"b"}],"database":"d","table":"t","type":"INSERT","mysqlType":{"e":"enum('a','b')"}}`, 1},
		"no Canal":    {`{"hello":[1,2,{"a":"b"}]}`, 1},
		"ddl":         {`{"data":null,"database":"d","table":"t","type":"ALTER","isDdl":true,"sql":"x"}`, 1},
		"query, null": {`{"data":null,"database":"","table":"","type":"QUERY","isDdl":false,"sql":"x"}`, 1},
	} {
		out, err := d.Decode(nil, kafka.Fetched{Value: []byte(c.in)})
		if err != nil || len(out) != c.rows {
			t.Errorf("%s: %d records, %v", name, len(out), err)
		}
	}
	for name, in := range map[string]string{
		"no JSON":        `{"data`,
		"unknown column": `{"data":[{"id":"1","z":"2"}],"database":"d","table":"t","type":"INSERT","mysqlType":{"id":"int"}}`,
		"no number":      `{"data":[{"id":"x"}],"database":"d","table":"t","type":"INSERT","mysqlType":{"id":"int"}}`,
		"pk not there":   `{"data":[{"id":"1"}],"database":"d","table":"t","type":"INSERT","mysqlType":{"id":"int"},"pkNames":["no"]}`,
	} {
		if _, err := d.Decode(nil, kafka.Fetched{Value: []byte(in)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Kafka Connect's class has schemas unless it is told otherwise, for keys as for values.
func TestClassDefaults(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"org.apache.kafka.connect.json.JsonConverter": true, Debezium: false} {
		s, problems := parse(Config{Key: name, Value: name, JSONConverter: Debezium})
		if len(problems) > 0 || s.keyJSON.schemas != want || s.valueJSON.schemas != want || s.valueJSON.replaceNull != want {
			t.Errorf("%s: %+v, %v", name, s, problems)
		}
	}
}

func TestUnknownConverter(t *testing.T) {
	t.Parallel()
	if p := Check(Config{Value: "xml", ValueOptions: map[string]string{"schemas.enable": "true", "nope": "1"}}); len(p) != 3 {
		t.Errorf("problems %v, want three", p)
	}
}

func TestCanalAllocatesNothingPerRow(t *testing.T) {
	table, rows := allTypes()
	for _, compat := range []string{"readers", "exact"} {
		e, err := NewEncoder(Config{ValueOptions: map[string]string{"canal.compat": compat}})
		if err != nil {
			t.Fatal(err)
		}
		ev := &record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: rows[2], After: rows[0]}
		buf := make([]byte, 0, 1<<16)
		if n := testing.AllocsPerRun(100, func() { _, _, _ = e.Value(buf[:0], "", ev) }); n > 0 {
			t.Errorf("%s: %v allocations for a row, want none", compat, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	table, rows := allTypes()
	e, _ := NewEncoder(Config{})
	for i, r := range rows {
		b, _, _ := e.Value(nil, "", &record.ChangeEvent{Table: table, Op: record.Op(1 + i), After: r, Before: r})
		f.Add(b)
	}
	f.Add(fmt.Appendf(nil, `{"data":[{"a":%q}],"database":"","table":"","type":"UPDATE","old":[{}],"mysqlType":{"a":"set('x"}}`, "\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		d, _ := NewDecoder(Config{})
		_, _ = d.Decode(nil, kafka.Fetched{Value: b})
	})
}

func BenchmarkCanal(b *testing.B) {
	table, rows := allTypes()
	e, _ := NewEncoder(Config{})
	ev := &record.ChangeEvent{Table: table, Op: record.OpCreate, After: rows[0]}
	buf := make([]byte, 0, 1<<16)
	b.ReportAllocs()
	for b.Loop() {
		out, _, _ := e.Value(buf[:0], "", ev)
		b.SetBytes(int64(len(out)))
	}
}
