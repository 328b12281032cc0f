package mysqlcdc

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
)

func FuzzDecodeRow(f *testing.F) {
	sh, row := testShape(f)
	f.Add(row)
	f.Add([]byte{0xff, 0xff})
	// JSON: {"a": [1, 2.5], "b": null} and an opaque decimal, as the server writes them.
	f.Add(append(row[:len(row)-9:len(row)-9], 18, 0, 0, 0, 0, 1, 0, 12, 0, 11, 0, 1, 0, 4, 0, 0, 'a', 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newBatch()
		defer b.release()
		_, n, err := sh.decodeRow(data, allPresent, b)
		if err == nil && (n <= 0 || n > len(data)) {
			t.Errorf("decoded %d of %d bytes", n, len(data))
		}
	})
}

// wholeRows is the body of a row event of the second version, with one row of two columns.
func wholeRows(rows []byte) []byte {
	return append([]byte{7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 0xff}, rows...)
}

func deflated(rows []byte) []byte {
	var b bytes.Buffer
	b.Write([]byte{0x84, 0, 0, 0, byte(len(rows))})
	w := zlib.NewWriter(&b)
	_, _ = w.Write(rows)
	_ = w.Close()
	return b.Bytes()
}

// TestParseRows: the same rows in each form that a server may write.
func TestParseRows(t *testing.T) {
	rows := []byte("some rows")
	v1 := func(body []byte) []byte { return slices.Delete(slices.Clone(wholeRows(body)), 8, 10) }
	for typ, data := range map[replication.EventType][]byte{
		replication.WRITE_ROWS_EVENTv2: wholeRows(rows), replication.DELETE_ROWS_EVENTv1: v1(rows), replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1: v1(deflated(rows)),
		mariadbWriteCompressedV2: wholeRows(deflated(rows)), mariadbDeleteCompressedV2: wholeRows(deflated(rows)),
	} {
		b, err := parseRows(typ, data)
		if err != nil || b.table != 7 || !b.end || !bytes.Equal(b.rows, rows) {
			t.Errorf("type %d: %+v, %v", typ, b, err)
		}
		if _, err := parseRows(typ, data[:9]); err == nil {
			t.Errorf("type %d: half an event passes", typ)
		}
	}
}

func FuzzParseRows(f *testing.F) {
	f.Add(byte(replication.WRITE_ROWS_EVENTv2), wholeRows([]byte("rows")))
	f.Add(byte(replication.UPDATE_ROWS_EVENTv2), wholeRows([]byte{0xff, 1, 2, 3}))
	f.Add(byte(mariadbWriteCompressedV2), wholeRows(deflated(bytes.Repeat([]byte("rows"), 50))))
	f.Fuzz(func(t *testing.T, typ byte, data []byte) {
		if !isRows(replication.EventType(typ)) {
			return
		}
		b, err := parseRows(replication.EventType(typ), data)
		if err == nil && (len(b.before) != len(b.present) || !b.compressed && len(b.rows) > len(data)) {
			t.Errorf("%+v", b)
		}
	})
}

// jsonDoc is {"a": [1, "xy"], "bc": null} as the server stores it.
var jsonDoc = []byte{
	0, 2, 0, 42, 0, // object of two
	18, 0, 1, 0, 19, 0, 2, 0, // keys
	2, 21, 0, 4, 0, 0, // values
	'a', 'b', 'c',
	2, 0, 13, 0, // array of two, at 21 - but for its own start
	5, 1, 0, 12, 10, 0,
	2, 'x', 'y', 0, 0, 0, 0, 0, 0, 0, 0,
}

func FuzzJSON(f *testing.F) {
	f.Add(jsonDoc)
	f.Add([]byte{15, 246, 4, 3, 2, 0x81, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		if out, err := appendJSON(nil, data); err == nil && len(out) > 64+20*len(data) {
			t.Errorf("%d bytes make a text of %d", len(data), len(out))
		}
	})
}

