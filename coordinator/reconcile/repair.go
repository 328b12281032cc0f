package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// repairs is the leader's rung of the ladder of repair: a unit that fails again and again where it is, and may do better elsewhere, goes to a
// worker that has not tried it. The rungs below (try again) and above (quarantine) are the worker's. Each worker gets one go, so a unit that
// nobody can run comes to rest. Owned by (*Loop).Run; a new leader begins with none.
type repairs map[state.UnitID]*trial

// trial is what a unit has gone through under one config.
type trial struct {
	config uint64
	failed []string // workers that have tried
	target string   // the worker that is to try next; empty: it is on its way no more
	well   time.Time
}

// wellFor is how long a unit must do well before its trial is forgotten and it may go around again.
const wellFor = 10 * time.Minute

// wishes returns where units are to be taken to be by the plan: where they are, but those under repair at their next worker.
func (l *Loop) wishes(wants []want, workers []assign.Worker, current map[state.UnitID]string) map[state.UnitID]string {
	asks := map[string]int{} // units by worker that ask for another
	for _, w := range wants {
		if s := l.status(w); s.GetMove() {
			asks[w.now.Worker]++
		}
	}
	out := maps.Clone(current)
	known := map[state.UnitID]bool{}
	for _, w := range wants {
		u, owner := w.unit.ID, current[w.unit.ID]
		known[u] = true
		t := l.repairs[u]
		s := l.status(w)
		if t != nil && (t.config != w.config || t.over(s)) {
			delete(l.repairs, u)
			t = nil
		}
		if s.GetMove() && owner != "" && (t == nil || t.target == "" || t.target == owner) {
			t = l.relocate(w, owner, s, workers, asks, current)
		}
		if t != nil && t.target != "" && t.target != owner && slices.ContainsFunc(workers, func(x assign.Worker) bool { return x.ID == t.target }) {
			out[u] = t.target
		}
	}
	maps.DeleteFunc(l.repairs, func(u state.UnitID, _ *trial) bool { return !known[u] })
	return out
}

// status is what a unit's worker says of it under its newest epoch; nil: nothing.
func (l *Loop) status(w want) *clusterv1.UnitStatus {
	if s, ok := l.Sessions.Status(w.unit.ID); ok && s.Epoch == w.now.Epoch {
		return s
	}
	return nil
}

// over notes how the unit does, and reports whether it has done well for long enough.
func (t *trial) over(s *clusterv1.UnitStatus) bool {
	if s.GetState() != clusterv1.State_STATE_RUNNING || s.GetAttempts() > 0 || s.GetProgress().GetStall() != nil {
		t.well = time.Time{}
		return false
	}
	if t.well.IsZero() {
		t.well = time.Now()
	}
	return time.Since(t.well) > wellFor
}

// relocate picks the next worker for a unit: the one with the fewest units among those that may run it, have not tried it and have none that
// asks for another worker itself, since where many fail the cause is not the place. Without one the unit stays.
func (l *Loop) relocate(w want, owner string, s *clusterv1.UnitStatus, workers []assign.Worker, asks map[string]int, current map[state.UnitID]string) *trial {
	t := l.repairs[w.unit.ID]
	if t == nil {
		t = &trial{config: w.config}
		l.repairs[w.unit.ID] = t
	}
	if !slices.Contains(t.failed, owner) {
		t.failed = append(t.failed, owner)
	}
	t.target = ""
	load := map[string]int{}
	for _, id := range current {
		load[id]++
	}
	for _, x := range workers {
		if x.Drained || slices.Contains(t.failed, x.ID) || asks[x.ID] > 0 || !has(x.Labels, w.unit.Labels) {
			continue
		}
		if t.target == "" || load[x.ID] < load[t.target] {
			t.target = x.ID
		}
	}
	if t.target != "" {
		l.Sessions.Relocated(w.unit.ID, owner, fmt.Sprintf("failed %d times in a row there; %s is to try", s.GetAttempts(), t.target))
		l.Logger.Warn("a unit keeps failing and is moved", "unit", w.unit.ID.String(), "from", owner, "to", t.target)
	}
	return t
}

func has(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}
