// Package pipe is the loop of transform tasks: read committed records, run them through a function, and commit output and input
// offsets in one Kafka transaction (I3).
//
//	Consumer ──► pool: lanes by key ──► instances of the function ──► transaction: output + input offsets
//	reader goroutine                    a goroutine each               writer goroutine
//
// Batches reach the writer in the order in which they were read, however their parts were done, so each key keeps its order (I4), and a
// transaction ends where the oldest unfinished batch begins.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/ledger"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/runner"
)

// Action is what a function decided for a record.
type Action uint8

// The actions.
const (
	Keep Action = iota + 1
	Replace
	Drop
	Fail
)

// Outcome is a function's answer for one record.
type Outcome struct {
	Action Action
	// Records of a Replace; their Topic is empty for the pipe's output topic.
	Records []kafka.Message
	// Reason of a Fail; Retriable when the same record may well pass later.
	Reason    string
	Retriable bool
}

// Function is one instance of a user's function. worker/transform has it. It is used from one goroutine.
type Function interface {
	// Apply returns one outcome for each record, in order. It retries crashes and hangs itself; an error is final for this
	// attempt of the task.
	Apply(ctx context.Context, records []kafka.Fetched) ([]Outcome, error)
	Close() error
}

// Options are the transform connector's own settings.
type Options struct {
	// Output is the topic for what a function keeps or replaces; Routes are further ones that it may name.
	Output string
	Routes []string
	Scale  Scale
}

// fetchBytes is how much is read at a time when max.bytes.in.flight leaves room for it.
const fetchBytes = 2 << 20

// Run runs the task until ctx ends or it fails. open starts an instance of the function.
func Run(ctx context.Context, d runner.Deps, o Options, open func(context.Context) (Function, error)) (err error) {
	connected, err := d.Connect(ctx)
	if err != nil {
		return err
	}
	defer connected()
	admin, done, err := d.Admins.Get(ctx, d.Kafka)
	if err != nil {
		return err
	}
	defer func() { done(err) }()
	topics := runner.NewTopics(admin, d.Settings.Creation)
	for _, t := range append([]string{o.Output}, o.Routes...) {
		if err := topics.Ensure(ctx, t); err != nil {
			return err
		}
	}
	if t := d.Settings.Dead.Topic; t != "" {
		if err := admin.EnsureTopic(ctx, t, d.Settings.DeadTopic); err != nil {
			return fmt.Errorf("dead letter queue: %w", err)
		}
	}
	mine, err := d.Input(ctx, admin)
	if err != nil {
		return err
	}
	// I1: who has no lease fences nobody.
	if err := d.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	// I1, I3: first the older owner is fenced and its open transaction decided, then the offsets are read.
	producer, err := kafka.NewProducer(ctx, d.Kafka, d.TransactionalID(), kafka.ProducerOptions{Compression: d.Settings.Compression, Tally: d.Settings.Ledger != ""})
	if err != nil {
		return err
	}
	defer producer.End(ctx)
	d.Progress.Protocol(producer.Protocol())
	undo := d.Live.OnCut(func() { _ = producer.Close() })
	defer undo()
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	stored, err := admin.GroupOffsets(wait, d.Settings.Group)
	cancel()
	if err != nil {
		return err
	}
	from, err := d.StartOffsets(ctx, admin, mine, stored)
	if err != nil {
		return err
	}
	l := &loop{Deps: d, opts: o, producer: producer, routes: map[string]bool{o.Output: true}, room: semaphore.NewWeighted(int64(d.Settings.MaxBytes))}
	opened := d.Live.Enter(runner.WaitFunction)
	l.pool, err = newPool(ctx, o.Scale, d.Logger, &d.Progress.Usage, open, l.apply)
	opened()
	if err != nil {
		return err
	}
	defer l.pool.close()
	consumer, err := kafka.NewConsumer(ctx, d.Kafka, kafka.ConsumerOptions{MaxBytes: d.Settings.FetchBytes(fetchBytes)})
	if err != nil {
		return err
	}
	defer consumer.Close()
	consumer.Assign(from)
	connected()
	d.Live.Started()

	l.consumer = consumer
	for _, t := range o.Routes {
		l.routes[t] = true
	}
	if d.Settings.Ledger != "" {
		l.book, err = ledger.Open(ctx, admin, ledger.Options{Topic: d.Settings.Ledger, Connector: d.Connector, Task: d.Task, Epoch: d.Epoch})
		if err != nil {
			return err
		}
		l.from = maps.Clone(from)
	}
	g, run := errgroup.WithContext(ctx)
	batches := make(chan *batch, o.Scale.Max)
	g.Go(runner.Guard(d.Logger, func() error { return d.WatchInput(run, admin, mine) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.read(run, batches) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.write(run, batches) }))
	return g.Wait()
}

