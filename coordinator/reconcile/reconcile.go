// Package reconcile is the leader's loop: it compares what is wanted (connectors, target states, task configs) with what is
// (live workers, what they hold) and proposes the smallest next step. It is level-triggered: every round looks at everything
// anew, so a lost or merged event cannot hurt.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Proposer stores commands; raftnode.Node does.
type Proposer interface {
	Propose(ctx context.Context, c *commandv1.Command) (state.Result, error)
}

// Loop is the reconcile loop of one node. It acts only while told to lead.
type Loop struct {
	View     func(func(*state.State))
	Raft     Proposer
	Sessions *session.Registry
	Wake     <-chan struct{}
	Logger   *slog.Logger

	repairs repairs
}

// every bounds how late a lease that ran out is noticed.
const every = 100 * time.Millisecond

// Run reconciles until ctx ends or leadership is lost (then it returns nil).
func (l *Loop) Run(ctx context.Context) error {
	l.repairs = repairs{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last string
	for {
		busy, err := l.Step(ctx)
		switch {
		case errors.Is(err, raftnode.ErrNotLeader), errors.Is(err, raftnode.ErrUnknownOutcome), ctx.Err() != nil:
			return nil
		case err != nil:
			if err.Error() != last {
				l.Logger.Error("reconcile", "err", err)
			}
			last = err.Error()
		default:
			last = ""
		}
		if busy && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.Wake:
		case <-tick.C:
		}
	}
}

// Step takes one step and reports whether it changed something.
func (l *Loop) Step(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if done, err := l.plans(ctx); done || err != nil {
		return done, err
	}
	if err := l.topics(ctx); err != nil {
		return false, err
	}
	return l.assign(ctx)
}

// plans stores what planning halves have answered.
func (l *Loop) plans(ctx context.Context) (bool, error) {
	var cmds []*commandv1.PutTaskConfigs
	names := map[string]bool{}
	l.View(func(s *state.State) {
		for _, c := range s.Connectors() {
			names[c.Name] = true
			p := l.Sessions.Planned(c.Name)
			if p == nil || c.PlannedIndex == c.ConfigIndex || p.ConfigIndex != c.ConfigIndex || c.Target == commandv1.TargetState_TARGET_STATE_STOPPED {
				continue
			}
			cmd := &commandv1.PutTaskConfigs{Connector: c.Name, ConfigIndex: p.ConfigIndex}
			for _, t := range p.Configs {
				cmd.Configs = append(cmd.Configs, &commandv1.TaskConfig{Config: t.Config})
			}
			cmds = append(cmds, cmd)
		}
	})
	l.Sessions.Forget(func(name string) bool { return names[name] })
	for _, cmd := range cmds {
		r, err := l.Raft.Propose(ctx, &commandv1.Command{
			ProposedUnixMs: time.Now().UnixMilli(), Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: cmd},
		})
		if err != nil {
			return false, fmt.Errorf("store task configs of %s: %w", cmd.Connector, err)
		}
		if r.Err == nil {
			l.Logger.Info("connector planned", "connector", cmd.Connector, "tasks", len(cmd.Configs))
		}
	}
	return len(cmds) > 0, nil
}

// want is a unit that should run.
type want struct {
	unit assign.Unit
	// fresh: its config is newer than its epoch, so it needs a new one.
	fresh bool
	now   state.Assignment
	// config is the index of the connector's config.
	config uint64
}

