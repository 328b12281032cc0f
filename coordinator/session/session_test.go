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
