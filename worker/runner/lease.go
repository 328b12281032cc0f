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
type Lease struct {
	// clock carries the monotonic reading that the others are measured from.
	clock  time.Time
	until  atomic.Int64
	faults Faults
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

// Extend makes the lease run for d from sent, the moment when the message was *sent* that has been answered. It never shortens it.
func (l *Lease) Extend(sent time.Time, d time.Duration) {
	if r := l.faults.ClockRate; r != 0 {
		d = time.Duration(float64(d) / r)
	}
	until := int64(sent.Sub(l.clock) + d)
	for {
		old := l.until.Load()
		if until <= old || l.until.CompareAndSwap(old, until) {
			return
		}
	}
}

// Valid reports whether the worker may act now. Loops ask right before each side effect.
func (l *Lease) Valid() bool { return l.faults.Lawless || l.now() < l.until.Load() }

// Left is how long the lease still runs; negative when it is over.
func (l *Lease) Left() time.Duration { return time.Duration(l.until.Load() - l.now()) }

// Check returns ErrLeaseLost unless the lease runs.
func (l *Lease) Check() error {
	if !l.Valid() {
		return ErrLeaseLost
	}
	return nil
}