func FuzzJSONChanges(f *testing.F) {
	f.Add(jsonDoc, []byte("\x00\x06$.a[0]\x03\x05\x07\x00"))
	f.Add(jsonDoc, []byte("\x01\x04$.zz\x03\x05\x07\x00\x02\x03$.a"))
	f.Add(jsonDoc, []byte("\x01\x0b$.a[last-1]\x02\x04\x01"))
	f.Fuzz(func(t *testing.T, doc, changes []byte) {
		_, _ = appendChangedJSON(nil, doc, changes)
	})
}

func FuzzPayload(f *testing.F) {
	inner := append(rawEvent(replication.XID_EVENT, make([]byte, 8)), rawEvent(replication.WRITE_ROWS_EVENTv2, []byte("rows"))...)
	f.Add(payloadOf(f, replication.ZSTD, inner)[headerSize:])
	f.Add(payloadOf(f, replication.NONE, inner)[headerSize:])
	f.Fuzz(func(t *testing.T, data []byte) {
		var p payload
		defer p.close()
		raw := append(make([]byte, headerSize), data...)
		_ = p.each(testParser(t), &replication.BinlogEvent{RawData: raw}, func(e *replication.BinlogEvent) error {
			if len(e.RawData) < headerSize {
				t.Errorf("an event of %d bytes", len(e.RawData))
			}
			return nil
		})
	})
}

// formatEvent describes the format of MySQL's events.
func formatEvent() []byte {
	body := append([]byte{4, 0}, make([]byte, 50)...)
	copy(body[2:], "9.7.0")
	body = append(body, 0, 0, 0, 0, headerSize)
	lengths := make([]byte, 42)
	for i := range lengths {
		lengths[i] = 8
	}
	body = append(append(body, lengths...), 0, 0, 0, 0, 0)
	return rawEvent(replication.FORMAT_DESCRIPTION_EVENT, body)
}

func testParser(t testing.TB) *replication.BinlogParser {
	t.Helper()
	p := newParser("mysql")
	if _, err := parseWhole(p, formatEvent()); err != nil {
		t.Fatal(err)
	}
	return p
}

func FuzzTableMap(f *testing.F) {
	f.Add([]byte{7, 0, 0, 0, 0, 0, 1, 0, 1, 'd', 0, 1, 't', 0, 2, 8, 15, 2, 255, 0, 0, 1, 1, 0, 4, 6, 2, 'i', 'd', 2, 'v', 'v', 8, 1, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := parseWhole(testParser(t), rawEvent(replication.TABLE_MAP_EVENT, body))
		if err != nil {
			return
		}
		sc := &schema{
			filter: &filter{}, shaping: &shaping{delimiter: "."}, tables: map[tableID]*catalogTable{}, collates: map[uint64]string{8: "latin1", 45: "utf8mb4", 63: "binary"},
			catalog: func(tableID) (*catalogTable, error) { return nil, nil },
		}
		sh, err := sc.make(e.Event.(*replication.TableMapEvent))
		if err != nil {
			return
		}
		b := newBatch()
		defer b.release()
		all := bytes.Repeat([]byte{0xff}, len(sh.codecs)/8+1)
		_, _, _ = sh.decodeRow(make([]byte, 64), all, b)
	})
}

