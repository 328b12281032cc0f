package mysqlcdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// version is what events say of their writer.
const version = "0.1.0"

func init() {
	connectors.Register(connectors.Plugin{
		Class:          "mysql",
		Kind:           connectors.KindSource,
		Version:        version,
		Doc:            "Captures the rows of MySQL and MariaDB tables and every change of them, from a lock-free snapshot and the binlog.",
		Spec:           spec,
		KeyConverter:   "json",
		ValueConverter: "canal-json",
		Validate:       validate,
		Diagnose:       diagnose,
		CheckOffset:    checkOffset,
		NewSource:      func() connectors.SourceTask { return &source{} },
	})
	// Debezium's classes: the same connector, with the defaults that an unchanged config relies on.
	connectors.Register(connectors.Plugin{
		Class:          debeziumClass,
		Aliases:        []string{"io.debezium.connector.mariadb.MariaDbConnector"},
		Kind:           connectors.KindSource,
		Version:        version,
		Doc:            "The mysql connector with the defaults and the events of Debezium's MySQL and MariaDB connectors.",
		Spec:           newSpec(debeziumDefaults),
		KeyConverter:   "debezium-json",
		ValueConverter: "debezium-json",
		JSONConverter:  "debezium-json",
		Validate:       validate,
		Diagnose:       diagnose,
		CheckOffset:    checkOffset,
		NewSource:      func() connectors.SourceTask { return &source{} },
	})
}

const debeziumClass = "io.debezium.connector.mysql.MySqlConnector"

var debeziumDefaults = map[string]string{keyTombstones: "true", keySchemaChanges: "true", keyHeaders: "true"}

// specOf is the spec of the class that a config names.
func specOf(config map[string]string) *configdef.Spec {
	if p, ok := connectors.Lookup(config["connector.class"]); ok {
		return p.Spec
	}
	return spec
}

// envelopeFor completes what the config says on events by what the server and the task are.
func envelopeFor(s *settings, info *serverInfo, tc connectors.SourceContext) *record.Envelope {
	e := *s.envelope
	if info.flavor == mysql.MariaDBFlavor {
		e.Connector = "mariadb"
	}
	if s.shape.headers {
		e.Headers = []record.Header{
			{Key: "__debezium.context.connectorLogicalName", Value: []byte(s.prefix)},
			{Key: "__debezium.context.taskId", Value: []byte(strconv.Itoa(tc.Task))},
			{Key: "__debezium.context.connectorName", Value: []byte(e.Connector)},
		}
	}
	return &e
}

// validate asks the server, for two seconds at most.
func validate(ctx context.Context, config map[string]string) []configdef.Problem {
	s, problems := parseSettings("validate", config)
	if len(problems) > 0 {
		return problems
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.connectTimeout = min(s.connectTimeout, 2*time.Second)
	c, err := s.dial(ctx)
	if err != nil {
		return dialProblems(s, err)
	}
	defer c.close()
	_, problems, err = s.inspect(ctx, c)
	if err != nil {
		return []configdef.Problem{{Key: keyHost, Value: s.host, Message: fmt.Sprintf("The server at %s does not answer: %v.", s.addr(), err)}}
	}
	return problems
}

func dialProblems(s *settings, err error) []configdef.Problem {
	if bad, ok := errors.AsType[*configdef.Error](err); ok {
		return bad.Problems
	}
	var my *mysql.MyError
	if errors.As(err, &my) && my.Code == mysql.ER_ACCESS_DENIED_ERROR {
		msg := fmt.Sprintf("The server at %s refuses user %q or its password; check both%s.", s.addr(), s.user, s.sslHint())
		return []configdef.Problem{{Key: keyUser, Value: s.user, Message: msg}, {Key: keyPassword, Value: "[hidden]", Message: msg}}
	}
	msg := fmt.Sprintf("No connection to %s: %v.", s.addr(), err)
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		msg = fmt.Sprintf("Host %q is not known; check the name.", s.host)
	}
	return []configdef.Problem{{Key: keyHost, Value: s.host, Message: msg}}
}

// source is a task: a stream and perhaps a snapshot, on goroutines that end with cancel.
type source struct {
	cancel context.CancelFunc
	group  *errgroup.Group
	ended  chan struct{}
	stream *stream
	err    error // why it ended; read after ended is closed
	out    chan *connectors.Batch
}

var (
	_ connectors.SourceTask = (*source)(nil)
	_ connectors.Backlogger = (*source)(nil)
)

