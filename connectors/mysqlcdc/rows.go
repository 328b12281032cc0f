package mysqlcdc

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/millrace/millrace/connectors/record"
)

const headerSize = replication.EventHeaderSize

// tableMap finds the shape of the rows that follow: by the body of the map, never by its id, which the server uses anew.
func (s *stream) tableMap(e *replication.BinlogEvent) error {
	if len(e.RawData) < headerSize+8 {
		return fmt.Errorf("table map at %s is too short", s.read)
	}
	id, body := little(e.RawData[headerSize:headerSize+6]), e.RawData[headerSize+8:] // flags between them
	if sh, ok := s.schema.shapes[string(body)]; ok {
		s.maps[id] = sh
		return nil
	}
	if s.parser == nil {
		return fmt.Errorf("table map at %s before any format description", s.read)
	}
	full, err := parseWhole(s.parser, e.RawData)
	if err != nil {
		return fmt.Errorf("parse table map at %s: %w", s.read, err)
	}
	sh, err := s.schema.make(full.Event.(*replication.TableMapEvent))
	if err != nil {
		return err
	}
	if len(s.schema.shapes) >= 10000 { // I8: a server with very many tables starts the cache anew
		clear(s.schema.shapes)
	}
	s.schema.shapes[string(body)] = sh
	s.maps[id] = sh
	return nil
}

// rowsKind is what the type of a row event says.
type rowsKind struct {
	op                  record.Op
	v2                  bool // has room for more in its header
	compressed, partial bool
}

// MariaDB's compressed row events of the second version, which go-mysql does not know.
const (
	mariadbWriteCompressedV2  replication.EventType = 169
	mariadbUpdateCompressedV2 replication.EventType = 170
	mariadbDeleteCompressedV2 replication.EventType = 171
)

var rowsKinds = map[replication.EventType]rowsKind{
	replication.WRITE_ROWS_EVENTv1:                      {op: record.OpCreate},
	replication.UPDATE_ROWS_EVENTv1:                     {op: record.OpUpdate},
	replication.DELETE_ROWS_EVENTv1:                     {op: record.OpDelete},
	replication.WRITE_ROWS_EVENTv2:                      {op: record.OpCreate, v2: true},
	replication.UPDATE_ROWS_EVENTv2:                     {op: record.OpUpdate, v2: true},
	replication.DELETE_ROWS_EVENTv2:                     {op: record.OpDelete, v2: true},
	replication.PARTIAL_UPDATE_ROWS_EVENT:               {op: record.OpUpdate, v2: true, partial: true},
	replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:  {op: record.OpCreate, compressed: true},
	replication.MARIADB_UPDATE_ROWS_COMPRESSED_EVENT_V1: {op: record.OpUpdate, compressed: true},
	replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1: {op: record.OpDelete, compressed: true},
	mariadbWriteCompressedV2:                            {op: record.OpCreate, v2: true, compressed: true},
	mariadbUpdateCompressedV2:                           {op: record.OpUpdate, v2: true, compressed: true},
	mariadbDeleteCompressedV2:                           {op: record.OpDelete, v2: true, compressed: true},
}

func isRows(t replication.EventType) bool {
	_, ok := rowsKinds[t]
	return ok
}

// rowsBody is a row event taken apart.
type rowsBody struct {
	rowsKind
	table           uint64
	end             bool // last row event of its statement
	before, present []byte
	rows            []byte
}

func parseRows(t replication.EventType, p []byte) (rowsBody, error) {
	b := rowsBody{rowsKind: rowsKinds[t]}
	if len(p) < 8 {
		return b, errShort
	}
	b.table = little(p[:6])
	b.end = p[6]&replication.RowsEventStmtEndFlag != 0
	p = p[8:]
	if b.v2 {
		if len(p) < 2 {
			return b, errShort
		}
		n := int(binary.LittleEndian.Uint16(p))
		if n < 2 || len(p) < n {
			return b, errShort
		}
		p = p[n:]
	}
	columns, p, err := packedInt(p)
	if err != nil {
		return b, err
	}
	if columns > 1<<16 {
		return b, fmt.Errorf("row event with %d columns", columns)
	}
	width := int(columns+7) / 8
	if len(p) < width {
		return b, errShort
	}
	b.before, b.present, p = p[:width], p[:width], p[width:]
	if b.op == record.OpUpdate {
		if len(p) < width {
			return b, errShort
		}
		b.present, p = p[:width], p[width:]
	}
	if b.compressed {
		if p, err = inflate(p); err != nil {
			return b, fmt.Errorf("decompress rows: %w", err)
		}
	}
	b.rows = p
	return b, nil
}

