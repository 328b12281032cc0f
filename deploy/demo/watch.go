package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// latency measures from the source's commit to a committed record behind both functions.
type latency struct {
	mu   sync.Mutex // guards: all below
	at   map[uint64]time.Time
	took []time.Duration
	seen int
}

func newLatency() *latency { return &latency{at: map[uint64]time.Time{}} }

func (l *latency) committed(made []shop.Made) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range made {
		if m.Op != shop.Delete {
			l.at[m.Seq] = now
		}
	}
}

// window returns how many records were seen in all, and the percentiles since the last call.
func (l *latency) window() (seen int, p50, p99 time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		p50, p99 = l.took[n/2], l.took[n*99/100]
	}
	l.took = l.took[:0]
	return l.seen, p50, p99
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0fms", d.Seconds()*1000) }

// watch reads the end of the pipeline until ctx ends.
func (l *latency) watch(ctx context.Context, brokers []string) error {
	c := kafka.Config{Brokers: brokers}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return err
	}
	defer a.Close()
	from, err := a.ListOffsets(ctx, "orders.clean", kafka.Earliest)
	if err != nil {
		return err
	}
	k, err := kafka.NewConsumer(ctx, c, kafka.ConsumerOptions{})
	if err != nil {
		return err
	}
	defer k.Close()
	k.Assign(from)
	for {
		msgs, err := k.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := time.Now()
		l.mu.Lock()
		for _, m := range msgs {
			l.seen++
			if e, err := shop.ReadEvent(m); err == nil {
				if at, ok := l.at[e.Seq]; ok && !e.Read && e.Op != shop.Delete {
					l.took = append(l.took, now.Sub(at))
					delete(l.at, e.Seq)
				}
			}
		}
		l.mu.Unlock()
	}
}
