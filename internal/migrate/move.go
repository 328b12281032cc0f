package migrate

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

// Time limits of one connector's move.
const (
	stopLimit = 2 * time.Minute
	runLimit  = 2 * time.Minute
	// undoLimit bounds what puts things back, which goes on when the caller has given up.
	undoLimit = 2 * time.Minute
)

// Mover moves one connector; say gets each step once it is done.
type Mover func(ctx context.Context, name string, say func(step string)) error

// Apply moves one connector here. say gets each step once it is done.
func (m *Migration) Apply(ctx context.Context, name string, say func(string)) (err error) {
	reports, err := m.Look(ctx, []string{name})
	if err != nil {
		return err
	}
	r := reports[0]
	if len(r.Blockers) > 0 {
		return fault.New(fault.Conflict, "%s can't move, and was left alone: %s", name, strings.Join(r.Blockers, "; "))
	}
	undo := func(ctx context.Context) error { return restore(ctx, m.There, name, r.State) }
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if uerr := undo(ctx); uerr != nil {
			err = fmt.Errorf("%w; putting it back failed, too: %w; it is stopped on both sides, or look with millrace connector status", err, uerr)
			return
		}
		err = fmt.Errorf("%w; it goes on at Kafka Connect", err)
	}()
	if err = stopped(ctx, m.There, name); err != nil {
		return fmt.Errorf("stop %s at Kafka Connect: %w", name, err)
	}
	say("stopped at Kafka Connect")
	offsets, err := settled(ctx, m.There, name)
	if err != nil {
		return fmt.Errorf("read the offsets of %s at Kafka Connect: %w", name, err)
	}
	if _, err = m.Here.CreateIn(ctx, "STOPPED", name, r.config); err != nil {
		return fmt.Errorf("create %s here: %w", name, err)
	}
	undo = func(ctx context.Context) error {
		return errors.Join(m.Here.Delete(ctx, name), restore(ctx, m.There, name, r.State))
	}
	if err = takeOver(ctx, m.Here, name, offsets.Offsets); err != nil {
		return fmt.Errorf("write the offsets of %s here: %w", name, err)
	}
	say(fmt.Sprintf("created here, with %d offset(s) taken over", len(offsets.Offsets)))
	undo = func(ctx context.Context) error { return m.back(ctx, name, r.State, func(string) {}) }
	if err = restore(ctx, m.Here, name, r.State); err != nil {
		return fmt.Errorf("start %s here: %w", name, err)
	}
	say(strings.ToLower(orRunning(r.State)) + " here")
	return nil
}

// Back hands one connector back to Kafka Connect, where it has stayed, stopped. What fails lets it go on here.
func (m *Migration) Back(ctx context.Context, name string, say func(string)) error {
	there, err := m.There.Status(ctx, name)
	if err != nil {
		return fmt.Errorf("%s at Kafka Connect: %w", name, err)
	}
	if there.Connector.State != "STOPPED" {
		return fault.New(fault.Conflict, "%s is %s at Kafka Connect, not STOPPED: nothing was changed", name, there.Connector.State)
	}
	here, err := m.Here.Status(ctx, name)
	if err != nil {
		return err
	}
	state := here.Connector.State
	if err := m.back(ctx, name, state, say); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if uerr := errors.Join(stopped(ctx, m.There, name), restore(ctx, m.Here, name, state)); uerr != nil {
			return fmt.Errorf("%w; putting it back failed, too: %w", err, uerr)
		}
		return fmt.Errorf("%w; it goes on here", err)
	}
	return nil
}

