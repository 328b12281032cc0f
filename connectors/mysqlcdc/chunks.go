package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

// chunkBytes is how many bytes of rows a chunk is meant to have; one of twice as many is cut (I8).
const chunkBytes = 4 << 20

// snapshot reads tables. It runs on goroutines of its own and talks to the stream through do.
type snapshot struct {
	set    *settings
	server *serverInfo
	s      *stream
	// idle holds the readers' connections; each reader takes one, nil where there is none yet.
	idle chan *conn
	// ahead bounds the chunks that are being read or wait to be emitted.
	ahead *semaphore.Weighted
}

func newSnapshot(set *settings, server *serverInfo, s *stream) *snapshot {
	n := &snapshot{set: set, server: server, s: s, idle: make(chan *conn, set.threads), ahead: semaphore.NewWeighted(int64(2 * set.threads))}
	for range set.threads {
		n.idle <- nil
	}
	return n
}

// hangUp closes the readers' connections. No reader may be at work.
func (n *snapshot) hangUp() {
	for range n.set.threads {
		(<-n.idle).close()
		n.idle <- nil
	}
}

// requests reads tables on demand until ctx ends.
func (n *snapshot) requests(ctx context.Context) error {
	for {
		var todo []tableID
		if err := n.s.do(ctx, func() {
			for name := range n.s.snap.requests {
				db, table, _ := strings.Cut(name, ".")
				todo = append(todo, tableID{db, table})
			}
		}); err != nil {
			return err
		}
		if len(todo) > 0 {
			if err := n.run(ctx, todo); err != nil {
				return err
			}
			if err := n.save(ctx); err != nil {
				return err
			}
			n.hangUp()
		}
		select {
		case <-n.s.snap.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// save has the position written even if no row comes.
func (n *snapshot) save(ctx context.Context) error {
	var err error
	if derr := n.s.do(ctx, func() {
		if !n.s.inTxn {
			err = n.s.flush(ctx, true)
		}
	}); derr != nil {
		return derr
	}
	return err
}

// run reads all tables that are not done yet and returns when all of it was handed on.
func (n *snapshot) run(ctx context.Context, tables []tableID) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan tableID)
	g.Go(func() error {
		defer close(work)
		for _, id := range tables {
			select {
			case work <- id:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range n.set.threads {
		g.Go(func() error {
			for id := range work {
				if err := n.patiently(ctx, id); err != nil {
					return fmt.Errorf("read table %s: %w", id, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// patiently reads a table, again and again while the errors are such as pass, and while there is progress.
func (n *snapshot) patiently(ctx context.Context, id tableID) error {
	var before string
	for attempt := 0; ; attempt++ {
		err := n.table(ctx, id)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var now string
		if derr := n.s.do(ctx, func() { now = strings.Join(n.s.snap.of(id).After, ",") }); derr != nil {
			return derr
		}
		if now != before {
			attempt, before = 0, now
		}
		if errors.Is(err, errChanged) {
			attempt-- // not the network's fault, and it was waited for
		} else if !connectors.IsRetriable(err) || attempt >= reconnects {
			return err
		}
		select {
		case <-time.After(min(100*time.Millisecond<<max(attempt, 0), 10*time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *snapshot) dial(ctx context.Context) (*conn, error) {
	c, err := n.set.dial(ctx)
	if err != nil {
		return nil, err
	}
	// Text comes in the column's own character set, as it does in the binlog, so that one decoder makes both the same.
	for _, sql := range []string{"SET SESSION character_set_results=NULL", "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"} {
		if err := c.exec(ctx, sql); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

var (
	errChanged = errors.New("the table changed while it was read")
	errCut     = errors.New("the chunk has grown too big")
)

// span is a part of a table: the rows behind lo, up to and with hi. Empty: from the first row, to the last.
type span struct {
	seq    int
	lo, hi []string
	limit  int // how many rows it is meant to have
}

// table reads one table in spans of its key. They are read side by side and emitted in order, so that how far it is can be told by one key.
func (n *snapshot) table(ctx context.Context, id tableID) error {
	c, err := n.dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	r, err := n.prepare(ctx, c, id)
	if err != nil {
		return err
	}
	var lo []string
	var gone bool
	pass := &pass{}
	tableCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := n.s.do(ctx, func() {
		snap := n.s.snap
		snap.forget(id)
		req := snap.requests[id.String()]
		if gone = r == nil; gone { // dropped meanwhile
			snap.advance(id, tableProgress{Done: true})
			return
		}
		if !snap.active || snap.progress[id.String()].Done {
			if gone = req == nil; gone { // stopped meanwhile
				return
			}
			req.cancel, r.extra, r.onDemand = cancel, req.Where, true
		}
		snap.passes[id] = pass
		lo = snap.of(id).After
	}); err != nil || gone {
		return err
	}
	if len(lo) != len(r.key) { // the key is another one now
		lo = nil
	}
	if len(r.key) == 0 {
		err = n.keyless(tableCtx, c, r)
	} else {
		err = n.spans(tableCtx, c, r, pass, lo)
	}
	if err != nil && ctx.Err() == nil && tableCtx.Err() != nil {
		return nil // a signal has stopped it, or begun it anew
	}
	return err
}

// forget drops what an earlier pass over a table has left.
func (n *snapshotState) forget(id tableID) {
	delete(n.windows, id)
	delete(n.passes, id)
	kept := n.ready[:0]
	for _, c := range n.ready {
		if c.id == id {
			c.batch.release()
		} else {
			kept = append(kept, c)
		}
	}
	clear(n.ready[len(kept):])
	n.ready = kept
}

// spans walks along the key on c and hands the spans to readers.
func (n *snapshot) spans(ctx context.Context, c *conn, r *reader, p *pass, lo []string) error {
	g, ctx := errgroup.WithContext(ctx)
	walk := func() error {
		for seq := 0; ; seq++ {
			if err := n.whilePaused(ctx, r); err != nil {
				return err
			}
			if err := n.ahead.Acquire(ctx, 1); err != nil {
				return err
			}
			sp := span{seq: seq, lo: lo, limit: r.limit(n.set.chunkRows)}
			var err error
			if sp.hi, err = r.bound(ctx, c, sp.lo, sp.limit); err != nil {
				n.ahead.Release(1)
				return err
			}
			g.Go(func() error {
				defer n.ahead.Release(1)
				return n.span(ctx, r, p, sp)
			})
			if sp.hi == nil {
				return nil
			}
			lo = sp.hi
		}
	}
	g.Go(walk)
	return g.Wait()
}

func (n *snapshot) whilePaused(ctx context.Context, r *reader) error {
	for r.onDemand {
		var paused bool
		if err := n.s.do(ctx, func() { paused = n.s.snap.paused }); err != nil || !paused {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// span reads one span, in as many chunks as its bytes need, and waits until they are emitted.
func (n *snapshot) span(ctx context.Context, r *reader, p *pass, sp span) error {
	for {
		var c *conn
		select {
		case c = <-n.idle:
		case <-ctx.Done():
			return ctx.Err()
		}
		k, err := n.chunk(ctx, &c, r, p, sp)
		if err != nil {
			c.close()
			c = nil
		}
		n.idle <- c
		if err != nil {
			return err
		}
		r.learn(len(k.batch.records), k.batch.size)
		if err := n.s.do(ctx, func() { n.s.snap.ready = append(n.s.snap.ready, k) }); err != nil {
			return err
		}
		select {
		case ok := <-k.result:
			if !ok {
				return errChanged
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if !k.cut {
			return nil
		}
		sp.lo = k.after
	}
}

// chunk reads a span, or as much of it as a chunk may hold. *c is nil where there is no connection yet, or none any more.
func (n *snapshot) chunk(ctx context.Context, c **conn, r *reader, p *pass, sp span) (*chunk, error) {
	if *c == nil {
		var err error
		if *c, err = n.dial(ctx); err != nil {
			return nil, err
		}
	}
	k := &chunk{
		id: r.id, pass: p, seq: sp.seq, touched: map[string]struct{}{}, result: make(chan bool, 1), batch: newBatch(), last: sp.hi == nil, after: sp.hi,
		onDemand: r.onDemand,
	}
	var from logPos
	var gtids string
	if err := n.s.do(ctx, func() {
		s := n.s
		k.epoch = s.epochOf(r.id)
		s.snap.windows[r.id] = append(s.snap.windows[r.id], k)
		from, gtids = s.reached, s.gtids.String()
	}); err != nil {
		return nil, err
	}
	suffix, err := n.visible(ctx, *c, from, gtids)
	if err != nil {
		return nil, err
	}
	src := readAt(from)
	src.Incremental = r.onDemand
	err = (*c).stream(ctx, r.sel+r.where(sp.lo, sp.hi)+r.orderBy()+suffix, func(vals []mysql.FieldValue) error {
		if k.batch.size >= 2*chunkBytes || len(k.batch.records) >= 4*sp.limit {
			return errCut
		}
		return r.row(vals, k.batch, &src)
	})
	switch {
	case errors.Is(err, errCut): // the rest of the answer is still in the connection
		k.cut = true
		last := k.batch.records[len(k.batch.records)-1].Value.(*record.ChangeEvent).After
		k.after = r.keyOf(last)
		(*c).close()
		if *c, err = n.dial(ctx); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case n.server.flavor == mysql.MariaDBFlavor:
		if err := (*c).exec(ctx, "COMMIT"); err != nil {
			return nil, err
		}
	}
	if k.at, _, err = (*c).logEnd(ctx); err != nil {
		return nil, err
	}
	if len(sp.lo) == 0 && !r.onDemand {
		before := len(k.batch.records)
		if err := n.addCreate(ctx, *c, r, from, k.batch); err != nil {
			return nil, err
		}
		k.extra = len(k.batch.records) - before
	}
	return k, nil
}

// reader reads one table's rows into batches.
type reader struct {
	id    tableID
	shape *shape
	sel   string
	key   []int // in the emitted row
	// keySel and from select keys alone.
	keySel, from string
	// extra is an SQL condition on the rows.
	extra    string
	onDemand bool
	// whole is the table with all its columns, captured or not.
	whole *record.Table
	// rowBytes is about the size of a row.
	rowBytes atomic.Int64
	warm     atomic.Bool
}

func (n *snapshot) prepare(ctx context.Context, c *conn, id tableID) (*reader, error) {
	cat, err := c.catalog(ctx, id)
	if err != nil || cat == nil {
		return nil, err
	}
	sc := &schema{filter: n.set.filter, prefix: n.set.prefix, shaping: &n.set.shape, envelope: n.s.schema.envelope}
	sh, err := sc.build(&shape{id: id, captured: true}, cat, cat.columns, cat.key, nil)
	if err != nil {
		return nil, err
	}
	r := &reader{id: id, shape: sh, key: sh.table.Key, from: id.quoted()}
	if own := n.set.overrides[id.String()]; own != "" {
		r.from = "(" + own + ") AS own"
	}
	if r.whole, err = cat.table(id, &n.set.shape); err != nil {
		return nil, err
	}
	var cols []string
	for i := range cat.columns {
		if sh.codecs[i].out < 0 {
			continue
		}
		name := quoteName(cat.columns[i].Name)
		switch cat.columns[i].Family {
		case record.FamilyBit, record.FamilyEnum, record.FamilySet:
			name = "CAST(" + name + " AS UNSIGNED)"
		case record.FamilyFloat: // as a column it would be rounded to six digits
			name = "(" + name + "*1e0)"
		}
		cols = append(cols, name)
	}
	sh.codecs = slices.DeleteFunc(sh.codecs, func(c codec) bool { return c.out < 0 })
	r.sel = "SELECT " + strings.Join(cols, ",") + " FROM " + r.from
	keys := make([]string, len(r.key))
	for i, k := range r.key {
		keys[i] = cols[k]
	}
	r.keySel = "SELECT " + strings.Join(keys, ",") + " FROM " + r.from
	r.rowBytes.Store(max(1, cat.rowBytes))
	return r, nil
}

// limit is how many rows the next span has: few at first, then as many as chunkBytes hold.
func (r *reader) limit(most int) int {
	if !r.warm.Load() {
		most = min(most, 512)
	}
	return max(1, min(most, int(chunkBytes/max(1, r.rowBytes.Load()))))
}

// learn takes over how big the rows were.
func (r *reader) learn(rows, size int) {
	if rows > 0 {
		r.rowBytes.Store(max(1, int64(size/rows)))
		r.warm.Store(true)
	}
}

// bound is the key of the last row of a span of so many rows behind lo; nil when there are fewer.
func (r *reader) bound(ctx context.Context, c *conn, lo []string, rows int) ([]string, error) {
	b := newBatch()
	defer b.release()
	var out []string
	sql := r.keySel + r.where(lo, nil) + r.orderBy() + " LIMIT 1 OFFSET " + strconv.Itoa(rows-1)
	err := c.stream(ctx, sql, func(vals []mysql.FieldValue) error {
		for i, k := range r.key {
			d, err := r.shape.codecs[k].fromSQL(&vals[i], b)
			if err != nil {
				return fmt.Errorf("key of %s: %w", r.id, err)
			}
			out = append(out, literalOf(&r.shape.table.Columns[k], d))
		}
		return nil
	})
	return out, err
}

// keyOf is a row's key as SQL literals.
func (r *reader) keyOf(row record.Row) []string {
	out := make([]string, len(r.key))
	for i, k := range r.key {
		out[i] = literalOf(&r.shape.table.Columns[k], row[k])
	}
	return out
}
