// Package sink is the loop of sink tasks: read committed records, put them, flush, and only then commit the consumer offsets
// (I2).
//
//	Consumer ──► decode ──► task.Put ──► task.Flush ──► group offsets
//
// One goroutine does it all, so a slow target slows the reading (I8); a second one watches for new partitions.
package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/runner"
)

// Decoder turns a message into records; internal/convert has them. One message may hold several rows.
type Decoder interface {
	Decode(dst []record.Record, m kafka.Fetched) ([]record.Record, error)
}

// commitEvery bounds how often group offsets are stored while records flow; they also are when the input runs dry.
const commitEvery = 200 * time.Millisecond

// fetchBytes is how much is read at a time when max.bytes.in.flight leaves room for it.
const fetchBytes = 8 << 20

// Run runs the task until ctx ends or it fails.
func Run(ctx context.Context, d runner.Deps, task connectors.SinkTask, dec Decoder) error {
	connected, err := d.Connect(ctx)
	if err != nil {
		return err
	}
	defer connected()
	admin, err := kafka.NewAdmin(ctx, d.Kafka)
	if err != nil {
		return err
	}
	defer admin.Close()
	mine, err := d.Input(ctx, admin)
	if err != nil {
		return err
	}
	defer d.Live.Close(task)
	if err := open(ctx, d, task); err != nil {
		return err
	}
	stored, err := storedOffsets(ctx, d, task, admin, mine)
	if err != nil {
		return err
	}
	from, err := d.StartOffsets(ctx, admin, mine, stored)
	if err != nil {
		return err
	}
	consumer, err := kafka.NewConsumer(ctx, d.Kafka, kafka.ConsumerOptions{MaxBytes: d.Settings.FetchBytes(fetchBytes)})
	if err != nil {
		return err
	}
	defer consumer.Close()
	undo := d.Live.OnCut(func() { _ = errors.Join(consumer.Close(), admin.Close()) })
	defer undo()
	consumer.Assign(from)
	l := &loop{Deps: d, task: task, dec: dec, admin: admin, consumer: consumer, done: from, stored: map[kafka.TopicPartition]int64{}, failed: map[place]bool{}}
	defer l.close()
	connected()
	d.Live.Started()
	g, run := errgroup.WithContext(ctx)
	g.Go(runner.Guard(d.Logger, func() error { return d.WatchInput(run, admin, mine) }))
	g.Go(runner.Guard(d.Logger, func() error { return l.run(run) }))
	err = g.Wait()
	if ctx.Err() != nil {
		// What was flushed last is known to the group, too, so that who looks at the offsets of a stopped connector sees the truth.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := l.commit(last); err != nil {
			d.Logger.Debug("last commit of the group's offsets", "err", err)
		}
	}
	return err
}

func open(ctx context.Context, d runner.Deps, task connectors.SinkTask) error {
	defer d.Live.Call(runner.WaitOpen)()
	return task.Open(ctx, connectors.TaskContext{
		Connector: d.Connector, Task: d.Task, Tasks: d.Tasks, Epoch: d.Epoch, Config: d.Config, Logger: d.Logger, Report: d.Progress.Report,
		VoidBelow: d.VoidBelow,
	})
}

// storedOffsets are the target's own where it keeps some, else the group's.
func storedOffsets(ctx context.Context, d runner.Deps, task connectors.SinkTask, admin *kafka.Admin, mine []kafka.TopicPartition) (map[kafka.TopicPartition]int64, error) {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stored, err := admin.GroupOffsets(wait, d.Settings.Group)
	if err != nil {
		return nil, err
	}
	durable, ok := task.(connectors.Durable)
	if !ok {
		return stored, nil
	}
	ask := make([]connectors.TopicPartition, len(mine))
	for i, tp := range mine {
		ask[i] = connectors.TopicPartition(tp)
	}
	defer d.Live.Call(runner.WaitOpen)()
	own, err := durable.Offsets(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("offsets kept by the target: %w", err)
	}
	for tp, o := range own {
		stored[kafka.TopicPartition(tp)] = o
	}
	return stored, nil
}

