package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

func hello(id, boot string, running ...*clusterv1.Running) *clusterv1.Hello {
	return &clusterv1.Hello{Node: &clusterv1.NodeInfo{Id: id}, BootId: boot, Running: running}
}

var unit0 = &clusterv1.Unit{Connector: "c", Task: 0}

// I1: the leader waits the whole lease and its margin, also for workers that it has not heard of since its election.
func TestLeases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		timing := DefaultTiming()
		r := New(timing, func() {})
		r.Lead()
		if r.Settled() {
			t.Error("a fresh leader takes silent workers for dead at once")
		}
		r.Hello(hello("w1", "b1", &clusterv1.Running{Unit: unit0, Epoch: 7}))
		u := state.UnitID{Connector: "c", Task: 0}
		if !r.HeldElsewhere(u, "w2") || r.HeldElsewhere(u, "w1") {
			t.Error("what the hello said that it runs is not taken as held")
		}
		time.Sleep(timing.Lease)
		if !r.Alive("w1") {
			t.Error("the lease ended before its margin")
		}
		time.Sleep(timing.Margin)
		if r.Alive("w1") || !r.Left("w1") || !r.Settled() || r.HeldElsewhere(u, "w2") {
			t.Error("the lease has no end")
		}
		if r.Heartbeat("w1", "other", &clusterv1.Heartbeat{Seq: 1}) {
			t.Error("a heartbeat of another boot was taken")
		}
		if !r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Seq: 1}) || !r.Alive("w1") {
			t.Error("a heartbeat does not renew")
		}
	})
}

// A unit counts as held until its worker says that it has let go.
func TestHolding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		news := 0
		r := New(DefaultTiming(), func() { news++ })
		r.Lead()
		r.Hello(hello("w1", "b1"))
		u := state.UnitID{Connector: "c", Task: 0}
		r.Hold("w1", u, 5)
		if !r.HeldElsewhere(u, "w2") {
			t.Error("given, but not held")
		}
		before := news
		r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{{Unit: unit0, Epoch: 5, State: clusterv1.State_STATE_UNASSIGNED}}})
		if r.HeldElsewhere(u, "w2") || news == before {
			t.Error("let go, but still held, or nobody was told")
		}
		r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{{Unit: unit0, Epoch: 9, State: clusterv1.State_STATE_RUNNING}}})
		r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{{Unit: unit0, Epoch: 8, State: clusterv1.State_STATE_FAILED}}})
		if s, _ := r.Status(u); s.Epoch != 9 {
			t.Errorf("a status of an older epoch won: %v", s)
		}
	})
}

// A second process with the same id is refused while the first lives; a restarted one is taken.
func TestSameID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := New(DefaultTiming(), func() {})
		r.Lead()
		r.Hello(hello("w1", "b1"))
		if r.Hello(hello("w1", "b2")) {
			t.Error("two live processes with one id")
		}
		r.Closed("w1", "b1")
		if !r.Hello(hello("w1", "b2")) {
			t.Error("a restarted process is refused")
		}
		r.Heartbeat("w1", "b2", &clusterv1.Heartbeat{Leaving: true})
		if r.Alive("w1") {
			t.Error("left, but alive")
		}
	})
}

// A worker is joining while its process is young, whoever leads, until it has its share.
func TestJoining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := New(DefaultTiming(), func() {})
		joining := func(id string) bool {
			for _, w := range r.Workers() {
				if w.Node.Id == id {
					return w.Joining
				}
			}
			t.Fatalf("%s is not there", id)
			return false
		}
		r.Lead()
		young := hello("young", "b1")
		young.UpMs = time.Minute.Milliseconds()
		old := hello("old", "b1")
		old.UpMs = time.Hour.Milliseconds()
		r.Hello(young)
		r.Hello(old)
		if !joining("young") || joining("old") {
			t.Error("joining is not a matter of the process's age")
		}
		r.Joined("young")
		r.Hello(young)
		if joining("young") {
			t.Error("it has its share, and begins to join again with a new session")
		}
		r.Hello(hello("young", "b2"))
		if r.Join("old"); !joining("old") {
			t.Error("back in use, but not joining")
		}
	})
}

