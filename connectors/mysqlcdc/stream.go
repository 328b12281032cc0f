package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

const (
	batchBytes = 4 << 20
	// reconnects is how often the stream tries by itself before it hands the error to the worker.
	reconnects = 6
)

// stream follows the binlog and makes batches of it. Its fields are owned by the goroutine of run; others send it
// functions through do.
type stream struct {
	set    *settings
	server *serverInfo
	log    *slog.Logger
	report func(map[string]string)
	out    chan *connectors.Batch
	ctl    chan func()
	schema *schema

	// Where we are. read is the end of the last event, reached the furthest place of this server's log seen.
	read, reached logPos
	gtids         *gtidSet
	sec           int64
	inTxn         bool
	explicit      bool // a BEGIN was seen: DDL does not end the transaction
	xa            bool
	xid           string // of the XA transaction in progress
	xaRows        bool   // it has rows of captured tables
	txnStart      logPos
	txnGTID       string
	addGTID       func() // adds the transaction in progress to gtids
	event, row    int64  // what of the transaction was delivered
	seen          int64  // events of the transaction that were handled whole, as Debezium counts them
	delivered     bool   // a row of the transaction in progress was emitted
	// What of the first transaction was delivered before the restart.
	skipEvent, skipRow int64
	skipTxn            string
	skipping           bool
	skipSeen           int64
	foreign            bool // skipSeen alone tells it: skipEvent is still being found

	serverID uint32
	batch    *rowBatch
	sent     string // the last position handed on, to tell if there is news
	maps     map[uint64]*shape
	lostOnce bool                      // a connection was lost before
	parser   *replication.BinlogParser // reads table maps that are new, and the events of compressed transactions
	unpack   payload
	snap     *snapshotState
	epoch    uint64             // grows with each DDL statement of which it can't be told what it changes
	epochs   map[tableID]uint64 // grow with each one that changes the table
	txn      txnCount
	thread   uint32            // of the transaction in progress
	timeUS   int64             // its commit time; 0: the log has seconds only
	xas      map[string]logPos // where prepared XA transactions begin; those without captured rows are nowhere
	stmt     string            // the statement that the row events belong to
	// unwritten is the same, until it has become a message of its own.
	unwritten string
}

// do runs f on the stream's goroutine and waits for it. Once f has begun it is waited for even when ctx ends, since f writes what the
// caller reads; so what f waits for must end with ctx.
func (s *stream) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case s.ctl <- func() { f(); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// place returns the end of what was read.
func (s *stream) place(ctx context.Context) (p logPos, err error) {
	err = s.do(ctx, func() { p = s.read })
	return p, err
}

// restore sets the place to go on from.
func (s *stream) restore(p *position) error {
	s.read, s.sec = p.at, p.sec
	s.xas, s.reached = map[string]logPos{}, logPos{}
	if p.serverUUID == s.server.uuid { // places mean nothing on another one
		maps.Copy(s.xas, p.xa)
		s.reached = p.at
	}
	s.inTxn, s.explicit, s.xa, s.delivered = false, false, false, false
	s.event, s.row, s.seen = 0, 0, 0
	s.skipSeen, s.foreign = p.seen, p.foreign
	s.skipEvent, s.skipRow, s.skipTxn, s.skipping = p.event, p.row, p.txn, p.foreign || p.event > 0 || p.row > 0
	s.gtids = nil
	if s.server.gtid && (p.gtids != "" || p.at.file == "") {
		var err error
		if s.gtids, err = newGTIDSet(s.server.flavor, p.gtids); err != nil {
			return err
		}
	}
	return nil
}

// position is the place after what was put into the batch so far (I2): within a transaction, its start and how much of it.
func (s *stream) position() position {
	p := position{at: s.read, gtids: s.gtids.String(), serverID: s.serverID, sec: s.sec, serverUUID: s.server.uuid}
	if s.inTxn {
		p.at = s.txnStart
		p.event, p.row, p.txn, p.seen = s.event, s.row, s.txnGTID, s.seen
	}
	if s.skipping && (!s.inTxn || s.skipTxn == "" || s.skipTxn == s.txnGTID) {
		p.event, p.row, p.txn, p.seen, p.foreign = s.skipEvent, s.skipRow, s.skipTxn, s.skipSeen, s.foreign
	}
	s.snap.describe(&p)
	p.filter, p.xa, p.rowEvent = s.set.filter.text, s.xas, s.server.rowEvent
	return p
}

// sameServer checks after a lost connection that the address still leads to the same server: a position of another one
// means nothing. If it does not, the task starts over, with all of Open's checks.
func (s *stream) sameServer(ctx context.Context) error {
	c, err := s.set.dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	info, problems, err := s.set.inspect(ctx, c)
	if err != nil {
		return err
	}
	if len(problems) == 0 && info.uuid != s.server.uuid {
		return errOtherServer
	}
	return configdef.AsError(problems)
}

var errOtherServer = connectors.Retriable(errors.New("the address leads to another server now; the task starts over"))

// run follows the log until ctx ends or an error that does not pass.
func (s *stream) run(ctx context.Context) (err error) {
	defer s.unpack.close()
	defer func() {
		if r := recover(); r != nil { // I9: what a damaged event does to a decoder must end this task only
			err = fmt.Errorf("binlog stream at %s: panic: %v\n%s", s.read, r, debug.Stack())
		}
	}()
	for attempt := 0; ; attempt++ {
		before := s.read
		var err error
		if attempt > 0 || s.lostOnce {
			err = s.sameServer(ctx)
		}
		if err == nil {
			err = s.follow(ctx)
		}
		s.lostOnce = true
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.read != before {
			attempt = 0
		}
		if !connectors.IsRetriable(err) || attempt >= reconnects || errors.Is(err, errOtherServer) {
			return err
		}
		s.log.Warn("binlog connection lost; connecting again", "err", err, "attempt", attempt+1)
		wait := min(100*time.Millisecond<<attempt, 10*time.Second)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait/2 + rand.N(wait)):
		}
		p := s.position()
		if err := s.restore(&p); err != nil {
			return err
		}
	}
}

