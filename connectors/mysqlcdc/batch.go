package mysqlcdc

import (
	"sync"
	"unsafe"

	"github.com/millrace/millrace/connectors/record"
)

// slab hands out slices of T cut from big pieces, so that a row costs no allocation.
type slab[T any] struct {
	pieces [][]T
	at     int // the piece that is cut from
	size   int // of a piece
}

// take returns n zero elements that stay where they are until reset.
func (s *slab[T]) take(n int) []T {
	for ; s.at < len(s.pieces); s.at++ {
		if p := s.pieces[s.at]; cap(p)-len(p) >= n {
			s.pieces[s.at] = p[:len(p)+n]
			return p[len(p) : len(p)+n : len(p)+n]
		}
	}
	s.pieces = append(s.pieces, make([]T, n, max(n, s.size)))
	return s.pieces[s.at][:n:n]
}

// one returns one zero element.
func (s *slab[T]) one() *T { return &s.take(1)[0] }

// reset takes everything back. A piece that was made for something large is let go.
func (s *slab[T]) reset() {
	s.at = 0
	kept := s.pieces[:0]
	for _, p := range s.pieces {
		if cap(p) <= s.size {
			clear(p)
			kept = append(kept, p[:0])
		}
	}
	clear(s.pieces[len(kept):])
	s.pieces = kept
}

// rowBatch is the memory of one connectors.Batch: records and all that they point to. One goroutine fills it, then it
// is handed on whole; release gives it back to the pool.
type rowBatch struct {
	records []record.Record
	events  slab[record.ChangeEvent]
	keys    slab[record.KeyRow]
	datums  slab[record.Datum]
	bytes   slab[byte]
	// scratch is for values whose length is not known before they are made.
	scratch []byte
	// size is about how many bytes the batch keeps alive.
	size int
}

// What a row takes beside its text and bytes: for each column, and as a whole.
const (
	datumBytes = int(unsafe.Sizeof(record.Datum{}))
	eventBytes = int(unsafe.Sizeof(record.Record{}) + unsafe.Sizeof(record.ChangeEvent{}) + unsafe.Sizeof(record.KeyRow{}))
)

var batchPool = sync.Pool{New: func() any {
	return &rowBatch{
		events: slab[record.ChangeEvent]{size: 256},
		keys:   slab[record.KeyRow]{size: 512},
		datums: slab[record.Datum]{size: 4096},
		bytes:  slab[byte]{size: 64 << 10},
	}
}}

func newBatch() *rowBatch { return batchPool.Get().(*rowBatch) }

func (b *rowBatch) release() {
	clear(b.records)
	b.records = b.records[:0]
	b.events.reset()
	b.keys.reset()
	b.datums.reset()
	b.bytes.reset()
	b.size = 0
	batchPool.Put(b)
}

// copyBytes copies p into the batch.
func (b *rowBatch) copyBytes(p []byte) []byte {
	out := b.bytes.take(len(p))
	copy(out, p)
	return out
}

// add appends one change as a record, with the primary key as its key.
func (b *rowBatch) add(topic string, t *record.Table, op record.Op, before, after record.Row, src *record.Source) *record.Record {
	ev := b.events.one()
	ev.Table, ev.Op, ev.Before, ev.After, ev.Source = t, op, before, after, *src
	row := after
	if row == nil {
		row = before
	}
	b.records = append(b.records, record.Record{
		Topic: topic, Partition: record.AnyPartition, Key: b.key(t, row), Value: ev, TimestampMS: src.TimeMS,
	})
	return &b.records[len(b.records)-1]
}

func (b *rowBatch) key(t *record.Table, row record.Row) any {
	if row == nil {
		return nil
	}
	k := b.keys.one()
	k.Table, k.Row = t, row
	return k
}
