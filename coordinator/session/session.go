// Package session holds the leader's side of the workers' sessions: leases, what runs where, status.
//
// It is soft state: a new leader starts with an empty Registry and learns from the hellos. A Registry is safe for concurrent
// use; nothing in it blocks. Time is this process's monotonic clock only.
package session

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// Timing of leases. The same on all nodes of a cluster.
type Timing struct {
	// Lease is how long a worker may act after it sent a heartbeat that was answered.
	Lease time.Duration
	// Margin is what the leader waits beyond the lease, for clocks that do not run alike.
	Margin time.Duration
	// Heartbeat is the interval between heartbeats.
	Heartbeat time.Duration
}

// NewTiming makes a Timing whose margin is an eighth of the lease: clocks may differ in speed by so much.
func NewTiming(lease, heartbeat time.Duration) Timing {
	return Timing{Lease: lease, Margin: lease / 8, Heartbeat: heartbeat}
}

// DefaultTiming moves a dead worker's tasks after 1.7 s, and survives an election in between heartbeats.
func DefaultTiming() Timing { return NewTiming(1500*time.Millisecond, 200*time.Millisecond) }

// Registry knows the workers of this leadership.
type Registry struct {
	timing  Timing
	changed func() // with mu held

	mu      sync.Mutex // guards: the rest
	since   time.Time  // when this leadership began
	leading bool
	workers map[string]*worker
	left    map[string]bool // said that they end
	// status by unit, of whichever worker reported the highest epoch.
	status  map[state.UnitID]*clusterv1.UnitStatus
	planned map[string]*clusterv1.Planned
	// events by connector.
	events map[string][]Event
	// waiting are the signals that were sent and not answered yet, by id.
	waiting map[uint64]chan string
	signals uint64
	version uint64
}

type worker struct {
	node  *clusterv1.NodeInfo
	boot  string
	seen  time.Time
	stale int // sessions opened and not yet closed
	// holds: units that the worker runs or may still run, with their epochs.
	holds map[state.UnitID]uint64
	// out are signals that the session is to send.
	out chan *clusterv1.Signal
	// young is the time up to which the worker counts as joining, unless it has its share before.
	young time.Time
	// draining: it is about to end.
	draining bool
}

// Worker is a worker with a lease.
type Worker struct {
	Node *clusterv1.NodeInfo
	// Joining: its process is young and has not had its share of the units yet.
	Joining bool
	// Draining: it is about to end, and its units are to move.
	Draining bool
}

// joinTime is how long a new process counts as joining. It outlasts a change of the leader, who learns a worker's age from its hello.
const joinTime = 10 * time.Minute

// New makes a registry. changed is called when something happened that a reconcile loop wants to know; it must not block.
func New(t Timing, changed func()) *Registry {
	r := &Registry{timing: t}
	r.changed = func() {
		r.version++
		changed()
	}
	r.reset()
	return r
}

func (r *Registry) reset() {
	r.workers, r.left = map[string]*worker{}, map[string]bool{}
	r.status = map[state.UnitID]*clusterv1.UnitStatus{}
	r.planned = map[string]*clusterv1.Planned{}
	r.events = map[string][]Event{}
	r.waiting = map[uint64]chan string{}
}

// Lead begins a leadership: everything learnt in an earlier one is forgotten.
func (r *Registry) Lead() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reset()
	r.leading, r.since = true, time.Now()
}

// Step ends a leadership.
func (r *Registry) Step() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading = false
}

// Hello opens a session. It returns false when another process with the same id is alive.
func (r *Registry) Hello(h *clusterv1.Hello) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := h.GetNode().GetId()
	old := r.workers[id]
	if old != nil && old.boot != h.BootId && time.Since(old.seen) < 2*r.timing.Heartbeat && old.stale > 0 {
		return false
	}
	w := &worker{node: h.Node, boot: h.BootId, seen: time.Now(), stale: 1, holds: map[state.UnitID]uint64{}, out: make(chan *clusterv1.Signal, 16)}
	if old != nil && old.boot == h.BootId {
		w.stale = old.stale + 1
	}
	w.young = w.seen.Add(joinTime - time.Duration(h.UpMs)*time.Millisecond)
	if old != nil && old.boot == h.BootId {
		w.draining = old.draining
		// One whose lease was over has lost its units, and gets its share again as a new one does.
		if w.young = old.young; w.seen.Sub(old.seen) >= r.timing.Lease+r.timing.Margin {
			w.young = w.seen.Add(joinTime)
		}
	}
	for _, run := range h.Running {
		w.holds[unitID(run.Unit)] = run.Epoch
	}
	r.workers[id] = w
	delete(r.left, id)
	r.changed()
	return true
}