// assign moves units one step nearer to where they should be.
func (l *Loop) assign(ctx context.Context) (bool, error) {
	wants, changes := l.wants()
	live := l.Sessions.Live()
	workers := make([]assign.Worker, 0, len(live))
	for _, n := range live {
		workers = append(workers, assign.Worker{ID: n.Id, Labels: n.Labels})
	}
	settled := l.Sessions.Settled()
	current := map[state.UnitID]string{}
	var units []assign.Unit
	var free []want
	for _, w := range wants {
		owner := w.now.Worker
		// I1: an owner that this leader has not heard of yet may be alive until the election is a lease ago.
		if owner != "" && !l.Sessions.Alive(owner) && !settled && !l.Sessions.Left(owner) {
			continue
		}
		if owner != "" && l.Sessions.Alive(owner) {
			current[w.unit.ID] = owner
		}
		units = append(units, w.unit)
		free = append(free, w)
	}
	plan := assign.Plan(workers, units, l.wishes(free, workers, current))
	for _, w := range free {
		u, owner, to := w.unit.ID, current[w.unit.ID], plan[w.unit.ID]
		a := &commandv1.Assignment{Unit: &commandv1.Unit{Connector: u.Connector, Task: u.Task}, Worker: to, ExpectedEpoch: w.now.Epoch}
		switch {
		case to == "" && w.now.Worker == "":
			continue // nobody may run it
		case owner != "" && owner == to && !w.fresh:
			continue // is where it should be
		case owner != "" && owner != to:
			a.Worker = "" // taken back first; given away when the old worker has let go
		case to != "" && l.Sessions.HeldElsewhere(u, to):
			continue // I1: a live worker has not let go yet
		}
		changes = append(changes, a)
	}
	if len(changes) == 0 {
		return false, nil
	}
	r, err := l.Raft.Propose(ctx, &commandv1.Command{
		ProposedUnixMs: time.Now().UnixMilli(), Kind: &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: changes}},
	})
	if err != nil {
		return false, fmt.Errorf("assign: %w", err)
	}
	for _, a := range changes {
		u := state.UnitID{Connector: a.Unit.Connector, Task: a.Unit.Task}
		if a.Worker != "" {
			l.Sessions.Hold(a.Worker, u, r.Index)
		}
		l.Logger.Info("assignment", "unit", u.String(), "worker", a.Worker, "epoch", r.Index)
	}
	return true, nil
}

// wants lists what should run, and the take-backs of what should not.
func (l *Loop) wants() (wants []want, changes []*commandv1.Assignment) {
	l.View(func(s *state.State) {
		wanted := map[state.UnitID]bool{}
		add := func(c *state.Connector, task int32) {
			u := state.UnitID{Connector: c.Name, Task: task}
			now, _ := s.Assignment(u)
			wanted[u] = true
			wants = append(wants, want{
				unit: assign.Unit{ID: u, Labels: placement(c.Config)}, now: now, config: c.ConfigIndex,
				fresh: task != state.PlanningHalf && now.Epoch < c.Generation,
			})
		}
		for _, c := range s.Connectors() {
			add(c, state.PlanningHalf)
			for i := range c.TaskConfigs {
				add(c, int32(i))
			}
		}
		for _, a := range s.Assignments() {
			if a.Worker != "" && !wanted[a.Unit] {
				changes = append(changes, &commandv1.Assignment{
					Unit: &commandv1.Unit{Connector: a.Unit.Connector, Task: a.Unit.Task}, ExpectedEpoch: a.Epoch,
				})
			}
		}
	})
	return wants, changes
}

// placement reads placement.labels: k=v, comma-separated.
func placement(config map[string]string) map[string]string {
	text := config["placement.labels"]
	if text == "" {
		return nil
	}
	out := map[string]string{}
	for item := range strings.SplitSeq(text, ",") {
		if k, v, ok := strings.Cut(item, "="); ok {
			out[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return out
}

// AssignmentsOf is the whole set that a worker is to run, for its session.
func AssignmentsOf(s *state.State, worker string) *clusterv1.Assignments {
	out := &clusterv1.Assignments{Index: s.Index()}
	for _, a := range s.Assignments() {
		c, ok := s.Connector(a.Unit.Connector)
		if a.Worker != worker || !ok {
			continue
		}
		x := &clusterv1.Assignment{
			Unit: &clusterv1.Unit{Connector: a.Unit.Connector, Task: a.Unit.Task}, Epoch: a.Epoch,
			TargetState: clusterv1.TargetState(c.Target), Config: c.Config, ConfigIndex: c.ConfigIndex, TaskCount: int32(len(c.TaskConfigs)),
		}
		switch {
		case a.Unit.Task == state.PlanningHalf:
			x.PlanWanted = c.PlannedIndex != c.ConfigIndex && c.Target != commandv1.TargetState_TARGET_STATE_STOPPED
		case int(a.Unit.Task) >= len(c.TaskConfigs) || a.Epoch < c.Generation:
			// On its way out, or waiting for its new epoch: the old config must not run under the new one's name, so the worker
			// keeps what it has only if it still may.
			continue
		default:
			x.Config, x.TopicsSince = c.TaskConfigs[a.Unit.Task], c.TopicsSince
			for _, v := range s.Voids(c.Name) {
				x.VoidOffsets = append(x.VoidOffsets, &clusterv1.VoidOffset{Topic: v.Topic, Partition: v.Partition, Below: v.Below})
			}
		}
		out.Assignments = append(out.Assignments, x)
	}
	return out
}
