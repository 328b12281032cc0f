package convert

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

// Folder makes change events of what other systems write: of Debezium's envelope, and, for sinks that want them, of plain rows. It belongs to
// one goroutine.
type Folder struct {
	// Rows: structs and JSON objects that are no envelope count as rows with the record's key, and tombstones as their deletes.
	Rows   bool
	tables map[string]*record.Table
}

// Fold turns a record's value into a *record.ChangeEvent where it is one; anything else stays.
func (f *Folder) Fold(r *record.Record) error {
	value := objectFrom(r.Value)
	switch {
	case value.ok && value.envelope():
		c, err := f.event(r, value)
		if err != nil {
			return err
		}
		r.Value = c
	case f.Rows && value.ok:
		t, row, err := f.row(tableOf(r.Topic), "", value, objectFrom(r.Key), false)
		if err != nil {
			return err
		}
		r.Value = &record.ChangeEvent{Table: t, Op: record.OpUpdate, After: row, Source: record.Source{TimeMS: r.TimestampMS}}
	case f.Rows && r.Value == nil:
		key := objectFrom(r.Key)
		if !key.ok {
			return nil
		}
		t, row, err := f.row(tableOf(r.Topic), "", key, key, true)
		if err != nil {
			return err
		}
		// The key's columns need not be the table's key; the sink finds out.
		r.Value = &record.ChangeEvent{Table: t, Op: record.OpDelete, Before: row, Source: record.Source{TimeMS: r.TimestampMS}}
	}
	return nil
}

// tableOf is the last part of a topic's name, which is the table in the names that sources give.
func tableOf(topic string) string { return topic[strings.LastIndexByte(topic, '.')+1:] }

// fields are those of a struct or of a JSON object, in order.
type fields struct {
	ok      bool
	names   []string
	values  []any
	schemas []*record.Schema // nil: none
}

func objectFrom(v any) fields {
	switch v := v.(type) {
	case *record.Struct:
		f := fields{ok: v != nil}
		if v != nil {
			f.values = v.Values
			for _, x := range v.Schema.Fields {
				f.names, f.schemas = append(f.names, x.Name), append(f.schemas, x.Schema)
			}
		}
		return f
	case map[string]any:
		f := fields{ok: true}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			f.names, f.values = append(f.names, k), append(f.values, v[k])
		}
		return f
	}
	return fields{}
}

func (f *fields) get(name string) any {
	if i := slices.Index(f.names, name); i >= 0 {
		v := f.values[i]
		if v == nil && f.schemas != nil {
			v = f.schemas[i].Default
		}
		return v
	}
	return nil
}

func (f *fields) text(name string) string {
	s, _ := f.get(name).(string)
	return s
}

func (f *fields) number(name string) int64 {
	switch v := f.get(name).(type) {
	case int64:
		return v
	case json.Number:
		n, _ := v.Int64()
		return n
	}
	return 0
}

func (f *fields) envelope() bool {
	for _, name := range []string{"before", "after", "source", "op"} {
		if !slices.Contains(f.names, name) {
			return false
		}
	}
	return true
}

var dbzOps = map[string]record.Op{"r": record.OpRead, "c": record.OpCreate, "u": record.OpUpdate, "d": record.OpDelete, "t": record.OpTruncate}

func (f *Folder) event(r *record.Record, e fields) (*record.ChangeEvent, error) {
	src := objectFrom(e.get("source"))
	c := &record.ChangeEvent{Op: dbzOps[e.text("op")], Source: record.Source{
		TimeMS: src.number("ts_ms"), TimeUS: src.number("ts_us"), GTID: src.text("gtid"), File: src.text("file"), Pos: uint64(src.number("pos")),
		Row: int32(src.number("row")), ServerID: uint32(src.number("server_id")), Thread: uint32(src.number("thread")), Query: src.text("query"),
	}}
	if c.Op == record.OpUnknown {
		return nil, fmt.Errorf("a change event with the operation %q, which is none of r, c, u, d and t", e.text("op"))
	}
	switch src.text("snapshot") {
	case "", "false":
	case "incremental":
		c.Source.Snapshot, c.Source.Incremental = true, true
	default:
		c.Source.Snapshot = true
	}
	table, db := src.text("table"), src.text("db")
	before, after, key := objectFrom(e.get("before")), objectFrom(e.get("after")), objectFrom(r.Key)
	var err error
	if after.ok {
		if c.Table, c.After, err = f.row(table, db, after, key, false); err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
	}
	if before.ok {
		t, row, err := f.row(table, db, before, key, false)
		if err != nil {
			return nil, fmt.Errorf("before: %w", err)
		}
		if c.Table == nil {
			c.Table = t
		}
		if c.Table == t {
			c.Before = row // else, without schemas, the two look as if of two shapes; the older one is of no use then
		}
	}
	if c.Table == nil {
		c.Table = &record.Table{Database: db, Name: table}
	}
	return c, nil
}

