package reconcile

import (
	"slices"

	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Feed makes of the state what the session of a worker sends: the whole set that it is to run, and from then on what has changed in it. A
// thousand changes of a set of a thousand units would be a million units otherwise. A Feed belongs to one goroutine.
type Feed struct {
	Worker string
	// Whole: the worker knows nothing of changes, and gets the whole set whenever it differs.
	Whole bool

	sent  map[state.UnitID]sight // nil: nothing yet
	round uint64
}

// sight is all that an assignment is made of, as the worker saw it last. Connectors and lists of voids are immutable, so it is enough to compare which ones
// they are.
type sight struct {
	epoch     uint64
	connector *state.Connector
	voids     []state.Void
	round     uint64
}

// Next returns what to send; nil: nothing is new.
func (f *Feed) Next(s *state.State) *clusterv1.Assignments {
	first := f.sent == nil
	if first {
		f.sent = map[state.UnitID]sight{}
	}
	f.round++
	out := &clusterv1.Assignments{Index: s.Index(), Change: !first}
	units := 0
	s.Owned(f.Worker, func(a state.Assignment) {
		c, ok := s.Connector(a.Unit.Connector)
		if !ok || !due(c, a) {
			return
		}
		units++
		now := sight{a.Epoch, c, s.Voids(c.Name), f.round}
		was, known := f.sent[a.Unit]
		f.sent[a.Unit] = now
		if !known || was.epoch != now.epoch || was.connector != now.connector || !slices.Equal(was.voids, now.voids) {
			out.Assignments = append(out.Assignments, message(c, a, now.voids))
		}
	})
	if len(f.sent) > units {
		for u, seen := range f.sent {
			if seen.round != f.round {
				delete(f.sent, u)
				out.Removed = append(out.Removed, &clusterv1.Unit{Connector: u.Connector, Task: u.Task})
			}
		}
	}
	switch {
	case !first && len(out.Assignments) == 0 && len(out.Removed) == 0:
		return nil
	case f.Whole:
		return AssignmentsOf(s, f.Worker)
	}
	return out
}

// AssignmentsOf is the whole set that a worker is to run.
func AssignmentsOf(s *state.State, worker string) *clusterv1.Assignments {
	out := &clusterv1.Assignments{Index: s.Index()}
	s.Owned(worker, func(a state.Assignment) {
		if c, ok := s.Connector(a.Unit.Connector); ok && due(c, a) {
			out.Assignments = append(out.Assignments, message(c, a, s.Voids(c.Name)))
		}
	})
	return out
}

// due reports whether the worker is to run the unit now. One that is on its way out, or waits for its new epoch, is not: the old config must not run under
// the new one's name.
func due(c *state.Connector, a state.Assignment) bool {
	return a.Unit.Task == state.PlanningHalf || int(a.Unit.Task) < len(c.TaskConfigs) && a.Epoch >= c.Generation
}

func message(c *state.Connector, a state.Assignment, voids []state.Void) *clusterv1.Assignment {
	x := &clusterv1.Assignment{
		Unit: &clusterv1.Unit{Connector: a.Unit.Connector, Task: a.Unit.Task}, Epoch: a.Epoch,
		TargetState: clusterv1.TargetState(c.Target), Config: c.Config, ConfigIndex: c.ConfigIndex, TaskCount: int32(len(c.TaskConfigs)),
	}
	if a.Unit.Task == state.PlanningHalf {
		x.PlanWanted = c.PlannedIndex != c.ConfigIndex && c.Target != commandv1.TargetState_TARGET_STATE_STOPPED
		return x
	}
	x.Config, x.TopicsSince = c.TaskConfigs[a.Unit.Task], c.TopicsSince
	for _, v := range voids {
		x.VoidOffsets = append(x.VoidOffsets, &clusterv1.VoidOffset{Topic: v.Topic, Partition: v.Partition, Below: v.Below})
	}
	return x
}