type loop struct {
	runner.Deps
	task     connectors.SinkTask
	dec      Decoder
	admin    *kafka.Admin
	consumer *kafka.Consumer
	dead     *kafka.Producer

	records []record.Record
	from    []kafka.Fetched // the message of each record
	failed  map[place]bool  // messages of the batch that went to errors.tolerance
	done    map[kafka.TopicPartition]int64
	stored  map[kafka.TopicPartition]int64
	last    time.Time
}

// place is where a message stands.
type place struct {
	topic     string
	partition int32
	offset    int64
}

func (l *loop) close() {
	if l.dead != nil {
		_ = l.dead.Close()
	}
}

func (l *loop) run(ctx context.Context) error {
	for {
		if l.Gate.Paused() {
			if err := l.commit(ctx); err != nil {
				return err
			}
			l.Gate.Wait(ctx.Done())
		}
		msgs, err := l.poll(ctx)
		if err != nil {
			return err
		}
		for len(msgs) > 0 {
			n := l.Throttle.Cut(l.Settings.Cut(msgs))
			if err := l.Throttle.Wait(ctx, l.Live, n); err != nil {
				return err
			}
			if err := l.put(ctx, msgs[:n]); err != nil {
				return err
			}
			msgs = msgs[n:]
		}
		l.settled()
		if time.Since(l.last) >= commitEvery {
			if err := l.commit(ctx); err != nil {
				return err
			}
		}
	}
}

// poll waits for messages, but no longer than offsets may wait to be stored.
func (l *loop) poll(ctx context.Context) ([]kafka.Fetched, error) {
	wait, cancel := context.WithTimeout(ctx, commitEvery)
	defer cancel()
	defer l.Live.Enter(runner.WaitInput)()
	msgs, err := l.consumer.Poll(wait)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, nil
		}
		return nil, err
	}
	return msgs, nil
}

// settled is called when all that was polled is flushed: what the consumer has passed since, control records, is done with as well.
func (l *loop) settled() {
	positions := l.consumer.Positions()
	for tp, p := range positions {
		if o, ok := l.done[tp]; ok {
			l.done[tp] = max(o, p.Next)
		}
	}
	l.Progress.Lag(runner.Lag(positions))
}

// put takes one batch through to the target.
func (l *loop) put(ctx context.Context, msgs []kafka.Fetched) error {
	defer l.Live.Enter(runner.WaitPut)()
	l.records, l.from = l.records[:0], l.from[:0]
	bytes := 0
	for _, m := range msgs {
		bytes += len(m.Key) + len(m.Value)
		before := len(l.records)
		var err error
		stage := deadletter.StageConverter
		if l.records, err = l.dec.Decode(l.records, m); err == nil && l.Settings.Transform != nil {
			stage = deadletter.StageTransform
			l.records, err = l.transform(l.records, before)
		}
		if err != nil {
			l.records = l.records[:before]
			if connectors.IsRetriable(err) {
				return err // not the record's fault
			}
			if err := l.fail(ctx, m, stage, err); err != nil {
				return err
			}
			continue
		}
		for range len(l.records) - before {
			l.from = append(l.from, m)
		}
	}
	l.Progress.In(len(msgs))
	l.Progress.BytesIn(bytes)
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	clear(l.failed)
	for len(l.records) > 0 {
		err := l.Settings.Retry.Do(ctx, func() error { return l.deliver(ctx) })
		if err == nil {
			break
		}
		guilty := connectors.Blamed(err)
		if len(guilty) == 0 {
			return err
		}
		if err := l.condemn(ctx, guilty); err != nil {
			return err
		}
	}
	if err := l.buried(ctx); err != nil {
		return err
	}
	for i, m := range msgs {
		tp := kafka.TopicPartition{Topic: m.Topic, Partition: m.Partition}
		l.done[tp] = max(l.done[tp], m.Offset+1)
		l.Progress.Newest(m.TimestampMS)
		if i == 0 || m.Topic != msgs[i-1].Topic {
			l.Progress.Used(m.Topic)
		}
	}
	l.Progress.Committed(len(msgs), bytes)
	return nil
}

