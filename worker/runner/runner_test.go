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
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// I1: a lease runs from when its message was sent, and never gets shorter.
func TestLease(t *testing.T) {
	t.Parallel()
	l := NewLease(Faults{})
	if l.Valid() || l.Lapsed() || !errors.Is(l.Hold().Check(), ErrLeaseLost) {
		t.Error("valid or over without a grant")
	}
	l.Extend(l.Term(), time.Now(), time.Hour)
	l.Extend(l.Term(), time.Now(), time.Millisecond)
	if l.Left() < 59*time.Minute {
		t.Error("a late answer made it shorter")
	}
	l = NewLease(Faults{})
	l.Extend(l.Term(), time.Now().Add(-time.Second), 900*time.Millisecond)
	if l.Valid() {
		t.Error("counted from the answer, not from the sending")
	}
}

// I1: a lease that has run out is over, though nobody has noticed yet and an answer comes late; who began under it can't go on under the next one.
func TestLeaseIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLease(Faults{})
		time.Sleep(time.Second)
		term := l.Term()
		if !l.Extend(term, time.Now(), time.Second) {
			t.Fatal("not granted")
		}
		old := l.Hold()
		if err := old.Check(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if l.Extend(term, time.Now(), time.Second) || l.Valid() {
			t.Error("what is over was extended")
		}
		if !l.Lapsed() || l.Lapsed() {
			t.Error("the end is not told once")
		}
		if l.Extend(term, time.Now(), time.Second) {
			t.Error("an answer to the old term extends the new one")
		}
		if !l.Extend(l.Term(), time.Now(), time.Second) || l.Hold().Check() != nil {
			t.Error("no new term")
		}
		if !errors.Is(old.Check(), ErrLeaseLost) {
			t.Error("who began under the old term goes on")
		}
	})
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
		Policy: Policy{Attempts: attempts, Crashes: 1, Min: 100 * time.Millisecond, Max: time.Second, Grace: time.Second},
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
		go u.Run(ctx, func(context.Context, *Live) error {
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
		go u.Run(ctx, func(context.Context, *Live) error { tries++; return errors.New("bad config") })
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
		go u.Run(ctx, func(context.Context, *Live) error { panic("oops") })
		time.Sleep(time.Second)
		if s := l.last(); s.State != clusterv1.State_STATE_FAILED || !strings.Contains(s.Trace, "oops") || s.Failure != "panic" {
			t.Errorf("after a panic: %v", s)
		}
		cancel()
		synctest.Wait()

		var m log
		u = unit(&m, 0)
		cut, release := false, make(chan struct{})
		ctx, cancel = context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			u.Run(ctx, func(_ context.Context, live *Live) error {
				live.OnCut(func() { cut = true })
				live.Started()
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

// I9: a connector that does not come back is cut off and replaced, and at the limit quarantined; with each failure status tells how many
// there were, how many there may be and when the next try is.
func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l log
		u := unit(&l, 0)
		u.Policy.Crashes, u.Policy.Hang, u.Policy.Stall, u.Policy.Move = 3, time.Minute, 10*time.Second, 2
		ctx, cancel := context.WithCancel(t.Context())
		release, cuts := make(chan struct{}), 0
		go u.Run(ctx, func(_ context.Context, live *Live) error {
			live.OnCut(func() { cuts++ })
			live.Started()
			live.Enter(WaitPut)
			live.Call(WaitPut)
			<-release // deaf
			return nil
		})
		time.Sleep(30 * time.Second)
		if m := u.Progress.Message(); m.Stall.GetWaitsFor() != "sink put" || time.Since(time.UnixMilli(m.Stall.SinceUnixMs)) < 28*time.Second {
			t.Errorf("half a minute into a put: %v", m.Stall)
		}
		time.Sleep(31*time.Second + u.Policy.Grace + 20*time.Millisecond)
		if s := l.last(); s.State != clusterv1.State_STATE_FAILED || s.RetryAtUnixMs == 0 || s.Failure != "hang" || s.Attempts != 1 || s.MaxAttempts != 3 {
			t.Errorf("after the hang: %v", s)
		}
		time.Sleep(5 * time.Minute)
		if s := l.last(); s.State != clusterv1.State_STATE_FAILED || s.RetryAtUnixMs != 0 || s.Attempts != 3 || cuts != 3 || !strings.Contains(s.Trace, "sink put") {
			t.Errorf("at the limit: %d cuts, %v", cuts, s)
		}
		l.mu.Lock()
		moves := 0
		for _, s := range l.states {
			if s.Move {
				moves++
			}
		}
		l.mu.Unlock()
		if moves != 1 {
			t.Errorf("asked %d times for another worker, want once: after the second failure, and not in quarantine", moves)
		}
		cancel()
		close(release)
		synctest.Wait()
	})
}

// A unit that does well for a while has its failures forgotten; one that only is up has not.
func TestForgive(t *testing.T) {
	t.Parallel()
	for name, works := range map[string]bool{"works": true, "stuck": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l log
				u := unit(&l, 0)
				ctx, cancel := context.WithCancel(t.Context())
				tries := 0
				go u.Run(ctx, func(ctx context.Context, live *Live) error {
					if tries++; tries == 1 {
						return connectors.Retriable(errors.New("away"))
					}
					live.Started()
					if !works {
						live.Enter(WaitPut)
					}
					<-ctx.Done()
					return ctx.Err()
				})
				time.Sleep(10 * time.Second)
				want := int32(1)
				if works {
					want = 0
				}
				if s := l.last(); s.State != clusterv1.State_STATE_RUNNING || s.Attempts != want {
					t.Errorf("want %d attempts: %v", want, s)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// A task stalls when it has something to do and gets nothing done; not when nothing is there, when it is paused or when it is told to be slow.
func TestStall(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		do     func(*Live)
		paused bool
		lag    int64
		want   string
	}{
		{name: "idle source", do: func(l *Live) { l.Call(WaitSource) }, lag: -1},
		{name: "source with a backlog", do: func(l *Live) { l.Call(WaitSource); l.Backlog(true) }, lag: -1, want: "source read"},
		{name: "idle sink", do: func(l *Live) { l.Enter(WaitInput) }},
		{name: "input that does not come", do: func(l *Live) { l.Enter(WaitInput) }, lag: 5, want: "topic read"},
		{name: "paused with input", do: func(l *Live) { l.Enter(WaitInput) }, lag: 5, paused: true},
		{name: "throttled", do: func(l *Live) { l.Enter(WaitLimit) }, lag: 5},
		{name: "commit", do: func(l *Live) { l.Call(WaitSource); l.Enter(WaitBroker) }, lag: -1, want: "broker ack"},
		{name: "flush", do: func(l *Live) { l.Enter(WaitPut); l.Call(WaitFlush) }, lag: 1, want: "sink flush"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				live := newLive(nil)
				x.do(live)
				for range 9 {
					time.Sleep(time.Second)
					live.look(x.paused, x.lag)
				}
				if got := live.stall(5*time.Second, x.paused, x.lag).GetWaitsFor(); got != x.want {
					t.Errorf("waits for %q, want %q", got, x.want)
				}
				live.moved()
				if s := live.stall(5*time.Second, x.paused, x.lag); s != nil {
					t.Errorf("stalled right after a move: %v", s)
				}
			})
		})
	}
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := NewThrottle(100)
		began := time.Now()
		for range 5 {
			if err := th.Wait(t.Context(), nil, 250); err != nil {
				t.Fatal(err)
			}
		}
		// The first second's worth is free.
		if d := time.Since(began); d < 11*time.Second || d > 12*time.Second {
			t.Errorf("1,250 records at 100 a second took %v", d)
		}
		if n := th.Cut(1000); n != 100 {
			t.Errorf("a batch of %d", n)
		}
		if err := NewThrottle(0).Wait(t.Context(), nil, 1e9); err != nil {
			t.Error(err)
		}
	})
}

// I8: what goes on together is bounded in records and in bytes, and always is something.
func TestCut(t *testing.T) {
	t.Parallel()
	msgs := make([]kafka.Fetched, 10)
	for i := range msgs {
		msgs[i].Value = make([]byte, 100)
	}
	for _, x := range []struct{ records, bytes, want int }{{3, 1 << 20, 3}, {100, 250, 2}, {100, 10, 1}, {100, 1 << 20, 10}} {
		if n := (Settings{MaxRecords: x.records, MaxBytes: x.bytes}).Cut(msgs); n != x.want {
			t.Errorf("%+v: %d", x, n)
		}
	}
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
