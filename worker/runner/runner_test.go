package runner

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/connectors"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// I1: a lease runs from when its message was sent, and never gets shorter.
func TestLease(t *testing.T) {
	t.Parallel()
	var l Lease
	if l.Valid() {
		t.Error("valid without a grant")
	}
	l.Extend(time.Now().Add(-time.Second), 900*time.Millisecond)
	if l.Valid() {
		t.Error("counted from the answer, not from the sending")
	}
	l.Extend(time.Now(), time.Hour)
	l.Extend(time.Now(), time.Millisecond)
	if l.Left() < 59*time.Minute {
		t.Error("a late answer made it shorter")
	}
	if !errors.Is((&Lease{}).Check(), ErrLeaseLost) {
		t.Error("Check says nothing")
	}
}

type log struct {
	mu     sync.Mutex
	states []*clusterv1.UnitStatus
}

func (l *log) add(s *clusterv1.UnitStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, s)
}

func (l *log) last() *clusterv1.UnitStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states[len(l.states)-1]
}

func unit(l *log, attempts int) *Unit {
	return &Unit{
		Connector: "c", Gate: &Gate{}, Progress: NewProgress(), Logger: slog.New(slog.DiscardHandler), Report: l.add,
		Policy: Policy{Attempts: attempts, Min: 100 * time.Millisecond, Max: time.Second, Grace: time.Second},
	}
}

// A failure that may pass is tried again, with a growing wait and a limit; one that may not waits for somebody.
func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l log
		u := unit(&l, 4)
		ctx, cancel := context.WithCancel(t.Context())
		tries := 0
		go u.Run(ctx, func(context.Context, func()) error {
			tries++
			return connectors.Retriable(errors.New("server is away"))
		})
		time.Sleep(time.Minute)
		if s := l.last(); tries != 4 || s.State != clusterv1.State_STATE_FAILED || s.RetryAtUnixMs != 0 || !strings.HasPrefix(s.Trace, "server is away\n") {
			t.Errorf("%d tries, %v", tries, s)
		}
		cancel()
		synctest.Wait()

		var m log
		u = unit(&m, 0)
		ctx, cancel = context.WithCancel(t.Context())
		tries = 0
		go u.Run(ctx, func(context.Context, func()) error { tries++; return errors.New("bad config") })
		time.Sleep(time.Minute)
		if s := m.last(); tries != 1 || s.State != clusterv1.State_STATE_FAILED {
			t.Errorf("%d tries, %v", tries, s)
		}
		cancel()
		synctest.Wait()
	})
}

// I9: a panic is a failure of the unit, and one that ignores its end is cut off.
func TestPanicAndHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l log
		u := unit(&l, 0)
		ctx, cancel := context.WithCancel(t.Context())
		go u.Run(ctx, func(context.Context, func()) error { panic("oops") })
		time.Sleep(time.Second)
		if s := l.last(); s.State != clusterv1.State_STATE_FAILED || !strings.Contains(s.Trace, "oops") {
			t.Errorf("after a panic: %v", s)
		}
		cancel()
		synctest.Wait()

		var m log
		u = unit(&m, 0)
		cut, release := false, make(chan struct{})
		u.CutOff = func() { cut = true }
		ctx, cancel = context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			u.Run(ctx, func(_ context.Context, started func()) error {
				started()
				<-release // deaf to its context
				return nil
			})
			close(ended)
		}()
		synctest.Wait()
		if m.last().State != clusterv1.State_STATE_RUNNING {
			t.Errorf("not up: %v", m.last())
		}
		cancel()
		began := time.Now()
		<-ended
		if !cut || time.Since(began) != u.Policy.Grace {
			t.Errorf("cut off: %v after %v, want the grace of %v", cut, time.Since(began), u.Policy.Grace)
		}
		close(release)
	})
}

func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Wait(nil) // open
		g.Set(true)
		passed := false
		go func() { g.Wait(t.Context().Done()); passed = true }()
		synctest.Wait()
		if passed {
			t.Error("a shut gate lets through")
		}
		g.Set(false)
		synctest.Wait()
		if !passed {
			t.Error("an open gate does not")
		}
	})
}