// Closed notes that one of a worker's session streams has ended. Its lease goes on.
func (r *Registry) Closed(id, boot string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.workers[id]; w != nil && w.boot == boot {
		w.stale--
	}
}

// Heartbeat renews a lease and takes in what it brings. It returns false when the worker must say hello again.
func (r *Registry) Heartbeat(id, boot string, h *clusterv1.Heartbeat) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[id]
	if w == nil || w.boot != boot || !r.leading {
		return false
	}
	now := time.Now()
	if now.Sub(w.seen) >= r.timing.Lease+r.timing.Margin {
		w.young = now.Add(joinTime) // as in Hello
	}
	w.seen = now
	news := false
	for _, s := range h.Statuses {
		news = r.take(w, s) || news
	}
	for _, p := range h.Planned {
		if old := r.planned[p.Connector]; old == nil || old.ConfigIndex != p.ConfigIndex || old.Epoch != p.Epoch {
			r.planned[p.Connector] = p
			news = true
		}
	}
	for _, s := range h.Signals {
		if c := r.waiting[s.Id]; c != nil {
			delete(r.waiting, s.Id)
			c <- s.Error // has room for it
		}
	}
	if h.Draining && !w.draining {
		w.draining, news = true, true
	}
	if h.Leaving {
		delete(r.workers, id)
		r.left[id] = true
		news = true
	}
	if news {
		r.changed()
	}
	return true
}

// ErrNotRunning means that no live worker runs the unit.
var ErrNotRunning = errors.New("no worker runs the task now")

// Signal has the worker that runs a unit hand a signal to its task, and waits for the answer until ctx ends.
func (r *Registry) Signal(ctx context.Context, u state.UnitID, kind, data string) error {
	r.mu.Lock()
	var to *worker
	for id, w := range r.workers {
		if _, held := w.holds[u]; held && r.alive(id) {
			to = w
		}
	}
	if to == nil || !r.leading {
		r.mu.Unlock()
		return ErrNotRunning
	}
	r.signals++
	id, done := r.signals, make(chan string, 1)
	r.waiting[id] = done
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, id)
		r.mu.Unlock()
	}()
	sig := &clusterv1.Signal{Id: id, Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Type: kind, Data: data}
	select {
	case to.out <- sig:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case msg := <-done:
		if msg != "" {
			return errors.New(msg)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Signals is where a session finds the signals that it is to send.
func (r *Registry) Signals(id, boot string) <-chan *clusterv1.Signal {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.workers[id]; w != nil && w.boot == boot {
		return w.out
	}
	return nil
}

// take stores a status. It reports whether the reconcile loop should look.
func (r *Registry) take(w *worker, s *clusterv1.UnitStatus) bool {
	u := unitID(s.Unit)
	news := false
	if s.State != clusterv1.State_STATE_UNASSIGNED {
		w.holds[u] = max(w.holds[u], s.Epoch)
	} else if epoch, held := w.holds[u]; held && s.Epoch >= epoch { // I1: it may have been given the unit again meanwhile
		delete(w.holds, u)
		news = true
	}
	// I1: a status of an older epoch says nothing about the unit any more.
	if old := r.status[u]; old == nil || s.Epoch >= old.Epoch {
		r.tell(w.node.GetId(), old, s)
		news = news || s.Move != old.GetMove() || newTopics(old.GetProgress(), s.GetProgress())
		r.status[u] = s
	}
	return news
}

// newTopics reports whether a task has used topics that it had not used before, or counts them anew.
func newTopics(old, now *clusterv1.Progress) bool {
	return old.GetTopicsSince() != now.GetTopicsSince() || !slices.Equal(old.GetTopics(), now.GetTopics())
}

// Hold notes that a worker was given a unit: from now on it may run, whatever it reports.
func (r *Registry) Hold(id string, u state.UnitID, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.workers[id]; w != nil {
		w.holds[u] = max(w.holds[u], epoch)
	}
}

// HoldAll notes that a worker is about to be sent a set of units.
func (r *Registry) HoldAll(id, boot string, set *clusterv1.Assignments) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[id]
	if w == nil || w.boot != boot {
		return
	}
	for _, a := range set.Assignments {
		u := unitID(a.Unit)
		w.holds[u] = max(w.holds[u], a.Epoch)
	}
}

// Strays returns the units that a worker may still run though they are no longer its own.
func (r *Registry) Strays(id, boot string, owns func(state.UnitID) bool) []*clusterv1.Running {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[id]
	if w == nil || w.boot != boot {
		return nil
	}
	var out []*clusterv1.Running
	for u, epoch := range w.holds {
		if !owns(u) {
			out = append(out, &clusterv1.Running{Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: epoch})
		}
	}
	return out
}

// Alive reports whether a worker's lease may still run. After a leader change every worker that the log names as an owner is alive until
// its lease, counted from the election, is over (I1).
func (r *Registry) Alive(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alive(id)
}

func (r *Registry) alive(id string) bool {
	limit := r.timing.Lease + r.timing.Margin
	if w := r.workers[id]; w != nil {
		return time.Since(w.seen) < limit
	}
	return false
}

// Settled reports whether workers that have not said hello to this leader can be taken for dead.
func (r *Registry) Settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leading && time.Since(r.since) >= r.timing.Lease+r.timing.Margin
}

