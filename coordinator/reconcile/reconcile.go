// Package reconcile is the leader's loop: it compares what is wanted (connectors, target states, task configs) with what is
// (live workers, what they hold) and proposes the smallest next step. It is level-triggered: every round looks at everything
// anew, so a lost or merged event cannot hurt.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
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
	// MovesMax bounds how many units are on their way from one live worker to another at a time. Default 8.
	MovesMax int
	// Observe, if set, is told of each round.
	Observe func(took time.Duration, changed bool, err error)
	Logger  *slog.Logger

	repairs repairs
	moves   moves
	// rest is what the last round looked at, if it found nothing to do and to wait for: to look at the same again would be a waste.
	rest facts
	// placed is what a round looked at that found no unit on its way.
	placed atomic.Pointer[facts]
}

// facts are versions of all that a round looks at.
type facts struct {
	index, sessions uint64
	live            int
	settled         bool
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
		began := time.Now()
		busy, err := l.Step(ctx)
		if l.Observe != nil && ctx.Err() == nil {
			l.Observe(time.Since(began), busy, err)
		}
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
	now := l.facts()
	if now == l.rest {
		return false, nil
	}
	l.rest = facts{}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if done, err := l.plans(ctx); done || err != nil {
		return done, err
	}
	if err := l.topics(ctx); err != nil {
		return false, err
	}
	return l.assign(ctx, now)
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
	// Side by side, so that Raft stores many with one write.
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for _, cmd := range cmds {
		g.Go(func() error {
			r, err := l.Raft.Propose(ctx, &commandv1.Command{
				ProposedUnixMs: time.Now().UnixMilli(), Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: cmd},
			})
			if err != nil {
				return fmt.Errorf("store task configs of %s: %w", cmd.Connector, err)
			}
			if r.Err == nil {
				l.Logger.Info("connector planned", "connector", cmd.Connector, "tasks", len(cmd.Configs))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
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

// assign moves units one step nearer to where they should be. now is what was there before the round began.
func (l *Loop) assign(ctx context.Context, now facts) (bool, error) {
	wants, changes := l.wants()
	settled := now.settled
	current := map[state.UnitID]string{}
	var units []assign.Unit
	var free []want
	for _, w := range wants {
		owner := w.now.Worker
		// I1: an owner that this leader has not heard of yet may be alive until the election is a lease ago, and so may be one that was
		// letting go of a unit when the last leader took it back, or its connector was deleted.
		if !settled && (owner == "" || !l.Sessions.Alive(owner) && !l.Sessions.Left(owner)) {
			continue
		}
		if owner != "" && l.Sessions.Alive(owner) {
			current[w.unit.ID] = owner
		}
		units = append(units, w.unit)
		free = append(free, w)
	}
	workers := l.workers(settled)
	plan := assign.Plan(workers, units, l.wishes(free, workers, current))
	budget := l.moves.begin(l, free)
	held := false
	for _, w := range free {
		u, owner, to := w.unit.ID, current[w.unit.ID], plan[w.unit.ID]
		a := &commandv1.Assignment{Unit: &commandv1.Unit{Connector: u.Connector, Task: u.Task}, Worker: to, ExpectedEpoch: w.now.Epoch}
		switch {
		case to == "" && w.now.Worker == "":
			continue // nobody may run it
		case owner != "" && owner == to && !w.fresh:
			continue // is where it should be
		case owner != "" && owner != to:
			if to != "" && !budget.take(u) {
				continue
			}
			a.Worker = "" // taken back first; given away when the old worker has let go
		case to != "" && l.Sessions.HeldElsewhere(u, to):
			held = true
			l.Sessions.Join(to) // should another plan give the unit away meanwhile, it gets a share all the same
			continue            // I1: a live worker has not let go yet
		}
		changes = append(changes, a)
	}
	if !held {
		l.joined(budget, workers)
	}
	if len(changes) == 0 {
		if !held {
			l.placed.Store(&now)
		}
		if len(l.moves.since) == 0 && !budget.waits && len(l.repairs) == 0 {
			l.rest = now
		}
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

func (l *Loop) facts() facts {
	now := facts{settled: l.settled()}
	now.sessions, now.live = l.Sessions.Version()
	l.View(func(s *state.State) { now.index = s.Index() })
	return now
}

// Placed reports whether no unit is on its way from one worker to another, as of now. Safe for use beside Run.
func (l *Loop) Placed() bool {
	p := l.placed.Load()
	return p != nil && *p == l.facts()
}

// settled reports whether all is known that a new leader must learn: each worker that is listed or owns something has said hello, or has had the
// time to.
func (l *Loop) settled() bool {
	if l.Sessions.Settled() {
		return true
	}
	all := true
	l.View(func(s *state.State) {
		for _, n := range s.Nodes() {
			all = all && (!n.Worker || l.Sessions.Known(n.Id))
		}
		for _, id := range s.Owners() {
			all = all && l.Sessions.Known(id)
		}
	})
	return all
}

// workers lists who may run units. A worker that is about to end is not among them, one that is drained is the last choice.
func (l *Loop) workers(settled bool) []assign.Worker {
	drained := map[string]bool{}
	l.View(func(s *state.State) {
		for _, n := range s.Nodes() {
			if s.Drained(n.Id) {
				drained[n.Id] = true
			}
		}
	})
	var out []assign.Worker
	for _, w := range l.Sessions.Workers() {
		id := w.Node.Id
		if l.moves.drained[id] && !drained[id] {
			l.Sessions.Join(id) // it has come back into use
			w.Joining = true
		}
		if !w.Draining {
			out = append(out, assign.Worker{
				ID: id, Labels: w.Node.Labels, Capacity: int(w.Node.Capacity), Drained: drained[id],
				// Shares are known when it is known what runs.
				Joining: w.Joining && settled,
			})
		}
	}
	l.moves.drained = drained
	return out
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
				unit: assign.Unit{ID: u, Labels: placement(c.Config), Weight: weight(c.Config, task)}, now: now, config: c.ConfigIndex,
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

// taskWeight is what a task weighs against a planning half, which does next to nothing.
const taskWeight = 10

// weight is what a unit costs its worker: for tasks by tasks.weight.
func weight(config map[string]string, task int32) int {
	if task == state.PlanningHalf {
		return 1
	}
	n, err := strconv.Atoi(strings.TrimSpace(config["tasks.weight"]))
	if err != nil {
		n = 1
	}
	return n * taskWeight
}
