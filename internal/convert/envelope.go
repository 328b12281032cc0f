package convert

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// connectOptions are the settings of Kafka Connect's JsonConverter.
type connectOptions struct {
	schemas     bool // schemas.enable
	replaceNull bool // replace.null.with.default
	numeric     bool // decimal.format=NUMERIC
	given       bool // schemas.enable is set
}

// dbzTable is what all events of a table's shape have in common in Debezium's envelope.
type dbzTable struct {
	topic   string
	columns []dbzColumn
	key     []dbzColumn // of Table.RecordKey, with the key converter's settings
	// valueSchema and keySchema are {"schema":…,"payload": or empty.
	valueSchema, keySchema   []byte
	source, afterDB, afterNS []byte
}

var (
	snapshotSchema = &record.Schema{
		Type: record.TypeString, Optional: true, Name: "io.debezium.data.Enum", Version: 1, Default: "false",
		Params: [][2]string{{"allowed", "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"}},
	}
	int64Schema    = &record.Schema{Type: record.TypeInt64}
	optionalInt64  = &record.Schema{Type: record.TypeInt64, Optional: true}
	stringSchema   = &record.Schema{Type: record.TypeString}
	optionalString = &record.Schema{Type: record.TypeString, Optional: true}
	blockSchema    = &record.Schema{Type: record.TypeStruct, Optional: true, Name: "event.block", Version: 1, Fields: []record.Field{
		{Name: "id", Schema: stringSchema}, {Name: "total_order", Schema: int64Schema}, {Name: "data_collection_order", Schema: int64Schema},
	}}
)

// sourceSchema is the schema of the member "source".
func sourceSchema(connector string) *record.Schema {
	return &record.Schema{Type: record.TypeStruct, Name: "io.debezium.connector." + connector + ".Source", Version: 1, Fields: []record.Field{
		{Name: "version", Schema: stringSchema},
		{Name: "connector", Schema: stringSchema},
		{Name: "name", Schema: stringSchema},
		{Name: "ts_ms", Schema: int64Schema},
		{Name: "snapshot", Schema: snapshotSchema},
		{Name: "db", Schema: stringSchema},
		{Name: "sequence", Schema: optionalString},
		{Name: "ts_us", Schema: optionalInt64},
		{Name: "ts_ns", Schema: optionalInt64},
		{Name: "table", Schema: optionalString},
		{Name: "server_id", Schema: int64Schema},
		{Name: "gtid", Schema: optionalString},
		{Name: "file", Schema: stringSchema},
		{Name: "pos", Schema: int64Schema},
		{Name: "row", Schema: &record.Schema{Type: record.TypeInt32}},
		{Name: "thread", Schema: optionalInt64},
		{Name: "query", Schema: optionalString},
	}}
}

func rowSchema(name string, columns []dbzColumn) *record.Schema {
	s := &record.Schema{Type: record.TypeStruct, Name: name}
	for i := range columns {
		s.Fields = append(s.Fields, record.Field{Name: columns[i].col.Name, Schema: columns[i].schema})
	}
	return s
}

func envelopeSchema(topic, connector string, columns []dbzColumn) *record.Schema {
	row := rowSchema(topic+".Value", columns)
	row.Optional = true
	return &record.Schema{Type: record.TypeStruct, Name: topic + ".Envelope", Version: 2, Fields: []record.Field{
		{Name: "before", Schema: row},
		{Name: "after", Schema: row},
		{Name: "source", Schema: sourceSchema(connector)},
		{Name: "transaction", Schema: blockSchema},
		{Name: "op", Schema: stringSchema},
		{Name: "ts_ms", Schema: optionalInt64},
		{Name: "ts_us", Schema: optionalInt64},
		{Name: "ts_ns", Schema: optionalInt64},
	}}
}

var noEnvelope = &record.Envelope{Connector: "millrace", Name: "millrace"}

