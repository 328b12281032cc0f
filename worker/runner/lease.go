package runner

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrLeaseLost: this worker may not act for the cluster at the moment.
var ErrLeaseLost = errors.New("the worker's lease has run out: the leader has not been heard for too long")

// Lease is the time until which this worker may act (I1). It runs on the process's monotonic clock, which goes on while the
// process is stopped by a signal, so a worker that wakes up after its lease sees at once that it is over.
type Lease struct{ until atomic.Int64 }

var clock = time.Now() // carries the monotonic reading that the others are measured from

func now() int64 { return int64(time.Since(clock)) }

// Extend makes the lease run for d from sent, the moment when the message was *sent* that has been answered. It never shortens it.
func (l *Lease) Extend(sent time.Time, d time.Duration) {
	until := int64(sent.Sub(clock) + d)
	for {
		old := l.until.Load()
		if until <= old || l.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// Valid reports whether the worker may act now. Loops ask right before each side effect.
func (l *Lease) Valid() bool { return now() < l.until.Load() }

// Left is how long the lease still runs; negative when it is over.
func (l *Lease) Left() time.Duration { return time.Duration(l.until.Load() - now()) }

// Check returns ErrLeaseLost unless the lease runs.
func (l *Lease) Check() error {
	if !l.Valid() {
		return ErrLeaseLost
	}
	return nil
}
