package runner

import (
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// Wait names what a task waits for; status shows it when the task stalls.
type Wait string

// The waits.
const (
	WaitOpen     Wait = "connector open"
	WaitClose    Wait = "connector close"
	WaitSource   Wait = "source read"
	WaitPut      Wait = "sink put"
	WaitFlush    Wait = "sink flush"
	WaitConfirm  Wait = "source confirm"
	WaitConnect  Wait = "broker connection"
	WaitInput    Wait = "topic read"
	WaitBroker   Wait = "broker ack"
	WaitFunction Wait = "function"
	WaitLimit    Wait = "rate limit"
)

// PollSlice is how long a source's Poll may block before it is called anew: one that does not return then is deaf.
const PollSlice = 5 * time.Second

// HangError is the end of an attempt whose connector did not come back.
type HangError struct {
	On  Wait
	For time.Duration
}

// Error says what hangs, and for how long.
func (e *HangError) Error() string {
	return fmt.Sprintf("the connector hangs: %s has not returned for %v (task.hang.timeout.ms); the attempt was cut off", e.On, e.For.Round(time.Millisecond))
}

// PanicError is the end of an attempt that panicked.
type PanicError struct{ Value any }

// Error shows the panic's value; the stack is in the log.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Guard makes a panic of f its error (I9). Every goroutine on which a connector's code runs needs one: a panic on a goroutine of its own ends the
// process.
func Guard(log *slog.Logger, f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("task panicked", "panic", p, "stack", string(debug.Stack()))
				err = &PanicError{p}
			}
		}()
		return f()
	}
}

// Live is one attempt to run a unit: what it waits for, and what to cut when it is left behind. A nil Live is one that nobody watches.
// Safe for concurrent use.
type Live struct {
	up func()

	gone sync.Mutex // guards: left; taken before all other locks
	// left: cut off, and without effect from now on.
	left bool

	mu   sync.Mutex // guards: the rest; a leaf, since heartbeats wait for it
	next int
	ops  map[int]op
	cuts map[int]func()
	// calm is when there last was nothing to do, or something was done: a task stalls when that is long ago.
	calm time.Time
	// backlog: the source has more than it gives.
	backlog bool
	// retrying is why something is tried again in place; empty: nothing is.
	retrying string
}

type op struct {
	on    Wait
	since time.Time
	// code: it is the connector's, which is not trusted to come back.
	code bool
}

func newLive(up func()) *Live {
	return &Live{up: up, ops: map[int]op{}, cuts: map[int]func(){}, calm: time.Now()}
}

// Started reports that the unit is up.
func (l *Live) Started() {
	if l == nil {
		return
	}
	l.gone.Lock()
	defer l.gone.Unlock()
	if !l.left {
		l.up()
	}
}

// Enter notes that the attempt waits for something that has a limit of its own; what it returns ends that.
func (l *Live) Enter(w Wait) (leave func()) { return l.enter(op{on: w}) }

// Call is Enter for a call of the connector's code, which task.hang.timeout.ms bounds.
func (l *Live) Call(w Wait) (leave func()) { return l.enter(op{on: w, code: true}) }

func (l *Live) enter(o op) (leave func()) {
	if l == nil {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	id := l.next
	o.since = time.Now()
	l.ops[id] = o
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.ops, id)
	}
}

// Close closes a task, which may hang as any other call of it.
func (l *Live) Close(task interface{ Close() error }) {
	defer l.Call(WaitClose)()
	_ = task.Close()
}

// Backlog notes whether the source has more than it gives.
func (l *Live) Backlog(more bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.backlog = more
}

// Retrying notes why something is tried again in place; empty: nothing is. It reports whether that is news.
func (l *Live) Retrying(why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := (why == "") != (l.retrying == "")
	l.retrying = why
	return news
}

// moved notes that something was done.
func (l *Live) moved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calm = time.Now()
}

// OnCut registers f to be called when the attempt must have no further effect, though it may still be running. It returns a function
// that takes it back.
func (l *Live) OnCut(f func()) (undo func()) {
	if l == nil {
		return func() {}
	}
	l.gone.Lock()
	defer l.gone.Unlock()
	if l.left {
		f()
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	id := l.next
	l.cuts[id] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.cuts, id)
	}
}

// cut leaves the attempt behind (I9): it reports nothing more, and what it registered is cut.
func (l *Live) cut() {
	l.gone.Lock()
	defer l.gone.Unlock()
	l.left = true
	l.mu.Lock()
	cuts := slices.Collect(maps.Values(l.cuts))
	l.mu.Unlock()
	for _, f := range cuts {
		f()
	}
}

// look notes calm when there is nothing to do now. lag is the input still to do.
func (l *Live) look(paused bool, lag int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, busy := l.busy(paused, lag); !busy {
		l.calm = time.Now()
	}
}

// busy reports whether there is something to do, and what it waits for: the innermost thing.
func (l *Live) busy(paused bool, lag int64) (Wait, bool) {
	var on Wait
	newest := 0
	for id, o := range l.ops {
		switch o.on {
		case WaitLimit:
			return "", false // slow because it is told to be
		case WaitInput:
			if lag <= 0 || paused {
				continue
			}
		case WaitSource:
			// To wait for a quiet source is its business, unless it is deaf.
			if !l.backlog && time.Since(o.since) < 2*PollSlice {
				continue
			}
		case WaitOpen, WaitClose, WaitPut, WaitFlush, WaitConfirm, WaitConnect, WaitBroker, WaitFunction:
		}
		if id > newest {
			on, newest = o.on, id
		}
	}
	switch {
	case newest > 0:
		return on, true
	case paused:
		return "", false
	case l.backlog: // between two waits
		return WaitSource, true
	}
	return WaitInput, lag > 0
}

// calmSince returns when all was well last.
func (l *Live) calmSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calm
}

// hung returns what of the connector's own has not come back for longer than limit; nil: nothing.
func (l *Live) hung(limit time.Duration) *HangError {
	if limit <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.ops {
		patience := limit
		if o.on == WaitSource {
			patience += PollSlice // so long it may wait
		}
		if d := time.Since(o.since); o.code && d > patience {
			return &HangError{o.on, d}
		}
	}
	return nil
}

// retries returns why something is tried again in place.
func (l *Live) retries() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retrying
}

// stall is what status says when the attempt has not moved for longer than after.
func (l *Live) stall(after time.Duration, paused bool, lag int64) *clusterv1.Stall {
	if l == nil || after <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	on, busy := l.busy(paused, lag)
	if !busy || time.Since(l.calm) < after {
		return nil
	}
	return &clusterv1.Stall{WaitsFor: string(on), SinceUnixMs: l.calm.UnixMilli()}
}
