package pipe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/worker/runner"
)

// inner is a function within the process: what it does with records is the test's.
type inner struct {
	do     func(context.Context, []kafka.Fetched) ([]Outcome, error)
	closed func()
}

func (f inner) Apply(ctx context.Context, in []kafka.Fetched) ([]Outcome, error) {
	return f.do(ctx, in)
}

func (f inner) Close() error {
	f.closed()
	return nil
}

// stage runs a pool and counts its instances.
type stage struct {
	*pool
	now, most, starts atomic.Int64
}

func newStage(t *testing.T, s Scale, start func() error, do func(context.Context, []kafka.Fetched) ([]Outcome, error)) *stage {
	t.Helper()
	st := &stage{}
	open := func(context.Context) (Function, error) {
		if err := start(); err != nil {
			return nil, err
		}
		st.starts.Add(1)
		n := st.now.Add(1)
		for m := st.most.Load(); n > m && !st.most.CompareAndSwap(m, n); m = st.most.Load() {
		}
		return inner{do, func() { st.now.Add(-1) }}, nil
	}
	apply := func(ctx context.Context, f Function, in []kafka.Fetched) ([]Outcome, error) { return f.Apply(ctx, in) }
	p, err := newPool(t.Context(), s, slog.New(slog.DiscardHandler), &runner.Usage{}, open, apply)
	if err != nil {
		t.Fatal(err)
	}
	st.pool = p
	return st
}

func input(n int, key func(int) []byte) *batch {
	b := &batch{in: make([]kafka.Fetched, n), outcomes: make([]Outcome, n)}
	for i := range b.in {
		b.in[i] = kafka.Fetched{Topic: "t", Partition: int32(i % 3), Offset: int64(i), Key: key(i)}
	}
	return b
}

func someKey(i int) []byte { return fmt.Appendf(nil, "k%d", i) }

func atOnce() error { return nil }

// slow answers after cost for each record, which in a bubble is exact.
func slow(cost time.Duration) func(context.Context, []kafka.Fetched) ([]Outcome, error) {
	return func(ctx context.Context, in []kafka.Fetched) ([]Outcome, error) {
		select {
		case <-time.After(time.Duration(len(in)) * cost):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		out := make([]Outcome, len(in))
		for i := range out {
			out[i] = Outcome{Action: Keep, Reason: fmt.Sprint(in[i].Offset)}
		}
		return out, nil
	}
}

// I4: whatever the number of instances and however long they take, no two hold a key (or, without keys, a partition) at the same time, each sees
// its records in order, and every outcome is its record's own.
func TestOrderOfKeys(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				var mu sync.Mutex
				last, held := map[string]int64{}, map[string]bool{}
				name := func(m kafka.Fetched) string {
					if m.Key == nil {
						return fmt.Sprint("partition ", m.Partition)
					}
					return string(m.Key)
				}
				s := newStage(t, Scale{Min: int(seed % 2), Max: 1 + int(seed%8), Idle: 50 * time.Millisecond, Drain: 10 * time.Millisecond}, atOnce,
					func(_ context.Context, in []kafka.Fetched) ([]Outcome, error) {
						mu.Lock()
						mine := map[string]bool{}
						for _, m := range in {
							k := name(m)
							if held[k] && !mine[k] {
								t.Errorf("two instances hold %s", k)
							}
							if before, seen := last[k]; seen && m.Offset <= before {
								t.Errorf("%s: offset %d after %d", k, m.Offset, before)
							}
							held[k], mine[k], last[k] = true, true, m.Offset
						}
						wait := rand.N(time.Duration(len(in)) * 200 * time.Microsecond)
						mu.Unlock()
						time.Sleep(wait)
						mu.Lock()
						defer mu.Unlock()
						out := make([]Outcome, len(in))
						for i, m := range in {
							delete(held, name(m))
							out[i] = Outcome{Action: Keep, Reason: fmt.Sprint(m.Offset)}
						}
						return out, nil
					})
				defer s.close()
				var all []*batch
				offset := int64(0)
				for range 60 {
					b := input(1+rnd.IntN(300), func(int) []byte {
						if rnd.IntN(10) == 0 {
							return nil
						}
						return someKey(rnd.IntN(40))
					})
					for i := range b.in {
						b.in[i].Offset = offset
						offset++
					}
					s.submit(b, int64(rnd.IntN(1000)))
					all = append(all, b)
					time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
				}
				for _, b := range all {
					if err := s.wait(t.Context(), b); err != nil {
						t.Fatal(err)
					}
					for i, o := range b.outcomes {
						if o.Action != Keep || o.Reason != fmt.Sprint(b.in[i].Offset) {
							t.Fatalf("record %d has the outcome of %s", b.in[i].Offset, o.Reason)
						}
					}
				}
			})
		})
	}
}

