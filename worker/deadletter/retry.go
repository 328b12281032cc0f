package deadletter

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/connectors"
)

// Retry is errors.retry.*: for how long a task itself tries again what failed but may pass. What still fails then is the runner's, which
// restarts the task.
type Retry struct {
	// For is errors.retry.timeout; 0: not at all, negative: for ever.
	For time.Duration
	// MaxDelay is errors.retry.delay.max.ms.
	MaxDelay time.Duration
	// Note is told why something is tried again, and nil when that is over. Optional.
	Note func(why error)
}

// firstDelay is Kafka Connect's.
const firstDelay = 300 * time.Millisecond

// Do calls f until it succeeds, fails for good, the time is over or ctx ends.
func (r Retry) Do(ctx context.Context, f func() error) error {
	began := time.Now()
	note := func(why error) {
		if r.Note != nil {
			r.Note(why)
		}
	}
	defer note(nil)
	for delay := firstDelay; ; delay *= 2 {
		err := f()
		if err == nil || !connectors.IsRetriable(err) || ctx.Err() != nil {
			return err
		}
		wait := delay
		if wait >= r.MaxDelay {
			// As Connect does: beyond the cap, at random below it, so that many tasks do not try in step.
			delay = r.MaxDelay
			wait = rand.N(r.MaxDelay + 1)
		}
		if r.For >= 0 && time.Since(began)+wait > r.For {
			return err
		}
		note(err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
