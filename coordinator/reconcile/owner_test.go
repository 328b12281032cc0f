package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// proposer applies commands at once.
type proposer func(*commandv1.Command) state.Result

// Propose implements Proposer.
func (p proposer) Propose(_ context.Context, c *commandv1.Command) (state.Result, error) {
	return p(c), nil
}

// player is a worker that keeps the rules of leases and nothing else: it is slow to stop, is cut off for any time, and comes back.
type player struct {
	id    string
	lease time.Time // until when it may act
	runs  map[state.UnitID]uint64
	known bool // has a session
	cut   bool
}

// world is a cluster in which anything may happen at any time.
type world struct {
	t       *testing.T
	rand    *rand.Rand
	seed    uint64
	state   *state.State
	index   uint64
	reg     *session.Registry
	loop    *Loop
	players []*player
}

func (w *world) lead() {
	w.reg.Lead()
	w.loop = &Loop{
		View: func(f func(*state.State)) { f(w.state) }, Raft: proposer(w.apply), Sessions: w.reg, MovesMax: 2, Logger: slog.New(slog.DiscardHandler),
	}
	for _, p := range w.players {
		p.known = false
	}
}

func (w *world) apply(c *commandv1.Command) state.Result {
	w.index++
	return w.state.Apply(w.index, c)
}

// talk lets a worker do what a session does: hello if it is due, assignments, heartbeat.
func (w *world) talk(p *player) {
	if p.cut {
		return
	}
	sent := time.Now()
	if !p.known {
		h := &clusterv1.Hello{Node: &clusterv1.NodeInfo{Id: p.id, Worker: true}, BootId: p.id}
		for u, e := range p.runs {
			h.Running = append(h.Running, &clusterv1.Running{Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: e})
		}
		w.apply(&commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: &commandv1.Node{Id: p.id, Worker: true}}}})
		w.reg.Hello(h)
		p.known = true
	}
	p.lease = sent.Add(session.DefaultTiming().Lease)
	want := map[state.UnitID]uint64{}
	for _, a := range AssignmentsOf(w.state, p.id).Assignments {
		want[state.UnitID{Connector: a.Unit.Connector, Task: a.Unit.Task}] = a.Epoch
	}
	h := &clusterv1.Heartbeat{Draining: w.rand.IntN(20) == 0}
	say := func(u state.UnitID, epoch uint64, s clusterv1.State) {
		h.Statuses = append(h.Statuses, &clusterv1.UnitStatus{Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: epoch, State: s})
	}
	for _, u := range slices.SortedFunc(maps.Keys(p.runs), state.UnitID.Compare) { // in one order, so that a seed says it all
		epoch := p.runs[u]
		if want[u] != epoch && w.rand.IntN(2) == 0 {
			delete(p.runs, u)
			say(u, epoch, clusterv1.State_STATE_UNASSIGNED)
		}
	}
	for u, epoch := range want {
		if _, older := p.runs[u]; !older {
			p.runs[u] = epoch
		}
		say(u, p.runs[u], clusterv1.State_STATE_RUNNING)
	}
	if !w.reg.Heartbeat(p.id, p.id, h) {
		p.known = false
	}
}

// check: a worker whose lease is over has stopped; and no unit runs on two.
func (w *world) check(what string) {
	owner := map[state.UnitID]string{}
	for _, p := range w.players {
		if !time.Now().Before(p.lease) {
			clear(p.runs)
		}
		for u := range p.runs {
			if other := owner[u]; other != "" {
				w.t.Fatalf("I1, seed %d: %v runs on %s and on %s after: %s", w.seed, u, other, p.id, what)
			}
			owner[u] = p.id
		}
	}
}

func (w *world) step(what string) {
	name := fmt.Sprint("c", w.rand.IntN(3))
	p := w.players[w.rand.IntN(len(w.players))]
	switch what {
	case "talk":
		w.talk(p)
	case "reconcile":
		if _, err := w.loop.Step(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	case "time":
		time.Sleep(time.Duration(1+w.rand.IntN(2500)) * time.Millisecond)
	case "cut":
		p.cut = !p.cut
	case "new leader":
		w.lead()
	case "drain":
		w.apply(&commandv1.Command{Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: p.id, Drained: w.rand.IntN(2) == 0}}})
	case "put":
		w.apply(&commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name}}})
		cmd := &commandv1.PutTaskConfigs{Connector: name, ConfigIndex: w.index}
		for range 1 + w.rand.IntN(3) {
			cmd.Configs = append(cmd.Configs, &commandv1.TaskConfig{Config: map[string]string{"at": fmt.Sprint(w.index)}})
		}
		w.apply(&commandv1.Command{Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: cmd}})
	case "delete":
		w.apply(&commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: name}}})
	}
}

// I1: whatever happens, and in whatever order, a unit never runs on two workers that may act.
func TestNeverTwoOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(500) {
			neverTwoOwners(t, seed)
		}
	})
}

func neverTwoOwners(t *testing.T, seed uint64) {
	w := &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 0)), seed: seed, state: state.New(), reg: session.New(session.DefaultTiming(), func() {}),
	}
	for i := range 2 + w.rand.IntN(3) {
		w.players = append(w.players, &player{id: fmt.Sprint("w", i), runs: map[state.UnitID]uint64{}})
	}
	w.lead()
	w.step("put")
	steps := []string{
		"talk", "talk", "talk", "talk", "talk", "talk", "reconcile", "reconcile", "reconcile", "time", "cut", "new leader", "drain", "put", "delete",
	}
	for range 100 {
		what := steps[w.rand.IntN(len(steps))]
		w.step(what)
		w.check(what)
	}
}