// Open checks the server, finds the place to go on from, and starts to read.
func (t *source) Open(ctx context.Context, tc connectors.SourceContext) error {
	s, problems := parseSettings(tc.Connector, tc.Config)
	if err := configdef.AsError(problems); err != nil {
		return err
	}
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	info, problems, err := s.inspect(ctx, c)
	if err != nil {
		return err
	}
	if err := configdef.AsError(problems); err != nil {
		return err
	}
	if !info.fullMetadata {
		tc.Logger.Warn("binlog_row_metadata is not FULL: a table that changes its shape while the connector is behind can stop it; "+
			"run SET GLOBAL binlog_row_metadata='FULL'", "server", s.addr())
	}
	if info.rowImage != "" {
		tc.Logger.Warn("binlog_row_image is not FULL: events lack the columns that the server does not log, and sinks refuse such rows", "binlog_row_image", info.rowImage)
	}
	if !info.logsCascades {
		hidden, err := s.cascades(ctx, c)
		if err != nil {
			return err
		}
		if len(hidden) > 0 {
			tc.Logger.Warn("foreign keys change rows of captured tables without logging it: the server's storage engine follows them below the binlog; "+
				"read these tables anew from time to time (signal execute-snapshot)", "tables", hidden)
		}
	}
	p, err := t.place(ctx, tc, s, c, info)
	if err != nil {
		return err
	}
	collates, err := c.collations(ctx)
	if err != nil {
		return err
	}
	charsets, err := c.databaseCharsets(ctx)
	if err != nil {
		return err
	}
	// Known before the log goes on, so that each DDL statement is applied to what was there before it.
	known, err := c.catalogs(ctx, "table_schema NOT IN ("+systemDatabases+")", s.filter.table)
	if err != nil {
		return err
	}
	st := &stream{set: s, server: info, log: tc.Logger, report: tc.Report, out: make(chan *connectors.Batch, 2), ctl: make(chan func()), batch: newBatch(), epochs: map[tableID]uint64{}}
	t.out, t.stream = st.out, st
	run, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the task outlives Open's context; Close ends it
	t.cancel = cancel
	st.schema = &schema{
		filter: s.filter, prefix: s.prefix, flavor: info.flavor, shaping: &s.shape, envelope: envelopeFor(s, info, tc), collates: collates, signals: s.signals, charsets: charsets, tables: known, shapes: map[string]*shape{},
		catalog: func(id tableID) (*catalogTable, error) {
			c, err := s.dial(run)
			if err != nil {
				return nil, err
			}
			defer c.close()
			return c.catalog(run, id)
		},
	}
	if err := st.restore(p); err != nil {
		return err
	}
	st.snap = &snapshotState{
		completed: p.completed, windows: map[tableID][]*chunk{}, passes: map[tableID]*pass{}, drop: map[tableID]bool{}, progress: p.progress,
		requests: p.requests, wake: make(chan struct{}, 1), estimates: map[tableID]int64{},
	}
	var todo []tableID
	if p.snapshot {
		if todo, err = st.snap.plan(ctx, s, c, p); err != nil {
			return err
		}
	} else if err := st.snap.joined(ctx, s, c, p, tc.Logger); err != nil {
		return err
	}
	var g errgroup.Group
	t.group, t.ended = &g, make(chan struct{})
	first := make(chan error, 2)
	g.Go(func() error {
		first <- st.run(run)
		return nil
	})
	g.Go(func() error {
		n := newSnapshot(s, info, st)
		defer n.hangUp()
		if p.snapshot {
			if err := n.initial(run, todo, tc.Logger); err != nil {
				first <- err
				return nil
			}
		}
		if err := n.requests(run); err != nil {
			first <- err
		}
		return nil
	})
	go func() { // ends when the task's goroutines have ended, which cancel makes them do
		t.err = <-first
		cancel()
		_ = g.Wait()
		close(t.ended)
	}()
	return nil
}

// place is the position to go on from: the stored one, or the log's end with a snapshot where the mode says so.
func (t *source) place(ctx context.Context, tc connectors.SourceContext, s *settings, c *conn, info *serverInfo) (*position, error) {
	stored, err := tc.Offset(ctx, s.partition())
	if err != nil {
		return nil, fmt.Errorf("read the stored offset: %w", err)
	}
	if stored != nil {
		p, err := decodePosition(stored)
		if err != nil {
			return nil, err
		}
		err = s.available(ctx, c, info, p)
		switch {
		case err == nil && s.snapshotMode == "always" && !p.snapshot: // begins anew
		case err == nil:
			return p, nil
		}
		var purged *purgedError
		switch {
		case err == nil:
		case (s.snapshotMode == "when_needed" || s.snapshotMode == "always") && errors.As(err, &purged):
			tc.Logger.Warn("the log to go on from is gone; making a new snapshot", "err", err)
		default:
			return nil, err
		}
	}
	if s.snapshotMode == "recovery" {
		return nil, fmt.Errorf("%s=recovery goes on from a stored offset, and there is none; use initial or no_data", keySnapshotMode)
	}
	p, err := s.start(ctx, c, info)
	if err != nil {
		return nil, err
	}
	p.progress, p.requests = map[string]tableProgress{}, map[string]*request{}
	p.snapshot = s.snapshotMode != "no_data"
	return p, nil
}