// FuzzDDL: what a statement does to known tables leaves them whole: the key's columns are there, and no name stands twice.
func FuzzDDL(f *testing.F) {
	for _, sql := range []string{
		"CREATE TABLE x (id INT PRIMARY KEY, v VARCHAR(20) CHARACTER SET latin1 DEFAULT 'a', UNIQUE KEY (v))", "CREATE TABLE x LIKE a", "RENAME TABLE a TO b2, b TO a, b2 TO b",
		"ALTER TABLE a ADD COLUMN c DECIMAL(10,2) UNSIGNED NOT NULL DEFAULT 1.5 AFTER id, DROP COLUMN v, RENAME TO d.z", "ALTER TABLE a CHANGE id key_ BIGINT FIRST, ADD UNIQUE (key_)",
		"ALTER TABLE a DROP PRIMARY KEY, ADD PRIMARY KEY (v, id)", "ALTER TABLE a CONVERT TO CHARACTER SET gbk", "DROP TABLE IF EXISTS a, b", "TRUNCATE a", "CREATE UNIQUE INDEX i ON a (v)",
		"ALTER TABLE a MODIFY v ENUM('a','b''c') COLLATE utf8mb4_bin, ALTER COLUMN v SET DEFAULT 'a'", "/*!40101 CREATE TABLE y (b BIT(3) DEFAULT b'101', g GEOMETRY, s SET('x')) */",
		"ALTER DATABASE d CHARACTER SET latin1", "ALTER TABLE a RENAME COLUMN v TO w, RENAME INDEX u TO u2, DROP INDEX u2", "ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b", "XA COMMIT X'78',X'',1",
	} {
		f.Add(sql)
	}
	known := map[tableID]*catalogTable{}
	for _, n := range []string{"a", "b"} {
		known[tableID{"d", n}] = &catalogTable{
			columns: []record.Column{{Name: "id", Type: "int", Family: record.FamilyInt}, {Name: "v", Type: "varchar(9)", Family: record.FamilyVarchar, Charset: "utf8mb4", Nullable: true}},
			key:     []int{0}, uniques: []uniqueKey{{"u", []string{"v"}}}, charset: "utf8mb4",
		}
	}
	f.Fuzz(func(t *testing.T, sql string) {
		_ = classify(sql)
		for _, flavor := range []string{"mysql", "mariadb"} {
			before := maps.Clone(known)
			h := &history{flavor: flavor, charsets: map[string]string{"d": "utf8mb4"}, lookup: func(id tableID) (*catalogTable, error) { return known[id], nil }}
			changes, err := h.apply(sql, "d")
			if !maps.Equal(known, before) || len(known[tableID{"d", "a"}].columns) != 2 || known[tableID{"d", "a"}].columns[1].Name != "v" {
				t.Fatal("a known table was changed in place")
			}
			if err != nil {
				return
			}
			for _, c := range changes {
				whole(t, c.table)
			}
		}
	})
}

func whole(t *testing.T, c *catalogTable) {
	t.Helper()
	if c == nil {
		return
	}
	for _, k := range c.key {
		if k < 0 || k >= len(c.columns) {
			t.Fatalf("column %d of %d is in the key", k, len(c.columns))
		}
	}
	for _, u := range c.uniques {
		if len(u.columns) == 0 {
			t.Fatalf("unique index %s has no columns", u.name)
		}
	}
}

// FuzzOffset: an offset that is read is written again as it was.
func FuzzOffset(f *testing.F) {
	f.Add([]byte(`{"file":"binlog.000001","pos":4,"gtids":"a:1-5","event":2,"row":1,"millrace_txn":"a:6","snapshot":"initial","snapshot_tables":{"d.t":["1","'a'"],"d.u":true},"xa_prepared":{"x":["binlog.1",7]}}`))
	f.Add([]byte(`{"file":"b.1","pos":4,"gtids":"a:1-5","server_id":1,"event":2,"row":1,"ts_sec":3}`))
	f.Add([]byte(`{"file":"b.1","pos":4,"server_uuid":"u","event":4,"row":1,"row_event":1,"millrace_txn":"a:6"}`))
	f.Add([]byte(`{"file":"b.1","pos":4,"snapshot_requested":{"d.t":{"after":[],"where":"id>1"}},"snapshot_completed":true,"server_uuid":"u"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m map[string]any
		if json.Unmarshal(data, &m) != nil {
			return
		}
		p, err := decodePosition(m)
		if err != nil {
			return
		}
		first := p.encode()
		again, err := decodePosition(first)
		if err != nil {
			t.Fatalf("%v: %v", first, err)
		}
		if second := again.encode(); !cmp.Equal(first, second) {
			t.Error(cmp.Diff(first, second))
		}
	})
}

func FuzzEvent(f *testing.F) {
	f.Add(rawEvent(replication.XID_EVENT, make([]byte, 8)))
	f.Add(rawEvent(replication.ROTATE_EVENT, []byte("\x04\x00\x00\x00\x00\x00\x00\x00binlog.000002")))
	f.Add(rawEvent(replication.FORMAT_DESCRIPTION_EVENT, make([]byte, 100)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < headerSize || binary.LittleEndian.Uint32(raw[9:]) != uint32(len(raw)) {
			return
		}
		d := &dump{parser: testParser(t)}
		_, _ = d.event(raw)
	})
}