// From nothing to as many as the work needs, and back to nothing; and the time that it takes.
func TestScale(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name     string
		max      int
		start    time.Duration
		records  int
		behind   int64
		cost     time.Duration
		wantMost int64
		within   time.Duration
	}{
		{"one record", 8, 40 * time.Millisecond, 1, 0, 100 * time.Microsecond, 1, 45 * time.Millisecond},
		{"little work", 8, 40 * time.Millisecond, 1000, 0, 50 * time.Microsecond, 1, 100 * time.Millisecond},
		{"much work", 4, 40 * time.Millisecond, 20_000, 0, 100 * time.Microsecond, 4, 620 * time.Millisecond},
		{"much behind it", 4, 40 * time.Millisecond, 1000, 100_000, 100 * time.Microsecond, 4, 120 * time.Millisecond},
		{"as many as needed", 16, 40 * time.Millisecond, 11_000, 0, 100 * time.Microsecond, 4, 500 * time.Millisecond},
		{"a start that would come too late", 4, 5 * time.Second, 10_000, 0, 100 * time.Microsecond, 1, 6100 * time.Millisecond},
		{"a slow function", 4, 40 * time.Millisecond, 200, 0, 50 * time.Millisecond, 4, 6 * time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, Scale{Max: x.max, Idle: time.Second, Drain: 250 * time.Millisecond}, func() error { time.Sleep(x.start); return nil }, slow(x.cost))
				defer s.close()
				began := time.Now()
				b := input(x.records, someKey)
				s.submit(b, x.behind)
				if err := s.wait(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > x.within {
					t.Errorf("it took %v, want no more than %v", took, x.within)
				}
				time.Sleep(x.start + time.Second/2)
				if most := s.most.Load(); most != x.wantMost {
					t.Errorf("%d instances at the most, want %d", most, x.wantMost)
				}
				time.Sleep(2 * time.Second)
				if n := s.now.Load(); n != 0 {
					t.Errorf("%d instances are left after a quiet time", n)
				}
				// And again from nothing, now that the cost is known.
				b = input(1, someKey)
				s.submit(b, 0)
				if err := s.wait(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A trickle that one instance can do lets the others end, down to the least number.
func TestTrickle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, Scale{Min: 2, Max: 4, Idle: time.Second, Drain: 10 * time.Millisecond}, atOnce, slow(time.Millisecond))
		defer s.close()
		if n := s.now.Load(); n != 2 {
			t.Fatalf("%d instances at the start, want 2", n)
		}
		b := input(400, someKey)
		s.submit(b, 0)
		if err := s.wait(t.Context(), b); err != nil || s.now.Load() != 4 {
			t.Fatalf("%v, %d instances, want 4", err, s.now.Load())
		}
		for range 30 {
			b := input(2, someKey)
			s.submit(b, 0)
			if err := s.wait(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n, starts := s.now.Load(), s.starts.Load(); n != 2 || starts != 4 {
			t.Errorf("%d instances after %d starts, want 2 after 4", n, starts)
		}
	})
}

// What can't start ends the pool with its reason when there is nothing else, and only then.
func TestStartFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		no := errors.New("no such program")
		s := newStage(t, Scale{Max: 4, Idle: time.Second, Drain: 10 * time.Millisecond}, func() error { return no }, slow(0))
		b := input(10, someKey)
		s.submit(b, 0)
		if err := s.wait(t.Context(), b); !errors.Is(err, no) {
			t.Errorf("%v, want the reason", err)
		}
		s.close()

		var starts atomic.Int64
		s = newStage(t, Scale{Max: 4, Idle: time.Second, Drain: 10 * time.Millisecond}, func() error {
			if starts.Add(1) > 1 {
				return no
			}
			return nil
		}, slow(time.Millisecond))
		defer s.close()
		b = input(2000, someKey)
		s.submit(b, 0)
		if err := s.wait(t.Context(), b); err != nil || starts.Load() < 2 {
			t.Errorf("%v after %d starts; the first instance should have gone on", err, starts.Load())
		}
	})
}

// The first error is the pool's, and a panic is one.
func TestInstanceFails(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	for name, do := range map[string]func(context.Context, []kafka.Fetched) ([]Outcome, error){
		"error": func(context.Context, []kafka.Fetched) ([]Outcome, error) { return nil, bad },
		"panic": func(context.Context, []kafka.Fetched) ([]Outcome, error) { panic(bad) },
		"count": func(_ context.Context, in []kafka.Fetched) ([]Outcome, error) { return make([]Outcome, len(in)-1), nil },
	} {
		s := newStage(t, Scale{Min: 1, Max: 2, Idle: time.Second, Drain: time.Second}, atOnce, do)
		b := input(10, someKey)
		s.submit(b, 0)
		if err := s.wait(t.Context(), b); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want the reason", name, err)
		}
		s.close()
		if n := s.now.Load(); n != 0 {
			t.Errorf("%s: %d instances are left", name, n)
		}
	}
}

// While one of several tries again, status says so.
func TestVoice(t *testing.T) {
	t.Parallel()
	var v voice
	var said []string
	to := func(why error) { said = append(said, fmt.Sprint(why)) }
	a, b := v.note(to), v.note(to)
	away := errors.New("away")
	a(away)
	b(nil) // never tried again
	b = v.note(to)
	b(away)
	a(nil)
	b(nil)
	if got, want := fmt.Sprint(said), "[away away <nil>]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
