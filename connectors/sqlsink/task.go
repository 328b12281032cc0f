package sqlsink

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// ErrFenced: a newer owner of the same partitions writes to this database.
var ErrFenced = errors.New("a newer task writes these partitions")

type task struct {
	tc     connectors.TaskContext
	v      configdef.Values
	db     *sql.DB
	conf   *mysql.Config
	tables map[string]*target

	pending map[string]*pending // by target table
	order   []string
	offsets map[connectors.TopicPartition]int64
	events  map[string]bool // topics that have change events, not plain rows
}

var _ connectors.Durable = (*task)(nil)

// pending are the changes of one table since the last flush: the last of each key.
type pending struct {
	t    *target
	rows map[string]change
	// keys in order of their last change.
	keys []string
}

type change struct {
	table *record.Table
	row   record.Row // nil: delete
	key   record.Row // of a delete: the row that holds the key
	at    int        // position in keys
	index int        // of its record in the batch
}

// Open implements connectors.SinkTask.
func (t *task) Open(ctx context.Context, tc connectors.TaskContext) error {
	v, problems := Spec().Parse(tc.Config)
	if len(problems) > 0 {
		return configdef.AsError(problems)
	}
	t.tc, t.v = tc, v
	t.tables, t.pending, t.offsets, t.events = map[string]*target{}, map[string]*pending{}, map[connectors.TopicPartition]int64{}, map[string]bool{}
	var err error
	if t.db, t.conf, err = open(ctx, v); err != nil {
		return err
	}
	_, err = t.db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS "+quote(v.String(OffsetsTable))+` (
  connector varchar(191) NOT NULL,
  topic varchar(249) NOT NULL,
  kpartition int NOT NULL,
  next_offset bigint NOT NULL,
  epoch bigint unsigned NOT NULL,
  PRIMARY KEY (connector, topic, kpartition)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin`)
	if err != nil {
		return fmt.Errorf("create table %s: %w", v.String(OffsetsTable), explain(err, t.conf))
	}
	return nil
}

// Offsets implements connectors.Durable. It also takes the partitions over: from now on a task with an older epoch can't commit (I1).
func (t *task) Offsets(ctx context.Context, partitions []connectors.TopicPartition) (map[connectors.TopicPartition]int64, error) {
	out := map[connectors.TopicPartition]int64{}
	table := quote(t.v.String(OffsetsTable))
	for _, tp := range partitions {
		var void uint64
		if t.tc.VoidBelow != nil {
			void = t.tc.VoidBelow(tp)
		}
		// Assignments are made from left to right: the offset is judged by the epoch that stored it.
		_, err := t.db.ExecContext(ctx, "INSERT INTO "+table+" VALUES (?,?,?,-1,?) ON DUPLICATE KEY UPDATE next_offset=IF(epoch<?,-1,next_offset), epoch=GREATEST(epoch, VALUES(epoch))",
			t.tc.Connector, tp.Topic, tp.Partition, t.tc.Epoch, void)
		if err != nil {
			return nil, t.failure("take over offsets", err)
		}
		var next int64
		var epoch uint64
		err = t.db.QueryRowContext(ctx, "SELECT next_offset, epoch FROM "+table+" WHERE connector=? AND topic=? AND kpartition=?", t.tc.Connector, tp.Topic, tp.Partition).Scan(&next, &epoch)
		if err != nil {
			return nil, t.failure("read offsets", err)
		}
		if epoch > t.tc.Epoch {
			return nil, fmt.Errorf("partition %s-%d: %w (epoch %d, this task has %d)", tp.Topic, tp.Partition, ErrFenced, epoch, t.tc.Epoch)
		}
		if next >= 0 {
			out[tp] = next
		}
	}
	return out, nil
}

// Put implements connectors.SinkTask.
func (t *task) Put(ctx context.Context, records []record.Record) error {
	for i := range records {
		r := &records[i]
		if err := t.take(ctx, r, i); err != nil {
			t.reset()
			if _, server := errors.AsType[*mysql.MySQLError](err); server && !refused(err) || connectors.IsRetriable(err) {
				return err // not this record's fault
			}
			return &connectors.RecordError{Index: i, Err: err}
		}
		tp := connectors.TopicPartition{Topic: r.From(), Partition: r.Partition}
		t.offsets[tp] = max(t.offsets[tp], r.Offset+1)
	}
	return nil
}

// reset forgets what was put and not flushed: it comes again.
func (t *task) reset() {
	clear(t.pending)
	clear(t.offsets)
	t.order = t.order[:0]
}

func (t *task) take(ctx context.Context, r *record.Record, index int) error {
	if r.Value == nil {
		return nil // a tombstone: its delete came before it
	}
	c, ok := r.Value.(*record.ChangeEvent)
	if !ok {
		return fmt.Errorf("the sql sink writes change events; this record's value is a %T that names no table and no columns", r.Value)
	}
	switch c.Op {
	case record.OpDDL:
		return nil // columns are followed by the rows themselves (auto.evolve)
	case record.OpTruncate:
		return fmt.Errorf("table %s.%s was truncated at the source; the sql sink does not follow that: truncate the target and skip the record", c.Table.Database, c.Table.Name)
	case record.OpDelete:
		if !t.v.Bool(DeleteEnabled) {
			return nil
		}
	case record.OpRead, record.OpCreate, record.OpUpdate:
	default:
		return fmt.Errorf("unknown operation %v", c.Op)
	}
	name := strings.NewReplacer("${table}", c.Table.Name, "${database}", c.Table.Database, "${topic}", r.Topic).Replace(t.v.String(TableFormat))
	if c.Table.Database != "" {
		t.events[r.Topic] = true
	}
	if c.Op == record.OpDelete && !c.Table.HasKey() && len(c.Table.MessageKey) > 0 {
		if t.events[r.Topic] {
			return nil // a tombstone behind the delete that it repeats
		}
		own, err := t.owns(ctx, name, c.Table)
		if err != nil || own == nil {
			return err // a tombstone whose key is not the table's says nothing on its rows
		}
		gone := *c
		gone.Table = own
		c = &gone
	}
	if !c.Table.HasKey() {
		return fmt.Errorf("table %s.%s has no primary key, and the sql sink writes by key", c.Table.Database, c.Table.Name)
	}
	p := t.pending[name]
	if p == nil {
		tgt, err := t.target(ctx, name, c.Table)
		if err != nil {
			return err
		}
		p = &pending{t: tgt, rows: map[string]change{}}
		t.pending[name] = p
		t.order = append(t.order, name)
	}
	if c.Op != record.OpDelete { // a delete needs its key's columns only
		if err := t.fit(ctx, p.t, c.Table); err != nil {
			return err
		}
	}
	ch := change{table: c.Table, row: c.After, key: c.After, index: index}
	if c.Op == record.OpDelete {
		if c.Before == nil {
			return errors.New("the delete does not say which row it deletes")
		}
		ch.row, ch.key = nil, c.Before
	} else {
		for n := range c.After {
			if c.After[n].Kind == record.KindAbsent {
				return fmt.Errorf("the row lacks column %q; the sql sink needs whole rows (binlog_row_image=FULL)", c.Table.Columns[n].Name)
			}
		}
		if c.Op == record.OpUpdate && c.Before != nil {
			// A changed key that came as one update: the old row goes.
			if old, now := keyOf(c.Table, c.Before), keyOf(c.Table, c.After); old != now {
				p.put(old, change{table: c.Table, key: c.Before, index: index})
			}
		}
	}
	p.put(keyOf(c.Table, ch.key), ch)
	return nil
}

func (p *pending) put(key string, c change) {
	if old, ok := p.rows[key]; ok {
		p.keys[old.at] = "" // its place is taken by the later change
	}
	c.at = len(p.keys)
	p.keys = append(p.keys, key)
	p.rows[key] = c
}

// keyOf makes a row's key comparable. It never is empty.
func keyOf(t *record.Table, row record.Row) string {
	var b []byte
	for _, at := range t.Key {
		d := row[at]
		b = append(b, byte(d.Kind)+1)
		switch d.Kind {
		case record.KindText, record.KindBytes:
			b = fmt.Appendf(b, "%d:", len(d.B))
			b = append(b, d.B...)
		default:
			b = fmt.Appendf(b, "%d;", d.Uint())
		}
	}
	return string(b)
}

// flushes is how often a transaction is tried that the server gave up for another one's sake.
const flushes = 6

// Flush implements connectors.SinkTask: rows and offsets in one transaction (I3). Tasks that write to one table get into each other's way: the
// server then rolls one of them back, and it begins again.
func (t *task) Flush(ctx context.Context) error {
	if len(t.offsets) == 0 {
		return nil
	}
	defer t.reset() // what fails is put again
	for n := 1; ; n++ {
		err := t.flush(ctx)
		if n == flushes || !gaveWay(err) {
			return err
		}
		t.tc.Logger.Debug("the transaction gave way to another", "err", err, "attempt", n)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(10 * time.Millisecond << n)):
		}
	}
}

// gaveWay reports a deadlock, or a row that another transaction has changed meanwhile.
func gaveWay(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && (me.Number == 1213 || me.Number == 1020)
}

func (t *task) flush(ctx context.Context) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return t.failure("begin", err)
	}
	defer func() { _ = tx.Rollback() }()
	// The offsets' rows first: their locks keep two owners apart, and a fenced one writes nothing.
	tps := slices.SortedFunc(maps.Keys(t.offsets), func(a, b connectors.TopicPartition) int {
		return strings.Compare(fmt.Sprintf("%s-%08d", a.Topic, a.Partition), fmt.Sprintf("%s-%08d", b.Topic, b.Partition))
	})
	for _, tp := range tps {
		res, err := tx.ExecContext(ctx, "UPDATE "+quote(t.v.String(OffsetsTable))+" SET next_offset=?, epoch=? WHERE connector=? AND topic=? AND kpartition=? AND epoch<=?",
			t.offsets[tp], t.tc.Epoch, t.tc.Connector, tp.Topic, tp.Partition, t.tc.Epoch)
		if err != nil {
			return t.failure("store offsets", err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("store the offset of %s-%d: %w", tp.Topic, tp.Partition, errors.Join(ErrFenced, err))
		}
	}
	var guilty []error
	for _, name := range t.order {
		found, err := t.write(ctx, tx, t.pending[name])
		if err != nil {
			return err
		}
		guilty = append(guilty, found...)
	}
	if len(guilty) > 0 {
		// Nothing is kept: a change that a refused one of the same key had replaced must be written now.
		return errors.Join(guilty...)
	}
	if err := tx.Commit(); err != nil {
		return t.failure("commit", err)
	}
	return nil
}

// write brings a table's pending changes into it: deletes first, then upserts; each key has one change, so their order is free. It returns
// blame for those that the server refuses.
func (t *task) write(ctx context.Context, tx *sql.Tx, p *pending) (guilty []error, err error) {
	var deletes, upserts []change
	for _, k := range p.keys {
		if k == "" {
			continue
		}
		if c := p.rows[k]; c.row == nil {
			deletes = append(deletes, c)
		} else {
			upserts = append(upserts, c)
		}
	}
	size := int(t.v.Int(BatchSize))
	// Rows of one statement have the same columns, and keys: those of their table's shape.
	same := func(list []change) int {
		n := 1
		for n < len(list) && n < size && list[n].table == list[0].table {
			n++
		}
		return n
	}
	for len(deletes) > 0 {
		n := same(deletes)
		found, err := t.apply(ctx, tx, deletes[:n], p.t.deleteSQL, "delete from "+p.t.name)
		if err != nil {
			return nil, err
		}
		guilty = append(guilty, found...)
		deletes = deletes[n:]
	}
	for len(upserts) > 0 {
		n := same(upserts)
		found, err := t.apply(ctx, tx, upserts[:n], p.t.upsertSQL, "write to "+p.t.name)
		if err != nil {
			return nil, err
		}
		guilty = append(guilty, found...)
		upserts = upserts[n:]
	}
	return guilty, nil
}

// apply runs one statement for all changes of the list. When the server refuses it, which undoes that statement and no other, it is halved
// until the guilty are found.
func (t *task) apply(ctx context.Context, tx *sql.Tx, list []change, build func([]change) (string, []any, error), what string) (guilty []error, err error) {
	q, args, err := build(list)
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, q, args...)
	switch {
	case err == nil:
		return nil, nil
	case !refused(err):
		return nil, t.failure(what, err)
	case len(list) == 1:
		return []error{&connectors.RecordError{Index: list[0].index, Err: fmt.Errorf("%s: %w", what, err)}}, nil
	}
	for part := range slices.Chunk(list, (len(list)+1)/2) {
		found, err := t.apply(ctx, tx, part, build, what)
		if err != nil {
			return nil, err
		}
		guilty = append(guilty, found...)
	}
	return guilty, nil
}

// refused reports whether an error is about the values of a row, so that other rows may well pass.
func refused(err error) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return errors.Is(err, mysql.ErrPktTooLarge)
	}
	switch me.Number {
	case 1118, 1265, 1364, 1366, 1411, 1526, 1748, 3819: // row too long, truncated, no default, incorrect values, no partition, CHECK
		return true
	}
	switch string(me.SQLState[:2]) {
	case "22", "23", "45": // data, integrity, SIGNAL of a trigger
		return true
	}
	return false
}

// failure says what went wrong with a statement, and whether it may pass.
func (t *task) failure(what string, err error) error {
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		switch me.Number {
		case 1205, 1213, 1020, 3572, 1290, 1836, 1021, 1114: // lock waits, deadlocks, read-only, disk full
			return connectors.Retriable(fmt.Errorf("%s: %w", what, err))
		}
		return fmt.Errorf("%s: %w", what, explain(err, t.conf))
	}
	return connectors.Retriable(fmt.Errorf("%s: %w", what, err))
}

// Close implements connectors.SinkTask.
func (t *task) Close() error {
	if t.db == nil {
		return nil
	}
	return t.db.Close()
}
