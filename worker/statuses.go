package worker

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/runner"
)

// statuses is what the next heartbeats have to say. Safe for concurrent use.
type statuses struct {
	left chan struct{}
	wake chan struct{}

	mu      sync.Mutex // guards: the rest
	version uint64
	acked   uint64
	byUnit  map[unitKey]entry
	// unsaid are the units whose status the leader may not have yet.
	unsaid   map[unitKey]struct{}
	progress map[unitKey]*runner.Progress
	turns    []unitKey                       // of progress, in the order in which they are looked at
	turn     int                             // who is next
	said     map[unitKey]*clusterv1.Progress // in this session, last
	planned  map[string]planned
	answers  []answer
	draining bool
	leaving  bool
	gone     bool
}

// answer to a signal, until the leader has it.
type answer struct {
	r       *clusterv1.SignalResult
	version uint64
}

type entry struct {
	s       *clusterv1.UnitStatus
	version uint64
}

// planned is what a planning half has answered.
type planned struct {
	p       *clusterv1.Planned
	version uint64
}

func newStatuses() *statuses {
	return &statuses{
		left: make(chan struct{}), wake: make(chan struct{}, 1), byUnit: map[unitKey]entry{}, unsaid: map[unitKey]struct{}{}, progress: map[unitKey]*runner.Progress{},
		planned: map[string]planned{}, said: map[unitKey]*clusterv1.Progress{},
	}
}

func (s *statuses) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statuses) set(st *clusterv1.UnitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := keyOf(st.Unit)
	if old, ok := s.byUnit[k]; ok && old.s.Epoch > st.Epoch {
		return // a straggler of an epoch that is over
	} else if ok && old.s.Epoch == st.Epoch && st.Audit == nil {
		st.Audit = old.s.Audit
	}
	s.put(k, st)
	s.poke()
}

// put stores a status, with mu held.
func (s *statuses) put(k unitKey, st *clusterv1.UnitStatus) {
	s.version++
	s.byUnit[k] = entry{st, s.version}
	s.unsaid[k] = struct{}{}
}

// audit adds what the auditor has found to the status of the planning half. The next heartbeat takes it along.
func (s *statuses) audit(k unitKey, epoch uint64, a *clusterv1.Audit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.byUnit[k]
	if !ok || old.s.Epoch != epoch {
		return
	}
	st := proto.CloneOf(old.s)
	st.Audit = a
	s.put(k, st)
}

func (s *statuses) track(k unitKey, p *runner.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.progress, k)
		delete(s.said, k)
		s.turns = slices.DeleteFunc(s.turns, func(x unitKey) bool { return x == k })
		return
	}
	if s.progress[k] == nil {
		s.turns = append(s.turns, k)
	}
	s.progress[k] = p
}

func (s *statuses) plan(connector string, p *clusterv1.Planned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.planned, connector)
		return
	}
	s.version++
	s.planned[connector] = planned{p, s.version}
	s.poke()
}

func (s *statuses) answer(r *clusterv1.SignalResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.answers = append(s.answers, answer{r, s.version})
	s.poke()
}

func (s *statuses) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.poke()
}

func (s *statuses) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.poke()
}

// resend makes the next heartbeat say everything: a new leader knows nothing.
func (s *statuses) resend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = 0
	for k := range s.byUnit {
		s.unsaid[k] = struct{}{}
	}
	clear(s.said)
}

// confirm notes that the leader has all up to version.
func (s *statuses) confirm(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, version)
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.version <= version })
}

// looks is how many units' progress a heartbeat looks at, at least; with more than five times as many units each has its turn within five heartbeats.
const looks = 50

// heartbeat builds one that says what the leader has not confirmed yet, and returns the version that its answer will confirm. One with progress
// also says how far tasks are, those that have got further since it was last said.
func (s *statuses) heartbeat(progress bool) (*clusterv1.Heartbeat, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &clusterv1.Heartbeat{Draining: s.draining, Leaving: s.leaving}
	for _, k := range slices.SortedFunc(maps.Keys(s.unsaid), unitKey.compare) {
		e, p := s.byUnit[k], s.progress[k]
		if e.version <= s.acked {
			delete(s.unsaid, k)
			if p == nil && e.s.State == clusterv1.State_STATE_UNASSIGNED {
				delete(s.byUnit, k) // confirmed, and over
			}
			continue
		}
		var now *clusterv1.Progress
		if p != nil {
			now = p.Message()
		}
		s.say(h, k, now)
	}
	if progress {
		s.further(h)
	}
	for _, c := range slices.Sorted(maps.Keys(s.planned)) {
		if p := s.planned[c]; p.version > s.acked {
			h.Planned = append(h.Planned, p.p)
		}
	}
	for _, a := range s.answers {
		h.Signals = append(h.Signals, a.r)
	}
	return h, s.version
}

// further adds to a heartbeat what those have got done whose turn it is.
func (s *statuses) further(h *clusterv1.Heartbeat) {
	for range min(max(looks, len(s.turns)/5+1), len(s.turns)) {
		s.turn = (s.turn + 1) % len(s.turns)
		k := s.turns[s.turn]
		if _, said := s.unsaid[k]; said || s.byUnit[k].s == nil {
			continue
		}
		if now := s.progress[k].Message(); !proto.Equal(now, s.said[k]) {
			s.say(h, k, now)
		}
	}
}

// say adds a unit's status to a heartbeat.
func (s *statuses) say(h *clusterv1.Heartbeat, k unitKey, now *clusterv1.Progress) {
	if now != nil {
		s.said[k] = now
	}
	st := proto.CloneOf(s.byUnit[k].s)
	st.Progress = now
	h.Statuses = append(h.Statuses, st)
}

func (s *statuses) confirmLeft() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving && !s.gone {
		s.gone = true
		close(s.left)
	}
}