// plan lists the tables that the snapshot still has to read.
func (n *snapshotState) plan(ctx context.Context, s *settings, c *conn, p *position) ([]tableID, error) {
	tables, keyless, estimates, err := s.tables(ctx, c)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(tables, func(a, b tableID) int { return cmp.Compare(a.String(), b.String()) })
	n.active, n.tables, n.estimates = true, tables, estimates
	var todo []tableID
	for _, id := range tables {
		if p.through != "" && id.String() <= p.through {
			n.progress[id.String()] = tableProgress{Done: true}
		}
		if n.progress[id.String()].Done {
			continue
		}
		todo = append(todo, id)
		if keyless[id] {
			n.drop[id] = true
		}
	}
	return todo, nil
}

// joined asks for the rows of tables that the filter captures now and did not when the position was written.
func (n *snapshotState) joined(ctx context.Context, s *settings, c *conn, p *position, log *slog.Logger) error {
	if p.filter == "" || p.filter == s.filter.text || !s.readsNew() {
		return nil
	}
	old, err := parseFilter(p.filter)
	if err != nil {
		return fmt.Errorf("stored offset: captured: %w", err)
	}
	tables, _, _, err := s.tables(ctx, c)
	if err != nil {
		return err
	}
	for _, id := range tables {
		if !old.table(id) {
			log.Info("a table joins; its rows are read while the log is followed", "table", id)
			n.ask(id, "")
		}
	}
	return nil
}

// initial makes the initial snapshot, or what is left of it.
func (n *snapshot) initial(ctx context.Context, todo []tableID, log *slog.Logger) error {
	if err := n.run(ctx, todo); err != nil {
		return err
	}
	n.hangUp()
	st := n.s
	log.Info("initial snapshot is complete", "tables", len(st.snap.tables), "rows", st.snap.rows.Load())
	if err := st.do(ctx, func() { st.snap.active, st.snap.completed = false, true }); err != nil {
		return err
	}
	if err := n.save(ctx); err != nil {
		return err
	}
	if n.set.snapshotMode == "initial_only" {
		// Nothing more comes; Poll blocks until the task is closed.
		if err := st.do(ctx, func() { st.snap.hold = true }); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// collations maps collation ids to character sets.
func (c *conn) collations(ctx context.Context) (map[uint64]string, error) {
	out := map[uint64]string{}
	rows, err := c.query(ctx, "SELECT id, character_set_name FROM information_schema.collations WHERE id IS NOT NULL AND character_set_name IS NOT NULL")
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		out[atoi(r[0])] = r[1]
	}
	// MariaDB's newer collations serve several character sets and have their ids elsewhere; other servers lack the column.
	if rows, err = c.query(ctx, "SELECT id, character_set_name FROM information_schema.collation_character_set_applicability WHERE id IS NOT NULL"); err == nil {
		for _, r := range rows {
			out[atoi(r[0])] = r[1]
		}
	}
	return out, nil
}

// Poll returns the next batch.
func (t *source) Poll(ctx context.Context) (*connectors.Batch, error) {
	select {
	case b := <-t.out:
		return b, nil
	default:
	}
	select {
	case b := <-t.out:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.ended:
		select { // what was made before the end is good
		case b := <-t.out:
			return b, nil
		default:
			return nil, t.err
		}
	}
}

// Committed has nothing to do: the server keeps its log by its own rules.
func (t *source) Committed(context.Context, connectors.Offset) error { return nil }

// Close ends the task's goroutines.
func (t *source) Close() error {
	if t.cancel != nil {
		t.cancel()
	}
	if t.ended != nil {
		<-t.ended
	}
	return nil
}

// settleFor is how long the stream gets to read what the log had a moment ago.
const settleFor = 2 * time.Second

// Backlog reports whether the stream stands still though the server's log goes on. To be behind is no sign: a busy log always is a little ahead.
func (t *source) Backlog(ctx context.Context) (bool, error) {
	before, err := t.stream.place(ctx)
	if err != nil {
		return false, err
	}
	c, err := t.stream.set.dial(ctx)
	if err != nil {
		return false, err
	}
	end, _, err := c.logEnd(ctx)
	c.close()
	if err != nil || before.compare(end) >= 0 {
		return false, err
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(settleFor):
	}
	now, err := t.stream.place(ctx)
	return now == before, err
}
