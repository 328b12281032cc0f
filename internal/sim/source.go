package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// class is the connector of the simulation: each task reads a log of its own, which grows with time and holds numbers.
const class = "sim-log"

// keys is how many keys a task's changes have.
const keys = 5

func init() {
	connectors.Register(connectors.Plugin{
		Class: class, Kind: connectors.KindSource, Version: "1.0.0", Doc: "The source of the simulation.", KeyConverter: "string", ValueConverter: "string",
		Spec: configdef.New(configdef.Key{Name: "sim.note", Type: configdef.String, Default: "", Group: "Simulation", Doc: "Means nothing; a change of it is a change of the config."}),
		Plan: func(_ context.Context, r connectors.PlanRequest) ([]map[string]string, error) {
			out := make([]map[string]string, r.MaxTasks)
			for i := range out {
				out[i] = r.Raw
			}
			return out, nil
		},
		NewSource: func() connectors.SourceTask { return &source{} },
	})
}

// upstream is the log that all tasks read a part of: it grows at a steady pace until it is closed.
type upstream struct {
	start  time.Time
	closed chan struct{}
	until  time.Time // valid once closed
}

// pace is how often a change comes.
const pace = 25 * time.Millisecond

// length is how many changes each task's log has now.
func (u *upstream) length() int {
	now := time.Now()
	select {
	case <-u.closed:
		now = u.until
	default:
	}
	return int(now.Sub(u.start) / pace)
}

func (u *upstream) close() {
	u.until = time.Now()
	close(u.closed)
}

// source is one task.
type source struct {
	p     *process
	unit  unit
	epoch uint64
	next  int
}

func (s *source) partition() map[string]any { return map[string]any{"task": strconv.Itoa(s.unit.task)} }

// Open implements connectors.SourceTask.
func (s *source) Open(ctx context.Context, tc connectors.SourceContext) error {
	l, ok := tc.Logger.Handler().(logger) // a task knows its process by nothing else
	if !ok {
		return errors.New("not in a simulation")
	}
	s.p, s.unit, s.epoch = l.p, unit{tc.Connector, tc.Task}, tc.Epoch
	if err := s.act(ctx, "opens"); err != nil {
		return err
	}
	at, err := tc.Offset(ctx, s.partition())
	if err != nil {
		return err
	}
	if n, ok := at["next"].(json.Number); ok {
		i, err := n.Int64()
		if err != nil {
			return fmt.Errorf("stored offset %v: %w", at, err)
		}
		s.next = int(i)
	} else if at != nil {
		return fmt.Errorf("stored offset %#v has no number", at)
	}
	if c := s.p.run.confirmed(s.unit); s.next < c && !s.p.dead() {
		s.p.run.history.violate("I2: %v was told that all before %d is durable, and goes on at %d", s.unit, c, s.next)
	}
	if !s.p.dead() {
		s.p.run.confirm(s.unit, s.next) // the answer to its commit may have been lost
	}
	return s.act(ctx, fmt.Sprintf("goes on at %d", s.next))
}

// act notes what the task does, unless its process is stopped, which ends, or killed, which does not.
func (s *source) act(ctx context.Context, what string) error {
	if err := s.p.running(ctx); err != nil {
		return err
	}
	s.p.run.history.do(what, s.p.node.name, s.unit, s.epoch)
	return nil
}

// Poll implements connectors.SourceTask.
func (s *source) Poll(ctx context.Context) (*connectors.Batch, error) {
	for s.next >= s.p.run.upstream.length() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pace):
		}
	}
	if err := s.act(ctx, "polls"); err != nil {
		return nil, err
	}
	b := &connectors.Batch{Boundary: true}
	for len(b.Records) < 8 && s.next < s.p.run.upstream.length() {
		b.Records = append(b.Records, record.Record{
			Topic: topicOf(s.unit.connector), Partition: record.AnyPartition,
			Key: fmt.Sprintf("%d/%d", s.unit.task, s.next%keys), Value: fmt.Sprintf("%d:%d", s.unit.task, s.next),
		})
		s.next++
	}
	b.Offset = connectors.Offset{Partition: s.partition(), Position: map[string]any{"next": s.next}}
	return b, nil
}

func topicOf(connector string) string { return connector + ".out" }

// Committed implements connectors.SourceTask.
func (s *source) Committed(_ context.Context, o connectors.Offset) error {
	if n, ok := o.Position["next"].(int); ok && !s.p.dead() {
		s.p.run.confirm(s.unit, n)
	}
	return nil
}

// Close implements connectors.SourceTask.
func (s *source) Close() error { return nil }

// logger is a log handler that knows the process it is of.
type logger struct {
	slog.Handler
	p *process
}

// WithAttrs implements slog.Handler.
func (l logger) WithAttrs(a []slog.Attr) slog.Handler { return logger{l.Handler.WithAttrs(a), l.p} }

// WithGroup implements slog.Handler.
func (l logger) WithGroup(g string) slog.Handler { return logger{l.Handler.WithGroup(g), l.p} }
