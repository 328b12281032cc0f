// Package source is the loop of source tasks: poll, convert, send, and commit records and source offset in one Kafka
// transaction (I3).
//
//	task.Poll ──► convert ──► bundles (bounded by bytes) ──► transaction ──► task.Committed
//	the poller's goroutine                                   the committer's goroutine
//
// While a transaction commits the task polls on and its records are converted, so that a quiet stream has the latency of one commit and a
// busy one gets big transactions by itself.
package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/ledger"
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

// Run runs the task until ctx ends or it fails. Dead letters are written by dead, which takes anything.
func Run(ctx context.Context, d runner.Deps, task connectors.SourceTask, enc, dead Encoder) (err error) {
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
	offsets := d.OffsetsTopic
	if err := admin.EnsureTopic(ctx, offsets, kafka.OffsetsTopicConfig()); err != nil {
		return fmt.Errorf("offsets topic: %w", err)
	}
	// I1: who has no lease fences nobody.
	if err := d.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	// I1, I3: first the older owner's producer is fenced and its open transaction decided, then the offset is read.
	id := d.TransactionalID()
	if d.Settings.AtLeastOnce {
		id = "" // an older owner is not fenced by Kafka, only by its lease: what it still writes comes twice
	}
	producer, err := kafka.NewProducer(ctx, d.Kafka, id, kafka.ProducerOptions{Compression: d.Settings.Compression, Tally: d.Settings.Ledger != ""})
	if err != nil {
		return err
	}
	defer producer.End(ctx)
	d.Progress.Protocol(producer.Protocol())
	undo := d.Live.OnCut(func() { _ = producer.Close() })
	defer undo()

	sc := connectors.SourceContext{
		TaskContext: connectors.TaskContext{
			Connector: d.Connector, Task: d.Task, Tasks: d.Tasks, Epoch: d.Epoch, Config: d.Config, Logger: d.Logger, Report: d.Progress.Report,
		},
		Offset: func(ctx context.Context, partition map[string]any) (map[string]any, error) {
			return d.Offsets.Read(ctx, d.Kafka, admin, offsets, d.Connector, partition)
		},
	}
	connected()
	defer d.Live.Close(task)
	opened := d.Live.Call(runner.WaitOpen)
	err = task.Open(ctx, sc)
	opened()
	if err != nil {
		return err
	}
	d.Live.Started()
	d.Signals.Set(task)
	defer d.Signals.Set(nil)

	l := &loop{
		Deps: d, task: task, enc: enc, group: grouper(enc), dead: dead, admin: admin, producer: producer, topics: runner.NewTopics(admin, d.Settings.Creation), offsetsTopic: offsets,
		budget: semaphore.NewWeighted(int64(d.Settings.MaxBytes)), bundles: make(chan *bundle, bundlesMax),
		blocks: make(chan []byte, max(1, d.Settings.MaxBytes/blockSize)),
	}
	if d.Settings.Ledger != "" {
		l.book, err = ledger.Open(ctx, admin, ledger.Options{Topic: d.Settings.Ledger, Connector: d.Connector, Task: d.Task, Epoch: d.Epoch, Leave: offsets})
		if err != nil {
			return err
		}
	}
	g, run := errgroup.WithContext(ctx)
	bundles := make(chan *bundle, bundlesMax)
	g.Go(runner.Guard(d.Logger, func() error { return l.poll(run, bundles) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.commitAll(run, bundles) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.watchBacklog(run) }))
	return g.Wait()
}

const (
	// bundlesMax is how many bundles may wait for the transaction to come; their bytes have a bound of their own.
	bundlesMax = 16
	// blockSize is the size of the blocks that messages are written into, in bytes. A larger message has memory of its own.
	blockSize = 256 << 10
)