// A worker whose lease was over has lost its units, though its process is the same, and joins anew. One that only opens a new session has not.
func TestJoinsAfterLostLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		timing := DefaultTiming()
		r := New(timing, func() {})
		r.Lead()
		old := hello("w", "b")
		old.UpMs = time.Hour.Milliseconds()
		for _, step := range []struct {
			away time.Duration
			want bool
		}{
			{0, false}, {timing.Lease + timing.Margin - 1, false}, {timing.Lease + timing.Margin, true},
		} {
			time.Sleep(step.away)
			r.Hello(old)
			if got := r.Workers()[0].Joining; got != step.want {
				t.Errorf("away for %v: joining %v, want %v", step.away, got, step.want)
			}
		}
		r.Joined("w")
		time.Sleep(timing.Lease + timing.Margin)
		r.Heartbeat("w", "b", &clusterv1.Heartbeat{}) // its session has outlasted a partition
		if r.Hello(old); !r.Workers()[0].Joining {
			t.Error("a heartbeat after the lease and before the hello has hidden that the lease was over")
		}
	})
}

// A worker that is about to end, and one that has said that it does.
func TestDrainingAndLeaving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		news := 0
		r := New(DefaultTiming(), func() { news++ })
		r.Lead()
		r.Hello(hello("w1", "b1"))
		before, _ := r.Version()
		r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Draining: true})
		after, live := r.Version()
		if w := r.Workers(); !w[0].Draining || after == before || live != 1 || news != 2 {
			t.Errorf("%+v, version %d after %d, %d live, told %d times", w[0], after, before, live, news)
		}
		r.Hello(hello("w1", "b1"))
		if !r.Workers()[0].Draining {
			t.Error("a new session forgot that the worker is about to end")
		}
		r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Leaving: true})
		if !r.Left("w1") || !r.Known("w1") || r.Alive("w1") {
			t.Error("it has left, and a leader that is not settled waits for it all the same")
		}
	})
}

// A unit that was given and taken back before the worker saw it is a stray until the worker says, with that epoch, that it does not run it. What it
// says of an older epoch frees nothing that it was given since.
func TestStrays(t *testing.T) {
	r := New(DefaultTiming(), func() {})
	r.Lead()
	n := &clusterv1.NodeInfo{Id: "n1"}
	if !r.Hello(&clusterv1.Hello{Node: n, BootId: "b"}) {
		t.Fatal("hello was refused")
	}
	u := state.UnitID{Connector: "c", Task: 1}
	r.Hold("n1", u, 7)
	none := func(state.UnitID) bool { return false }
	if got := r.Strays("n1", "b", func(state.UnitID) bool { return true }); len(got) != 0 {
		t.Errorf("its own unit is a stray: %v", got)
	}
	if got := r.Strays("n1", "b", none); len(got) != 1 || got[0].Epoch != 7 {
		t.Fatalf("strays %v", got)
	}
	free := func(epoch uint64) {
		r.Heartbeat("n1", "b", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{{
			Unit: &clusterv1.Unit{Connector: "c", Task: 1}, Epoch: epoch, State: clusterv1.State_STATE_UNASSIGNED,
		}}})
	}
	if free(5); !r.HeldElsewhere(u, "n2") {
		t.Error("what was said of an older epoch has freed the unit")
	}
	if free(7); r.HeldElsewhere(u, "n2") || len(r.Strays("n1", "b", none)) != 0 {
		t.Error("the unit is held though the worker has said that it does not run it")
	}
}

// What a worker is sent is held for it, though its hello, which was sent before, does not name it.
func TestHoldAll(t *testing.T) {
	r := New(DefaultTiming(), func() {})
	r.Lead()
	u := state.UnitID{Connector: "c", Task: 1}
	r.Hello(hello("w1", "b1"))
	set := &clusterv1.Assignments{Assignments: []*clusterv1.Assignment{{Unit: &clusterv1.Unit{Connector: "c", Task: 1}, Epoch: 7}}}
	if r.HoldAll("w1", "older", set); r.HeldElsewhere(u, "w2") {
		t.Error("held for a process that is gone")
	}
	if r.HoldAll("w1", "b1", set); !r.HeldElsewhere(u, "w2") {
		t.Error("sent, but not held")
	}
}
