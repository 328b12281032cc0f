package migrate

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
)

// Time limits of one connector's move.
const (
	stopLimit = 2 * time.Minute
	runLimit  = 2 * time.Minute
	// undoLimit bounds what puts things back, which goes on when the caller has given up.
	undoLimit = 2 * time.Minute
)

// The directions of a move that has not ended, as config.Unfinished has them before the state to end in.
const (
	toHere  = "apply:"
	toThere = "back:"
)

// unfinished reads config.Unfinished; direction is empty where no move goes on.
func unfinished(c map[string]string) (direction, state string) {
	for _, d := range []string{toHere, toThere} {
		if s, ok := strings.CutPrefix(c[config.Unfinished], d); ok {
			return d, s
		}
	}
	return "", ""
}

// Mover moves one connector; say gets each step once it is done.
type Mover func(ctx context.Context, name string, say func(step string)) error

// Apply moves one connector here. say gets each step once it is done. What it has begun is written down in the connector's config here, before
// anything changes at Kafka Connect: when it breaks off, Apply again goes on from there.
func (m *Migration) Apply(ctx context.Context, name string, say func(string)) (err error) {
	reports, err := m.Look(ctx, []string{name})
	if err != nil {
		return err
	}
	r := reports[0]
	if len(r.Blockers) > 0 {
		return fault.New(fault.Conflict, "%s can't move, and was left alone: %s", name, strings.Join(r.Blockers, "; "))
	}
	state := r.begun
	if state == "" {
		state = orRunning(r.State)
		r.config[config.Unfinished] = toHere + state
		if _, err := m.Here.CreateIn(ctx, "STOPPED", name, r.config); err != nil {
			return fmt.Errorf("create %s here: %w; nothing was changed at Kafka Connect, where it goes on", name, err)
		}
		say("created here, stopped")
	} else {
		say("goes on where an earlier move ended")
	}
	if err := m.takeHere(ctx, name, say); err != nil {
		undo := func(ctx context.Context) error { return m.leave(ctx, name, state) }
		return m.undone(ctx, name, err, undo, onThere, "run --apply again, which goes on from there, or --back, which starts it at Kafka Connect")
	}
	if err := m.restore(ctx, m.Here, name, state); err != nil {
		err = fmt.Errorf("start %s here: %w", name, err)
		undo := func(ctx context.Context) error { return m.back(ctx, name, state, func(string) {}) }
		return m.undone(ctx, name, err, undo, onThere, "start it here with millrace connector resume "+name+", or hand it back with --back")
	}
	say(strings.ToLower(state) + " here")
	return nil
}

// takeHere stops a connector at Kafka Connect and takes its offsets over, into the one that is here, stopped.
func (m *Migration) takeHere(ctx context.Context, name string, say func(string)) error {
	if err := m.stopped(ctx, m.There, name); err != nil {
		return fmt.Errorf("stop %s at Kafka Connect: %w", name, err)
	}
	say("stopped at Kafka Connect")
	offsets, err := m.settled(ctx, m.There, name)
	if err != nil {
		return fmt.Errorf("read the offsets of %s at Kafka Connect: %w", name, err)
	}
	if err := m.takeOver(ctx, m.Here, name, offsets.Offsets); err != nil {
		return fmt.Errorf("write the offsets of %s here: %w", name, err)
	}
	say(fmt.Sprintf("%d offset(s) taken over", len(offsets.Offsets)))
	// From here on it may have run here, and its offsets here count.
	if _, err := m.Here.PatchConfig(ctx, name, map[string]*string{config.Unfinished: nil}); err != nil {
		return fmt.Errorf("finish the config of %s here: %w", name, err)
	}
	return nil
}

// onThere is how a move here ends that was undone.
const onThere = "it goes on at Kafka Connect, and is not here any more"

