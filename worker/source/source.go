// Package source is the loop of source tasks: poll, convert, send, and commit records and source offset in one Kafka
// transaction (I3).
//
//	task.Poll ──► batches (bounded) ──► convert ──► transaction ──► task.Committed
//	poller goroutine                    the loop's goroutine
//
// While a transaction commits the task polls on, so that a quiet stream has the latency of one commit and a busy one gets big
// transactions by itself.
package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/runner"
)

// Encoder turns keys and values into the bytes of messages; internal/convert has them. They append to dst and report false for null.
type Encoder interface {
	Key(dst []byte, topic string, key any) ([]byte, bool, error)
	Value(dst []byte, topic string, value any) ([]byte, bool, error)
	Header(dst []byte, topic string, key *record.KeyRow) ([]byte, bool, error)
}

// SnapshotHeader marks rows that were read by an initial snapshot; its value is "true".
const SnapshotHeader = "snapshot"

// Run runs the task until ctx ends or it fails.
func Run(ctx context.Context, d runner.Deps, task connectors.SourceTask, enc Encoder, started func()) error {
	admin, err := kafka.NewAdmin(ctx, d.Kafka)
	if err != nil {
		return err
	}
	defer admin.Close()
	offsets := d.OffsetsTopic
	if err := admin.EnsureTopic(ctx, offsets, kafka.OffsetsTopicConfig()); err != nil {
		return fmt.Errorf("offsets topic: %w", err)
	}
	// I1: who has no lease fences nobody.
	if err := d.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	// I1, I3: first the older owner's producer is fenced and its open transaction decided, then the offset is read.
	producer, err := kafka.NewProducer(ctx, d.Kafka, d.TransactionalID(), kafka.ProducerOptions{Compression: d.Settings.Compression})
	if err != nil {
		return err
	}
	defer producer.Close()
	undo := d.OnCut(func() { _ = producer.Close() })
	defer undo()

	sc := connectors.SourceContext{
		TaskContext: connectors.TaskContext{
			Connector: d.Connector, Task: d.Task, Tasks: d.Tasks, Epoch: d.Epoch, Config: d.Config, Logger: d.Logger, Report: d.Progress.Report,
		},
		Offset: func(ctx context.Context, partition map[string]any) (map[string]any, error) {
			return kafka.ReadOffset(ctx, d.Kafka, offsets, d.Connector, partition)
		},
	}
	defer task.Close()
	if err := task.Open(ctx, sc); err != nil {
		return err
	}
	started()
	d.Signals.Set(task)
	defer d.Signals.Set(nil)

	l := &loop{Deps: d, task: task, enc: enc, producer: producer, topics: runner.NewTopics(admin, d.Settings.Creation), offsetsTopic: offsets}
	g, run := errgroup.WithContext(ctx)
	batches := make(chan *connectors.Batch, 1)
	g.Go(func() error { return l.poll(run, batches) })
	g.Go(func() error { return l.commitAll(run, batches) })
	return g.Wait()
}

type loop struct {
	runner.Deps
	task         connectors.SourceTask
	enc          Encoder
	producer     *kafka.Producer
	topics       *runner.Topics
	offsetsTopic string

	// The transaction in the making; owned by commitAll.
	arena   []byte
	msgs    []kafka.Message
	records int
	bytes   int
	newest  int64
	offsets map[string]connectors.Offset
}

