package convert

import (
	"testing"

	"github.com/millrace/millrace/connectors/record"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	table := &record.Table{Database: "shop", Name: "t", Key: []int{0}, Columns: []record.Column{
		column("id", "int"), column("n", "varchar(9)"), column("e", "enum('x','y')"),
	}}
	before := record.Row{record.Int(1), record.Null(), record.Uint(2)}
	after := record.Row{record.Int(1), record.Text([]byte("a")), {}}
	src := record.Source{TimeMS: 1000, GTID: "u:1", File: "f", Pos: 4}
	update := record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: before, After: after, Source: src}
	deleted := record.ChangeEvent{Table: table, Op: record.OpDelete, Before: before, Source: src}
	read := record.ChangeEvent{Table: table, Op: record.OpRead, After: before}
	ddl := record.ChangeEvent{Table: &record.Table{Database: "shop", Name: "t"}, Op: record.OpDDL, SQL: "ALTER …", DDLType: "ALTER", Source: src}
	rewrite := map[string]string{"delete.tombstone.handling.mode": "rewrite"}
	fields := map[string]string{"add.fields": "op,db,table,source.ts_ms,source.gtid,source.file,source.pos", "delete.tombstone.handling.mode": "rewrite"}
	for _, c := range []struct {
		name    string
		options map[string]string
		event   record.ChangeEvent
		want    string // empty: a tombstone
	}{
		{"update; what is absent is left out", nil, update, `{"id":1,"n":"a"}`},
		{"read", nil, read, `{"id":1,"n":null,"e":"y"}`},
		{"delete", nil, deleted, ``},
		{"delete, rewritten", rewrite, deleted, `{"id":1,"n":null,"e":"y","__deleted":"true"}`},
		{"update, rewritten", rewrite, update, `{"id":1,"n":"a","__deleted":"false"}`},
		{"fields", fields, deleted, `{"id":1,"n":null,"e":"y","__op":"d","__db":"shop","__table":"t","__source_ts_ms":1000,"__source_gtid":"u:1","__source_file":"f","__source_pos":4,"__deleted":"true"}`},
		{"fields of a read", map[string]string{"add.fields": "op,source.gtid"}, read, `{"id":1,"n":null,"e":"y","__op":"r","__source_gtid":null}`},
		{"DDL", nil, ddl, `{"databaseName":"shop","tableName":"t","type":"ALTER","ddl":"ALTER …","ts_ms":1000}`},
	} {
		got, ok, err := encoder(t, JSON, c.options).Value(nil, "t", &c.event)
		if err != nil || ok != (c.want != "") || string(got) != c.want {
			t.Errorf("%s: %s, %v, %v; want %s", c.name, got, ok, err, c.want)
		}
	}
	if _, _, err := encoder(t, JSON, nil).Value(nil, "t", &record.ChangeEvent{Table: table, Op: record.OpTruncate}); err == nil {
		t.Error("a truncated table became a row")
	}
}

// Problems name the key as the user wrote it.
func TestOptionProblems(t *testing.T) {
	t.Parallel()
	p := Check(Config{
		KeyOptions:   map[string]string{"canal.rows": "event"},
		ValueOptions: map[string]string{"canal.compat": "strict", "canal.row": "event", "timestamp.zone": "Mars", "add.fields": "op,lsn", "schemas.enable": "maybe"},
	})
	found := map[string]bool{}
	for _, x := range p {
		found[x.Key] = true
	}
	for _, k := range []string{"key.converter.canal.rows", "value.converter.canal.compat", "value.converter.canal.row", "value.converter.timestamp.zone", "value.converter.add.fields", "value.converter.schemas.enable"} {
		if !found[k] {
			t.Errorf("no problem of %s in %v", k, p)
		}
	}
	if len(p) != 6 {
		t.Errorf("%d problems, want 6: %v", len(p), p)
	}
}
