package mysqlcdc

import (
	"context"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

// snapshotState is the stream's side of a snapshot. Owned by the stream's goroutine, but for rows.
type snapshotState struct {
	active, completed bool
	tables            []tableID // all tables of the snapshot, sorted
	progress          map[string]tableProgress
	windows           map[tableID][]*chunk
	ready             []*chunk
	// drop holds tables without a key that are not read yet: their changes until then are in what will be read.
	drop map[tableID]bool
	// hold, if set, stops the stream at a transaction boundary: it takes functions only.
	hold bool
	// holdAt asks for a hold at the first boundary that is not before it; held is closed then.
	holdAt *logPos
	held   chan struct{}
	rows   atomic.Int64
}

// chunk is a part of a table that was read, from its registration until it is emitted.
type chunk struct {
	id      tableID
	epoch   uint64
	touched map[string]struct{}
	batch   *rowBatch
	at      logPos // the log's end after it was read
	after   []string
	last    bool
	extra   int       // records that are no rows
	result  chan bool // true: emitted; false: a DDL statement came between, read it again
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

// describe puts the progress into a position: the longest run of finished tables by its last name, and the others.
func (n *snapshotState) describe(p *position) {
	if n == nil {
		return
	}
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
	if n == nil || !n.active {
		return
	}
	done := 0
	for _, id := range n.tables {
		if n.progress[id.String()].Done {
			done++
		}
	}
	out["phase"] = "snapshot"
	out["snapshot_tables"] = fmt.Sprintf("%d/%d", done, len(n.tables))
	out["snapshot_rows"] = strconv.FormatInt(n.rows.Load(), 10)
}

// emitChunks emits the chunks that the stream has caught up with. Called at any time; it acts between transactions only.
func (s *stream) emitChunks(ctx context.Context) error {
	n := s.snap
	if n == nil || s.inTxn {
		return nil
	}
	for i := 0; i < len(n.ready); i++ {
		c := n.ready[i]
		if s.reached.compare(c.at) < 0 {
			continue
		}
		n.ready = slices.Delete(n.ready, i, i+1)
		i--
		n.windows[c.id] = slices.DeleteFunc(n.windows[c.id], func(w *chunk) bool { return w == c })
		if c.epoch != s.epoch {
			c.batch.release()
			c.result <- false
			continue
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
		n.progress[c.id.String()] = tableProgress{After: c.after, Done: c.last}
		if c.last {
			delete(n.drop, c.id)
		}
		p := s.position()
		if err := s.send(ctx, c.batch, &p, false); err != nil {
			return err
		}
		c.result <- true
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

// snapshot reads the tables. It runs on goroutines of its own and talks to the stream through do.
type snapshot struct {
	set    *settings
	server *serverInfo
	s      *stream
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
			var c *conn
			defer func() { c.close() }()
			for id := range work {
				for attempt := 0; ; attempt++ {
					err := error(nil)
					if c == nil {
						c, err = n.dial(ctx)
					}
					if err == nil {
						err = n.table(ctx, c, id)
					}
					if err == nil {
						break
					}
					c.close()
					c = nil
					if ctx.Err() != nil || !connectors.IsRetriable(err) || attempt >= reconnects {
						return fmt.Errorf("read table %s: %w", id, err)
					}
					select {
					case <-time.After(min(100*time.Millisecond<<attempt, 10*time.Second)):
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return nil
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

// reader reads one table's rows into batches.
type reader struct {
	id    tableID
	shape *shape
	sel   string
	key   []int // in the emitted row
	// whole is the table with all its columns, captured or not.
	whole *record.Table
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
	r := &reader{id: id, shape: sh, key: sh.table.Key}
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
	r.sel = "SELECT " + strings.Join(cols, ",") + " FROM " + id.quoted()
	return r, nil
}

// table reads one table with its keys as the way through it.
func (n *snapshot) table(ctx context.Context, c *conn, id tableID) error {
	var after []string
	if err := n.s.do(ctx, func() { after = n.s.snap.progress[id.String()].After }); err != nil {
		return err
	}
	limit := min(n.set.chunkRows, 512)
	for {
		r, err := n.prepare(ctx, c, id)
		if err != nil {
			return err
		}
		if r == nil { // dropped meanwhile
			return n.s.do(ctx, func() {
				n.s.snap.progress[id.String()] = tableProgress{Done: true}
				delete(n.s.snap.drop, id)
			})
		}
		if len(r.key) == 0 {
			return n.keyless(ctx, c, r)
		}
		k, err := n.chunk(ctx, c, r, after, limit)
		if err != nil {
			return err
		}
		rows, size := len(k.batch.records), k.batch.size
		if err := n.s.do(ctx, func() { n.s.snap.ready = append(n.s.snap.ready, k) }); err != nil {
			return err
		}
		select {
		case ok := <-k.result:
			if !ok {
				continue
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if k.last {
			return nil
		}
		after = k.after
		// I8: a chunk's bytes stay bounded, however big the rows are.
		limit = min(n.set.chunkRows, limit*4, max(1, (8<<20)/max(1, size/max(1, rows))))
	}
}

func (n *snapshot) chunk(ctx context.Context, c *conn, r *reader, after []string, limit int) (*chunk, error) {
	k := &chunk{id: r.id, touched: map[string]struct{}{}, result: make(chan bool, 1), batch: newBatch()}
	var from logPos
	var gtids string
	if err := n.s.do(ctx, func() {
		s := n.s
		k.epoch = s.epoch
		s.snap.windows[r.id] = append(s.snap.windows[r.id], k)
		from, gtids = s.reached, s.gtids.String()
	}); err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok { // the window must not outlive its chunk
			_ = n.s.do(ctx, func() {
				n.s.snap.windows[r.id] = slices.DeleteFunc(n.s.snap.windows[r.id], func(w *chunk) bool { return w == k })
			})
		}
	}()
	suffix, err := n.visible(ctx, c, from, gtids)
	if err != nil {
		return nil, err
	}
	sql := r.sel + r.where(after) + r.orderBy() + " LIMIT " + strconv.Itoa(limit) + suffix
	if err := r.read(ctx, c, sql, from, k.batch); err != nil {
		return nil, err
	}
	if n.server.flavor == mysql.MariaDBFlavor {
		if err := c.exec(ctx, "COMMIT"); err != nil {
			return nil, err
		}
	}
	if k.at, _, err = c.logEnd(ctx); err != nil {
		return nil, err
	}
	k.last = len(k.batch.records) < limit
	if len(k.batch.records) > 0 {
		last := k.batch.records[len(k.batch.records)-1].Value.(*record.ChangeEvent).After
		for _, i := range r.key {
			k.after = append(k.after, literalOf(&r.shape.table.Columns[i], last[i]))
		}
	}
	if len(after) == 0 {
		before := len(k.batch.records)
		if err := n.addCreate(ctx, c, r, from, k.batch); err != nil {
			return nil, err
		}
		k.extra = len(k.batch.records) - before
	}
	ok = true
	return k, nil
}

// visible waits until all that the stream has emitted shows to a SELECT: the log is written before the engine commits.
// It returns what to append to the SELECT.
func (n *snapshot) visible(ctx context.Context, c *conn, from logPos, gtids string) (string, error) {
	switch {
	case n.server.flavor == mysql.MariaDBFlavor:
		for {
			if err := c.exec(ctx, "START TRANSACTION WITH CONSISTENT SNAPSHOT"); err != nil {
				return "", err
			}
			rows, err := c.query(ctx, "SHOW STATUS LIKE 'binlog_snapshot_%'")
			if err != nil {
				return "", err
			}
			var at logPos
			for _, r := range rows {
				switch strings.ToLower(r[0]) {
				case "binlog_snapshot_file":
					at.file = r[1]
				case "binlog_snapshot_position":
					at.pos, _ = strconv.ParseUint(r[1], 10, 64)
				}
			}
			if at.compare(from) >= 0 {
				return "", nil
			}
			if err := c.exec(ctx, "ROLLBACK"); err != nil {
				return "", err
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
	case n.server.gtid && gtids != "":
		row, err := c.one(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET("+quoteText(gtids)+", 30)")
		if err != nil {
			return "", err
		}
		if len(row) == 0 || row[0] != "0" {
			return "", connectors.Retriable(fmt.Errorf("the server has not applied %s after 30 s", gtids))
		}
		return "", nil
	}
	// Without GTIDs: a locking read waits for the transactions that are about to commit.
	return " LOCK IN SHARE MODE", c.exec(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
}

func (r *reader) orderBy() string {
	cols := make([]string, len(r.key))
	for i, k := range r.key {
		cols[i] = quoteName(r.shape.table.Columns[k].Name)
	}
	return " ORDER BY " + strings.Join(cols, ",")
}

// where selects the rows behind a key: (a,b) > (x,y), written so that the server uses the index.
func (r *reader) where(after []string) string {
	if len(after) != len(r.key) || len(after) == 0 {
		return ""
	}
	var ors []string
	eq := ""
	for i, k := range r.key {
		col := quoteName(r.shape.table.Columns[k].Name)
		ors = append(ors, "("+eq+col+" > "+after[i]+")")
		eq += col + " = " + after[i] + " AND "
	}
	first := quoteName(r.shape.table.Columns[r.key[0]].Name)
	return " WHERE " + first + " >= " + after[0] + " AND (" + strings.Join(ors, " OR ") + ")"
}

var literal = regexp.MustCompile(`^(-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?|'[-0-9 :.]*'|(_utf8mb4 )?X'[0-9A-F]*')$`)

// literalOf writes a key's value as SQL; literal must match what it returns.
func literalOf(c *record.Column, d record.Datum) string {
	switch d.Kind {
	case record.KindInt:
		if c.Family == record.FamilyTimestamp {
			if d.Int() == 0 {
				return "'0000-00-00 00:00:00'"
			}
			return time.UnixMicro(d.Int()).UTC().Format("'2006-01-02 15:04:05.000000'")
		}
		return strconv.FormatInt(d.Int(), 10)
	case record.KindUint:
		return strconv.FormatUint(d.Uint(), 10)
	case record.KindFloat32:
		return strconv.FormatFloat(float64(d.Float32()), 'e', -1, 64)
	case record.KindFloat64:
		return strconv.FormatFloat(d.Float64(), 'e', -1, 64)
	case record.KindBytes:
		return fmt.Sprintf("X'%X'", d.B)
	case record.KindText, record.KindNull, record.KindAbsent:
	}
	switch c.Family {
	case record.FamilyDecimal:
		return string(d.B)
	case record.FamilyDate, record.FamilyTime, record.FamilyDateTime:
		return "'" + string(d.B) + "'"
	}
	return fmt.Sprintf("_utf8mb4 X'%X'", d.B)
}

// read runs a SELECT and adds its rows to b.
func (r *reader) read(ctx context.Context, c *conn, sql string, at logPos, b *rowBatch) error {
	src := readAt(at)
	return c.stream(ctx, sql, func(vals []mysql.FieldValue) error { return r.row(vals, b, &src) })
}

// readAt is the source of rows that are read when the stream is at a place of the log.
func readAt(at logPos) record.Source {
	return record.Source{TimeMS: time.Now().UnixMilli(), Snapshot: true, File: at.file, Pos: at.pos}
}

// addCreate adds the table's CREATE statement, where schema changes are asked for.
func (n *snapshot) addCreate(ctx context.Context, c *conn, r *reader, at logPos, b *rowBatch) error {
	if !n.set.schemaChanges {
		return nil
	}
	row, err := c.one(ctx, "SHOW CREATE TABLE "+r.id.quoted())
	if err != nil || len(row) < 2 {
		return err
	}
	src := readAt(at)
	b.addDDL(n.set.prefix, r.id, n.s.schema.envelope, row[1], "CREATE", []record.TableChange{
		{Type: "CREATE", Database: r.id.db, Name: r.id.name, Table: r.whole},
	}, &src)
	return nil
}

func (r *reader) row(vals []mysql.FieldValue, b *rowBatch, src *record.Source) error {
	row := record.Row(b.datums.take(len(vals)))
	for i := range vals {
		d, err := r.shape.codecs[i].fromSQL(&vals[i], b)
		if err != nil {
			return fmt.Errorf("column %s of %s: %w", r.shape.codecs[i].name, r.id, err)
		}
		row[i] = d
		b.size += 40 + len(d.B)
	}
	b.add(r.shape.topic, r.shape.table, record.OpRead, nil, row, src)
	return nil
}

// fromSQL makes of a value of a SELECT what decode makes of it in a row image.
func (c *codec) fromSQL(v *mysql.FieldValue, b *rowBatch) (record.Datum, error) {
	if v.Type == mysql.FieldValueTypeNull {
		if c.rule != nil {
			return c.rule.apply(record.Null(), b), nil
		}
		return record.Null(), nil
	}
	switch c.family {
	case record.FamilyTinyInt, record.FamilySmallInt, record.FamilyMediumInt, record.FamilyInt, record.FamilyBigInt:
		if c.unsigned {
			return record.Uint(v.AsUint64()), nil
		}
		return record.Int(v.AsInt64()), nil
	case record.FamilyYear:
		return record.Int(v.AsInt64()), nil
	case record.FamilyBit, record.FamilyEnum, record.FamilySet:
		return record.Uint(v.AsUint64()), nil
	case record.FamilyFloat:
		return record.Float32(float32(v.AsFloat64())), nil
	case record.FamilyDouble:
		return record.Float64(v.AsFloat64()), nil
	case record.FamilyTimestamp:
		us, err := parseTimestamp(string(v.AsString()))
		return record.Int(us), err
	}
	p := v.AsString()
	switch c.family {
	case record.FamilyDecimal: // ZEROFILL is for show
		neg := len(p) > 0 && p[0] == '-'
		if neg {
			p = p[1:]
		}
		for len(p) > 1 && p[0] == '0' && p[1] != '.' {
			p = p[1:]
		}
		if neg {
			p = append([]byte{'-'}, p...)
		}
		return record.Text(b.copyBytes(p)), nil
	case record.FamilyDate, record.FamilyTime, record.FamilyDateTime, record.FamilyJSON:
		return record.Text(b.copyBytes(p)), nil
	}
	return c.variable(b.copyBytes(p), b)
}

func parseTimestamp(s string) (int64, error) {
	if strings.HasPrefix(s, "0000-00-00") {
		return 0, nil
	}
	t, err := time.Parse("2006-01-02 15:04:05.999999", s)
	if err != nil {
		return 0, fmt.Errorf("parse timestamp %q: %w", s, err)
	}
	return t.UnixMicro(), nil
}
