package pipe

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/worker/runner"
)

// Scale bounds a pool of instances of a function.
type Scale struct {
	Min, Max int
	// Idle is after how long without work an instance beyond Min ends.
	Idle time.Duration
	// Drain is how long the work at hand may take, as predicted, before one more instance works on it.
	Drain time.Duration
}

// pool spreads batches over lanes by the hash of their keys, and lanes over instances of the function.
//
//	submit ──► lanes (queues; a key is always in the same one) ──► ready ──► instances, each with some lanes at a time
//
// A lane is with one instance at a time, so records of one key reach the function one after the other, whatever the number of instances (I4).
// A batch is done when all its records are; batches may end in any order.
//
// Nothing is polled: work that arrives, a call that ends and an instance that comes up each look whether more instances should work.
type pool struct {
	scale Scale
	open  func(context.Context) (Function, error)
	apply func(context.Context, Function, []kafka.Fetched) ([]Outcome, error)
	log   *slog.Logger
	usage *runner.Usage

	ctx    context.Context // of the instances; ends with the first failure
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards: the rest
	lanes  []lane
	ready  []*lane // with work, and with no instance; the one that waits longest first
	queued int     // records in lanes
	behind int64   // records that are still in the topics
	idle   []*instance
	count  int // instances, those that start included
	// records and busy are what the prediction rests on: calls of late.
	records, busy float64
	starting      time.Duration // how long the last start took
	notBefore     time.Time     // after a start that failed while others work
}

// lane is a queue of work. It is either empty, or in pool.ready, or with an instance.
type lane struct {
	queue []piece
	held  bool // in pool.ready or with an instance
}

// piece is the part of a batch that is in one lane.
type piece struct {
	b  *batch
	at []int // indices into the batch; nil: all of it
}

func (w piece) records() int {
	if w.at == nil {
		return len(w.b.in)
	}
	return len(w.at)
}

// instance is one running function. Its goroutine owns the function.
type instance struct {
	work chan work // capacity 1: who is taken off idle gets work at once
}

// work is what an instance gets at a time.
type work struct {
	lanes  []*lane
	pieces []piece
	count  int
}

const (
	// lanesEach is how many lanes there are for each instance, so that keys that are not even still share out.
	lanesEach = 4
	// callRecords is how many records an instance takes at a time when there are more; firstRecords when nothing is known of their cost.
	callRecords, firstRecords = 1000, 50
	// callCost is what a call takes that does nothing; without it, the cost of a record would be too high after a quiet time.
	callCost = time.Millisecond
	// memory is how many records the prediction rests on.
	memory = 20_000
	// startAgain is how long after a failed start nothing more is started while other instances work.
	startAgain = 5 * time.Second
)

var seed = maphash.MakeSeed()

