package runner

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Turns has tasks connect a few at a time. A thousand that start together would keep the process from its heartbeats, and the brokers busy with all of them
// while none is up; one after the other they are up as soon, and the first ones at once. Safe for concurrent use; nil: all at a time.
type Turns struct{ sem *semaphore.Weighted }

const (
	// turnsMax are enough to keep the processors busy while each waits for a broker.
	turnsMax = 16
	// turnLimit is how long one may have its turn: a sick one must not hold up others (I9).
	turnLimit = time.Second
)

// NewTurns makes one.
func NewTurns() *Turns { return &Turns{semaphore.NewWeighted(turnsMax)} }

// Connect waits for the task's turn to connect to the brokers; what it returns ends it. Status says meanwhile what the task waits for.
func (d Deps) Connect(ctx context.Context) (connected func(), err error) {
	leave := d.Live.Enter(WaitConnect)
	if d.Turns == nil {
		return leave, nil
	}
	if err := d.Turns.sem.Acquire(ctx, 1); err != nil {
		leave()
		return nil, err
	}
	var once sync.Once
	over := func() { once.Do(func() { d.Turns.sem.Release(1) }) }
	limit := time.AfterFunc(turnLimit, over)
	return func() {
		limit.Stop()
		over()
		leave()
	}, nil
}