// transform runs the records from first on through the transforms, and returns those that are left.
func (l *loop) transform(records []record.Record, first int) ([]record.Record, error) {
	left := records[:first]
	for i := first; i < len(records); i++ {
		keep, err := l.Settings.Transform(&records[i])
		if err != nil {
			return left, err
		}
		if keep {
			left = append(left, records[i])
		}
	}
	return left, nil
}

// deliver takes the batch through to the target. When ctx has ended meanwhile somebody else may have the task, so nothing follows.
func (l *loop) deliver(ctx context.Context) error {
	leave := l.Live.Call(runner.WaitPut)
	err := l.task.Put(ctx, l.records)
	leave()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	defer l.Live.Call(runner.WaitFlush)()
	if err := l.task.Flush(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// condemn takes the guilty out of the batch and hands them to errors.tolerance. The others are put again; a repeated put of the same record
// changes nothing (I3).
func (l *loop) condemn(ctx context.Context, guilty []*connectors.RecordError) error {
	for _, g := range slices.Backward(guilty) {
		if g.Index < 0 || g.Index >= len(l.records) {
			return fmt.Errorf("the connector blames record %d of a batch of %d: %w", g.Index, len(l.records), g.Err)
		}
	}
	for _, g := range guilty {
		m := l.from[g.Index]
		at := place{m.Topic, m.Partition, m.Offset}
		if l.failed[at] {
			continue // another row of the same message
		}
		l.failed[at] = true
		if err := l.fail(ctx, m, deadletter.StagePut, g.Err); err != nil {
			return err
		}
	}
	for _, g := range slices.Backward(guilty) {
		l.records = slices.Delete(l.records, g.Index, g.Index+1)
		l.from = slices.Delete(l.from, g.Index, g.Index+1)
	}
	return nil
}

// buried waits until the dead letters are durable.
func (l *loop) buried(ctx context.Context) error {
	if l.dead == nil {
		return nil
	}
	defer l.Live.Enter(runner.WaitBroker)()
	if err := l.dead.Commit(ctx); err != nil {
		return fmt.Errorf("dead letter queue: %w", err)
	}
	return nil
}

// commit stores the group's offsets of what was flushed (I2), also in the middle of what was polled.
func (l *loop) commit(ctx context.Context) error {
	l.last = time.Now()
	fresh := map[kafka.TopicPartition]int64{}
	for tp, o := range l.done {
		if l.stored[tp] != o {
			fresh[tp] = o
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	defer l.Live.Enter(runner.WaitBroker)()
	bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := l.admin.CommitGroupOffsets(bounded, l.Settings.Group, fresh); err != nil {
		return err
	}
	maps.Copy(l.stored, fresh)
	return nil
}

// fail hands a record to errors.tolerance and the dead letter queue.
func (l *loop) fail(ctx context.Context, m kafka.Fetched, stage string, cause error) error {
	dead, fatal := l.Settings.Dead.Handle(m, stage, cause)
	if fatal != nil {
		return fatal
	}
	l.Progress.Dropped(1)
	if dead == nil {
		return nil
	}
	defer l.Live.Enter(runner.WaitBroker)()
	if l.dead == nil {
		if err := l.admin.EnsureTopic(ctx, dead.Topic, l.Settings.DeadTopic); err != nil {
			return fmt.Errorf("dead letter queue: %w", err)
		}
		p, err := kafka.NewProducer(ctx, l.Kafka, "", kafka.ProducerOptions{})
		if err != nil {
			return fmt.Errorf("dead letter queue: %w", err)
		}
		l.dead = p
	}
	if err := l.dead.Send(ctx, []kafka.Message{*dead}); err != nil {
		return fmt.Errorf("dead letter queue: %w", err)
	}
	return nil
}
