package runner

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Counters count what only metrics show: how work comes in batches, and what goes wrong. Part of a Progress; safe for concurrent use.
type Counters struct {
	bytesIn, commits, batch, retries, dead atomic.Uint64

	mu       sync.Mutex // guards: errors, failures, restarts, down
	errors   map[string]uint64
	failures map[bool]uint64
	restarts uint64
	down     bool
}

// BytesIn counts bytes read.
func (c *Counters) BytesIn(n int) { c.bytesIn.Add(uint64(n)) }

// Retried counts that something is tried again in place that failed but may pass.
func (c *Counters) Retried() { c.retries.Add(1) }

// RecordError counts a record that could not be handled, by the stage of Kafka Connect at which it failed.
func (c *Counters) RecordError(stage string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.errors == nil {
		c.errors = map[string]uint64{}
	}
	c.errors[stage]++
}

// DeadLetter counts a record that goes to the dead letter queue.
func (c *Counters) DeadLetter() { c.dead.Add(1) }

// Failed counts a failure of the task, once until it starts again; again: it does that by itself.
func (c *Counters) Failed(again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return
	}
	if c.failures == nil {
		c.failures = map[bool]uint64{}
	}
	c.failures[again]++
	c.down = true
}

// Starting counts a restart, unless it is the first start.
func (c *Counters) Starting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		c.restarts++
	}
	c.down = false
}

func (c *Counters) committed(records int) {
	c.commits.Add(1)
	c.batch.Store(uint64(records))
}

// Counted are the counters of one moment.
type Counted struct {
	BytesIn, Commits, BatchRecords, Retries, DeadLetters, Restarts uint64
	// Errors by stage; Failures by whether the task was tried again by itself.
	Errors   map[string]uint64
	Failures map[bool]uint64
}

// Counted returns the counters of this moment.
func (c *Counters) Counted() Counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counted{
		BytesIn: c.bytesIn.Load(), Commits: c.commits.Load(), BatchRecords: c.batch.Load(), Retries: c.retries.Load(), DeadLetters: c.dead.Load(),
		Restarts: c.restarts, Errors: maps.Clone(c.errors), Failures: maps.Clone(c.failures),
	}
}
