package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
)

// Cluster asks the nodes what people would ask.
type Cluster struct{ *api.Client }

// Brokers returns the cluster's brokers.
func (c Cluster) Brokers(ctx context.Context) ([]string, error) {
	k, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	return k.Brokers, nil
}

// WaitRunning waits until every task of every connector runs, and returns how long that took.
func (c Cluster) WaitRunning(ctx context.Context, limit time.Duration) (time.Duration, error) {
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
			return time.Since(began), nil
		}
		if time.Since(began) > limit {
			return 0, fmt.Errorf("not all tasks run after %v: %w", limit, errors.Join(errors.New(waits), err))
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// WaitCommitted waits until a source has committed something: from then on its place in the log is stored, and every later change must come
// out of it.
func (c Cluster) WaitCommitted(ctx context.Context, source string) error {
	for {
		p, err := c.Progress(ctx, source)
		if err == nil && len(p.Tasks) > 0 && p.Tasks[0].RecordsOut > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("source %s commits nothing: %w", source, errors.Join(err, ctx.Err()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stages shows the lag of each connector.
func (c Cluster) Stages(ctx context.Context) (string, error) {
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

// Placement is which running tasks each node has.
type Placement map[string][]string

// Running counts the tasks.
func (p Placement) Running() int {
	n := 0
	for _, tasks := range p {
		n += len(tasks)
	}
	return n
}

// String lists nodes and tasks.
func (p Placement) String() string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(p)) {
		parts = append(parts, fmt.Sprintf("%s %v", id, p[id]))
	}
	return strings.Join(parts, ", ")
}

// TasksByWorker returns which running tasks each node has.
func (c Cluster) TasksByWorker(ctx context.Context) (Placement, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names, err := c.Connectors(ctx)
	if err != nil {
		return nil, err
	}
	out := Placement{}
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