func (e *Encoder) dbzTable(t *record.Table, topic string) *dbzTable {
	if r := e.envelopes.of(t); r != nil && r.topic == topic {
		return r
	}
	env := t.Envelope
	if env == nil {
		env = noEnvelope
	}
	r := &dbzTable{topic: topic}
	for i := range t.Columns {
		r.columns = append(r.columns, dbzColumnOf(&t.Columns[i], env, e.s.valueJSON.numeric))
	}
	for _, at := range t.RecordKey() {
		r.key = append(r.key, dbzColumnOf(&t.Columns[at], env, e.s.keyJSON.numeric))
	}
	if e.s.keyJSON.schemas {
		r.keySchema = opening(rowSchema(topic+".Key", r.key), &e.s.keyJSON)
	}
	if e.s.valueJSON.schemas {
		r.valueSchema = opening(envelopeSchema(topic, env.Connector, r.columns), &e.s.valueJSON)
	}
	r.source, r.afterDB = sourceParts(env, t.Database)
	r.afterNS = append(appendJSONString([]byte(`,"table":`), t.Name), `,"server_id":`...)
	return e.envelopes.put(t, r)
}

func opening(s *record.Schema, o *connectOptions) []byte {
	return append(appendSchema([]byte(`{"schema":`), s, "", o), `,"payload":`...)
}

func sourceParts(env *record.Envelope, db string) (first, second []byte) {
	first = appendJSONString([]byte(`"source":{"version":`), env.Version)
	first = appendJSONString(append(first, `,"connector":`...), env.Connector)
	first = append(appendJSONString(append(first, `,"name":`...), env.Name), `,"ts_ms":`...)
	second = append(appendJSONString([]byte(`,"db":`), db), `,"sequence":null,"ts_us":`...)
	return first, second
}

// appendEnvelope writes a change event as Debezium does.
func (e *Encoder) appendEnvelope(dst []byte, c *record.ChangeEvent, topic string) ([]byte, error) {
	if c.Op == record.OpDDL {
		return e.appendSchemaChange(dst, c), nil
	}
	var op byte
	switch c.Op {
	case record.OpRead:
		op = 'r'
	case record.OpCreate:
		op = 'c'
	case record.OpUpdate:
		op = 'u'
	case record.OpDelete:
		op = 'd'
	case record.OpTruncate:
		op = 't'
	default:
		return dst, fmt.Errorf("change event of table %s.%s has no operation that Debezium's envelope knows: %v", c.Table.Database, c.Table.Name, c.Op)
	}
	t := e.dbzTable(c.Table, topic)
	for _, row := range []record.Row{c.Before, c.After} {
		if row != nil && len(row) != len(t.columns) {
			return dst, fmt.Errorf("row of table %s.%s has %d values for %d columns", c.Table.Database, c.Table.Name, len(row), len(t.columns))
		}
	}
	dst = append(dst, t.valueSchema...)
	dst = appendDbzRow(append(dst, `{"before":`...), t.columns, c.Before, e.s.valueJSON.replaceNull)
	dst = appendDbzRow(append(dst, `,"after":`...), t.columns, c.After, e.s.valueJSON.replaceNull)
	dst = append(append(dst, ','), t.source...)
	dst = appendSource(dst, &c.Source, t.afterDB, t.afterNS, e.s.valueJSON.replaceNull)
	if s := &c.Source; s.TxnOrder == 0 {
		dst = append(dst, `,"transaction":null,"op":"`...)
	} else {
		dst = appendJSONString(append(dst, `,"transaction":{"id":`...), s.TxnID)
		dst = strconv.AppendInt(append(dst, `,"total_order":`...), s.TxnOrder, 10)
		dst = strconv.AppendInt(append(dst, `,"data_collection_order":`...), s.TxnTableOrder, 10)
		dst = append(dst, `},"op":"`...)
	}
	dst = appendNow(append(dst, op, '"', ','))
	if len(t.valueSchema) > 0 {
		dst = append(dst, '}')
	}
	return append(dst, '}'), nil
}

