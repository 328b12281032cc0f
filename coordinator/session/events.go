package session

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// Event is one line of a connector's log: what became of a unit. Like the statuses that it is drawn from it is soft state: a new leader
// begins a new log.
type Event struct {
	At     time.Time
	Task   int32
	Worker string
	Epoch  uint64
	Kind   EventKind
	// Attempt and Limit count failures in a row; Detail says more, for people.
	Attempt, Limit int32
	Detail         string
}

// EventKind is what happened.
type EventKind string

// The kinds, in the order of the ladder of repair.
const (
	EventStarting    EventKind = "STARTING"
	EventRunning     EventKind = "RUNNING"
	EventPaused      EventKind = "PAUSED"
	EventStalled     EventKind = "STALLED"
	EventMoving      EventKind = "MOVES ON" // a stall is over
	EventRetrying    EventKind = "RETRYING" // in place
	EventFailed      EventKind = "FAILED"   // will try again
	EventHung        EventKind = "HUNG"
	EventPanicked    EventKind = "PANICKED"
	EventRelocated   EventKind = "MOVED" // taken to another worker
	EventQuarantined EventKind = "QUARANTINED"
)

// maxEvents of one connector are kept (I8).
const maxEvents = 200

// note adds an event, with mu held.
func (r *Registry) note(connector string, e Event) {
	e.At = time.Now()
	list := append(r.events[connector], e)
	if len(list) > maxEvents {
		list = slices.Delete(list, 0, len(list)-maxEvents)
	}
	r.events[connector] = list
}

// Relocated notes that a unit is taken from a worker so that another one tries.
func (r *Registry) Relocated(u state.UnitID, from, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(u.Connector, Event{Task: u.Task, Worker: from, Kind: EventRelocated, Detail: why})
}

// Events returns what has happened to a connector's units under this leader, oldest first.
func (r *Registry) Events(connector string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events[connector])
}

// tell draws an event from how a unit's status has changed: from what is told, not from what was done, so that a status that was lost or
// merged leaves the log true.
func (r *Registry) tell(worker string, old, now *clusterv1.UnitStatus) {
	e := Event{Task: now.Unit.GetTask(), Worker: worker, Epoch: now.Epoch, Attempt: now.Attempts, Limit: now.MaxAttempts}
	anew := old == nil || old.Epoch != now.Epoch || old.State != now.State
	add := func(k EventKind, detail string) {
		e.Kind, e.Detail = k, detail
		r.note(now.Unit.GetConnector(), e)
	}
	switch now.State {
	case clusterv1.State_STATE_RESTARTING:
		if anew {
			add(EventStarting, "")
		}
	case clusterv1.State_STATE_RUNNING:
		if anew {
			add(EventRunning, "")
		}
	case clusterv1.State_STATE_PAUSED:
		if anew {
			add(EventPaused, "")
		}
	case clusterv1.State_STATE_FAILED:
		if anew || old.Attempts != now.Attempts {
			add(failure(now))
		}
	case clusterv1.State_STATE_UNSPECIFIED, clusterv1.State_STATE_UNASSIGNED, clusterv1.State_STATE_STOPPED:
	}
	if stall, before := now.GetProgress().GetStall(), old.GetProgress().GetStall(); (stall == nil) != (before == nil) {
		switch {
		case stall != nil:
			add(EventStalled, "waits for "+stall.WaitsFor)
		case now.State == clusterv1.State_STATE_RUNNING && !anew:
			add(EventMoving, "")
		}
	}
	if why := now.GetProgress().GetRetrying(); why != "" && old.GetProgress().GetRetrying() == "" {
		add(EventRetrying, why)
	}
}

// failure is the event of a failed unit.
func failure(s *clusterv1.UnitStatus) (EventKind, string) {
	first, _, _ := strings.Cut(s.Trace, "\n")
	if s.RetryAtUnixMs == 0 {
		if s.Failure == "" && (s.MaxAttempts == 0 || s.Attempts < s.MaxAttempts) {
			return EventQuarantined, first + " (not a failure that passes by itself: mend the cause, then restart it)"
		}
		return EventQuarantined, fmt.Sprintf("%s (%d times in a row: mend the cause, then restart it)", first, s.Attempts)
	}
	detail := fmt.Sprintf("%s; tries again in %v", first, max(0, time.Until(time.UnixMilli(s.RetryAtUnixMs))).Round(100*time.Millisecond))
	switch s.Failure {
	case "hang":
		return EventHung, detail
	case "panic":
		return EventPanicked, detail
	}
	return EventFailed, detail
}
