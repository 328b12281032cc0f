package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// cluster asks the nodes what people would ask.
type cluster struct{ *api.Client }

func (c cluster) brokers(ctx context.Context) ([]string, error) {
	k, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	return k.Brokers, nil
}

// waitRunning waits until every task of every connector runs.
func (c cluster) waitRunning(ctx context.Context, limit time.Duration) error {
	began := time.Now()
	for {
		all, err := c.Expanded(ctx)
		waits := ""
		for _, name := range slices.Sorted(maps.Keys(all)) {
			s := all[name].Status
			if s == nil || len(s.Tasks) == 0 {
				waits = name + " has no tasks yet"
				continue
			}
			for _, t := range s.Tasks {
				if t.State != "RUNNING" {
					waits = fmt.Sprintf("%s-%d is %s: %s", name, t.ID, t.State, t.Trace)
				}
			}
		}
		if err == nil && waits == "" {
			fmt.Printf("  all tasks run after %d ms\n", time.Since(began).Milliseconds())
			return nil
		}
		if time.Since(began) > limit {
			return fmt.Errorf("not all tasks run after %v: %s (%w)", limit, waits, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stages shows the lag of each connector.
func (c cluster) stages(ctx context.Context) (string, error) {
	names, err := c.Connectors(ctx)
	if err != nil {
		return "", err
	}
	var parts []string
	for _, n := range names {
		p, err := c.Progress(ctx, n)
		if err != nil {
			return "", err
		}
		var lag int64
		for _, t := range p.Tasks {
			if t.LagRecords > 0 {
				lag += t.LagRecords
			}
		}
		if p.Type == "source" {
			phase := ""
			if len(p.Tasks) > 0 {
				phase = p.Tasks[0].Detail["phase"]
			}
			parts = append(parts, n+" "+phase)
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %d", n, lag))
	}
	return strings.Join(parts, " · "), nil
}

// placement is which running tasks each node has.
type placement map[string][]string

func (p placement) running() int {
	n := 0
	for _, tasks := range p {
		n += len(tasks)
	}
	return n
}

func (p placement) String() string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(p)) {
		parts = append(parts, fmt.Sprintf("%s %v", id, p[id]))
	}
	return strings.Join(parts, ", ")
}

func (c cluster) tasksByWorker(ctx context.Context) (placement, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names, err := c.Connectors(ctx)
	if err != nil {
		return nil, err
	}
	out := placement{}
	for _, n := range names {
		p, err := c.Progress(ctx, n)
		if err != nil {
			return nil, err
		}
		for _, t := range p.Tasks {
			if t.State == "RUNNING" {
				out[t.Worker] = append(out[t.Worker], fmt.Sprintf("%s-%d", n, t.ID))
			}
		}
	}
	return out, nil
}

// latency measures from the source's commit to a committed record behind both functions.
type latency struct {
	mu   sync.Mutex // guards: all below
	at   map[uint64]time.Time
	took []time.Duration
	seen int
}

func newLatency() *latency { return &latency{at: map[uint64]time.Time{}} }

func (l *latency) committed(made []shop.Made) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range made {
		if m.Op != shop.Delete {
			l.at[m.Seq] = now
		}
	}
}

// window returns how many records were seen in all, and the percentiles since the last call.
func (l *latency) window() (seen int, p50, p99 time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		p50, p99 = l.took[n/2], l.took[n*99/100]
	}
	l.took = l.took[:0]
	return l.seen, p50, p99
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0fms", d.Seconds()*1000) }

// watch reads the end of the pipeline until ctx ends.
func (l *latency) watch(ctx context.Context, brokers []string) error {
	c := kafka.Config{Brokers: brokers}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return err
	}
	defer a.Close()
	from, err := a.ListOffsets(ctx, "orders.clean", kafka.Earliest)
	if err != nil {
		return err
	}
	k, err := kafka.NewConsumer(ctx, c, kafka.ConsumerOptions{})
	if err != nil {
		return err
	}
	defer k.Close()
	k.Assign(from)
	for {
		msgs, err := k.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := time.Now()
		l.mu.Lock()
		for _, m := range msgs {
			l.seen++
			if e, err := event(m); err == nil {
				if at, ok := l.at[e.Seq]; ok && !e.Read && e.Op != shop.Delete {
					l.took = append(l.took, now.Sub(at))
					delete(l.at, e.Seq)
				}
			}
		}
		l.mu.Unlock()
	}
}

// event reads an order's change event.
func event(m kafka.Fetched) (shop.Event, error) {
	var e shop.Event
	var c struct {
		Type string `json:"type"`
		Data []row  `json:"data"`
	}
	if err := json.Unmarshal(m.Value, &c); err != nil {
		return e, err
	}
	if len(c.Data) != 1 || c.Data[0]["id"] == nil || c.Data[0]["seq"] == nil {
		return e, errors.New("no order")
	}
	e.ID, _ = strconv.ParseUint(*c.Data[0]["id"], 10, 64)
	e.Seq, _ = strconv.ParseUint(*c.Data[0]["seq"], 10, 64)
	e.Op = shop.Op(c.Type[0])
	for _, h := range m.Headers {
		e.Read = e.Read || h.Key == "snapshot"
	}
	return e, nil
}

// topicEvents reads a topic of orders from start to end.
func topicEvents(ctx context.Context, brokers []string, topic string) (map[uint64][]shop.Event, int, error) {
	c := kafka.Config{Brokers: brokers}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	defer a.Close()
	out, n := map[uint64][]shop.Event{}, 0
	err = kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error {
		n++
		e, err := event(m)
		if err != nil {
			return fmt.Errorf("%s-%d@%d: %w", m.Topic, m.Partition, m.Offset, err)
		}
		out[e.ID] = append(out[e.ID], e)
		return nil
	})
	return out, n, err
}