// leave lets a connector go on at Kafka Connect, and deletes the one here, which has not run.
func (m *Migration) leave(ctx context.Context, name, state string) error {
	if err := m.restore(ctx, m.There, name, state); err != nil {
		return fmt.Errorf("start %s at Kafka Connect: %w", name, err)
	}
	return m.Here.Delete(ctx, name)
}

// Back hands one connector back to Kafka Connect, where it has stayed, stopped. What fails lets it go on here. What it has begun is written
// down in the connector's config here: Back again goes on from there.
func (m *Migration) Back(ctx context.Context, name string, say func(string)) error {
	here, err := m.Here.Status(ctx, name)
	if err != nil {
		return fmt.Errorf("%s here: %w", name, err)
	}
	info, err := m.Here.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("%s here: %w", name, err)
	}
	there, err := m.There.Status(ctx, name)
	if err != nil {
		return fmt.Errorf("%s at Kafka Connect: %w; nothing was changed", name, err)
	}
	runsThere := there.Connector.State != "STOPPED"
	direction, state := unfinished(info.Config)
	switch {
	case runsThere && direction != "" && here.Connector.State == "STOPPED": // all was done but to delete it here, or nothing was done yet
		say("runs at Kafka Connect already")
		return m.Here.Delete(ctx, name)
	case direction == toHere && here.Connector.State == "STOPPED": // its offsets here are copies at best
		say("has not run here")
		return m.leave(ctx, name, state)
	case runsThere:
		return fault.New(fault.Conflict, "%s is %s at Kafka Connect, not STOPPED: nothing was changed", name, there.Connector.State)
	case direction == "":
		state = orRunning(here.Connector.State)
		mark := toThere + state
		if _, err := m.Here.PatchConfig(ctx, name, map[string]*string{config.Unfinished: &mark}); err != nil {
			return fmt.Errorf("write down what begins: %w; nothing was changed", err)
		}
	}
	if err := m.back(ctx, name, state, say); err != nil {
		return m.undone(ctx, name, err, func(ctx context.Context) error {
			if err := m.stopped(ctx, m.There, name); err != nil {
				return fmt.Errorf("keep %s stopped at Kafka Connect: %w", name, err)
			}
			if _, err := m.Here.PatchConfig(ctx, name, map[string]*string{config.Unfinished: nil}); err != nil {
				return err
			}
			return m.restore(ctx, m.Here, name, state)
		}, "it goes on here", "run --back again, which goes on from there")
	}
	return nil
}

// undone puts back what was before a failure, and says what came of that.
func (m *Migration) undone(ctx context.Context, name string, err error, undo func(context.Context) error, outcome, next string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	uerr := undo(ctx)
	if uerr == nil {
		return fmt.Errorf("%w; %s", err, outcome)
	}
	return fmt.Errorf("%w; putting it back failed, too: %w. Now %s is %s at Kafka Connect and %s here. No offset is lost: once both answer, %s",
		err, uerr, name, stateOf(ctx, m.There, name), stateOf(ctx, m.Here, name), next)
}

// stateOf tells a connector's state in a message.
func stateOf(ctx context.Context, c *api.Client, name string) string {
	s, err := c.Status(ctx, name)
	switch {
	case err == nil:
		return s.Connector.State
	case fault.KindOf(err) == fault.NotFound:
		return "not there"
	}
	return "in a state that nobody tells (it does not answer)"
}

