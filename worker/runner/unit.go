package runner

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// ErrAgain, returned by an attempt, means: nothing is wrong, begin anew at once (the input's partitions changed).
var ErrAgain = errors.New("begin anew")

// Attempt runs the unit once, until ctx ends or it fails. It calls live.Started when it is up. When ctx has ended it has no further
// effect, whenever the code that it called comes back.
type Attempt func(ctx context.Context, live *Live) error

// Policy says when a failed unit is tried again by itself.
type Policy struct {
	// Attempts in a row, for failures that may pass; 0: without limit. Crashes is the same for hangs and panics.
	Attempts, Crashes int
	// Move is how many failures in a row make the unit ask for another worker; 0: never.
	Move int
	// Backoff grows from Min to Max, with jitter.
	Min, Max time.Duration
	// Grace is how long an attempt may take to end once it is told to.
	Grace time.Duration
	// Stall is after how long without a move status says so; Hang after how long the connector is taken to hang; 0: never.
	Stall, Hang time.Duration
}

// Unit is one unit that this worker runs.
type Unit struct {
	Connector string
	Task      int32
	Epoch     uint64
	Gate      *Gate
	Progress  *Progress
	Policy    Policy
	Logger    *slog.Logger
	// Report is called with each new state; it must not block.
	Report func(*clusterv1.UnitStatus)

	mu sync.Mutex // guards: the rest
	// failures in a row; crashes are those of them that were hangs and panics.
	failures, crashes int
	last              *clusterv1.UnitStatus
}

// Retriable reports whether a failure may pass by itself.
func Retriable(err error) bool {
	return connectors.IsRetriable(err) || kafka.Retriable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kafka.ErrFenced)
}

// Run runs the unit until ctx ends. When it returns, the unit has ended or was cut off.
func (u *Unit) Run(ctx context.Context, attempt Attempt) {
	for {
		u.report(func(s *clusterv1.UnitStatus) {
			s.State, s.RetryAtUnixMs, s.Move = clusterv1.State_STATE_RESTARTING, 0, false
		})
		err := u.once(ctx, attempt)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrAgain) {
			continue
		}
		if err == nil {
			err = errors.New("the task ended by itself")
		}
		if !u.fail(ctx, err) {
			return
		}
	}
}

// fail is the ladder of repair as far as it goes here: another try after a while, word to the leader that another worker should
// try, and at the limit quarantine: the unit stays failed until somebody acts. It returns false when ctx ended first.
func (u *Unit) fail(ctx context.Context, err error) bool {
	kind := crash(err)
	u.mu.Lock()
	u.failures++
	failures, n, limit, again := u.failures, u.failures, u.Policy.Attempts, Retriable(err)
	if kind != "" {
		u.crashes++
		n, limit, again = u.crashes, u.Policy.Crashes, true
	}
	u.mu.Unlock()
	st := func(s *clusterv1.UnitStatus) {
		s.State, s.Trace, s.Failure, s.Attempts, s.MaxAttempts = clusterv1.State_STATE_FAILED, trace(err), kind, int32(n), int32(limit)
	}
	if !again || limit > 0 && n >= limit {
		u.Logger.Error("task failed", "err", err, "attempt", n, "limit", limit)
		u.report(st)
		<-ctx.Done()
		return false
	}
	wait := backoff(u.Policy, failures)
	u.Logger.Warn("task failed, will try again", "err", err, "attempt", n, "limit", limit, "in", wait.Round(time.Millisecond))
	u.report(func(s *clusterv1.UnitStatus) {
		st(s)
		s.RetryAtUnixMs, s.Move = time.Now().Add(wait).UnixMilli(), u.Policy.Move > 0 && failures >= u.Policy.Move
	})
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// crash names the kind of failure that the task's code did not answer for itself; empty: it was an ordinary error.
func crash(err error) string {
	if _, ok := errors.AsType[*HangError](err); ok {
		return "hang"
	}
	if _, ok := errors.AsType[*PanicError](err); ok {
		return "panic"
	}
	return ""
}

func backoff(p Policy, failures int) time.Duration {
	d := p.Min
	for range failures - 1 {
		if d *= 2; d >= p.Max {
			d = p.Max
			break
		}
	}
	return d/2 + rand.N(d/2+1)
}

// once runs one attempt on its own goroutine, catches its panic, and leaves it behind when it hangs or does not end (I9).
func (u *Unit) once(ctx context.Context, attempt Attempt) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	live := newLive(u.Up)
	u.Progress.follow(live, u.Policy.Stall, u.Gate)
	done := make(chan error, 1)
	guarded := Guard(u.Logger, func() error { return attempt(run, live) })
	go func() { done <- guarded() }()
	began := time.Now()
	tick := time.NewTicker(u.Policy.tick())
	defer tick.Stop()
	var why error
	for why == nil {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			why = ctx.Err()
		case <-tick.C:
			live.look(u.Gate.Paused(), u.Progress.lag.Load())
			// One that does well for a while has a clean slate.
			if live.calmSince().Sub(began) > u.Policy.Max {
				u.forgive()
			}
			if h := live.hung(u.Policy.Hang); h != nil {
				why = h
			}
		}
	}
	cancel()
	select {
	case err := <-done:
		u.Logger.Debug("attempt ended as it was told to", "err", err)
	case <-time.After(u.Policy.Grace):
		live.cut()
		u.Logger.Error("task did not stop in time and was cut off", "grace", u.Policy.Grace)
	}
	return why
}

// forgive forgets the failures of a unit that is up.
func (u *Unit) forgive() {
	u.mu.Lock()
	failed := u.failures > 0 && u.up()
	if failed {
		u.failures, u.crashes = 0, 0
	}
	u.mu.Unlock()
	if failed {
		u.Up()
	}
}

// tick is how often an attempt is looked at.
func (p Policy) tick() time.Duration {
	d := time.Second
	for _, limit := range []time.Duration{p.Stall, p.Hang} {
		if limit > 0 {
			d = min(d, max(limit/4, 10*time.Millisecond))
		}
	}
	return d
}

// trace is what status shows: the cause on the first line, which is all that many tools show.
func trace(err error) string {
	text := err.Error()
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// Up reports that the unit works: running, or paused when its gate is shut.
func (u *Unit) Up() {
	u.report(func(s *clusterv1.UnitStatus) {
		s.State, s.Trace, s.Failure = clusterv1.State_STATE_RUNNING, "", ""
		if u.Gate.Paused() {
			s.State = clusterv1.State_STATE_PAUSED
		}
		if u.failures == 0 {
			s.Attempts, s.MaxAttempts = 0, 0
		}
	})
}

// Pause shuts or opens the gate and reports it, unless the unit is not up.
func (u *Unit) Pause(paused bool) {
	if u.Gate.Paused() == paused {
		return
	}
	u.Gate.Set(paused)
	u.mu.Lock()
	up := u.up()
	u.mu.Unlock()
	if up {
		u.Up()
	}
}

// up reports whether the last status says that the unit works. With mu held.
func (u *Unit) up() bool {
	return u.last != nil && (u.last.State == clusterv1.State_STATE_RUNNING || u.last.State == clusterv1.State_STATE_PAUSED)
}

// report changes the status and hands a copy on.
func (u *Unit) report(change func(*clusterv1.UnitStatus)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := &clusterv1.UnitStatus{Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: u.Epoch}
	if u.last != nil {
		next = proto.CloneOf(u.last)
	}
	change(next)
	u.last = next
	u.Report(next)
}
