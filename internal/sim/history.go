package sim

import (
	"fmt"
	"sync"
	"time"
)

// unit is a task of a connector.
type unit struct {
	connector string
	task      int
}

// act is something that a task did.
type act struct {
	at    time.Duration // since the start of the run
	what  string
	node  string
	unit  unit
	epoch uint64
}

func (a act) String() string {
	return fmt.Sprintf("%8v %s %s-%d epoch %d %s", a.at.Round(time.Millisecond), a.node, a.unit.connector, a.unit.task, a.epoch, a.what)
}

// history is what was done, and what of it broke a promise. Safe for concurrent use.
type history struct {
	start time.Time

	mu     sync.Mutex // guards: the rest
	owners map[unit]act
	acts   int
	notes  []string
	broken []string
	hashes map[uint64]seen // of the state, by log index
}

type seen struct{ node, hash string }

func newHistory() *history {
	return &history{start: time.Now(), owners: map[unit]act{}, hashes: map[uint64]seen{}}
}

func (h *history) since() time.Duration { return time.Since(h.start) }

// note adds a line for who looks into a failure.
func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes = append(h.notes, fmt.Sprintf("%8v %s", h.since().Round(time.Millisecond), fmt.Sprintf(format, args...)))
}

// violate notes a broken promise; of many, the first ones.
func (h *history) violate(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.broken) < 10 {
		h.broken = append(h.broken, fmt.Sprintf("%8v ", h.since().Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// do notes an act. I1: once an owner has acted, nobody acts with an older epoch, at whatever time the older one was made.
func (h *history) do(what, node string, u unit, epoch uint64) {
	a := act{h.since(), what, node, u, epoch}
	h.mu.Lock()
	last, ok := h.owners[u]
	h.acts++
	if !ok || epoch >= last.epoch {
		h.owners[u] = a
	}
	if epoch > last.epoch {
		h.notes = append(h.notes, a.String())
	}
	h.mu.Unlock()
	switch {
	case ok && epoch < last.epoch:
		h.violate("I1: two owners: %v, after %v", a, last)
	case ok && epoch == last.epoch && node != last.node:
		h.violate("I1: one epoch on two nodes: %v, after %v", a, last)
	}
}

// state notes the hash of a node's state. I6: the same log makes the same state.
func (h *history) state(node string, index uint64, hash string) {
	h.mu.Lock()
	before, ok := h.hashes[index]
	if !ok {
		h.hashes[index] = seen{node, hash}
	}
	h.mu.Unlock()
	if ok && before.hash != hash {
		h.violate("I6: at index %d the state of %s is %s and that of %s %s", index, node, hash, before.node, before.hash)
	}
}
