package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// rig is the loop over a real state and a real registry, with workers that are played by hand.
type rig struct {
	t     *testing.T
	state *state.State
	index uint64
	reg   *session.Registry
	loop  *Loop
	// runs is what each worker runs, with epochs.
	runs map[string]map[state.UnitID]uint64
	seq  uint64
	// most is the largest number of running units that were without a worker at once.
	most int
}

func newRig(t *testing.T, movesMax int) *rig {
	r := &rig{t: t, state: state.New(), runs: map[string]map[state.UnitID]uint64{}}
	r.reg = session.New(session.DefaultTiming(), func() {})
	r.reg.Lead()
	r.loop = &Loop{
		View: func(f func(*state.State)) { f(r.state) }, Raft: r, Sessions: r.reg, MovesMax: movesMax, Logger: slog.New(slog.DiscardHandler),
	}
	return r
}

// Propose implements Proposer.
func (r *rig) Propose(_ context.Context, c *commandv1.Command) (state.Result, error) {
	r.index++
	res := r.state.Apply(r.index, c)
	if res.Err != nil {
		r.t.Fatal(res.Err)
	}
	return res, nil
}

func (r *rig) apply(c *commandv1.Command) {
	if _, err := r.Propose(r.t.Context(), c); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) worker(id string) {
	n := &clusterv1.NodeInfo{Id: id, Worker: true}
	r.apply(&commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: &commandv1.Node{Id: id, Worker: true}}}})
	r.reg.Hello(&clusterv1.Hello{Node: n, BootId: id})
	r.runs[id] = map[state.UnitID]uint64{}
}

func (r *rig) connector(name string, tasks int, config map[string]string) {
	r.apply(&commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name, Config: config}}})
	p := &commandv1.PutTaskConfigs{Connector: name, ConfigIndex: r.index}
	for range tasks {
		p.Configs = append(p.Configs, &commandv1.TaskConfig{Config: config})
	}
	r.apply(&commandv1.Command{Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: p}})
}

// beat lets each worker do what its assignments say and report it, with what else the heartbeat says.
func (r *rig) beat(more map[string]*clusterv1.Heartbeat) {
	r.seq++
	for id, runs := range r.runs {
		want := map[state.UnitID]uint64{}
		for _, a := range AssignmentsOf(r.state, id).Assignments {
			want[state.UnitID{Connector: a.Unit.Connector, Task: a.Unit.Task}] = a.Epoch
		}
		h := &clusterv1.Heartbeat{Seq: r.seq}
		if x := more[id]; x != nil {
			h.Draining, h.Leaving = x.Draining, x.Leaving
		}
		say := func(u state.UnitID, epoch uint64, s clusterv1.State) {
			h.Statuses = append(h.Statuses, &clusterv1.UnitStatus{Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: epoch, State: s})
		}
		for u, epoch := range runs {
			if want[u] != epoch {
				delete(runs, u)
				say(u, epoch, clusterv1.State_STATE_UNASSIGNED)
			}
		}
		for u, epoch := range want {
			for other, theirs := range r.runs {
				if _, both := theirs[u]; both && other != id {
					r.t.Fatalf("I1: %v runs on %s and %s", u, other, id)
				}
			}
			runs[u] = epoch
			say(u, epoch, clusterv1.State_STATE_RUNNING)
		}
		r.reg.Heartbeat(id, id, h)
	}
}

// settle runs the loop and the workers until nothing changes any more.
func (r *rig) settle(more map[string]*clusterv1.Heartbeat) {
	r.beat(more)
	for range 1000 {
		changed := false
		for {
			c, err := r.loop.Step(r.t.Context())
			if err != nil {
				r.t.Fatal(err)
			}
			if !c {
				break
			}
			changed = true
			r.most = max(r.most, r.homeless())
		}
		before := fmt.Sprint(r.runs)
		r.beat(more)
		if !changed && before == fmt.Sprint(r.runs) {
			return
		}
		time.Sleep(every)
	}
	r.t.Fatal("no rest")
}

func (r *rig) homeless() int {
	n := 0
	for _, a := range r.state.Assignments() {
		if a.Worker == "" {
			n++
		}
	}
	return n
}

func (r *rig) count(worker string) (tasks int) {
	for u := range r.runs[worker] {
		if u.Task != state.PlanningHalf {
			tasks++
		}
	}
	return tasks
}

func (r *rig) running() string { return fmt.Sprint(r.runs) }

