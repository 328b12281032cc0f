// Package offset reads and changes what connectors have stored of their progress: source offsets in the offsets topic, and the offsets of
// the consumer groups of sinks and transforms.
//
// It changes offsets only of connectors whose tasks have stopped; its caller sees to that. Against a task that is cut off from the cluster
// and does not know it yet, the write itself is safe: it is made under the transactional ids of the connector's tasks, which fences them
// (I1), and a task that starts afterwards reads it (I3).
package offset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace/millrace/internal/kafka"
)

// Source names a source connector's offsets.
type Source struct {
	Kafka     kafka.Config
	Topic     string
	Connector string
	// TransactionalIDs of all tasks that it may have had, one at least.
	TransactionalIDs []string
}

// Offset is a source partition with the position in it; a nil position forgets it.
type Offset struct{ Partition, Position map[string]any }

// Read returns the stored offsets.
func (s Source) Read(ctx context.Context) ([]Offset, error) {
	stored, err := kafka.ReadOffsets(ctx, s.Kafka, s.Topic, s.Connector)
	out := make([]Offset, len(stored))
	for i, o := range stored {
		out[i] = Offset{o.Partition, o.Position}
	}
	return out, err
}

// Alter stores offsets; partitions that are not named keep theirs.
func (s Source) Alter(ctx context.Context, offsets []Offset) error {
	return s.write(ctx, func(stored []kafka.StoredOffset) ([]kafka.Message, error) {
		var msgs []kafka.Message
		for _, o := range offsets {
			key, err := kafka.OffsetKey(s.Connector, o.Partition)
			if err != nil {
				return nil, err
			}
			value, err := kafka.OffsetValue(o.Position)
			if err != nil {
				return nil, err
			}
			msgs = append(msgs, kafka.Message{Topic: s.Topic, Partition: -1, Key: key, Value: value})
			// The same partition as another writer wrote it must not come back.
			for _, old := range stored {
				canonical, err := kafka.OffsetKey(s.Connector, old.Partition)
				if err == nil && string(canonical) == string(key) && string(old.Key) != string(key) {
					msgs = append(msgs, kafka.Message{Topic: s.Topic, Partition: old.At, Key: old.Key})
				}
			}
		}
		return msgs, nil
	})
}

// Reset forgets all offsets.
func (s Source) Reset(ctx context.Context) error {
	return s.write(ctx, func(stored []kafka.StoredOffset) ([]kafka.Message, error) {
		var msgs []kafka.Message
		for _, old := range stored {
			msgs = append(msgs, kafka.Message{Topic: s.Topic, Partition: old.At, Key: old.Key})
		}
		return msgs, nil
	})
}

// write fences all tasks and writes what build makes of what is stored, in one transaction.
func (s Source) write(ctx context.Context, build func([]kafka.StoredOffset) ([]kafka.Message, error)) error {
	admin, err := kafka.NewAdmin(ctx, s.Kafka)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.EnsureTopic(ctx, s.Topic, kafka.OffsetsTopicConfig()); err != nil {
		return fmt.Errorf("offsets topic: %w", err)
	}
	if err := fence(ctx, s.Kafka, s.TransactionalIDs[1:]); err != nil {
		return err
	}
	producer, err := kafka.NewProducer(ctx, s.Kafka, s.TransactionalIDs[0], kafka.ProducerOptions{})
	if err != nil {
		return err
	}
	defer producer.End(ctx)
	// I3: what is stored is read after the tasks' open transactions are decided.
	stored, err := kafka.ReadOffsets(ctx, s.Kafka, s.Topic, s.Connector)
	if err != nil {
		return err
	}
	msgs, err := build(stored)
	if err != nil || len(msgs) == 0 {
		return err
	}
	if err := producer.Send(ctx, msgs); err != nil {
		return err
	}
	return producer.Commit(ctx)
}

// Group names the consumer group of a sink or transform.
type Group struct {
	Kafka kafka.Config
	Name  string
	// TransactionalIDs of all tasks of a transform; empty for a sink.
	TransactionalIDs []string
}

// Partition is a partition of a topic, and the next offset to read there.
type Partition struct {
	kafka.TopicPartition
	Next int64
}

// Read returns the group's offsets by topic and partition.
func (g Group) Read(ctx context.Context) ([]Partition, error) {
	a, err := kafka.NewAdmin(ctx, g.Kafka)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	offsets, err := a.GroupOffsets(ctx, g.Name)
	if err != nil {
		return nil, err
	}
	var out []Partition
	for _, tp := range slices.SortedFunc(maps.Keys(offsets), func(a, b kafka.TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	}) {
		out = append(out, Partition{tp, offsets[tp]})
	}
	return out, nil
}

// ErrNoPartition means that an offset names a partition which its topic does not have.
var ErrNoPartition = errors.New("there is no such partition")

// Alter stores the group's offsets; a nil one is forgotten. Partitions that are not named keep theirs.
func (g Group) Alter(ctx context.Context, offsets map[kafka.TopicPartition]*int64) error {
	a, err := kafka.NewAdmin(ctx, g.Kafka)
	if err != nil {
		return err
	}
	defer a.Close()
	set := map[kafka.TopicPartition]int64{}
	for tp, next := range offsets {
		n, err := a.Partitions(ctx, tp.Topic)
		if err != nil && !errors.Is(err, kafka.ErrUnknownTopic) {
			return err
		}
		if next != nil && (tp.Partition < 0 || tp.Partition >= n) {
			return fmt.Errorf("%s-%d: %w", tp.Topic, tp.Partition, ErrNoPartition)
		}
		if next != nil {
			set[tp] = *next
		}
	}
	if err := fence(ctx, g.Kafka, g.TransactionalIDs); err != nil {
		return err
	}
	for tp, next := range offsets {
		if next == nil {
			if err := a.DeleteGroupOffset(ctx, g.Name, tp); err != nil {
				return err
			}
		}
	}
	if len(set) == 0 {
		return nil
	}
	return a.CommitGroupOffsets(ctx, g.Name, set)
}

// Reset deletes the group.
func (g Group) Reset(ctx context.Context) error {
	a, err := kafka.NewAdmin(ctx, g.Kafka)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := fence(ctx, g.Kafka, g.TransactionalIDs); err != nil {
		return err
	}
	return a.DeleteGroup(ctx, g.Name)
}

// fence makes sure that what an older producer with one of the ids has not committed yet never will be (I1).
func fence(ctx context.Context, c kafka.Config, ids []string) error {
	for _, id := range ids {
		p, err := kafka.NewProducer(ctx, c, id, kafka.ProducerOptions{})
		if err != nil {
			return err
		}
		_ = p.Close()
	}
	return nil
}