type loop struct {
	runner.Deps
	task         connectors.SourceTask
	enc, dead    Encoder
	group        Grouper // nil: one record, one message
	admin        *kafka.Admin
	producer     *kafka.Producer
	topics       *runner.Topics
	offsetsTopic string
	// budget holds the bytes of bundles from their conversion until they are sent (I8).
	budget  *semaphore.Weighted
	bundles chan *bundle // to use again
	blocks  chan []byte
	common  headers       // owned by poll
	buried  bool          // the dead letter queue is there; owned by poll
	book    *ledger.Book  // nil: the task keeps no ledger; owned by commitAll
	polls   atomic.Uint64 // batches that came

	// The transaction in the making; owned by commitAll. last is the bundle of it that is not sent yet.
	last    *bundle
	records int
	bytes   int
	newest  int64
	used    []string // topics
	offsets map[string]connectors.Offset
}

// bundle is a batch of the task as messages, whose keys and values lie in the blocks, and the place after it.
type bundle struct {
	blocks [][]byte
	msgs   []kafka.Message
	bytes  int
	newest int64
	offset connectors.Offset
	topics []string // of the messages; neighbours mostly share one
	weight int64    // of the budget
}

func (l *loop) poll(ctx context.Context, out chan<- *bundle) error {
	// Poll's context ends every now and then, so that one that waits is told from one that is deaf. It serves many polls: a busy source
	// pays for no timer.
	slice, end := context.WithTimeout(ctx, runner.PollSlice)
	defer func() { end() }()
	for {
		l.Gate.Wait(ctx.Done())
		if slice.Err() != nil {
			end()
			next, cancel := context.WithTimeout(ctx, runner.PollSlice)
			slice, end = next, cancel //nolint:fatcontext // a child of ctx, not of the one that it replaces
		}
		leave := l.Live.Call(runner.WaitSource)
		batch, err := l.task.Poll(slice)
		leave()
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) && slice.Err() != nil && ctx.Err() == nil {
				continue
			}
			return err
		}
		l.polls.Add(1)
		if err := l.Throttle.Wait(ctx, l.Live, len(batch.Records)); err != nil {
			return err
		}
		b, err := l.convert(ctx, batch)
		if err != nil {
			return err
		}
		b.weight = min(int64(b.bytes), int64(l.Settings.MaxBytes))
		if err := l.budget.Acquire(ctx, b.weight); err != nil {
			return err
		}
		select {
		case out <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// convert makes a batch's messages and releases it.
func (l *loop) convert(ctx context.Context, batch *connectors.Batch) (*bundle, error) {
	defer l.Live.Enter(runner.WaitBroker)() // topics are made on the way
	b := &bundle{}
	select {
	case b = <-l.bundles:
	default:
	}
	b.bytes, b.newest, b.offset, b.topics = 0, 0, batch.Offset, b.topics[:0]
	if l.Settings.Transform == nil {
		if err := l.addAll(ctx, b, batch.Records); err != nil {
			return nil, err
		}
	} else if err := l.transformAll(ctx, b, batch.Records); err != nil {
		return nil, err
	}
	l.Progress.In(len(batch.Records))
	if batch.Release != nil {
		batch.Release()
	}
	return b, nil
}

// addAll converts records into a bundle's messages.
func (l *loop) addAll(ctx context.Context, b *bundle, records []record.Record) error {
	if l.group != nil {
		return l.addGroups(ctx, b, records)
	}
	for i := range records {
		if err := l.add(ctx, b, &records[i]); err != nil {
			return err
		}
	}
	return nil
}

// transformAll runs records through the transforms, and converts what is left of them one by one.
func (l *loop) transformAll(ctx context.Context, b *bundle, records []record.Record) error {
	for i := range records {
		keep, err := l.transform(ctx, b, &records[i])
		if err == nil && keep {
			err = l.addAll(ctx, b, records[i:i+1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write has f append to memory of the bundle, and returns what it appended.
func (l *loop) write(b *bundle, f func(dst []byte) ([]byte, bool, error)) ([]byte, bool, error) {
	if n := len(b.blocks); n == 0 || cap(b.blocks[n-1])-len(b.blocks[n-1]) < blockSize/64 {
		var block []byte
		select {
		case block = <-l.blocks:
		default:
			block = make([]byte, 0, blockSize)
		}
		b.blocks = append(b.blocks, block)
	}
	block := &b.blocks[len(b.blocks)-1]
	free := (*block)[len(*block):]
	out, ok, err := f(free)
	if len(out) <= cap(free) { // else append has moved it elsewhere
		*block = (*block)[:len(*block)+len(out)]
	}
	return slices.Clip(out), ok, err
}

// send sends a bundle and takes its memory back for another one.
func (l *loop) send(ctx context.Context, b *bundle) error {
	if err := l.mayWrite(); err != nil {
		return err
	}
	if err := l.producer.Send(ctx, b.msgs); err != nil {
		return tooLarge(err)
	}
	l.free(b)
	return nil
}

// free takes a sent bundle's memory back for another one.
func (l *loop) free(b *bundle) {
	l.budget.Release(b.weight)
	for _, block := range b.blocks {
		select {
		case l.blocks <- block[:0]:
		default:
		}
	}
	clear(b.blocks)
	clear(b.msgs)
	b.blocks, b.msgs = b.blocks[:0], b.msgs[:0]
	select {
	case l.bundles <- b:
	default:
	}
}

// commitAll gathers bundles into transactions.
func (l *loop) commitAll(ctx context.Context, in <-chan *bundle) error {
	for {
		var b *bundle
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
func (l *loop) gather(ctx context.Context, b *bundle, in <-chan *bundle) error {
	l.last, l.records, l.bytes, l.newest, l.used, l.offsets = nil, 0, 0, 0, l.used[:0], map[string]connectors.Offset{}
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

// take adds a bundle to the transaction and sends the one before it: the last one goes out together with the offset, which spares a quiet
// stream two round trips.
func (l *loop) take(ctx context.Context, b *bundle) error {
	if b.offset.Partition != nil {
		key, err := kafka.OffsetKey(l.Connector, b.offset.Partition)
		if err != nil {
			return fmt.Errorf("source partition %v: %w", b.offset.Partition, err)
		}
		l.offsets[string(key)] = b.offset
	}
	if l.last != nil {
		defer l.Live.Enter(runner.WaitBroker)()
		if err := l.send(ctx, l.last); err != nil {
			return err
		}
	}
	l.last = b
	l.newest = max(l.newest, b.newest)
	for _, t := range b.topics {
		if !slices.Contains(l.used, t) {
			l.used = append(l.used, t)
		}
	}
	l.records += len(b.msgs)
	l.bytes += b.bytes
	return nil
}

// transform runs a record through the transforms; they see all its headers.
func (l *loop) transform(ctx context.Context, b *bundle, r *record.Record) (bool, error) {
	change, _ := r.Value.(*record.ChangeEvent)
	if change != nil {
		b.newest = max(b.newest, change.Source.TimeMS)
	}
	for _, h := range l.common.of(envelopeOf(r), change != nil && change.Source.Snapshot) {
		r.Headers = append(r.Headers, record.Header{Key: h.Key, Value: h.Value})
	}
	was := *r
	keep, err := l.Settings.Transform(r)
	if err != nil {
		return false, l.refuse(ctx, b, &was, deadletter.StageTransform, err)
	}
	return keep, nil
}

// add converts a record into a bundle's next message.
func (l *loop) add(ctx context.Context, b *bundle, r *record.Record) error {
	m := kafka.Message{Topic: r.Topic, Partition: r.Partition, TimestampMS: r.TimestampMS}
	if err := l.topics.Ensure(ctx, r.Topic); err != nil {
		return err
	}
	key, ok, err := l.write(b, func(dst []byte) ([]byte, bool, error) { return l.enc.Key(dst, r.Topic, r.Key) })
	if ok {
		m.Key = key
	}
	if err == nil {
		var value []byte
		if value, ok, err = l.write(b, func(dst []byte) ([]byte, bool, error) { return l.enc.Value(dst, r.Topic, r.Value) }); ok {
			m.Value = value
		}
	}
	if err != nil {
		if connectors.IsRetriable(err) {
			return err // not the record's fault
		}
		return l.refuse(ctx, b, r, deadletter.StageConverter, err)
	}
	change, _ := r.Value.(*record.ChangeEvent)
	if l.Settings.Transform == nil { // else the record has them already
		m.Headers = l.common.of(envelopeOf(r), change != nil && change.Source.Snapshot)
	}
	if len(r.Headers) > 0 {
		if m.Headers, err = l.ownHeaders(b, r, m.Headers); err != nil {
			return err
		}
	}
	if change != nil {
		b.newest = max(b.newest, change.Source.TimeMS)
	}
	if n := len(b.topics); n == 0 || b.topics[n-1] != r.Topic {
		b.topics = append(b.topics, r.Topic)
	}
	b.bytes += len(m.Key) + len(m.Value)
	b.msgs = append(b.msgs, m)
	return nil
}

// refuse hands a record that can't be transformed or converted to errors.tolerance. Its dead letter is written by another converter, which takes anything,
// and is part of the transaction, so it is there exactly once.
func (l *loop) refuse(ctx context.Context, b *bundle, r *record.Record, stage string, cause error) error {
	at := kafka.Fetched{Topic: r.Topic, Offset: -1, TimestampMS: r.TimestampMS}
	key, okKey, keyErr := l.dead.Key(nil, r.Topic, r.Key)
	value, okValue, valueErr := l.dead.Value(nil, r.Topic, r.Value)
	if okKey {
		at.Key = key
	}
	if okValue {
		at.Value = value
	}
	// I5: nothing is left out unless the config says so, and then it is counted.
	m, err := l.Settings.Dead.Handle(at, stage, errors.Join(cause, keyErr, valueErr))
	if err != nil {
		return err
	}
	l.Progress.Dropped(1)
	if m == nil {
		return nil
	}
	if !l.buried {
		if err := l.admin.EnsureTopic(ctx, m.Topic, l.Settings.DeadTopic); err != nil {
			return fmt.Errorf("dead letter queue: %w", err)
		}
		l.buried = true
	}
	b.bytes += len(m.Key) + len(m.Value)
	b.msgs = append(b.msgs, *m)
	return nil
}

// ownHeaders are the record's own, and then those that it has in common with others.
func (l *loop) ownHeaders(b *bundle, r *record.Record, common []kafka.Header) ([]kafka.Header, error) {
	out := make([]kafka.Header, 0, len(r.Headers)+len(common))
	for _, h := range r.Headers {
		if h.Row != nil {
			var err error
			h.Value, _, err = l.write(b, func(dst []byte) ([]byte, bool, error) { return l.enc.Header(dst, r.Topic, h.Row) })
			if err != nil {
				return nil, fmt.Errorf("header %s: %w", h.Key, err)
			}
		}
		out = append(out, kafka.Header{Key: h.Key, Value: h.Value})
	}
	return append(out, common...), nil
}

// headers are those that all events of an envelope have, made once.
type headers struct {
	envelope *record.Envelope
	list     []kafka.Header
}

// of returns the headers of an event of the envelope. Rows of a snapshot are marked where the envelope has no headers of its own to tell.
func (h *headers) of(e *record.Envelope, snapshot bool) []kafka.Header {
	if h.envelope != e {
		h.envelope, h.list = e, nil
		if e != nil {
			for _, x := range e.Headers {
				h.list = append(h.list, kafka.Header{Key: x.Key, Value: x.Value})
			}
		}
	}
	if snapshot && len(h.list) == 0 {
		return snapshotMark
	}
	return h.list
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

var snapshotMark = []kafka.Header{{Key: SnapshotHeader, Value: []byte("true")}}