// Left reports whether the worker is known to have no lease: it said hello to this leader before and is gone.
func (r *Registry) Left(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.workers[id]
	return known && !r.alive(id) || r.left[id]
}

// HeldElsewhere reports whether a live worker other than id may still run the unit.
func (r *Registry) HeldElsewhere(u state.UnitID, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for wid, w := range r.workers {
		if _, held := w.holds[u]; held && wid != id && r.alive(wid) {
			return true
		}
	}
	return false
}

// Runs reports whether a live worker may still run a task of the connector.
func (r *Registry) Runs(connector string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, w := range r.workers {
		for u := range w.holds {
			if u.Connector == connector && u.Task != state.PlanningHalf && r.alive(id) {
				return true
			}
		}
	}
	return false
}

// Known reports whether the worker has said hello to this leader.
func (r *Registry) Known(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[id] != nil || r.left[id]
}

// Workers returns the workers with a lease, sorted by id.
func (r *Registry) Workers() []Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Worker
	for id, w := range r.workers {
		if r.alive(id) {
			out = append(out, Worker{Node: w.node, Joining: time.Now().Before(w.young), Draining: w.draining})
		}
	}
	slices.SortFunc(out, func(a, b Worker) int { return cmp.Compare(a.Node.Id, b.Node.Id) })
	return out
}

// Version grows with all that changes here, but for leases that run out: their number is the second value.
func (r *Registry) Version() (version uint64, live int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.workers {
		if r.alive(id) {
			live++
		}
	}
	return r.version, live
}

// Join begins the time in which a worker gets its share of what others run; Joined ends it.
func (r *Registry) Join(id string) { r.setYoung(id, time.Now().Add(joinTime)) }

// Joined ends the time of joining: the worker has its share.
func (r *Registry) Joined(id string) { r.setYoung(id, time.Time{}) }

func (r *Registry) setYoung(id string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.workers[id]; w != nil {
		w.young = until
	}
}

// Planned returns what a connector's planning half last answered.
func (r *Registry) Planned(connector string) *clusterv1.Planned {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.planned[connector]
}

// Status returns the last status of a unit.
func (r *Registry) Status(u state.UnitID) (*clusterv1.UnitStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.status[u]
	return s, ok
}

// Forget drops what is known of units and plans of connectors that no longer exist, so that memory is bounded by what is (I8).
func (r *Registry) Forget(exists func(connector string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.status, func(u state.UnitID, _ *clusterv1.UnitStatus) bool { return !exists(u.Connector) })
	maps.DeleteFunc(r.planned, func(c string, _ *clusterv1.Planned) bool { return !exists(c) })
	maps.DeleteFunc(r.events, func(c string, _ []Event) bool { return !exists(c) })
}

func unitID(u *clusterv1.Unit) state.UnitID {
	return state.UnitID{Connector: u.GetConnector(), Task: u.GetTask()}
}
