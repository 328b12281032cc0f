package convert

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

func encoder(t *testing.T, value string, options map[string]string) *Encoder {
	t.Helper()
	e, err := NewEncoder(Config{Value: value, ValueOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// eventRows are three updates of one row event and one of the next, as a source gives them.
func eventRows() []record.Record {
	table := &record.Table{Database: "shop", Name: "t", Key: []int{1, 0}, Columns: []record.Column{
		column("id", "bigint unsigned"), column("sub", "int"), column("d", "decimal(14,4)"), column("b", "binary(4)"), column("name", "varchar(32)"),
	}}
	row := func(id uint64, d, name string) record.Row {
		return record.Row{record.Uint(id), record.Int(7), record.Text([]byte(d)), record.Bytes([]byte{1, 0, 2, 0}), record.Text([]byte(name))}
	}
	var out []record.Record
	for i, c := range []struct {
		pos uint64
		row int32
		was record.Row
		is  record.Row
	}{
		{100, 0, row(1, "1.0000", "a"), row(1, "1.5000", "a")},
		{100, 1, row(2, "0.0000", "b"), row(2, "0.0000", "bb")},
		{100, 3, row(3, "-7.0100", "c"), row(3, "-7.0100", "c")},
		{180, 0, row(4, "2.0000", "d"), row(4, "3.0000", "d")},
	} {
		out = append(out, record.Record{Topic: "shop.t", Key: &record.KeyRow{Table: table, Row: c.is}, Value: &record.ChangeEvent{
			Table: table, Op: record.OpUpdate, Before: c.was, After: c.is, Source: record.Source{File: "binlog.1", Pos: c.pos, Row: c.row, TimeMS: 1000, GTID: "u:" + string(rune('1'+i))},
		}})
	}
	return out
}

func TestTogether(t *testing.T) {
	t.Parallel()
	rows := eventRows()
	e := encoder(t, "", map[string]string{"canal.rows": "event"})
	if n := e.Together(rows); n != 3 {
		t.Errorf("%d rows together, want the event's three", n)
	}
	if n := e.Together(rows[3:]); n != 1 {
		t.Errorf("%d rows together, want the last one alone", n)
	}
	if n := encoder(t, "", nil).Together(rows); n != 1 {
		t.Errorf("%d rows together by default, want 1", n)
	}
	if _, ok, _ := e.Key(nil, "shop.t", rows[0].Key); ok {
		t.Error("a message of several rows has a key")
	}
	for name, change := range map[string]func(r *record.Record, c *record.ChangeEvent){
		"another topic":     func(r *record.Record, _ *record.ChangeEvent) { r.Topic = "other" },
		"a header":          func(r *record.Record, _ *record.ChangeEvent) { r.Headers = []record.Header{{Key: "k"}} },
		"a tombstone":       func(r *record.Record, _ *record.ChangeEvent) { r.Value = nil },
		"another operation": func(_ *record.Record, c *record.ChangeEvent) { c.Op = record.OpCreate },
		"another shape":     func(_ *record.Record, c *record.ChangeEvent) { c.Table = &record.Table{Columns: c.Table.Columns} },
		"another file":      func(_ *record.Record, c *record.ChangeEvent) { c.Source.File = "binlog.2" },
		// The events of a compressed transaction are all at its place; each begins with row 0.
		"another event of the same place": func(_ *record.Record, c *record.ChangeEvent) { c.Source.Row = 0 },
	} {
		rows := eventRows()
		change(&rows[1], rows[1].Value.(*record.ChangeEvent))
		if n := e.Together(rows); n != 1 {
			t.Errorf("%s: %d rows together, want 1", name, n)
		}
	}
	snapshot := eventRows()
	for i := range snapshot {
		snapshot[i].Value.(*record.ChangeEvent).Source.Snapshot = true
	}
	if n := e.Together(snapshot); n != 1 {
		t.Errorf("%d rows of a snapshot together, want 1", n)
	}
}

// What Canal 1.1.7 writes, and what its readers need instead, for the same rows. TestCanal of internal/systest asks the real one.
func TestCanalRows(t *testing.T) {
	t.Parallel()
	const types = `"mysqlType":{"id":"bigint unsigned","sub":"int","d":"decimal(14,4)","b":"binary(4)","name":"varchar(32)"}`
	const end = `"pkNames":["id","sub"],"sql":"","sqlType":{"id":-5,"sub":4,"d":3,"b":2004,"name":12},"table":"t","ts":0,"type":"UPDATE"}`
	for compat, want := range map[string]string{
		"readers": `{"data":[{"id":"1","sub":"7","d":"1.5000","b":"\u0001\u0000\u0002\u0000","name":"a"},` +
			`{"id":"2","sub":"7","d":"0.0000","b":"\u0001\u0000\u0002\u0000","name":"bb"},{"id":"3","sub":"7","d":"-7.0100","b":"\u0001\u0000\u0002\u0000","name":"c"}],` +
			`"database":"shop","es":1000,"gtid":"u:1","id":1,"isDdl":false,` + types + `,"old":[{"d":"1.0000"},{"name":"b"},{}],` + end,
		"exact": `{"data":[{"id":"1","sub":"7","d":"1.5000","b":"\u0001\u0000\u0002","name":"a"},` +
			`{"id":"2","sub":"7","d":"0.0","b":"\u0001\u0000\u0002","name":"bb"},{"id":"3","sub":"7","d":"-7.0100","b":"\u0001\u0000\u0002","name":"c"}],` +
			`"database":"shop","es":1000,"gtid":"","id":1,"isDdl":false,` + types + `,"old":[{"d":"1.0"},{"d":"0.0","name":"b"},{"d":"-7.0100","name":"c"}],` + end,
	} {
		e := encoder(t, "", map[string]string{"canal.rows": "event", "canal.compat": compat})
		rows := eventRows()
		b, err := e.Values(nil, rows[:3])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, regexp.MustCompile(`"ts":\d+`).ReplaceAllString(string(b), `"ts":0`)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", compat, diff)
		}
		d, _ := NewDecoder(Config{})
		back, err := d.Decode(nil, kafka.Fetched{Value: b, Offset: 5})
		if err != nil || len(back) != 3 {
			t.Fatalf("%s: %d records, %v", compat, len(back), err)
		}
		for i := range back {
			got, was := back[i].Value.(*record.ChangeEvent), rows[i].Value.(*record.ChangeEvent)
			for at := range was.After {
				if !got.After[at].Equal(was.After[at]) || !got.Before[at].Equal(was.Before[at]) {
					t.Errorf("%s, row %d, column %d: %+v became %+v", compat, i, at, was, got)
				}
			}
			if back[i].Offset != 5 {
				t.Errorf("%s: offset %d", compat, back[i].Offset)
			}
		}
	}
}

func TestQuirk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ decl, in, want string }{
		{"decimal(10,2)", "0.00", "0.0"},
		{"decimal(10,2)", "-12.30", "-12.30"},
		{"decimal(10,1)", "3.0", "3.0"},
		{"decimal(10,0)", "70", "70"},
		{"decimal(18,9)", "1.000000000", "1.000000000"},
		{"decimal(30,11)", "1.00000000000", "1.000000000"},
		{"decimal(30,11)", "1.00000000010", "1.00000000010"},
	} {
		col := column("c", c.decl)
		if got := quirk(&col, record.Text([]byte(c.in))); string(got.B) != c.want {
			t.Errorf("%s %s: %s, want %s", c.decl, c.in, got.B, c.want)
		}
	}
}
