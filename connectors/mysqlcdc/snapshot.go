package mysqlcdc

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/millrace/millrace/connectors/record"
)

// snapshotState is the stream's side of snapshots: the initial one, and tables that are read on demand while the log is followed. Owned
// by the stream's goroutine, but for rows.
type snapshotState struct {
	active, completed bool
	tables            []tableID // all tables of the initial snapshot, sorted
	progress          map[string]tableProgress
	// requests are the tables to read on demand, by name; those that are being read are in reading.
	requests map[string]*request
	wake     chan struct{} // has room for one: there are new requests
	paused   bool
	windows  map[tableID][]*chunk
	passes   map[tableID]*pass
	ready    []*chunk
	// drop holds tables without a key that are not read yet: their changes until then are in what will be read.
	drop map[tableID]bool
	// hold, if set, stops the stream at a transaction boundary: it takes functions only.
	hold bool
	// holdAt asks for a hold at the first boundary that is not before it; held is closed then.
	holdAt    *logPos
	held      chan struct{}
	rows      atomic.Int64
	chunks    int64
	estimates map[tableID]int64
}

// request is a table that is read while its changes are streamed.
type request struct {
	tableProgress
	// Where is an SQL condition that the rows must meet; empty: all rows.
	Where string
	// cancel ends the read, once it has begun.
	cancel context.CancelFunc
}

// pass is one attempt at reading a table; next is the number of the chunk that is to be emitted next.
type pass struct{ next int }

// chunk is a part of a table that was read, from its registration until it is emitted.
type chunk struct {
	id       tableID
	pass     *pass
	seq      int
	epoch    uint64
	touched  map[string]struct{}
	batch    *rowBatch
	at       logPos // the log's end after it was read
	after    []string
	cut      bool // it has grown too big: what is behind after follows under the same number
	last     bool
	onDemand bool
	extra    int       // records that are no rows
	result   chan bool // true: emitted; false: a DDL statement came between, read it again
}

func (n *snapshotState) dropping(id tableID) bool { return n != nil && n.drop[id] }

// touch notes that the stream emits a change of a row: a chunk that is under way must not emit an older state after it (I4).
func (n *snapshotState) touch(id tableID, t *record.Table, row record.Row) {
	if n == nil || len(n.windows) == 0 {
		return
	}
	if ws := n.windows[id]; len(ws) > 0 {
		key := string(appendKey(nil, t, row))
		for _, w := range ws {
			w.touched[key] = struct{}{}
		}
	}
}

func appendKey(out []byte, t *record.Table, row record.Row) []byte {
	for _, k := range t.Key {
		d := row[k]
		out = append(out, byte(d.Kind))
		switch d.Kind {
		case record.KindText, record.KindBytes:
			out = binary.AppendUvarint(out, uint64(len(d.B)))
			out = append(out, d.B...)
		default:
			out = binary.BigEndian.AppendUint64(out, d.Uint())
		}
	}
	return out
}

// ask adds a table to those that are read on demand. One that the initial snapshot has not finished is read anyway.
func (n *snapshotState) ask(id tableID, where string) {
	if n.active && slices.Contains(n.tables, id) && !n.progress[id.String()].Done {
		return
	}
	if old := n.requests[id.String()]; old != nil && old.cancel != nil {
		old.cancel() // it begins anew
	}
	n.requests[id.String()] = &request{Where: where}
	n.wakeUp()
}

func (n *snapshotState) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// stop takes tables off those that are read on demand; none named: all.
func (n *snapshotState) stop(match func(tableID string) bool) {
	for name, r := range n.requests {
		if match(name) {
			if r.cancel != nil {
				r.cancel()
			}
			delete(n.requests, name)
		}
	}
}

// of is how far the read of a table is.
func (n *snapshotState) of(id tableID) tableProgress {
	if r := n.requests[id.String()]; r != nil {
		return r.tableProgress
	}
	return n.progress[id.String()]
}

// advance notes how far the read of a table is.
func (n *snapshotState) advance(id tableID, to tableProgress) {
	name := id.String()
	if r := n.requests[name]; r != nil {
		if r.tableProgress = to; to.Done {
			delete(n.requests, name)
		}
		return
	}
	if to.Done {
		delete(n.drop, id)
	}
	n.progress[name] = to
}

