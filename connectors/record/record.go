package record

// AnyPartition lets the producer choose the topic partition: by the hash of the key, or in turn where there is none.
const AnyPartition int32 = -1

// Record is one record on its way into or out of a topic.
//
// Key and Value hold one of: nil (null; as a value, a tombstone), []byte, string, bool, int64, uint64, float64,
// map[string]any, []any, *Struct, *Typed, *KeyRow (keys of change events) or *ChangeEvent.
type Record struct {
	Topic string
	// Partition of Topic: set on what sinks get; sources leave AnyPartition unless they know better.
	Partition int32
	// Offset in Topic: set on what sinks get.
	Offset  int64
	Key     any
	Value   any
	Headers []Header
	// Origin is the topic that it had before a transform gave it another one; empty: Topic. Sinks keep offsets by it.
	Origin string
	// TimestampMS is the record's time in ms since the Unix epoch; 0 lets the broker's client choose now.
	TimestampMS int64
}

// From returns the topic that a sink's record was read from.
func (r *Record) From() string {
	if r.Origin != "" {
		return r.Origin
	}
	return r.Topic
}

// Header is one header of a record. A nil Value is null. Row, if set, is the value instead: a key, which is written as a key is but
// without its schema.
type Header struct {
	Key   string
	Value []byte
	Row   *KeyRow
}

// KeyRow is the key of a change event: the key columns of a row, in key order.
type KeyRow struct {
	Table *Table
	// Row is the whole row that the key is taken from; Table.RecordKey says which columns.
	Row Row
}
