package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// flow follows committed records of the last topic, and knows for each partition how new a change it has shown.
type flow struct {
	mu     sync.Mutex // guards: the rest
	made   map[uint64]time.Time
	newest map[int32]time.Time
	seen   int
}

func newFlow() *flow { return &flow{made: map[uint64]time.Time{}, newest: map[int32]time.Time{}} }

// committed remembers when changes were made.
func (f *flow) committed(made []shop.Made) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range made {
		if m.Op != shop.Delete { // their events carry an older number
			f.made[m.Seq] = now
		}
	}
}

// watch reads the topic until ctx ends, whatever becomes of the broker meanwhile.
func (f *flow) watch(ctx context.Context, c kafka.Config, topic string) error {
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return err
	}
	defer a.Close()
	from, err := a.ListOffsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return err
	}
	k, err := kafka.NewConsumer(ctx, c, kafka.ConsumerOptions{})
	if err != nil {
		return err
	}
	defer k.Close()
	k.Assign(from)
	for tp := range from {
		f.newest[tp.Partition] = time.Time{}
	}
	for {
		msgs, err := k.Poll(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kafka.ErrUnavailable):
			continue // the consumer waits between its own tries
		case err != nil:
			return fmt.Errorf("watch %s: %w", topic, err)
		}
		if err := f.take(msgs); err != nil {
			return err
		}
	}
}

func (f *flow) take(msgs []kafka.Fetched) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range msgs {
		f.seen++
		e, err := shop.ReadEvent(m)
		if err != nil {
			return fmt.Errorf("%s-%d@%d: %w", m.Topic, m.Partition, m.Offset, err)
		}
		if at, ok := f.made[e.Seq]; ok && !e.Read && e.Op != shop.Delete {
			delete(f.made, e.Seq)
			if at.After(f.newest[m.Partition]) {
				f.newest[m.Partition] = at
			}
		}
	}
	return nil
}

// since waits until every partition has shown a change that was made after t, and returns how long after t that was.
func (f *flow) since(ctx context.Context, t time.Time) (time.Duration, error) {
	for {
		behind := f.behind(t)
		if behind == "" {
			return time.Since(t), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no new change arrived after %v in %s", time.Since(t).Round(time.Millisecond), behind)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (f *flow) behind(t time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, at := range f.newest {
		if !at.After(t) {
			return fmt.Sprintf("partition %d", p)
		}
	}
	if len(f.newest) == 0 {
		return "any partition"
	}
	return ""
}