// queue carries events from the goroutine that reads them, bounded by bytes (I8).
type queue struct {
	events chan *replication.BinlogEvent
	weight *semaphore.Weighted
	max    int64
}

func newQueue(max int64) *queue {
	return &queue{events: make(chan *replication.BinlogEvent, 1024), weight: semaphore.NewWeighted(max), max: max}
}

func (q *queue) size(e *replication.BinlogEvent) int64 {
	return min(int64(len(e.RawData))+256, q.max)
}

// fill reads d until it ends, and waits while the queue is full.
func (q *queue) fill(ctx context.Context, d *dump) error {
	for {
		e, err := d.next()
		if err != nil {
			return err
		}
		if err := q.weight.Acquire(ctx, q.size(e)); err != nil {
			return err
		}
		select {
		case q.events <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow is one connection's worth of run.
func (s *stream) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.caughtUp(ctx); err != nil {
		return err
	}
	d, err := s.startDump(ctx, s.read, s.gtids, s.set.serverID)
	if err != nil {
		return err
	}
	s.maps, s.parser = map[uint64]*shape{}, nil
	q := newQueue(s.set.queueBytes)
	lost, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		lost <- q.fill(ctx, d)
	}()
	err = s.consume(ctx, q, lost)
	cancel() // ends the reader, if it has not ended by itself
	<-ended
	d.close()
	return err
}

// consume handles what comes until the connection is lost.
func (s *stream) consume(ctx context.Context, q *queue, lost <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	lastFlush := time.Now()
	for {
		select {
		case e := <-q.events:
			for more := true; more; {
				err := s.handle(ctx, e)
				q.weight.Release(q.size(e))
				if err != nil {
					if ferr := s.flush(ctx, false); ferr != nil {
						return ferr
					}
					return err
				}
				select {
				case e = <-q.events:
				default:
					more = false
				}
			}
			if len(s.batch.records) > 0 {
				if err := s.flush(ctx, false); err != nil {
					return err
				}
				lastFlush = time.Now()
			}
		case f := <-s.ctl:
			f()
			if err := s.emitChunks(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if s.report != nil {
				s.report(s.status())
			}
			if !s.inTxn && time.Since(lastFlush) >= s.set.heartbeat {
				lastFlush = time.Now()
				if err := s.beat(ctx); err != nil {
					return err
				}
				if err := s.flush(ctx, true); err != nil {
					return err
				}
			}
		case err := <-lost:
			// What was read before the connection went is still good.
			for len(q.events) > 0 {
				if err := s.handle(ctx, <-q.events); err != nil {
					return err
				}
			}
			if ferr := s.flush(ctx, false); ferr != nil {
				return ferr
			}
			return fmt.Errorf("at %s: %w", s.read, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush hands the batch on. Without records it does so only when asked to and when the position is new.
func (s *stream) flush(ctx context.Context, idle bool) error {
	if len(s.batch.records) == 0 && !idle {
		return nil
	}
	p := s.position()
	return s.send(ctx, s.batch, &p, true)
}

// send hands a batch of records on, with the position after them.
func (s *stream) send(ctx context.Context, b *rowBatch, p *position, own bool) error {
	enc := p.encode()
	key := fmt.Sprint(p.at, p.gtids, p.event, p.row, p.snapshot, p.completed, len(p.requests))
	if len(b.records) == 0 && key == s.sent && own {
		return nil
	}
	s.sent = key
	batch := &connectors.Batch{
		Records:  b.records,
		Offset:   connectors.Offset{Partition: s.set.partition(), Position: enc},
		Boundary: !s.inTxn,
		Release:  b.release,
	}
	if own {
		s.batch = newBatch()
	}
	select {
	case s.out <- batch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *settings) partition() map[string]any { return map[string]any{"server": s.prefix} }

// advance moves the position over an event: headers have 32 bits, files can be bigger.
func (s *stream) advance(h *replication.EventHeader) {
	if h.LogPos == 0 || h.Flags&replication.LOG_EVENT_ARTIFICIAL_F != 0 {
		return
	}
	s.read.pos = wide(s.read.pos, h.LogPos)
	if s.read.compare(s.reached) > 0 {
		s.reached = s.read
	}
}

// wide is the position, not far from near, whose low 32 bits are known.
func wide(near uint64, low uint32) uint64 {
	pos := near&^(1<<32-1) | uint64(low)
	if pos+1<<31 < near {
		pos += 1 << 32
	}
	return pos
}

// caughtUp asks whether there is anything in the log that was not read yet. Where nothing is, nothing comes either: a snapshot that waits for
// the stream to pass a place must not wait for a heartbeat.
func (s *stream) caughtUp(ctx context.Context) error {
	if s.snap == nil || s.gtids == nil || s.inTxn || s.skipping {
		return nil
	}
	c, err := s.set.dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	at, executed, err := c.logEnd(ctx)
	if err != nil {
		return err
	}
	if s.server.flavor == mysql.MariaDBFlavor {
		row, err := c.one(ctx, fmt.Sprintf("SELECT BINLOG_GTID_POS(%s, %d)", quoteText(at.file), at.pos))
		if err != nil || len(row) == 0 {
			return err
		}
		executed = row[0]
	}
	set, err := newGTIDSet(s.server.flavor, executed)
	if err != nil {
		return err
	}
	if s.gtids.set.Contain(set.set) && at.compare(s.reached) > 0 {
		s.reached = at
	}
	return nil
}

func (s *stream) handle(ctx context.Context, e *replication.BinlogEvent) error {
	if e.Event == opaquePayload {
		if s.foreign { // a count from outside says nothing of what is inside
			s.skipping, s.foreign = false, false
		}
		err := s.unpack.each(s.parser, e, func(inner *replication.BinlogEvent) error {
			err := s.event1(ctx, inner, true)
			if !s.inTxn { // the payload's last event: only now the position may pass the payload
				s.advance(e.Header)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("compressed transaction at %s: %w", s.read, err)
		}
		s.advance(e.Header)
		return s.emitChunks(ctx)
	}
	if err := s.event1(ctx, e, false); err != nil {
		return err
	}
	s.tally(e)
	return nil
}

// tally counts an event of the transaction in progress as Debezium does: from its begin on, all that the server sends for it.
func (s *stream) tally(e *replication.BinlogEvent) {
	switch e.Event.(type) {
	case *replication.HeartbeatEvent:
		return
	case *replication.MariadbAnnotateRowsEvent: // it has them sent only when it passes them on
		if !s.set.query {
			return
		}
	}
	if s.inTxn && s.explicit {
		s.seen++
	}
}

// ownCount finds out, before each event that is counted, how many of them Debezium's count stands for.
func (s *stream) ownCount() {
	switch {
	case !s.foreign, !s.explicit: // a statement of its own is not what was delivered in part
	case s.seen < s.skipSeen:
		s.skipEvent = s.event + 1
	default:
		if s.seen > s.skipSeen { // it was between two: no row of this one was delivered
			s.skipRow = 0
		}
		s.skipSeen, s.skipTxn, s.foreign = s.seen, s.txnGTID, false
	}
}

func (s *stream) begin(e *replication.BinlogEvent) error {
	if s.inTxn && s.delivered {
		return fmt.Errorf("a transaction begins at %s inside another, whose rows were delivered already", s.read)
	}
	s.inTxn, s.explicit, s.xa, s.delivered = true, false, false, false
	s.event, s.row, s.seen, s.txnGTID, s.addGTID = 0, 0, 0, "", nil
	s.txnStart = s.read
	s.serverID = e.Header.ServerID
	s.thread, s.timeUS, s.stmt, s.unwritten = 0, 0, "", ""
	s.txn.reset()
	return nil
}

// commit ends the transaction. The offset moves past it only now (I2).
func (s *stream) commit() {
	if s.skipping && (s.skipTxn == "" || s.skipTxn == s.txnGTID) && (s.explicit || !s.foreign) {
		s.skipping, s.foreign = false, false
	}
	if s.addGTID != nil && s.gtids != nil {
		s.addGTID()
		s.gtids.text = ""
	}
	s.endTxn()
	s.inTxn, s.explicit, s.xa, s.delivered, s.addGTID = false, false, false, false, nil
	s.event, s.row, s.seen = 0, 0, 0
	clear(s.maps)
}

func (s *stream) event1(ctx context.Context, e *replication.BinlogEvent, inner bool) error {
	h := e.Header
	move := func() {
		if !inner {
			s.advance(h)
		}
	}
	if h.Timestamp > 0 {
		s.sec = int64(h.Timestamp)
	}
	switch ev := e.Event.(type) {
	case *replication.RowsEvent:
		if err := s.rows(ctx, e); err != nil {
			return err
		}
		move()
	case *replication.TableMapEvent:
		if err := s.tableMap(e); err != nil {
			return err
		}
		move()
	case *replication.GTIDEvent:
		if err := s.gtid(e, ev); err != nil {
			return err
		}
		move()
	case *replication.GtidTaggedLogEvent:
		if err := s.gtid(e, &ev.GTIDEvent); err != nil {
			return err
		}
		move()
	case *replication.MariadbGTIDEvent:
		if err := s.begin(e); err != nil {
			return err
		}
		s.explicit = !ev.IsStandalone()
		if s.xa = ev.Flags&mariadbPreparedXA != 0; s.xa {
			s.xid, s.xaRows = "", false
		}
		if s.explicit && !s.xa && ev.Flags&mariadbCompletedXA == 0 {
			defer s.beginTxn() // once its GTID is known
		}
		gtid := ev.GTID
		s.txnGTID = gtid.String()
		s.addGTID = func() { // replaces the domain's last one: the sequence may go back where strict mode is off
			s.gtids.set.(*mysql.MariadbGTIDSet).Sets[gtid.DomainID] = &gtid
		}
		move()
	case *replication.QueryEvent:
		if err := s.query(ctx, e, ev, move); err != nil {
			return err
		}
		if !s.inTxn {
			return s.emitChunks(ctx)
		}
	case *replication.XIDEvent:
		move()
		s.commit()
		if !inner {
			return s.emitChunks(ctx)
		}
	case *replication.RotateEvent:
		if name := string(ev.NextLogName); name != s.read.file || h.LogPos != 0 {
			if s.inTxn && !s.delivered {
				s.inTxn = false
			}
			s.read = logPos{name, ev.Position}
			if s.read.compare(s.reached) > 0 && (h.LogPos != 0 || s.gtids == nil) {
				s.reached = s.read
			}
		}
		clear(s.maps)
		return s.emitChunks(ctx)
	case *replication.FormatDescriptionEvent:
		if err := s.format(e); err != nil {
			return err
		}
		if ev.CreateTimestamp != 0 && s.inTxn {
			if s.delivered {
				return fmt.Errorf("the server stopped at %s in the middle of a transaction whose rows were delivered already", s.read)
			}
			s.inTxn = false
		}
		move()
	case *replication.HeartbeatEvent:
		at := logPos{ev.Filename, ev.Offset}
		if ev.Version == 1 { // the place is in the header, in 32 bits
			if at.pos = uint64(h.LogPos); at.file == s.read.file {
				at.pos = wide(s.read.pos, h.LogPos)
			}
		}
		if at.file != "" && at.pos > 0 && !s.inTxn && at.compare(s.reached) > 0 {
			s.read, s.reached = at, at
		}
		return s.emitChunks(ctx)
	case *replication.RowsQueryEvent:
		s.statementText(ev.Query)
		move()
	case *replication.MariadbAnnotateRowsEvent:
		s.statementText(ev.Query)
		move()
	case *replication.PreviousGTIDsEvent, *replication.MariadbBinlogCheckPointEvent, *replication.IntVarEvent:
		move()
	case *replication.MariadbGTIDListEvent:
		move()
	case *replication.BeginLoadQueryEvent, *replication.ExecuteLoadQueryEvent:
		return s.statement("LOAD DATA")
	default:
		return s.generic(ctx, e, move)
	}
	return nil
}

// format takes over how the events of a log are written.
func (s *stream) format(e *replication.BinlogEvent) error {
	s.parser = newParser(s.server.flavor)
	if _, err := parseWhole(s.parser, e.RawData); err != nil {
		return fmt.Errorf("parse format description: %w", err)
	}
	clear(s.maps)
	return nil
}

// Flags of MariaDB's GTID events.
const (
	mariadbPreparedXA  = 64
	mariadbCompletedXA = 128
)

// statementText notes the statement that the row events to come belong to.
func (s *stream) statementText(text []byte) {
	if s.set.query {
		s.stmt = string(text)
	}
	if s.set.statements {
		s.unwritten = string(text)
	}
}

func (s *stream) generic(ctx context.Context, e *replication.BinlogEvent, move func()) error {
	switch t := e.Header.EventType; t {
	case replication.STOP_EVENT, replication.RAND_EVENT, replication.USER_VAR_EVENT, replication.TRANSACTION_CONTEXT_EVENT,
		replication.VIEW_CHANGE_EVENT, replication.IGNORABLE_EVENT, replication.MARIADB_START_ENCRYPTION_EVENT:
		move()
		return nil
	case replication.XA_PREPARE_LOG_EVENT:
		if err := s.prepared(ctx, e); err != nil {
			return err
		}
		move()
		s.commit()
		return s.emitChunks(ctx)
	case replication.INCIDENT_EVENT:
		return fmt.Errorf("the server logged an incident at %s: changes may be missing from its binlog; make a new snapshot (reset the connector's offsets)", s.read)
	default:
		if e.Header.Flags&replication.LOG_EVENT_IGNORABLE_F != 0 {
			move()
			return nil
		}
		return fmt.Errorf("binlog event of type %d (%s) at %s is not supported, and skipping it could lose changes", t, t, s.read)
	}
}

func (s *stream) statement(verb string) error {
	return fmt.Errorf("%s was logged as a statement at %s, which tells no rows: set binlog_format=ROW for all sessions "+
		"(SET GLOBAL binlog_format='ROW'), then make a new snapshot (reset the connector's offsets)", verb, s.read)
}

func (s *stream) source(e *replication.BinlogEvent, row int32) record.Source {
	pos := s.read.pos
	return record.Source{
		TimeMS: int64(e.Header.Timestamp) * 1000, TimeUS: s.timeUS, GTID: s.txnGTID, File: s.read.file, Pos: pos, Row: row,
		ServerID: e.Header.ServerID, Thread: s.thread, Query: s.stmt,
	}
}

func (s *stream) status() map[string]string {
	out := map[string]string{"phase": "streaming", "file": s.read.file, "position": strconv.FormatUint(s.read.pos, 10)}
	if g := s.gtids.String(); g != "" {
		out["gtids"] = g
	}
	if s.sec > 0 {
		out["source_time"] = time.Unix(s.sec, 0).UTC().Format(time.RFC3339)
	}
	s.snap.report(out)
	return out
}
