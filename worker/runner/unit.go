package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// ErrAgain, returned by an attempt, means: nothing is wrong, begin anew at once (the input's partitions changed).
var ErrAgain = errors.New("begin anew")

// Attempt runs the unit once, until ctx ends or it fails. It calls started when it is up.
type Attempt func(ctx context.Context, started func()) error

// Policy says when a failed unit is tried again by itself.
type Policy struct {
	// Attempts in a row, for failures that may pass; 0: without limit.
	Attempts int
	// Backoff grows from Min to Max, with jitter.
	Min, Max time.Duration
	// Grace is how long an attempt may take to end once it is told to.
	Grace time.Duration
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
	// CutOff is called when an attempt ignores its end: it must make further side effects impossible. Optional.
	CutOff func()
	// Report is called with each new state; it must not block.
	Report func(*clusterv1.UnitStatus)

	mu     sync.Mutex // guards: status
	status clusterv1.UnitStatus
}

// Retriable reports whether a failure may pass by itself.
func Retriable(err error) bool {
	return connectors.IsRetriable(err) || kafka.Retriable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kafka.ErrFenced)
}

// Run runs the unit until ctx ends. When it returns, the unit has ended or was cut off.
func (u *Unit) Run(ctx context.Context, attempt Attempt) {
	failures := 0
	for {
		u.set(clusterv1.State_STATE_RESTARTING, "", time.Time{}, failures)
		began := time.Now()
		started := false
		err := u.once(ctx, attempt, func() {
			started = true
			u.Up()
		})
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrAgain) {
			continue
		}
		if err == nil {
			err = errors.New("the task ended by itself")
		}
		// A unit that ran well for a while begins its count anew.
		if started && time.Since(began) > u.Policy.Max {
			failures = 0
		}
		failures++
		if !u.fail(ctx, err, failures) {
			return
		}
	}
}

// fail reports a failure and waits until the unit may try again. It returns false when ctx ended first.
func (u *Unit) fail(ctx context.Context, err error, failures int) bool {
	again := Retriable(err) && (u.Policy.Attempts == 0 || failures < u.Policy.Attempts)
	if !again {
		u.Logger.Error("task failed", "err", err, "attempt", failures)
		u.set(clusterv1.State_STATE_FAILED, trace(err), time.Time{}, failures)
		<-ctx.Done()
		return false
	}
	wait := backoff(u.Policy, failures)
	u.Logger.Warn("task failed, will try again", "err", err, "attempt", failures, "in", wait.Round(time.Millisecond))
	u.set(clusterv1.State_STATE_FAILED, trace(err), time.Now().Add(wait), failures)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
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

// once runs one attempt on its own goroutine, catches its panic, and leaves it behind when it does not end (I9).
func (u *Unit) once(ctx context.Context, attempt Attempt, started func()) error {
	done := make(chan error, 1)
	var live sync.Mutex // guards: left
	left := false
	go func() {
		defer func() {
			if p := recover(); p != nil {
				u.Logger.Error("task panicked", "panic", p, "stack", string(debug.Stack()))
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- attempt(ctx, func() {
			live.Lock()
			defer live.Unlock()
			if !left {
				started()
			}
		})
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(u.Policy.Grace):
	}
	live.Lock()
	left = true
	live.Unlock()
	if u.CutOff != nil {
		u.CutOff()
	}
	u.Logger.Error("task did not stop in time and was cut off", "grace", u.Policy.Grace)
	return ctx.Err()
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
	s := clusterv1.State_STATE_RUNNING
	if u.Gate.Paused() {
		s = clusterv1.State_STATE_PAUSED
	}
	u.set(s, "", time.Time{}, 0)
}

// Pause shuts or opens the gate and reports it, unless the unit is not up.
func (u *Unit) Pause(paused bool) {
	u.Gate.Set(paused)
	u.mu.Lock()
	up := u.status.State == clusterv1.State_STATE_RUNNING || u.status.State == clusterv1.State_STATE_PAUSED
	u.mu.Unlock()
	if up {
		u.Up()
	}
}

func (u *Unit) set(s clusterv1.State, trace string, retry time.Time, attempts int) {
	u.mu.Lock()
	u.status.State = s
	u.mu.Unlock()
	st := &clusterv1.UnitStatus{
		Unit: &clusterv1.Unit{Connector: u.Connector, Task: u.Task}, Epoch: u.Epoch, State: s, Trace: trace, Attempts: int32(attempts),
	}
	if !retry.IsZero() {
		st.RetryAtUnixMs = retry.UnixMilli()
	}
	u.Report(st)
}