// inflate unpacks the rows of MariaDB's compressed events: the length of the length, the length, and a zlib stream.
func inflate(p []byte) ([]byte, error) {
	if len(p) < 1 {
		return nil, errShort
	}
	width := int(p[0] & 7)
	if width == 0 || width > 4 || len(p) < 1+width {
		return nil, errShort
	}
	size, packed := big(p[1:1+width]), p[1+width:]
	const most = 1032 // times that zlib can make less of it
	if size > maxEvent || size > uint64(len(packed))*most {
		return nil, fmt.Errorf("%d bytes of rows can't be in %d packed ones", size, len(packed))
	}
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, err
	}
	return out, r.Close()
}

// rows decodes a row event and emits its rows, but for those delivered before a restart.
func (s *stream) rows(ctx context.Context, e *replication.BinlogEvent) error {
	body, err := parseRows(e.Header.EventType, e.RawData[headerSize:])
	if err != nil {
		return fmt.Errorf("row event after %s: %w", s.read, err)
	}
	if !s.inTxn {
		return fmt.Errorf("row event after %s outside of a transaction", s.read)
	}
	sh, ok := s.maps[body.table]
	if !ok {
		return fmt.Errorf("row event after %s has no table map for id %d", s.read, body.table)
	}
	if body.end {
		defer clear(s.maps)
	}
	s.ownCount()
	done := func() { s.event++; s.row = 0 }
	stmt := s.unwritten
	if sh.captured {
		s.unwritten = ""
	}
	if !sh.captured && !sh.signals || s.snap.dropping(sh.id) || !s.count() {
		done()
		return nil
	}
	if s.xa { // it is not decided if it commits: its rows are read again when it does
		s.xaRows = true
		done()
		return nil
	}
	if len(body.present) != (len(sh.codecs)+7)/8 {
		return fmt.Errorf("row event of %s after %s has another number of columns than its table map", sh.id, s.read)
	}
	var from int64
	if s.skipping && s.event == s.skipEvent && (s.skipTxn == "" || s.skipTxn == s.txnGTID) {
		from = s.skipRow
	}
	if s.batch.size+len(e.RawData) > batchBytes { // the rows of an event stay in one batch, for converters that write them together
		if err := s.flush(ctx, false); err != nil {
			return err
		}
	}
	if stmt != "" && sh.captured && from == 0 {
		// With its first rows, in one batch: a restart between the two would write it twice.
		s.batch.addStatement(s.set.prefix, sh.id, stmt, s.source(e, 0), s.server.flavor)
	}
	s.batch.size += len(e.RawData)
	if err := s.emitRows(ctx, e, sh, &body, from); err != nil {
		return err
	}
	done()
	return nil
}