// describe puts the progress into a position: the longest run of finished tables by its last name, and the others.
func (n *snapshotState) describe(p *position) {
	if n == nil {
		return
	}
	p.requests = n.requests
	p.completed = n.completed
	if !n.active {
		return
	}
	p.snapshot, p.completed = true, false
	p.progress = map[string]tableProgress{}
	run := true
	for _, id := range n.tables {
		t := n.progress[id.String()]
		if run = run && t.Done; run {
			p.through = id.String()
		} else if t.Done || len(t.After) > 0 {
			p.progress[id.String()] = t
		}
	}
}

func (n *snapshotState) report(out map[string]string) {
	if n == nil {
		return
	}
	if len(n.requests) > 0 {
		out["snapshot_requested"] = strings.Join(slices.Sorted(maps.Keys(n.requests)), ",")
		if n.paused {
			out["snapshot_paused"] = "true"
		}
	}
	if n.chunks > 0 || n.active {
		out["snapshot_rows"] = strconv.FormatInt(n.rows.Load(), 10)
		out["snapshot_chunks"] = strconv.FormatInt(n.chunks, 10)
	}
	if !n.active {
		return
	}
	done, rows := 0, int64(0)
	for _, id := range n.tables {
		if n.progress[id.String()].Done {
			done++
		}
		rows += n.estimates[id]
	}
	out["phase"] = "snapshot"
	out["snapshot_tables"] = fmt.Sprintf("%d/%d", done, len(n.tables))
	out["snapshot_rows_estimated"] = strconv.FormatInt(max(rows, n.rows.Load()), 10)
}

// emitChunks emits the chunks that the stream has caught up with. Called at any time; it acts between transactions only.
func (s *stream) emitChunks(ctx context.Context) error {
	n := s.snap
	if n == nil || s.inTxn {
		return nil
	}
	for again := true; again; { // one chunk may make way for another that is earlier in the list
		again = false
		for i := 0; i < len(n.ready); i++ {
			c := n.ready[i]
			if s.reached.compare(c.at) < 0 || c.pass != n.passes[c.id] || c.seq != c.pass.next {
				continue
			}
			n.ready = slices.Delete(n.ready, i, i+1)
			i--
			again = true
			if err := s.emitChunk(ctx, c); err != nil {
				return err
			}
		}
	}
	// A table without a key is read while the stream stands still.
	if n.holdAt != nil && s.reached.compare(*n.holdAt) >= 0 {
		if err := s.flush(ctx, false); err != nil {
			return err
		}
		n.hold, n.holdAt = true, nil
		close(n.held)
	}
	for n.hold {
		select {
		case f := <-s.ctl:
			f()
		case <-ctx.Done():
			return ctx.Err()
		}
		if n.holdAt != nil {
			return s.emitChunks(ctx)
		}
	}
	return nil
}

func (s *stream) emitChunk(ctx context.Context, c *chunk) error {
	n := s.snap
	n.windows[c.id] = slices.DeleteFunc(n.windows[c.id], func(w *chunk) bool { return w == c })
	if len(n.windows[c.id]) == 0 {
		delete(n.windows, c.id)
	}
	if c.epoch != s.epochOf(c.id) || c.onDemand && n.requests[c.id.String()] == nil {
		c.batch.release()
		c.result <- false
		return nil
	}
	if len(c.touched) > 0 {
		var key []byte
		c.batch.records = slices.DeleteFunc(c.batch.records, func(r record.Record) bool {
			ev := r.Value.(*record.ChangeEvent)
			if ev.Op != record.OpRead {
				return false
			}
			key = appendKey(key[:0], ev.Table, ev.After)
			_, hit := c.touched[string(key)]
			return hit
		})
	}
	if err := s.flush(ctx, false); err != nil {
		return err
	}
	n.rows.Add(int64(len(c.batch.records) - c.extra))
	n.chunks++
	if c.after == nil { // nothing was in it
		c.after = n.of(c.id).After
	}
	n.advance(c.id, tableProgress{After: c.after, Done: c.last && !c.cut})
	if !c.cut {
		c.pass.next++
	}
	p := s.position()
	if err := s.send(ctx, c.batch, &p, false); err != nil {
		return err
	}
	c.result <- true
	return nil
}

// epochOf grows with each DDL statement that may have changed a table.
func (s *stream) epochOf(id tableID) uint64 { return s.epoch + s.epochs[id] }