// row reads a row, and makes the table that it is of; one instance for each shape. Of a tombstone the key is all there is.
func (f *Folder) row(table, db string, row, key fields, tombstone bool) (*record.Table, record.Row, error) {
	columns := make([]record.Column, len(row.names))
	out := make(record.Row, len(row.names))
	shape := fmt.Appendf(nil, "%s\x00%s\x00%t", db, table, tombstone)
	for i, name := range row.names {
		inKey := slices.Contains(key.names, name)
		c := &columns[i]
		if row.schemas != nil {
			*c = columnFrom(row.schemas[i], inKey)
		} else {
			*c = guessed(row.values[i], inKey)
		}
		c.Name = name
		var err error
		if out[i], err = row.datum(i, c); err != nil {
			return nil, nil, fmt.Errorf("column %s: %w", name, err)
		}
		shape = append(append(append(append(shape, 0), name...), 1), c.Type...)
		if inKey {
			shape = append(shape, 2)
		}
	}
	t := f.tables[string(shape)]
	if t == nil {
		t = &record.Table{Database: db, Name: table, Columns: columns}
		for _, name := range key.names {
			if i := slices.Index(row.names, name); i >= 0 {
				t.Key = append(t.Key, i)
			}
		}
		if tombstone {
			t.Key, t.MessageKey = nil, t.Key
		}
		if len(f.tables) >= maxTables || f.tables == nil {
			f.tables = map[string]*record.Table{}
		}
		f.tables[string(shape)] = t
	}
	return t, out, nil
}

func declared(decl string) record.Column {
	c := record.ParseMySQLType(decl)
	c.Nullable = true
	return c
}

// guessed is the column of a value without schema.
func guessed(v any, key bool) record.Column {
	switch v := v.(type) {
	case bool:
		return declared("tinyint")
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return declared("bigint")
		}
		return declared("double")
	case float64:
		return declared("double")
	case int64:
		return declared("bigint")
	case map[string]any, []any:
		return declared("json")
	}
	if key {
		return declared("varchar(255)")
	}
	return declared("longtext")
}

// columnFrom is the column that a schema describes: by its meaning, where it is one of Debezium's or Kafka Connect's, else by its type.
func columnFrom(s *record.Schema, key bool) record.Column {
	params := map[string]string{}
	for _, p := range s.Params {
		params[p[0]] = p[1]
	}
	switch name := s.Name; name {
	case record.LogicalDecimal:
		precision := params["connect.decimal.precision"]
		if precision == "" {
			precision = "65"
		}
		return declared("decimal(" + precision + "," + params["scale"] + ")")
	case record.LogicalDate, "io.debezium.time.Date", "io.debezium.time.IsoDate":
		return declared("date")
	case record.LogicalTime, "io.debezium.time.Time":
		return declared("time(3)")
	case "io.debezium.time.MicroTime", "io.debezium.time.NanoTime", "io.debezium.time.IsoTime":
		return declared("time(6)")
	case record.LogicalTimestamp, "io.debezium.time.Timestamp":
		return declared("datetime(3)")
	case "io.debezium.time.MicroTimestamp", "io.debezium.time.NanoTimestamp", "io.debezium.time.IsoTimestamp":
		return declared("datetime(6)")
	case "io.debezium.time.ZonedTimestamp":
		return declared("timestamp(6)")
	case "io.debezium.time.Year":
		return declared("year")
	case "io.debezium.data.Json":
		return declared("json")
	case "io.debezium.data.Bits":
		return declared("bit(" + params["length"] + ")")
	case "io.debezium.data.Enum", "io.debezium.data.EnumSet":
		if allowed := params["allowed"]; allowed != "" {
			return declared(membersDecl(name == "io.debezium.data.EnumSet", allowed))
		}
	case "io.debezium.data.geometry.Point":
		return declared("point")
	case "io.debezium.data.geometry.Geometry":
		return declared("geometry")
	}
	switch s.Type {
	case record.TypeBoolean, record.TypeInt8:
		return declared("tinyint")
	case record.TypeInt16:
		return declared("smallint")
	case record.TypeInt32:
		return declared("int")
	case record.TypeInt64:
		return declared("bigint")
	case record.TypeFloat:
		return declared("float")
	case record.TypeDouble:
		return declared("double")
	case record.TypeBytes:
		if key {
			return declared("varbinary(255)")
		}
		return declared("longblob")
	case record.TypeArray, record.TypeMap, record.TypeStruct:
		return declared("json")
	default:
		if key {
			return declared("varchar(255)")
		}
		return declared("longtext")
	}
}