func (s *stream) emitRows(ctx context.Context, e *replication.BinlogEvent, sh *shape, body *rowsBody, from int64) error {
	src := s.source(e, 0)
	data := body.rows
	partial := !full(body.before, len(sh.codecs)) || !full(body.present, len(sh.codecs))
	for i := int64(0); len(data) > 0; i++ {
		first, n, err := sh.decodeRow(data, body.before, s.batch)
		if err != nil {
			return fmt.Errorf("row event after %s: %w", s.read, err)
		}
		image := data[:n]
		data = data[n:]
		var second record.Row
		if body.op == record.OpUpdate {
			if body.partial {
				second, n, err = sh.changed(image, data, body, s.batch)
			} else {
				second, n, err = sh.decodeRow(data, body.present, s.batch)
			}
			if err != nil {
				return fmt.Errorf("row event after %s: %w", s.read, err)
			}
			data = data[n:]
		}
		if n == 0 && len(sh.codecs) == 0 {
			return fmt.Errorf("row event after %s has rows without columns", s.read)
		}
		if partial {
			var err error
			switch body.op {
			case record.OpUpdate:
				err = sh.complete(first, second)
			case record.OpDelete:
				err = sh.complete(first, nil)
			default:
				err = sh.complete(nil, first)
			}
			if err != nil {
				return err
			}
		}
		if i < from {
			continue
		}
		src.Row = int32(i)
		s.emitRow(sh, body.op, first, second, &src)
		s.row = i + 1
		if s.skipping && s.event == s.skipEvent {
			s.skipRow = s.row
		}
		// As above: only an event of very many rows is divided.
		if n := len(s.batch.records); n >= s.set.batchRows && (len(data) == 0 || n >= 4*s.set.batchRows) || s.batch.size >= batchBytes {
			if len(data) == 0 { // the position after the whole event is the same place, and shorter
				s.event, s.seen, s.row = s.event+1, s.seen+1, 0
				s.leaveSkip()
				err = s.flush(ctx, false)
				s.event, s.seen = s.event-1, s.seen-1
			} else {
				err = s.flush(ctx, false)
			}
			if err != nil {
				return err
			}
			s.batch.size += len(data)
		}
	}
	s.leaveSkip()
	return nil
}

// leaveSkip ends skipping: the event that was delivered in part is delivered whole.
func (s *stream) leaveSkip() {
	if s.skipping && s.event >= s.skipEvent && (s.skipTxn == "" || s.skipTxn == s.txnGTID) {
		s.skipping = false
	}
}

func (s *stream) emitRow(sh *shape, op record.Op, first, second record.Row, src *record.Source) {
	t, set := sh.table, s.set
	if sh.signals && op == record.OpCreate {
		s.signalRow(sh, first)
	}
	if !sh.captured {
		return
	}
	switch op {
	case record.OpCreate:
		s.snap.touch(sh.id, t, first)
		if !set.skipCreate {
			s.placeInTxn(sh, src)
			s.batch.add(sh.topic, t, record.OpCreate, nil, first, src)
		}
	case record.OpDelete:
		s.snap.touch(sh.id, t, first)
		if !set.skipDelete {
			s.emitDelete(sh, first, src, nil)
		}
	default:
		s.snap.touch(sh.id, t, first)
		if keyChanged(t.Key, first, second) {
			s.snap.touch(sh.id, t, second)
		}
		switch {
		case set.skipUpdate || set.shape.skipUnchanged && same(first, second):
		case !set.shape.updateKeys && keyChanged(t.RecordKey(), first, second):
			s.emitMove(sh, first, second, src)
		default:
			s.placeInTxn(sh, src)
			s.batch.add(sh.topic, t, record.OpUpdate, first, second, src)
		}
	}
	s.delivered = true
}

// emitMove writes an update of the key (I4): the old key's partition learns that the row is gone, the new key's that it has come.
func (s *stream) emitMove(sh *shape, first, second record.Row, src *record.Source) {
	var oldKey, newKey []record.Header
	if s.set.shape.headers {
		oldKey = []record.Header{{Key: "__debezium.oldkey", Row: &record.KeyRow{Table: sh.table, Row: first}}}
		newKey = []record.Header{{Key: "__debezium.newkey", Row: &record.KeyRow{Table: sh.table, Row: second}}}
	}
	s.emitDelete(sh, first, src, newKey)
	s.placeInTxn(sh, src)
	s.batch.add(sh.topic, sh.table, record.OpCreate, nil, second, src).Headers = oldKey
}

func (s *stream) emitDelete(sh *shape, row record.Row, src *record.Source, headers []record.Header) {
	s.placeInTxn(sh, src)
	s.batch.add(sh.topic, sh.table, record.OpDelete, row, nil, src).Headers = headers
	if s.set.tombstones {
		s.batch.records = append(s.batch.records, record.Record{
			Topic: sh.topic, Partition: record.AnyPartition, Key: s.batch.key(sh.table, row), TimestampMS: src.TimeMS, Headers: headers,
		})
	}
}

func same(a, b record.Row) bool {
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

func keyChanged(key []int, a, b record.Row) bool {
	for _, k := range key {
		if !a[k].Equal(b[k]) {
			return true
		}
	}
	return false
}
