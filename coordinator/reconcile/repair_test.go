package reconcile

import (
	"log/slog"
	"maps"
	"testing"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// cluster is four workers, a unit on three of them, and what the units say.
type cluster struct {
	*Loop
	epoch uint64
	at    map[state.UnitID]string
	index uint64
}

func newCluster() *cluster {
	c := &cluster{
		Loop: &Loop{Sessions: session.New(session.DefaultTiming(), func() {}), Logger: slog.New(slog.DiscardHandler), repairs: repairs{}},
		at:   map[state.UnitID]string{unit("a"): "w1", unit("b"): "w2", unit("c"): "w3"}, epoch: 1, index: 1,
	}
	c.Sessions.Lead()
	for _, id := range []string{"w1", "w2", "w3", "w4"} {
		c.Sessions.Hello(&clusterv1.Hello{Node: &clusterv1.NodeInfo{Id: id}, BootId: "x"})
	}
	return c
}

func unit(connector string) state.UnitID { return state.UnitID{Connector: connector} }

func (c *cluster) say(connector string, move bool) {
	s := &clusterv1.UnitStatus{Unit: &clusterv1.Unit{Connector: connector}, Epoch: c.epoch, State: clusterv1.State_STATE_RUNNING}
	if move {
		s.State, s.Move, s.Attempts, s.RetryAtUnixMs = clusterv1.State_STATE_FAILED, true, 3, 1
	}
	c.Sessions.Heartbeat(c.at[unit(connector)], "x", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{s}})
}

// round does what the plan says, at once.
func (c *cluster) round() {
	var wants []want
	for u, w := range c.at {
		x := want{unit: assign.Unit{ID: u}, now: state.Assignment{Worker: w, Epoch: c.epoch}, config: c.index}
		if u == unit("a") {
			x.unit.Labels = map[string]string{"disk": "ssd"}
		}
		wants = append(wants, x)
	}
	workers := []assign.Worker{{ID: "w1", Labels: ssd}, {ID: "w2", Labels: ssd}, {ID: "w3"}, {ID: "w4", Labels: ssd}}
	maps.Copy(c.at, c.wishes(wants, workers, c.at))
}

var ssd = map[string]string{"disk": "ssd"}

// A unit that keeps failing goes once around the workers that may run it and whose own units do well, and then stays; a new config gives it a
// new go.
func TestRepair(t *testing.T) {
	t.Parallel()
	c := newCluster()
	c.round()
	if c.at[unit("a")] != "w1" {
		t.Fatalf("a unit that does well was moved to %s", c.at[unit("a")])
	}
	c.say("a", true)
	c.round()
	if got := c.at[unit("a")]; got != "w4" { // the emptiest; w3 has not its label
		t.Fatalf("moved to %s, want w4", got)
	}
	c.epoch++
	c.round() // nothing is heard of it yet
	c.say("a", true)
	c.round()
	if got := c.at[unit("a")]; got != "w2" {
		t.Fatalf("then moved to %s, want w2", got)
	}
	c.epoch++
	c.say("a", true)
	c.round()
	if got := c.at[unit("a")]; got != "w2" {
		t.Errorf("all have tried, and it was moved to %s", got)
	}
	c.index++
	c.say("a", true)
	c.round()
	if got := c.at[unit("a")]; got == "w2" {
		t.Error("a new config got no new go")
	}
}

// Where many fail the cause is not the place: nothing moves to a worker whose own units ask for another.
func TestRepairInAnOutage(t *testing.T) {
	t.Parallel()
	c := newCluster()
	c.at[unit("d")] = "w4"
	for _, x := range []string{"a", "b", "c"} {
		c.say(x, true)
	}
	c.say("d", true)
	before := maps.Clone(c.at)
	c.round()
	if !maps.Equal(before, c.at) {
		t.Errorf("units moved from %v to %v", before, c.at)
	}
}
