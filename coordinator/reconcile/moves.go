package reconcile

import (
	"time"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// moves remembers which units this leader has taken from live workers and that do not run elsewhere yet, so that a few move at a time and each
// has a short pause. Owned by (*Loop).Run; a new leader begins with none.
type moves struct {
	since   map[state.UnitID]time.Time
	drained map[string]bool // workers, as of the last round
}

// moveLimit is when a move that does not come to an end, such as of a task that fails to start, no longer holds up others.
const moveLimit = 10 * time.Second

// budget is what a round may take back.
type budget struct {
	m    *moves
	left int
	// waits: a unit would have moved and may not yet.
	waits bool
}

// begin forgets the moves that are over.
func (m *moves) begin(l *Loop, wants []want) *budget {
	still := map[state.UnitID]time.Time{}
	for _, w := range wants {
		u := w.unit.ID
		if t, moving := m.since[u]; moving && time.Since(t) < moveLimit && !up(l, w) {
			still[u] = t
		}
	}
	m.since = still
	limit := l.MovesMax
	if limit == 0 {
		limit = 8
	}
	return &budget{m: m, left: limit - len(still)}
}

// up reports whether a unit has arrived: its worker says how it is under the newest epoch.
func up(l *Loop, w want) bool {
	s, ok := l.Sessions.Status(w.unit.ID)
	if !ok || w.now.Worker == "" || s.Epoch != w.now.Epoch {
		return false
	}
	switch s.State {
	case clusterv1.State_STATE_RUNNING, clusterv1.State_STATE_PAUSED, clusterv1.State_STATE_STOPPED, clusterv1.State_STATE_FAILED:
		return true
	default:
		return false
	}
}

func (b *budget) take(u state.UnitID) bool {
	if b.left <= 0 {
		b.waits = true
		return false
	}
	b.left--
	b.m.since[u] = time.Now()
	return true
}

// joined ends the joining of workers when nothing moves any more: they have their share. Of those only that the plan knew: one that has said hello
// since has had none.
func (l *Loop) joined(b *budget, planned []assign.Worker) {
	if b.waits || len(l.moves.since) > 0 {
		return
	}
	for _, w := range planned {
		if w.Joining {
			l.Sessions.Joined(w.ID)
		}
	}
}