// back hands offsets to Kafka Connect, starts it there and deletes it here.
func (m *Migration) back(ctx context.Context, name, state string, say func(string)) error {
	if err := m.stopped(ctx, m.Here, name); err != nil {
		return fmt.Errorf("stop %s here: %w", name, err)
	}
	say("stopped here")
	info, err := m.Here.Get(ctx, name)
	if err != nil {
		return err
	}
	offsets, err := m.settled(ctx, m.Here, name)
	if err != nil {
		return fmt.Errorf("read the offsets of %s here: %w", name, err)
	}
	list := offsets.Offsets
	if info.Type == "source" {
		if list, err = forDebezium(list); err != nil {
			return err
		}
	}
	if len(list) > 0 { // without any it has not run here: those at Kafka Connect hold
		if err := m.takeOver(ctx, m.There, name, list); err != nil {
			return fmt.Errorf("write the offsets of %s at Kafka Connect: %w", name, err)
		}
		say(fmt.Sprintf("%d offset(s) handed back", len(list)))
	}
	if err := m.restore(ctx, m.There, name, state); err != nil {
		return fmt.Errorf("start %s at Kafka Connect: %w", name, err)
	}
	say(strings.ToLower(state) + " at Kafka Connect")
	if err := m.Here.Delete(ctx, name); err != nil {
		return fmt.Errorf("%s runs at Kafka Connect again, and is stopped here; delete it here: %w", name, err)
	}
	return nil
}

// takeOver writes offsets unless they are there already, as those of sinks are, which belong to a consumer group.
func (m *Migration) takeOver(ctx context.Context, to *api.Client, name string, offsets []api.Offset) error {
	return m.patiently(ctx, func() error {
		present, err := to.Offsets(ctx, name)
		if err != nil || equal(present.Offsets, offsets) {
			return err
		}
		return to.AlterOffsets(ctx, name, api.Offsets{Offsets: replacing(offsets, present.Offsets)})
	})
}

// patiently tries again what is idempotent while the system does not answer, or rebalances.
func (m *Migration) patiently(ctx context.Context, call func() error) error {
	for deadline := time.Now().Add(m.patience()); ; {
		err := call()
		if !passing(err) || time.Now().After(deadline) {
			return err
		}
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

func (m *Migration) patience() time.Duration { return cmp.Or(m.Patience, 30*time.Second) }

// passing says that a failure is of the moment.
func passing(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.Unavailable || kind == fault.Conflict && strings.Contains(err.Error(), "rebalance")
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
func (m *Migration) settled(ctx context.Context, c *api.Client, name string) (*api.Offsets, error) {
	look := func() (out *api.Offsets, err error) {
		err = m.patiently(ctx, func() error { out, err = c.Offsets(ctx, name); return err })
		return out, err
	}
	last, err := look()
	for err == nil {
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return nil, err
		}
		var next *api.Offsets
		if next, err = look(); err == nil && equal(last.Offsets, next.Offsets) {
			return next, nil
		}
		last = next
	}
	return nil, err
}

// stopped stops a connector and waits until it has no tasks.
func (m *Migration) stopped(ctx context.Context, c *api.Client, name string) error {
	if err := m.patiently(ctx, func() error { return c.Stop(ctx, name) }); err != nil {
		return err
	}
	return m.await(ctx, c, name, stopLimit, func(s *api.ConnectorStatus) (bool, error) {
		return s.Connector.State == "STOPPED" && len(s.Tasks) == 0, nil
	})
}

// restore brings a stopped connector into a state, and waits for its tasks to run if that is what it is.
func (m *Migration) restore(ctx context.Context, c *api.Client, name, state string) error {
	switch state {
	case "STOPPED":
		return nil
	case "PAUSED":
		return m.patiently(ctx, func() error { return c.Pause(ctx, name) })
	}
	if err := m.patiently(ctx, func() error { return c.Resume(ctx, name) }); err != nil {
		return err
	}
	return m.await(ctx, c, name, runLimit, func(s *api.ConnectorStatus) (bool, error) {
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

func (m *Migration) await(ctx context.Context, c *api.Client, name string, limit time.Duration, done func(*api.ConnectorStatus) (bool, error)) error {
	for deadline, answered := time.Now().Add(limit), time.Now(); ; {
		s, err := c.Status(ctx, name)
		if err == nil {
			answered = time.Now()
			ok, err := done(s)
			if ok || err != nil {
				return err
			}
		} else if fault.KindOf(err) != fault.NotFound && (!passing(err) || time.Since(answered) > m.patience()) {
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
