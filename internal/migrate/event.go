package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/millrace/millrace/internal/kafka"
)

// What a record is to a comparison.
type kind int

const (
	change    kind = iota // of a row
	deletion              // of a row; a changed key makes one beside the row's change
	tombstone             // after a deletion
	// The others are not compared.
	snapshotRow
	transactionMark
	schemaChange
	heartbeat
	placeless
)

// uncompared says why records of a kind are not compared.
var uncompared = map[kind][2]string{
	snapshotRow:     {"rows of snapshots", "each of the two reads them at a time of its own"},
	transactionMark: {"transaction metadata", "Debezium also tells of transactions that touch no captured table"},
	schemaChange:    {"schema changes", "Debezium also tells of databases that are not captured, and writes statements anew"},
	heartbeat:       {"heartbeats", "they hold times only"},
	placeless:       {"records without their place in the log", "they can't be paired: they have no source block of Debezium's. With ExtractNewRecordState, add.fields=source.file,source.pos,source.row gives them one"},
}

// event is a record of one of the two, decoded.
type event struct {
	topic      string // as the old connector names it
	partition  int32
	offset     int64
	key, value any
	headers    map[string]any
	at         place
	kind       kind
	bytes      int
}

// id is what pairs it with the other side's: one row of the log makes at most one record of each kind in a topic.
func (e *event) id() string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%d\x00%d\x00%d", e.topic, e.at.server, e.at.file, e.at.pos, e.at.row, e.kind)
}

// reader decodes one side's records. The place of a tombstone is that of the record before it.
type reader struct {
	prefix string // of topics, to take off
	last   map[kafka.TopicPartition]keyed
}

// keyed is where the record of a key is from.
type keyed struct {
	key string
	at  place
}

func newReader(prefix string) *reader { return &reader{prefix, map[kafka.TopicPartition]keyed{}} }

func (r *reader) read(m *kafka.Fetched) *event {
	e := &event{
		topic: strings.TrimPrefix(m.Topic, r.prefix), partition: m.Partition, offset: m.Offset, key: decoded(m.Key), value: decoded(m.Value),
		headers: map[string]any{}, bytes: len(m.Key) + len(m.Value),
	}
	for _, h := range m.Headers {
		e.headers[h.Key] = decoded(h.Value)
	}
	tp := kafka.TopicPartition{Topic: m.Topic, Partition: m.Partition}
	if m.Value == nil {
		e.kind = placeless
		if l, ok := r.last[tp]; ok && l.key == string(m.Key) {
			e.kind, e.at = tombstone, l.at
		}
		return e
	}
	e.classify()
	r.last[tp] = keyed{string(m.Key), e.at}
	return e
}

// decoded is JSON as maps and lists, and all else as text; nil stays nil.
func decoded(b []byte) any {
	if b == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return string(b)
	}
	return v
}

func payload(v any) map[string]any {
	m, _ := v.(map[string]any)
	if p, ok := m["payload"].(map[string]any); ok {
		return p
	}
	return m
}

// classify finds kind and place: of Debezium's envelope, or of a flat row that ExtractNewRecordState gave fields of the source block.
func (e *event) classify() {
	p := payload(e.value)
	field := func(name string) any { return p["__source_"+name] }
	op, deleted := text(p["__op"]), text(p["__deleted"]) == "true"
	if src, ok := p["source"].(map[string]any); ok {
		field = func(name string) any { return src[name] }
		op = text(p["op"])
	}
	e.at = place{server: text(field("server_id")), file: text(field("file")), pos: number(field("pos")), row: number(field("row")), gtid: text(field("gtid"))}
	switch _, ddl := p["ddl"]; {
	case ddl && p["databaseName"] != nil:
		e.kind = schemaChange
	case p["event_count"] != nil || p["status"] == "BEGIN":
		e.kind = transactionMark
	case len(p) == 1 && p["ts_ms"] != nil:
		e.kind = heartbeat
	case op == "r":
		e.kind = snapshotRow
	case e.at.file == "":
		e.kind = placeless
	case op == "d" || deleted:
		e.kind = deletion
	}
}
