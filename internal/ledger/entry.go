package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/internal/kafka"
)

// Topic is the default name of the ledger.
const Topic = "millrace-ledger"

// TopicConfig is what the ledger is made with. Each entry is unlike all others, so there is nothing to compact: the topic is bounded by time,
// by as much as Kafka's topics are by default. Whoever keeps records for longer gives it the same retention.
func TopicConfig() kafka.TopicConfig {
	return kafka.TopicConfig{Partitions: 25, Configs: map[string]string{"cleanup.policy": "delete", "retention.ms": "604800000"}}
}

// Place is a position of a source partition, as the offsets topic has it: the partition as key, the position as value. Of a transform it is an
// input partition with the next offset, in the words in which Kafka Connect shows a sink's offsets.
type Place struct {
	Key      json.RawMessage `json:"partition"`
	Position json.RawMessage `json:"position"`
}

// InputPlace is the place of a transform.
func InputPlace(tp kafka.TopicPartition, next int64) Place {
	topic, _ := json.Marshal(tp.Topic) // a string
	return Place{fmt.Appendf(nil, `{"kafka_topic":%s,"kafka_partition":%d}`, topic, tp.Partition), fmt.Appendf(nil, `{"kafka_offset":%d}`, next)}
}

// Part is what a transaction holds of a topic partition.
type Part struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Sequence  int32  `json:"seq"`
	Count     int64  `json:"count"`
	Sum       Sum    `json:"sum"`
	OldestMS  int64  `json:"oldest"`
}

// Sum of kafka.Hash over records, modulo 2⁶⁴. In JSON it is text: not every reader of JSON has 64 bits.
type Sum uint64

// MarshalText writes 16 hexadecimal digits.
func (s Sum) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(s)), nil }

// UnmarshalText reads them.
func (s *Sum) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*s = Sum(n)
	return err
}

// Entry is one transaction.
type Entry struct {
	Connector string `json:"-"`
	Task      int    `json:"-"`

	// Epoch of the task, and the entry's number under the producer that wrote it, from 1.
	Epoch         uint64 `json:"epoch"`
	Number        uint64 `json:"n"`
	AtMS          int64  `json:"at"`
	Producer      int64  `json:"producer"`
	ProducerEpoch int16  `json:"producer_epoch"`
	// From is left out by sources: it is the To of the task's entry before.
	From  []Place `json:"from,omitempty"`
	To    []Place `json:"to,omitempty"`
	Parts []Part  `json:"parts"`
}

// parse reads an entry; nil: the record is none.
func parse(m kafka.Fetched) (*Entry, error) {
	var key []json.RawMessage
	e := &Entry{}
	if err := json.Unmarshal(m.Key, &key); err != nil || len(key) != 2 {
		return nil, fmt.Errorf("%s-%d@%d is no entry of a ledger: key %.100q", m.Topic, m.Partition, m.Offset, m.Key)
	}
	for i, into := range []any{&e.Connector, &e.Task} {
		if err := json.Unmarshal(key[i], into); err != nil {
			return nil, fmt.Errorf("%s-%d@%d: key of the entry: %w", m.Topic, m.Partition, m.Offset, err)
		}
	}
	if err := json.Unmarshal(m.Value, e); err != nil {
		return nil, fmt.Errorf("%s-%d@%d: entry: %w", m.Topic, m.Partition, m.Offset, err)
	}
	return e, nil
}

// Options say whose book it is.
type Options struct {
	Topic     string
	Connector string
	Task      int
	Epoch     uint64
	// Leave out topics that are not for the auditor: those of offsets.
	Leave string
}

// Book makes a task's entries. It belongs to one goroutine and to one producer.
type Book struct {
	o         Options
	key       []byte
	partition int32
	number    uint64
}

// Open makes sure that the ledger is there.
func Open(ctx context.Context, a *kafka.Admin, o Options) (*Book, error) {
	if err := a.EnsureTopic(ctx, o.Topic, TopicConfig()); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	n, err := a.Partitions(ctx, o.Topic)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	key, err := json.Marshal([]any{o.Connector, o.Task})
	return &Book{o: o, key: key, partition: partitionOf(o.Connector, n)}, err
}

// partitionOf has the entries of all tasks of a connector together, so that its auditor reads nobody else's.
func partitionOf(connector string, n int32) int32 { return kafka.PartitionOf([]byte(connector), n) }

// Entry makes the entry of a transaction; nil when it has no records.
func (b *Book) Entry(o kafka.Origin, tallies []kafka.Tally, from, to []Place) (*kafka.Message, error) {
	e := Entry{Epoch: b.o.Epoch, Number: b.number + 1, AtMS: time.Now().UnixMilli(), Producer: o.Producer, ProducerEpoch: o.Epoch, From: from, To: to}
	for _, t := range tallies {
		if t.Topic == b.o.Leave {
			continue
		}
		e.Parts = append(e.Parts, Part{Topic: t.Topic, Partition: t.Partition, Sequence: t.Sequence, Count: t.Count, Sum: Sum(t.Sum), OldestMS: t.OldestMS})
	}
	if len(e.Parts) == 0 {
		return nil, nil
	}
	b.number++
	value, err := json.Marshal(&e)
	return &kafka.Message{Topic: b.o.Topic, Partition: b.partition, Key: b.key, Value: value}, err
}
