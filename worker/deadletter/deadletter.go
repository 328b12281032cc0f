// Package deadletter decides what becomes of a record that can't be handled: fail the task, skip and count, or write it to the
// dead letter queue with the reason. Nothing is skipped silently (I5).
package deadletter

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/internal/kafka"
)

// Policy is errors.* of a connector's config.
type Policy struct {
	// TolerateAll is errors.tolerance=all.
	TolerateAll bool
	// Topic is the dead letter queue; empty: none.
	Topic string
	// Context adds the __connect.errors.* headers.
	Context bool
	// Log writes each failure to the log; Messages also its key and place.
	Log, Messages bool

	Connector string
	// Class is the connector's.
	Class  string
	Task   int
	Logger *slog.Logger
	// Counter, if set, counts; a runner.Progress does.
	Counter Counter
}

// Counter counts records that could not be handled.
type Counter interface {
	RecordError(stage string)
	DeadLetter()
}

// The stages of Kafka Connect at which a record can fail.
const (
	StageConverter = "VALUE_CONVERTER"
	StageTransform = "TRANSFORMATION"
	StagePut       = "TASK_PUT"
)

// Prefix of the headers that carry reason and place, in Kafka Connect's names.
const Prefix = "__connect.errors."

// Handle takes a record that failed; an Offset below zero means that it has none yet, as in a source. It returns the error that fails the
// task; or nil, and the message for the dead letter queue, if there is one, which must be durable before the record counts as
// done.
func (p Policy) Handle(r kafka.Fetched, stage string, cause error) (*kafka.Message, error) {
	if p.Counter != nil {
		p.Counter.RecordError(stage)
	}
	if !p.TolerateAll {
		if r.Offset < 0 {
			return nil, fmt.Errorf("record for topic %s: %w", r.Topic, cause)
		}
		return nil, fmt.Errorf("record %s-%d@%d: %w", r.Topic, r.Partition, r.Offset, cause)
	}
	if p.Log {
		args := []any{"stage", stage, "err", cause}
		if p.Messages {
			args = append(args, "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
		}
		p.Logger.Error("record can't be handled and is passed over (errors.tolerance=all)", args...)
	}
	if p.Topic == "" {
		return nil, nil
	}
	if p.Counter != nil {
		p.Counter.DeadLetter()
	}
	m := &kafka.Message{Topic: p.Topic, Partition: -1, Key: r.Key, Value: r.Value, Headers: slices.Clone(r.Headers), TimestampMS: r.TimestampMS}
	if !p.Context {
		return m, nil
	}
	// A record that was replayed and failed again says why it failed this time.
	m.Headers = slices.DeleteFunc(m.Headers, func(h kafka.Header) bool { return strings.HasPrefix(h.Key, Prefix) })
	add := func(k, v string) { m.Headers = append(m.Headers, kafka.Header{Key: Prefix + k, Value: []byte(v)}) }
	add("topic", r.Topic)
	if r.Offset >= 0 {
		add("partition", strconv.Itoa(int(r.Partition)))
		add("offset", strconv.FormatInt(r.Offset, 10))
	}
	add("connector.name", p.Connector)
	add("task.id", strconv.Itoa(p.Task))
	add("stage", stage)
	add("class.name", p.Class)
	add("exception.class.name", fmt.Sprintf("%T", root(cause)))
	add("exception.message", cause.Error())
	add("exception.stacktrace", cause.Error()+"\n")
	return m, nil
}

// root is the error at the bottom of a chain, whose type says most.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
