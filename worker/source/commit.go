package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/ledger"
	"github.com/millrace/millrace/worker/runner"
)

// mayWrite must be asked before anything is sent (I1): what goes out without a transaction is there, whoever has the task by now, and a process that was
// stopped by a signal goes on right here.
func (l *loop) mayWrite() error {
	if err := l.Lease.Check(); err != nil {
		return connectors.Retriable(err)
	}
	return nil
}

// commit adds the offsets and commits.
func (l *loop) commit(ctx context.Context) error {
	if err := l.durable(ctx); err != nil {
		return err
	}
	l.Progress.Committed(l.records, l.bytes)
	l.Progress.Newest(l.newest)
	l.Progress.Used(l.used...)
	for _, o := range l.offsets {
		// I2: only now is everything up to o durable.
		leave := l.Live.Call(runner.WaitConfirm)
		err := l.task.Committed(ctx, o)
		leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// durable sends what is left of the transaction, with the offsets, and commits it.
func (l *loop) durable(ctx context.Context) error {
	defer l.Live.Enter(runner.WaitBroker)()
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var late *bundle
	if l.Faults.OffsetFirst {
		late, l.last = l.last, &bundle{}
	}
	var offsets []kafka.Message
	var to []ledger.Place
	for key, o := range l.offsets {
		value, err := kafka.OffsetValue(o.Position)
		if err != nil {
			return fmt.Errorf("source offset %v: %w", o.Position, err)
		}
		offsets = append(offsets, kafka.Message{Topic: l.offsetsTopic, Partition: -1, Key: []byte(key), Value: value})
		to = append(to, ledger.Place{Key: []byte(key), Position: value})
	}
	if l.producer.Transactional() {
		l.last.msgs = append(l.last.msgs, offsets...)
		offsets = nil
	}
	if err := l.sendLast(ctx, l.last.msgs, to); err != nil {
		return tooLarge(err)
	}
	l.free(l.last)
	if len(offsets) > 0 {
		// I2: at least once is the records first and then the offset.
		if err := l.producer.Commit(bounded); err != nil {
			return tooLarge(err)
		}
		if err := l.mayWrite(); err != nil {
			return err
		}
		if err := l.producer.Send(ctx, offsets); err != nil {
			return err
		}
	}
	if err := l.mayWrite(); err != nil {
		return err
	}
	err := l.producer.Commit(bounded)
	if err == nil && late != nil {
		if err = l.producer.Send(ctx, late.msgs); err == nil {
			err = l.producer.Commit(bounded)
		}
		l.free(late)
	}
	return tooLarge(err)
}

// sendLast sends a transaction's last messages, with its entry in the ledger if there is one.
func (l *loop) sendLast(ctx context.Context, msgs []kafka.Message, to []ledger.Place) error {
	if err := l.mayWrite(); err != nil {
		return err
	}
	if l.book == nil {
		return l.producer.Send(ctx, msgs)
	}
	return l.producer.SendLast(ctx, msgs, func(o kafka.Origin, tallies []kafka.Tally) (*kafka.Message, error) {
		return l.book.Entry(o, tallies, nil, to)
	})
}

// tooLarge adds the way out to the broker's refusal.
func tooLarge(err error) error {
	if errors.Is(err, kafka.ErrTooLarge) {
		return fmt.Errorf("%w: a message is larger than its topic takes: raise the topic's max.message.bytes (topic.creation.default.max.message.bytes for new topics), or leave the wide column out", err)
	}
	return err
}