// A worker that joins gets its share, a few units at a time; one that is drained gives all away likewise, and gets its share again afterwards.
func TestJoinAndDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.worker("a")
		for i := range 6 {
			r.connector(fmt.Sprint("c", i), 2, nil)
		}
		r.settle(nil)
		if r.count("a") != 12 {
			t.Fatalf("12 tasks, %s", r.running())
		}
		r.most = 0
		r.worker("b")
		r.settle(nil)
		if r.count("a") != 6 || r.count("b") != 6 || r.most > 2 {
			t.Fatalf("after b joined, with %d on the move at most: %s", r.most, r.running())
		}
		drain := func(on bool) {
			r.apply(&commandv1.Command{Protocol: 2, Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: "a", Drained: on}}})
			if r.loop.Placed() {
				t.Error("all is said to be in its place before anybody has looked")
			}
			if _, err := r.loop.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r.loop.Placed() {
				t.Error("units are on their way, and said to be in their place")
			}
			if r.settle(nil); !r.loop.Placed() {
				t.Error("all is in its place, and said not to be")
			}
		}
		r.most = 0
		drain(true)
		if len(r.runs["a"]) != 0 || r.count("b") != 12 || r.most > 2 {
			t.Fatalf("a is drained, with %d on the move at most: %s", r.most, r.running())
		}
		drain(false)
		if r.count("a") != 6 || r.count("b") != 6 {
			t.Fatalf("a is back: %s", r.running())
		}
	})
}

// The last worker keeps its units though it is drained, for nobody else can run them; when it ends it lets go of all.
func TestDrainTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 8)
		r.worker("a")
		r.connector("c", 3, nil)
		r.settle(nil)
		r.apply(&commandv1.Command{Protocol: 2, Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: "a", Drained: true}}})
		before := r.running()
		r.settle(nil)
		if r.running() != before {
			t.Fatalf("drained without another worker: %s", r.running())
		}
		r.settle(map[string]*clusterv1.Heartbeat{"a": {Draining: true}})
		if len(r.runs["a"]) != 0 {
			t.Fatalf("a is about to end: %s", r.running())
		}
	})
}

// A worker that ends moves its units to the others while it still runs the rest.
func TestEndOfAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.worker("a")
		r.worker("b")
		r.connector("c", 6, nil)
		r.settle(nil)
		r.most = 0
		r.settle(map[string]*clusterv1.Heartbeat{"a": {Draining: true}})
		if len(r.runs["a"]) != 0 || r.count("b") != 6 || r.most > 1 {
			t.Fatalf("with %d on the move at most: %s", r.most, r.running())
		}
	})
}

// I1: a new leader that hears from a unit's next worker before it has heard from the last one gives the unit to nobody until it has, or a lease is over.
func TestNewLeaderInTheMiddleOfAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 8)
		r.worker("a")
		r.connector("c", 1, nil)
		r.settle(nil)
		r.worker("b")
		u := state.UnitID{Connector: "c", Task: 0}
		now, _ := r.state.Assignment(u)
		r.apply(&commandv1.Command{Kind: &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: []*commandv1.Assignment{{
			Unit: &commandv1.Unit{Connector: "c", Task: 0}, ExpectedEpoch: now.Epoch,
		}}}}})
		r.reg.Lead()
		r.reg.Hello(&clusterv1.Hello{Node: &clusterv1.NodeInfo{Id: "b"}, BootId: "b"})
		if _, err := r.loop.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, _ := r.state.Assignment(u); a.Worker != "" {
			t.Fatalf("given to %s while a may still run it", a.Worker)
		}
		r.reg.Hello(&clusterv1.Hello{Node: &clusterv1.NodeInfo{Id: "a"}, BootId: "a", Running: []*clusterv1.Running{
			{Unit: &clusterv1.Unit{Connector: "c", Task: 0}, Epoch: now.Epoch},
		}})
		r.settle(nil)
		if r.count("a")+r.count("b") != 1 {
			t.Fatalf("%s", r.running())
		}
	})
}

// Adding, changing and deleting connectors restarts no unit of another, however uneven that leaves the load.
func TestConnectorsDoNotDisturbEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 8)
		r.worker("a")
		r.worker("b")
		for i := range 4 {
			r.connector(fmt.Sprint("c", i), 3, nil)
		}
		r.settle(nil)
		epochs := func() map[string][]string {
			out := map[string][]string{}
			for w, units := range r.runs {
				for u, e := range units {
					out[u.Connector] = append(out[u.Connector], fmt.Sprintf("%v on %s, epoch %d", u, w, e))
				}
			}
			for _, list := range out {
				slices.Sort(list)
			}
			return out
		}
		before := epochs()
		same := func(what string, names ...string) {
			t.Helper()
			r.settle(nil)
			after := epochs()
			for _, n := range names {
				if !slices.Equal(before[n], after[n]) {
					t.Errorf("%s: %s was %v and is %v", what, n, before[n], after[n])
				}
			}
		}
		r.connector("heavy", 5, map[string]string{"tasks.weight": "50"})
		same("added", "c0", "c1", "c2", "c3")
		r.connector("heavy", 1, map[string]string{"tasks.weight": "2"})
		same("changed", "c0", "c1", "c2", "c3")
		for _, n := range []string{"heavy", "c0", "c1"} {
			r.apply(&commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: n}}})
		}
		same("deleted", "c2", "c3")
	})
}