// appendNow writes ts_ms, ts_us and ts_ns.
func appendNow(dst []byte) []byte {
	now := time.Now().UnixNano()
	dst = strconv.AppendInt(append(dst, `"ts_ms":`...), now/1e6, 10)
	dst = strconv.AppendInt(append(dst, `,"ts_us":`...), now/1e3, 10)
	return strconv.AppendInt(append(dst, `,"ts_ns":`...), now, 10)
}

// appendSource writes the members of source from ts_ms's value on, and closes it.
func appendSource(dst []byte, s *record.Source, afterDB, afterNS []byte, replaceNull bool) []byte {
	us := s.TimeUS
	if us == 0 {
		us = s.TimeMS * 1000
	}
	dst = strconv.AppendInt(dst, us/1000, 10)
	switch {
	case s.Incremental:
		dst = append(dst, `,"snapshot":"incremental"`...)
	case s.Snapshot:
		dst = append(dst, `,"snapshot":"true"`...)
	case replaceNull: // false is its default
		dst = append(dst, `,"snapshot":"false"`...)
	default:
		dst = append(dst, `,"snapshot":null`...)
	}
	dst = strconv.AppendInt(append(dst, afterDB...), us, 10)
	dst = strconv.AppendInt(append(dst, `,"ts_ns":`...), us*1000, 10)
	dst = append(dst, afterNS...)
	server, thread := s.ServerID, s.Thread
	gtid := s.GTID
	if s.Snapshot {
		server, thread, gtid = 0, 0, ""
	}
	dst = strconv.AppendUint(dst, uint64(server), 10)
	dst = appendOptional(append(dst, `,"gtid":`...), gtid)
	dst = appendJSONString(append(dst, `,"file":`...), s.File)
	dst = strconv.AppendUint(append(dst, `,"pos":`...), s.Pos, 10)
	dst = strconv.AppendInt(append(dst, `,"row":`...), int64(s.Row), 10)
	if dst = append(dst, `,"thread":`...); thread == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendUint(dst, uint64(thread), 10)
	}
	return append(appendOptional(append(dst, `,"query":`...), s.Query), '}')
}

func appendOptional(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return appendJSONString(dst, s)
}

// appendDbzRow writes a row as a JSON object; nil is null.
func appendDbzRow(dst []byte, columns []dbzColumn, row record.Row, replaceNull bool) []byte {
	if row == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '{')
	for i := range row {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendDbzValue(append(dst, columns[i].name...), &columns[i], row[i], replaceNull)
	}
	return append(dst, '}')
}

func appendDbzValue(dst []byte, c *dbzColumn, d record.Datum, replaceNull bool) []byte {
	switch d.Kind {
	case record.KindNull:
		if replaceNull {
			return append(dst, c.missing...)
		}
		return append(dst, "null"...)
	case record.KindAbsent:
		switch c.schema.Type {
		case record.TypeString:
			return append(append(append(dst, '"'), unavailable...), '"')
		case record.TypeBytes:
			dst = base64.StdEncoding.AppendEncode(append(dst, '"'), []byte(unavailable))
			return append(dst, '"')
		default:
			return append(dst, "null"...)
		}
	default:
		return c.append(dst, d)
	}
}

// appendDbzKey writes a key with the types of the envelope.
func (e *Encoder) appendDbzKey(dst []byte, k *record.KeyRow, topic string, schemas bool) []byte {
	t := e.dbzTable(k.Table, topic)
	if schemas {
		dst = append(dst, t.keySchema...)
	}
	dst = append(dst, '{')
	for i, at := range k.Table.RecordKey() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendDbzValue(append(dst, t.key[i].name...), &t.key[i], k.Row[at], e.s.keyJSON.replaceNull)
	}
	dst = append(dst, '}')
	if schemas && len(t.keySchema) > 0 {
		dst = append(dst, '}')
	}
	return dst
}
