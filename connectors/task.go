package connectors

import (
	"context"
	"log/slog"

	"github.com/millrace/millrace/connectors/record"
)

// TaskContext is what a task learns about itself when it is opened.
type TaskContext struct {
	// Connector and Task name the task; Epoch is its fencing number.
	Connector string
	Task      int
	Tasks     int
	Epoch     uint64
	// Config is the task's config with its secrets resolved.
	Config map[string]string
	Logger *slog.Logger
	// Report replaces what status shows of the task's own progress: phase, position, rows done. Small, for people. It
	// keeps no reference to the map, may be called from any goroutine and never blocks.
	Report func(detail map[string]string)
	// VoidBelow is for a Durable sink: its own offset of a partition counts only if it was stored under this epoch or a later one; an
	// older one was altered from outside, and the consumer group has what counts. 0: all count.
	VoidBelow func(TopicPartition) uint64
}

// SourceTask reads a source. The worker calls Open once, then Poll again and again, then Close. It makes a panic of these calls an error of the
// task; goroutines that the task starts must do so themselves, or a panic there ends the node.
type SourceTask interface {
	// Open connects and finds the place to go on from. A failure is an error of the task; wrap what may pass by itself
	// with Retriable.
	Open(ctx context.Context, tc SourceContext) error

	// Poll returns the next batch. It blocks until there is something, or until ctx ends (then it returns ctx's error and is called
	// again, so nothing may be lost by that: the worker has ctx end every few seconds to see whether the task listens). A
	// batch may be empty of records and still move the offset. It should return what it has rather than wait for
	// more: the worker gathers batches into transactions. The caller releases the batch before it polls again, unless
	// it holds several; a task must be able to make the next batch while earlier ones are not released yet.
	Poll(ctx context.Context) (*Batch, error)

	// Committed tells that everything up to offset is durable downstream (I2): a source that keeps its log until told, as
	// a replication slot does, lets go now. Called in order, from another goroutine than Poll, also while Poll blocks. Must not block for long.
	Committed(ctx context.Context, offset Offset) error

	// Close frees everything. It is called once, also after a failed Open, and ends all goroutines of the task.
	Close() error
}

// Backlogger is a source that can tell whether it stands still though there is something: the head of its log is ahead of what was read, and that
// does not change. Asked now and then, from another goroutine, while Poll returns nothing; ctx bounds it.
type Backlogger interface {
	Backlog(ctx context.Context) (bool, error)
}

// Signaler is a task that takes signals while it runs. Signal returns when the task has taken it, which is before what it asks for is
// done; what was taken outlives a restart once the task's next offset is stored. data is a JSON object or empty. The error is for who sent it.
type Signaler interface {
	Signal(ctx context.Context, kind, data string) error
}

// SourceContext is a source task's TaskContext and its stored offsets.
type SourceContext struct {
	TaskContext
	// Offset returns the stored offset of a source partition, or nil when there is none. It is read after older
	// producers of this task were fenced, so it is the last word.
	Offset func(ctx context.Context, partition map[string]any) (map[string]any, error)
}

// Offset is a source partition and a place in it. Both maps hold JSON values: strings, float64 or json.Number, bools,
// nested maps and slices. They are stored in Kafka Connect's own format.
type Offset struct {
	Partition map[string]any
	Position  map[string]any
}

// Batch is what Poll returns: records in the source's order, and the place after the last of them.
type Batch struct {
	Records []record.Record
	// Offset is where to go on once all records of this batch and of those before are durable. It is stored in the same
	// Kafka transaction as the records (I3). Its maps are not changed after Poll returned.
	Offset Offset
	// Boundary is true when the batch ends where the source's own transaction ends.
	Boundary bool
	// Release, if set, gives the batch's memory back. The worker calls it once, when the records were turned into bytes.
	Release func()
}

// SinkTask writes to a target. The worker calls Open once, then Put and Flush, then Close.
type SinkTask interface {
	// Open connects.
	Open(ctx context.Context, tc TaskContext) error

	// Put takes records, in order within each topic partition. It may hold them back until Flush. It may change nothing
	// in them and keeps no reference after Flush. An error fails the task, except *RecordError, which blames a record: then the
	// others are put again, and what was put before counts for nothing. After an error wrapped in Retriable the worker may put
	// the same records again (errors.retry.timeout) before it restarts the task. When ctx has ended, Put returns and has no
	// further effect: one that does not return in time is left behind, and another task begins beside it (I9).
	Put(ctx context.Context, records []record.Record) error

	// Flush makes everything put so far durable. After it the worker commits the consumer offsets (I2). A redelivery of
	// what was put since the last Flush must change nothing (I3). Its errors are as those of Put.
	Flush(ctx context.Context) error

	// Close frees everything, without flushing. Called once, also after a failed Open.
	Close() error
}

// Durable is a sink that keeps consumer offsets itself, in the same transaction as the data.
type Durable interface {
	// Offsets returns the next offset to read for each topic partition that the target knows of, but for those that VoidBelow rules
	// out. The worker starts there rather than at the group's committed offset.
	Offsets(ctx context.Context, partitions []TopicPartition) (map[TopicPartition]int64, error)
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}
