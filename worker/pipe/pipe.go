// Package pipe is the loop of transform tasks: read committed records, run them through a function, and commit output and input
// offsets in one Kafka transaction (I3).
//
//	Consumer ──► function (several batches in flight) ──► transaction: output + input offsets
//	reader goroutine                                      writer goroutine
//
// Batches reach the writer in the order in which they were read, so each key keeps its order (I4).
package pipe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

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

// Function runs records through a user's function. worker/transform has it.
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
}

// fetchBytes is how much is read at a time when max.bytes.in.flight leaves room for it.
const fetchBytes = 2 << 20

// Run runs the task until ctx ends or it fails. open starts the function.
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
	opened := d.Live.Enter(runner.WaitFunction)
	function, err := open(ctx)
	opened()
	if err != nil {
		return err
	}
	defer function.Close()
	consumer, err := kafka.NewConsumer(ctx, d.Kafka, kafka.ConsumerOptions{MaxBytes: d.Settings.FetchBytes(fetchBytes)})
	if err != nil {
		return err
	}
	defer consumer.Close()
	consumer.Assign(from)
	connected()
	d.Live.Started()

	l := &loop{Deps: d, opts: o, function: function, producer: producer, consumer: consumer, routes: map[string]bool{o.Output: true}}
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
	batches := make(chan batch, 1)
	g.Go(runner.Guard(d.Logger, func() error { return d.WatchInput(run, admin, mine) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.read(run, batches) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.write(run, batches) }))
	return g.Wait()
}

type loop struct {
	runner.Deps
	opts     Options
	function Function
	producer *kafka.Producer
	consumer *kafka.Consumer
	routes   map[string]bool
	book     *ledger.Book                   // nil: the task keeps no ledger
	from     map[kafka.TopicPartition]int64 // where the transaction to come begins, for the ledger
}

// batch is a run of input records with what the function made of them.
type batch struct {
	in       []kafka.Fetched
	outcomes []Outcome
	next     map[kafka.TopicPartition]int64
	lag      int64
}

func (l *loop) read(ctx context.Context, out chan<- batch) error {
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
			b := batch{in: msgs[:n], next: map[kafka.TopicPartition]int64{}, lag: lag}
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
			if b.outcomes, err = l.apply(ctx, b.in); err != nil {
				return err
			}
			l.Progress.In(len(b.in))
			l.Progress.BytesIn(kafka.Size(b.in))
			select {
			case out <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// errNotYet: some records failed and may pass.
var errNotYet = connectors.Retriable(errors.New("records failed and may pass"))

// apply runs a batch, and again those records that failed but may pass, for as long as errors.retry.timeout says.
func (l *loop) apply(ctx context.Context, in []kafka.Fetched) ([]Outcome, error) {
	defer l.Live.Enter(runner.WaitFunction)()
	outcomes, todo := make([]Outcome, len(in)), make([]int, len(in))
	for i := range todo {
		todo[i] = i
	}
	err := l.Settings.Retry.Do(ctx, func() error {
		part := in
		if len(todo) < len(in) {
			part = make([]kafka.Fetched, len(todo))
			for n, i := range todo {
				part[n] = in[i]
			}
		}
		got, err := l.function.Apply(ctx, part)
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

func (l *loop) write(ctx context.Context, in <-chan batch) error {
	for {
		var b batch
		select {
		case b = <-in:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := l.commit(ctx, b); err != nil {
			return err
		}
	}
}

func (l *loop) commit(ctx context.Context, b batch) error {
	msgs := make([]kafka.Message, 0, len(b.in))
	dropped, bytes, newest := 0, 0, int64(0)
	for i, m := range b.in {
		newest = max(newest, m.TimestampMS)
		o := b.outcomes[i]
		switch o.Action {
		case Keep:
			msgs = append(msgs, kafka.Message{Topic: l.opts.Output, Partition: -1, Key: m.Key, Value: m.Value, Headers: m.Headers, TimestampMS: m.TimestampMS})
		case Replace:
			for _, r := range o.Records {
				if r.Topic == "" {
					r.Topic = l.opts.Output
				}
				if !l.routes[r.Topic] {
					return fmt.Errorf("the function routed record %s-%d@%d to topic %q, which is not in transform.routes", m.Topic, m.Partition, m.Offset, r.Topic)
				}
				if r.TimestampMS == 0 {
					r.TimestampMS = m.TimestampMS
				}
				r.Partition = -1
				msgs = append(msgs, r)
			}
		case Drop:
			dropped++
		case Fail:
			dead, fatal := l.Settings.Dead.Handle(m, deadletter.StageTransform, errors.New(o.Reason))
			if fatal != nil {
				return fatal
			}
			dropped++
			if dead != nil {
				msgs = append(msgs, *dead)
			}
		default:
			return fmt.Errorf("the function gave no action for record %s-%d@%d", m.Topic, m.Partition, m.Offset)
		}
	}
	used := map[string]struct{}{}
	for _, m := range b.in {
		used[m.Topic] = struct{}{}
	}
	for _, m := range msgs {
		bytes += len(m.Key) + len(m.Value)
		used[m.Topic] = struct{}{}
	}
	defer l.Live.Enter(runner.WaitBroker)()
	if err := l.send(ctx, msgs, b.next); err != nil {
		return err
	}
	l.producer.AddOffsets(l.Settings.Group, b.next)
	// I1: no side effect without a lease.
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.producer.Commit(bounded); err != nil {
		return err
	}
	l.Progress.Committed(len(msgs), bytes)
	l.Progress.Used(slices.Collect(maps.Keys(used))...)
	l.Progress.Dropped(dropped)
	l.Progress.Newest(newest)
	l.Progress.Lag(b.lag)
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