type loop struct {
	runner.Deps
	opts     Options
	pool     *pool
	producer *kafka.Producer
	consumer *kafka.Consumer
	routes   map[string]bool
	room     *semaphore.Weighted            // max.bytes.in.flight, of input that is read and not committed (I8)
	book     *ledger.Book                   // nil: the task keeps no ledger
	from     map[kafka.TopicPartition]int64 // where the transaction to come begins, for the ledger
	voice    voice
}

// batch is a run of input records with what the function makes of them.
type batch struct {
	in       []kafka.Fetched
	outcomes []Outcome // valid once done is closed
	next     map[kafka.TopicPartition]int64
	lag      int64
	size     int

	left int // records that are not done; pool.mu guards it
	done chan struct{}
}

func (l *loop) read(ctx context.Context, out chan<- *batch) error {
	for {
		l.Gate.Wait(ctx.Done())
		leave := l.Live.Enter(runner.WaitInput)
		msgs, err := l.consumer.Poll(ctx)
		leave()
		if err != nil {
			return err
		}
		positions := l.consumer.Positions()
		lag := runner.Lag(positions)
		if len(msgs) == 0 {
			l.Progress.Lag(lag)
			continue
		}
		for len(msgs) > 0 {
			n := l.Throttle.Cut(l.Settings.Cut(msgs))
			if err := l.Throttle.Wait(ctx, l.Live, n); err != nil {
				return err
			}
			b := &batch{in: msgs[:n], outcomes: make([]Outcome, n), next: map[kafka.TopicPartition]int64{}, lag: lag, size: kafka.Size(msgs[:n])}
			msgs = msgs[n:]
			for _, m := range b.in {
				b.next[kafka.TopicPartition{Topic: m.Topic, Partition: m.Partition}] = m.Offset + 1
			}
			if len(msgs) == 0 {
				// The last part of an answer also steps over the control records behind it, so that lag reaches zero.
				for tp := range b.next {
					b.next[tp] = max(b.next[tp], positions[tp].Next)
				}
			}
			if err := l.room.Acquire(ctx, l.weight(b)); err != nil {
				return err
			}
			l.pool.submit(b, lag+int64(len(msgs)))
			select {
			case out <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// weight is what a batch takes of the room: all of it, if it is a single record that is larger.
func (l *loop) weight(b *batch) int64 { return int64(min(b.size, l.Settings.MaxBytes)) }

// errNotYet: some records failed and may pass.
var errNotYet = connectors.Retriable(errors.New("records failed and may pass"))

// apply runs records through an instance, and again those that failed but may pass, for as long as errors.retry.timeout says. Several
// instances' goroutines call it.
func (l *loop) apply(ctx context.Context, f Function, in []kafka.Fetched) ([]Outcome, error) {
	outcomes, todo := make([]Outcome, len(in)), make([]int, len(in))
	for i := range todo {
		todo[i] = i
	}
	retry := l.Settings.Retry
	retry.Note = l.voice.note(retry.Note)
	err := retry.Do(ctx, func() error {
		part := in
		if len(todo) < len(in) {
			part = make([]kafka.Fetched, len(todo))
			for n, i := range todo {
				part[n] = in[i]
			}
		}
		got, err := f.Apply(ctx, part)
		if err != nil {
			return err
		}
		for n, i := range todo {
			outcomes[i] = got[n]
		}
		todo = slices.DeleteFunc(todo, func(i int) bool { return outcomes[i].Action != Fail || !outcomes[i].Retriable })
		if len(todo) > 0 {
			return errNotYet
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNotYet) {
		return nil, err
	}
	return outcomes, nil
}

// voice lets several instances share one note of why something is tried again: it is over when it is over for all.
type voice struct {
	mu     sync.Mutex // guards: trying, and the order of notes
	trying int
}

// note returns what one Retry tells.
func (v *voice) note(to func(error)) func(error) {
	if to == nil {
		return nil
	}
	trying := false
	return func(why error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		switch {
		case why != nil:
			if !trying {
				trying = true
				v.trying++
			}
			to(why)
		case trying:
			trying = false
			if v.trying--; v.trying == 0 {
				to(nil)
			}
		}
	}
}

// write commits batches in the order in which they were read, up to the first that is not done.
func (l *loop) write(ctx context.Context, in <-chan *batch) error {
	var next *batch // out of the channel, but not of the last transaction
	for {
		b := next
		if b == nil {
			select {
			case b = <-in:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		leave := l.Live.Enter(runner.WaitFunction)
		err := l.pool.wait(ctx, b)
		leave()
		if err != nil {
			return err
		}
		var run []*batch
		run, next = l.finished(b, in)
		if err := l.commit(ctx, run); err != nil {
			return err
		}
		for _, b := range run {
			l.room.Release(l.weight(b))
		}
	}
}

// finished returns the batches from first on that are done and fit into one transaction, and the one after them if it is out of the channel.
func (l *loop) finished(first *batch, in <-chan *batch) (run []*batch, next *batch) {
	run = []*batch{first}
	records, size := len(first.in), first.size
	for {
		select {
		case next = <-in:
		default:
			return run, nil
		}
		select {
		case <-next.done:
		default:
			return run, next
		}
		if records, size = records+len(next.in), size+next.size; records > l.Settings.MaxRecords || size > l.Settings.MaxBytes {
			return run, next
		}
		run = append(run, next)
	}
}

// result is what a transaction is to hold.
type result struct {
	msgs    []kafka.Message
	next    map[kafka.TopicPartition]int64
	used    map[string]struct{}
	in      int
	bytesIn int
	dropped int
	newest  int64
}

// add adds what became of a batch.
func (l *loop) add(r *result, b *batch) error {
	for i, m := range b.in {
		r.newest = max(r.newest, m.TimestampMS)
		r.used[m.Topic] = struct{}{}
		o := b.outcomes[i]
		switch o.Action {
		case Keep:
			r.msgs = append(r.msgs, kafka.Message{Topic: l.opts.Output, Partition: -1, Key: m.Key, Value: m.Value, Headers: m.Headers, TimestampMS: m.TimestampMS})
		case Replace:
			for _, x := range o.Records {
				if x.Topic == "" {
					x.Topic = l.opts.Output
				}
				if !l.routes[x.Topic] {
					return fmt.Errorf("the function routed record %s-%d@%d to topic %q, which is not in transform.routes", m.Topic, m.Partition, m.Offset, x.Topic)
				}
				if x.TimestampMS == 0 {
					x.TimestampMS = m.TimestampMS
				}
				x.Partition = -1
				r.msgs = append(r.msgs, x)
			}
		case Drop:
			r.dropped++
		case Fail:
			dead, fatal := l.Settings.Dead.Handle(m, deadletter.StageTransform, errors.New(o.Reason))
			if fatal != nil {
				return fatal
			}
			r.dropped++
			if dead != nil {
				r.msgs = append(r.msgs, *dead)
			}
		default:
			return fmt.Errorf("the function gave no action for record %s-%d@%d", m.Topic, m.Partition, m.Offset)
		}
	}
	maps.Copy(r.next, b.next)
	r.in += len(b.in)
	r.bytesIn += b.size
	return nil
}

func (l *loop) commit(ctx context.Context, run []*batch) error {
	r := result{next: map[kafka.TopicPartition]int64{}, used: map[string]struct{}{}}
	for _, b := range run {
		if err := l.add(&r, b); err != nil {
			return err
		}
	}
	bytes := 0
	for _, m := range r.msgs {
		bytes += len(m.Key) + len(m.Value)
		r.used[m.Topic] = struct{}{}
	}
	defer l.Live.Enter(runner.WaitBroker)()
	if err := l.send(ctx, r.msgs, r.next); err != nil {
		return err
	}
	l.producer.AddOffsets(l.Settings.Group, r.next)
	// I1: no side effect without a lease.
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.producer.Commit(bounded); err != nil {
		return err
	}
	l.Progress.In(r.in)
	l.Progress.BytesIn(r.bytesIn)
	l.Progress.Committed(len(r.msgs), bytes)
	l.Progress.Used(slices.Collect(maps.Keys(r.used))...)
	l.Progress.Dropped(r.dropped)
	l.Progress.Newest(r.newest)
	l.Progress.Lag(run[len(run)-1].lag)
	return nil
}

// send sends a transaction's messages, with its entry in the ledger if there is one.
func (l *loop) send(ctx context.Context, msgs []kafka.Message, next map[kafka.TopicPartition]int64) error {
	if l.book == nil {
		return l.producer.Send(ctx, msgs)
	}
	var from, to []ledger.Place
	for tp, at := range next {
		from, to = append(from, ledger.InputPlace(tp, l.from[tp])), append(to, ledger.InputPlace(tp, at))
		l.from[tp] = at
	}
	return l.producer.SendLast(ctx, msgs, func(o kafka.Origin, tallies []kafka.Tally) (*kafka.Message, error) {
		return l.book.Entry(o, tallies, from, to)
	})
}