func (l *loop) poll(ctx context.Context, out chan<- *connectors.Batch) error {
	for {
		l.Gate.Wait(ctx.Done())
		b, err := l.task.Poll(ctx)
		if err != nil {
			return err
		}
		select {
		case out <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commitAll gathers batches into transactions.
func (l *loop) commitAll(ctx context.Context, in <-chan *connectors.Batch) error {
	for {
		var b *connectors.Batch
		select {
		case b = <-in:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := l.gather(ctx, b, in); err != nil {
			return err
		}
		if err := l.commit(ctx); err != nil {
			return err
		}
	}
}

// gather fills a transaction with b and what else comes, until it is full, the linger time is over, or nothing waits.
func (l *loop) gather(ctx context.Context, b *connectors.Batch, in <-chan *connectors.Batch) error {
	l.arena, l.records, l.bytes, l.newest, l.offsets = l.arena[:0], 0, 0, 0, map[string]connectors.Offset{}
	var linger <-chan time.Time
	if l.Settings.Linger > 0 {
		t := time.NewTimer(l.Settings.Linger)
		defer t.Stop()
		linger = t.C
	}
	for {
		if err := l.take(ctx, b); err != nil {
			return err
		}
		if l.records >= l.Settings.MaxRecords || l.bytes >= l.Settings.MaxBytes {
			return nil
		}
		if linger == nil {
			select {
			case b = <-in:
			default:
				return nil
			}
			continue
		}
		select {
		case b = <-in:
		case <-linger:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take converts a batch and sends it within the transaction.
func (l *loop) take(ctx context.Context, b *connectors.Batch) error {
	l.msgs = l.msgs[:0]
	for i := range b.Records {
		if err := l.convert(ctx, &b.Records[i]); err != nil {
			return err
		}
	}
	if b.Release != nil {
		b.Release()
	}
	l.Progress.In(len(b.Records))
	if b.Offset.Partition != nil {
		key, err := kafka.OffsetKey(l.Connector, b.Offset.Partition)
		if err != nil {
			return fmt.Errorf("source partition %v: %w", b.Offset.Partition, err)
		}
		l.offsets[string(key)] = b.Offset
	}
	if err := l.producer.Send(ctx, l.msgs); err != nil {
		return tooLarge(err)
	}
	l.records += len(l.msgs)
	return nil
}

func (l *loop) convert(ctx context.Context, r *record.Record) error {
	m := kafka.Message{Topic: r.Topic, Partition: r.Partition, TimestampMS: r.TimestampMS}
	if err := l.topics.Ensure(ctx, r.Topic); err != nil {
		return err
	}
	start := len(l.arena)
	var ok bool
	var err error
	if l.arena, ok, err = l.enc.Key(l.arena, r.Topic, r.Key); err == nil {
		if ok {
			m.Key = l.arena[start:len(l.arena):len(l.arena)]
		}
		start = len(l.arena)
		if l.arena, ok, err = l.enc.Value(l.arena, r.Topic, r.Value); ok {
			m.Value = l.arena[start:len(l.arena):len(l.arena)]
		}
	}
	if err != nil {
		// I5: nothing is left out unless the config says so, and then it is counted.
		_, fatal := l.Settings.Dead.Handle(kafka.Fetched{Topic: r.Topic, Partition: r.Partition, Offset: -1}, deadletter.StageConverter, err)
		if fatal == nil {
			l.Progress.Dropped(1)
		}
		return fatal
	}
	for _, h := range r.Headers {
		if h.Row != nil {
			start := len(l.arena)
			if l.arena, _, err = l.enc.Header(l.arena, r.Topic, h.Row); err != nil {
				return fmt.Errorf("header %s: %w", h.Key, err)
			}
			h.Value = l.arena[start:len(l.arena):len(l.arena)]
		}
		m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
	}
	if env := envelopeOf(r); env != nil && len(env.Headers) > 0 {
		for _, h := range env.Headers {
			m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
		}
	}
	if c, is := r.Value.(*record.ChangeEvent); is {
		if c.Source.Snapshot && (c.Table.Envelope == nil || len(c.Table.Envelope.Headers) == 0) {
			m.Headers = append(m.Headers, snapshotMark)
		}
		l.newest = max(l.newest, c.Source.TimeMS)
	}
	l.bytes += len(m.Key) + len(m.Value)
	l.msgs = append(l.msgs, m)
	return nil
}

// envelopeOf finds what the source said on its events; nil: nothing.
func envelopeOf(r *record.Record) *record.Envelope {
	if k, ok := r.Key.(*record.KeyRow); ok && k != nil {
		return k.Table.Envelope
	}
	if c, ok := r.Value.(*record.ChangeEvent); ok && c != nil {
		return c.Table.Envelope
	}
	return nil
}

var snapshotMark = kafka.Header{Key: SnapshotHeader, Value: []byte("true")}

// commit adds the offsets and commits.
func (l *loop) commit(ctx context.Context) error {
	msgs := l.msgs[:0]
	for key, o := range l.offsets {
		value, err := kafka.OffsetValue(o.Position)
		if err != nil {
			return fmt.Errorf("source offset %v: %w", o.Position, err)
		}
		msgs = append(msgs, kafka.Message{Topic: l.offsetsTopic, Partition: -1, Key: []byte(key), Value: value})
	}
	if err := l.producer.Send(ctx, msgs); err != nil {
		return err
	}
	// I1: no side effect without a lease.
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.producer.Commit(bounded); err != nil {
		return tooLarge(err)
	}
	l.Progress.Committed(l.records, l.bytes)
	l.Progress.Newest(l.newest)
	for _, o := range l.offsets {
		// I2: only now is everything up to o durable.
		if err := l.task.Committed(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// tooLarge adds the way out to the broker's refusal.
func tooLarge(err error) error {
	if errors.Is(err, kafka.ErrTooLarge) {
		return fmt.Errorf("%w: a message is larger than its topic takes: raise the topic's max.message.bytes (topic.creation.default.max.message.bytes for new topics), or leave the wide column out", err)
	}
	return err
}