// newPool starts the least number of instances and returns when they are up.
func newPool(ctx context.Context, s Scale, log *slog.Logger, usage *runner.Usage, open func(context.Context) (Function, error), apply func(context.Context, Function, []kafka.Fetched) ([]Outcome, error)) (*pool, error) {
	p := &pool{scale: s, open: open, apply: apply, log: log, usage: usage, lanes: make([]lane, 1)}
	if s.Max > 1 {
		p.lanes = make([]lane, lanesEach*s.Max)
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	ups := make([]chan struct{}, s.Min)
	p.mu.Lock()
	for i := range ups {
		ups[i] = p.start()
	}
	p.mu.Unlock()
	for _, up := range ups {
		select {
		case <-up:
		case <-p.ctx.Done():
			p.close()
			return nil, p.failure()
		}
	}
	return p, nil
}

// failure is why the pool has ended.
func (p *pool) failure() error { return context.Cause(p.ctx) }

// close ends all instances.
func (p *pool) close() {
	p.cancel(context.Canceled)
	p.wg.Wait()
}

// submit queues a batch; behind is how many records there are after it.
func (p *pool) submit(b *batch, behind int64) {
	b.done = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	b.left = len(b.in)
	p.queued += b.left
	p.behind = max(behind, 0)
	if len(p.lanes) == 1 {
		p.queue(&p.lanes[0], piece{b: b})
	} else {
		at := make([][]int, len(p.lanes))
		for i := range b.in {
			n := laneOf(&b.in[i], len(p.lanes))
			at[n] = append(at[n], i)
		}
		for n, list := range at {
			if len(list) > 0 {
				p.queue(&p.lanes[n], piece{b, list})
			}
		}
	}
	p.dispatch()
}

// laneOf is the same for all records of a key. Records without a key keep the order of their partition.
func laneOf(m *kafka.Fetched, lanes int) int {
	if m.Key == nil {
		return int((maphash.String(seed, m.Topic) + uint64(m.Partition)) % uint64(lanes))
	}
	return int(maphash.Bytes(seed, m.Key) % uint64(lanes))
}

func (p *pool) queue(l *lane, w piece) {
	l.queue = append(l.queue, w)
	if !l.held {
		l.held = true
		p.ready = append(p.ready, l)
	}
}

// wait returns when all records of the batch are done, or none will be.
func (p *pool) wait(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return nil
	case <-p.ctx.Done():
		return p.failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cost is the predicted time of one record in one instance; 0: nothing is known yet.
func (p *pool) cost() time.Duration {
	if p.records == 0 {
		return 0
	}
	return time.Duration(p.busy / p.records)
}

// want is how many instances should work on what there is: so many that it is done within Drain.
func (p *pool) want() int {
	todo := float64(int64(p.queued)+p.behind) * float64(p.cost())
	return int(min(max(1, math.Ceil(todo/float64(p.scale.Drain))), float64(p.scale.Max)))
}

// dispatch gives work to idle instances, the last one that worked first so that others can end, and starts more if they come in time to help.
func (p *pool) dispatch() {
	for len(p.ready) > 0 && len(p.idle) > 0 && p.count-len(p.idle) < p.want() {
		last := len(p.idle) - 1
		in := p.idle[last]
		p.idle = p.idle[:last]
		in.work <- p.take()
	}
	for len(p.ready) > 0 && len(p.idle) == 0 && p.count < p.want() && (p.count == 0 || p.worthwhile()) {
		if p.count == 0 {
			p.usage.ColdStart()
		}
		p.start()
	}
}

// worthwhile reports whether one more instance would come before the work is done without it.
func (p *pool) worthwhile() bool {
	alone := float64(int64(p.queued)+p.behind) * float64(p.cost()) / float64(p.count)
	return alone > float64(p.starting) && time.Now().After(p.notBefore)
}

// take returns a fair share of what is ready, at least one record: no more than is done within Drain, so that a slow function does not sit on
// what others could do. A pool that can't grow takes whole batches.
func (p *pool) take() work {
	share := (p.queued + p.want() - 1) / p.want()
	if cost := p.cost(); cost > 0 {
		share = min(share, callRecords, int(p.scale.Drain/cost)+1)
	} else {
		share = min(share, firstRecords)
	}
	var w work
	for len(p.ready) > 0 && w.count < share {
		l := p.ready[0]
		p.ready = p.ready[1:]
		for len(l.queue) > 0 && w.count < share {
			part := l.queue[0]
			if n := share - w.count; n < len(part.at) {
				part.at, l.queue[0].at = part.at[:n], part.at[n:]
			} else {
				l.queue = l.queue[1:]
			}
			w.count += part.records()
			w.pieces = append(w.pieces, part)
		}
		w.lanes = append(w.lanes, l)
	}
	p.queued -= w.count
	return w
}

// start launches an instance; what it returns is closed when it is up.
func (p *pool) start() (up chan struct{}) {
	p.count++
	p.usage.Up(1)
	up = make(chan struct{})
	in := &instance{work: make(chan work, 1)}
	p.wg.Go(func() {
		defer p.usage.Up(-1)
		if err := runner.Guard(p.log, func() error { return p.run(in, up) })(); err != nil {
			p.cancel(err)
		}
	})
	return up
}

// run is an instance's life. An error is the pool's end.
func (p *pool) run(in *instance, up chan struct{}) error {
	began := time.Now()
	f, err := p.open(p.ctx)
	if err != nil {
		return p.notStarted(err)
	}
	defer f.Close()
	p.mu.Lock()
	p.starting = time.Since(began)
	n := p.count
	w, ok := p.next(in)
	p.mu.Unlock()
	p.log.Debug("function instance is up", "instances", n, "elapsed", time.Since(began))
	close(up)
	for {
		if !ok {
			if w, ok = p.await(in); !ok {
				return nil
			}
		}
		began := time.Now()
		records := w.records()
		out, err := p.apply(p.ctx, f, records)
		if err == nil && len(out) != len(records) {
			err = fmt.Errorf("the function gave %d outcomes for %d records", len(out), len(records))
		}
		if err != nil {
			return err
		}
		w, ok = p.finish(in, w, out, time.Since(began))
	}
}

// notStarted is the pool's end, unless other instances work.
func (p *pool) notStarted(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count--; p.count == 0 || errors.Is(err, context.Canceled) {
		return err
	}
	p.notBefore = time.Now().Add(startAgain)
	p.log.Warn("one more instance of the function could not be started; the others go on", "instances", p.count, "err", err)
	return nil
}

// next returns work for an instance that has none, or makes it an idle one.
func (p *pool) next(in *instance) (work, bool) {
	if len(p.ready) > 0 {
		w := p.take()
		p.dispatch()
		return w, true
	}
	p.idle = append(p.idle, in)
	return work{}, false
}

// await waits for work; false: the instance ends, for it has been idle long enough, or the pool ends.
func (p *pool) await(in *instance) (work, bool) {
	timer := time.NewTimer(p.scale.Idle)
	defer timer.Stop()
	for {
		select {
		case w := <-in.work:
			return w, true
		case <-p.ctx.Done():
			return work{}, false
		case <-timer.C:
			if p.retire(in) {
				return work{}, false
			}
		}
	}
}

// retire takes an instance off the idle ones for good, unless it got work at that moment or must stay.
func (p *pool) retire(in *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count <= p.scale.Min {
		return false
	}
	for i, other := range p.idle {
		if other == in {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			p.count--
			p.log.Debug("function instance ends, it is idle", "instances", p.count)
			return true
		}
	}
	return false
}

// finish notes what became of an instance's work and returns more.
func (p *pool) finish(in *instance, w work, out []Outcome, took time.Duration) (work, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, part := range w.pieces {
		if part.at == nil {
			n += copy(part.b.outcomes, out[n:n+len(part.b.in)])
		}
		for _, i := range part.at {
			part.b.outcomes[i] = out[n]
			n++
		}
		if part.b.left -= part.records(); part.b.left == 0 {
			close(part.b.done)
		}
	}
	for _, l := range w.lanes {
		if l.held = len(l.queue) > 0; l.held {
			p.ready = append(p.ready, l)
		}
	}
	p.records += float64(n)
	p.busy += float64(max(0, took-callCost))
	if p.records > memory {
		p.records, p.busy = p.records/2, p.busy/2
	}
	return p.next(in)
}

// records are the input of a call.
func (w work) records() []kafka.Fetched {
	if len(w.pieces) == 1 && w.pieces[0].at == nil {
		return w.pieces[0].b.in
	}
	out := make([]kafka.Fetched, 0, w.count)
	for _, part := range w.pieces {
		if part.at == nil {
			out = append(out, part.b.in...)
		}
		for _, i := range part.at {
			out = append(out, part.b.in[i])
		}
	}
	return out
}
