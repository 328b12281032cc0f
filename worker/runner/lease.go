package runner

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrLeaseLost: this worker may not act for the cluster at the moment.
var ErrLeaseLost = errors.New("the worker's lease has run out: the leader has not been heard for too long")

// Lease is the time until which this worker may act (I1). It runs on the process's monotonic clock, which goes on while the
// process is stopped by a signal, so a worker that wakes up after its lease sees at once that it is over. One that has run out is over: the
// next one is another term, and nothing that was begun under the old one may go on under it.
type Lease struct {
	// clock carries the monotonic reading that the others are measured from.
	clock  time.Time
	faults Faults

	mu    sync.Mutex   // for writing: both below
	term  atomic.Int64 // moves on before until does
	until atomic.Int64 // 0: not granted
}

// Faults are for internal/sim only: a clock that runs wrong, and parts that are broken on purpose, so that its checks are known to see what
// they are for. The zero value is a sound worker.
type Faults struct {
	// ClockRate is how fast the worker's clock runs; 0 and 1: as the others'.
	ClockRate float64
	// Lawless: the worker goes on when its lease is over.
	Lawless bool
	// StaleEpoch: the worker goes on under the epoch that it has when it is given a newer one.
	StaleEpoch bool
	// OffsetFirst: the source offset is committed before its records.
	OffsetFirst bool
}

// NewLease returns a lease that does not run yet.
func NewLease(f Faults) *Lease { return &Lease{clock: time.Now(), faults: f} }

func (l *Lease) now() int64 { return int64(time.Since(l.clock)) }

// Term names the lease that runs, or the next one.
func (l *Lease) Term() int64 { return l.term.Load() }

// Extend makes the lease of a term run for d from sent, the moment when the message was *sent* that has been answered. It never shortens it. It
// reports false when that lease has run out: the answer came too late, whatever it says.
func (l *Lease) Extend(term int64, sent time.Time, d time.Duration) bool {
	if r := l.faults.ClockRate; r != 0 {
		d = time.Duration(float64(d) / r)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term.Load() != term || l.over() {
		return false
	}
	l.until.Store(max(l.until.Load(), int64(sent.Sub(l.clock)+d)))
	return true
}

func (l *Lease) over() bool {
	until := l.until.Load()
	return until != 0 && l.now() >= until && !l.faults.Lawless
}

// Lapsed reports, once for each term, that its lease has run out, and begins the next term.
func (l *Lease) Lapsed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over() {
		return false
	}
	l.term.Add(1)
	l.until.Store(0)
	return true
}

// Valid reports whether the worker may act now.
func (l *Lease) Valid() bool { return l.faults.Lawless || l.now() < l.until.Load() }

// Left is how long the lease still runs; negative when it is over.
func (l *Lease) Left() time.Duration { return time.Duration(l.until.Load() - l.now()) }

// Hold returns the lease of the present term, for a unit that begins.
func (l *Lease) Hold() *Held { return &Held{l, l.Term()} }

// Held is the lease of one term.
type Held struct {
	lease *Lease
	term  int64
}

// Check returns ErrLeaseLost unless the lease runs and has run all the time. Loops ask right before each side effect.
func (h *Held) Check() error {
	if !h.lease.Valid() || h.lease.Term() != h.term {
		return ErrLeaseLost
	}
	return nil
}