func (m *Migration) back(ctx context.Context, name, state string, say func(string)) error {
	if err := stopped(ctx, m.Here, name); err != nil {
		return fmt.Errorf("stop %s here: %w", name, err)
	}
	say("stopped here")
	info, err := m.Here.Get(ctx, name)
	if err != nil {
		return err
	}
	offsets, err := settled(ctx, m.Here, name)
	if err != nil {
		return fmt.Errorf("read the offsets of %s here: %w", name, err)
	}
	list := offsets.Offsets
	if info.Type == "source" {
		if list, err = forDebezium(list); err != nil {
			return err
		}
	}
	if err := takeOver(ctx, m.There, name, list); err != nil {
		return fmt.Errorf("write the offsets of %s at Kafka Connect: %w", name, err)
	}
	say(fmt.Sprintf("%d offset(s) handed back", len(list)))
	if err := restore(ctx, m.There, name, state); err != nil {
		return fmt.Errorf("start %s at Kafka Connect: %w", name, err)
	}
	say(strings.ToLower(orRunning(state)) + " at Kafka Connect")
	if err := m.Here.Delete(ctx, name); err != nil {
		return fmt.Errorf("%s runs at Kafka Connect again, and is stopped here; delete it here: %w", name, err)
	}
	return nil
}

// takeOver writes offsets unless they are there already, as those of sinks are, which belong to a consumer group.
func takeOver(ctx context.Context, to *api.Client, name string, offsets []api.Offset) error {
	present, err := to.Offsets(ctx, name)
	if err != nil {
		return err
	}
	if equal(present.Offsets, offsets) {
		return nil
	}
	return to.AlterOffsets(ctx, name, api.Offsets{Offsets: replacing(offsets, present.Offsets)})
}

func equal(a, b []api.Offset) bool {
	return len(a) == len(b) && len(a) == len(replacing(a, b)) && reflect.DeepEqual(byPartition(a), byPartition(b))
}

func byPartition(list []api.Offset) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, o := range list {
		out[fmt.Sprint(o.Partition)] = o.Offset
	}
	return out
}

// settled reads offsets until two looks in a row find the same: what a task wrote at its end may still be on its way.
func settled(ctx context.Context, c *api.Client, name string) (*api.Offsets, error) {
	last, err := c.Offsets(ctx, name)
	for err == nil {
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return nil, err
		}
		var next *api.Offsets
		if next, err = c.Offsets(ctx, name); err == nil && equal(last.Offsets, next.Offsets) {
			return next, nil
		}
		last = next
	}
	return nil, err
}

// stopped stops a connector and waits until it has no tasks.
func stopped(ctx context.Context, c *api.Client, name string) error {
	if err := c.Stop(ctx, name); err != nil {
		return err
	}
	return await(ctx, c, name, stopLimit, func(s *api.ConnectorStatus) (bool, error) {
		return s.Connector.State == "STOPPED" && len(s.Tasks) == 0, nil
	})
}

// restore brings a stopped connector into a state, and waits for its tasks to run if that is what it is.
func restore(ctx context.Context, c *api.Client, name, state string) error {
	switch state {
	case "STOPPED":
		return nil
	case "PAUSED":
		return c.Pause(ctx, name)
	}
	if err := c.Resume(ctx, name); err != nil {
		return err
	}
	return await(ctx, c, name, runLimit, func(s *api.ConnectorStatus) (bool, error) {
		up := s.Connector.State == "RUNNING" && len(s.Tasks) > 0
		for _, t := range s.Tasks {
			if t.State == "FAILED" {
				cause, _, _ := strings.Cut(strings.TrimSpace(t.Trace), "\n")
				return false, fault.New(fault.Unavailable, "its task %d fails: %s", t.ID, cause)
			}
			up = up && t.State == "RUNNING"
		}
		return up, nil
	})
}

// orRunning is the state that a connector is brought into: one that had failed is started.
func orRunning(state string) string {
	if state == "STOPPED" || state == "PAUSED" {
		return state
	}
	return "RUNNING"
}

func await(ctx context.Context, c *api.Client, name string, limit time.Duration, done func(*api.ConnectorStatus) (bool, error)) error {
	for deadline := time.Now().Add(limit); ; {
		s, err := c.Status(ctx, name)
		if err == nil {
			ok, err := done(s)
			if ok || err != nil {
				return err
			}
		} else if fault.KindOf(err) != fault.NotFound && fault.KindOf(err) != fault.Conflict {
			return err
		}
		if time.Now().After(deadline) {
			return fault.New(fault.Unavailable, "it did not come about in %v; its status: %+v", limit, s)
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