// membersDecl is the declaration of an ENUM or SET whose members are listed as Debezium does: commas within them escaped.
func membersDecl(set bool, allowed string) string {
	var b strings.Builder
	b.WriteString("enum('")
	if set {
		b.Reset()
		b.WriteString("set('")
	}
	for i := 0; i < len(allowed); i++ {
		switch c := allowed[i]; {
		case c == '\\' && i+1 < len(allowed) && allowed[i+1] == ',':
			i++
			b.WriteByte(',')
		case c == ',':
			b.WriteString("','")
		case c == '\'':
			b.WriteString("''")
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString("')")
	return b.String()
}

// textDatum reads text as the column's.
func textDatum(c *record.Column, s string) (record.Datum, error) {
	if c.Family == record.FamilyEnum || c.Family == record.FamilySet {
		return members(c, s)
	}
	return record.Text([]byte(s)), nil
}

// unavailableBytes is how the mark of a missing binary value looks without schema.
var unavailableBytes = base64.StdEncoding.EncodeToString([]byte(unavailable))

// datum reads a field as the column's.
func (f *fields) datum(i int, c *record.Column) (record.Datum, error) {
	if f.schemas != nil && f.values[i] != nil {
		if d, ok, err := timeDatum(c, f.schemas[i].Name, f.values[i]); ok {
			return d, err
		}
	}
	return datumFrom(c, f.values[i])
}

// datumFrom reads a value as the column's.
func datumFrom(c *record.Column, v any) (record.Datum, error) {
	switch x := v.(type) {
	case nil:
		return record.Null(), nil
	case bool:
		if x {
			return record.Int(1), nil
		}
		return record.Int(0), nil
	case string:
		if x == unavailable || x == unavailableBytes {
			return record.Datum{}, nil
		}
		return textDatum(c, x)
	case []byte:
		if string(x) == unavailable {
			return record.Datum{}, nil
		}
		return bytesDatum(c, x)
	case int64:
		return intDatum(c, x)
	case float64:
		if c.Family == record.FamilyFloat {
			return record.Float32(float32(x)), nil
		}
		return record.Float64(x), nil
	case json.Number:
		if n, err := x.Int64(); err == nil && c.Family != record.FamilyDouble {
			return intDatum(c, n)
		}
		f, err := x.Float64()
		return record.Float64(f), err
	case *record.Struct:
		if c.Family == record.FamilyGeometry {
			return geometryDatum(x)
		}
	}
	b, err := json.Marshal(v)
	return record.Text(b), err
}

func intDatum(c *record.Column, n int64) (record.Datum, error) {
	switch c.Family {
	case record.FamilyDouble, record.FamilyFloat:
		return record.Float64(float64(n)), nil
	default:
		return record.Int(n), nil
	}
}

func bytesDatum(c *record.Column, b []byte) (record.Datum, error) {
	switch c.Family {
	case record.FamilyDecimal:
		return record.Text(appendDecimalDigits(nil, b, c.Scale)), nil
	case record.FamilyBit:
		var n [8]byte
		copy(n[:], b)
		return record.Uint(binary.LittleEndian.Uint64(n[:])), nil
	default:
		return record.Bytes(b), nil
	}
}

func geometryDatum(s *record.Struct) (record.Datum, error) {
	f := objectFrom(s)
	wkb, ok := f.get("wkb").([]byte)
	srid := f.number("srid")
	if !ok || srid < 0 || srid > math.MaxUint32 {
		return record.Datum{}, fmt.Errorf("a geometry without wkb")
	}
	return record.Bytes(append(binary.LittleEndian.AppendUint32(nil, uint32(srid)), wkb...)), nil
}
