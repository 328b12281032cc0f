package runner

import (
	"context"

	"golang.org/x/time/rate"
)

// Throttle keeps a task to so many records a second; nil: no limit.
type Throttle struct {
	limit *rate.Limiter
	burst int
}

// NewThrottle makes one for n records a second, with a burst of one second; 0: no limit.
func NewThrottle(n int) *Throttle {
	if n <= 0 {
		return nil
	}
	return &Throttle{rate.NewLimiter(rate.Limit(n), n), n}
}

// Wait waits until n more records may pass.
func (t *Throttle) Wait(ctx context.Context, l *Live, n int) error {
	if t == nil {
		return nil
	}
	defer l.Enter(WaitLimit)()
	for n > 0 {
		part := min(n, t.burst)
		if err := t.limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// Cut is the largest number of records that should go on together, so that a low limit makes a steady stream, not one of gushes.
func (t *Throttle) Cut(n int) int {
	if t == nil {
		return n
	}
	return min(n, t.burst)
}
