package kafka

import (
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/pierrec/lz4/v4"
)

// batcher makes record batches of messages, out of memory that acknowledged batches gave back. It belongs to its producer's goroutine.
type batcher struct {
	free []*sarama.RecordBatch
	runs map[TopicPartition]*run
	used []*run // those of the current call, as their partitions came
	last *run
	turn int32 // where messages without key go
	// headers are those of the last message, which most messages share with the one before.
	headers []Header
	encoded []*sarama.RecordHeader
	// counted are the runs with records in the transaction, when they are tallied.
	counted []*run
	sums    []Tally
}

// run is what one call of Send has for a partition.
type run struct {
	tp      TopicPartition
	batches []*sarama.RecordBatch
	size    int // of the last batch, before compression
	tally   Tally
}

// freeMax bounds the batches that are kept for another use.
const freeMax = 2 * maxInFlight

// recycle takes back a batch that the broker has stored.
func (k *batcher) recycle(b *sarama.RecordBatch) {
	if len(k.free) < freeMax {
		k.free = append(k.free, b)
	}
}

// fresh returns a batch without records.
func (k *batcher) fresh() *sarama.RecordBatch {
	n := len(k.free)
	if n == 0 {
		return &sarama.RecordBatch{}
	}
	b := k.free[n-1]
	k.free = k.free[:n-1]
	*b = sarama.RecordBatch{Records: b.Records[:0]}
	return b
}

// next extends the batch by a record, one that it had before where there is one.
func next(b *sarama.RecordBatch) *sarama.Record {
	n := len(b.Records)
	if n == cap(b.Records) {
		// The records of a batch lie in blocks, so that few allocations make many.
		block := make([]sarama.Record, max(16, min(n, 1024)))
		list := make([]*sarama.Record, n, n+len(block))
		copy(list, b.Records)
		for i := range block {
			list = append(list, &block[i])
		}
		b.Records = list[:n]
	}
	b.Records = b.Records[:n+1]
	return b.Records[n]
}

// run returns the run of a partition in this call.
func (k *batcher) run(topic string, partition int32) *run {
	if r := k.last; r != nil && r.tp.Partition == partition && r.tp.Topic == topic {
		return r
	}
	tp := TopicPartition{topic, partition}
	r := k.runs[tp]
	if r == nil {
		r = &run{tp: tp}
		if k.runs == nil {
			k.runs = map[TopicPartition]*run{}
		}
		k.runs[tp] = r
	}
	if len(r.batches) == 0 {
		k.used = append(k.used, r)
	}
	k.last = r
	return r
}

// batch turns messages into record batches by partition, in the messages' order. What it returns is good until the next call.
func (p *Producer) batch(msgs []Message) ([]*run, error) {
	k := &p.batcher
	for _, r := range k.used {
		clear(r.batches)
		r.batches = r.batches[:0]
	}
	k.used, k.last = k.used[:0], nil
	k.turn++
	now := time.Now().UnixMilli()
	for i := range msgs {
		m := &msgs[i]
		r, ts, err := p.add(m, now)
		if err != nil {
			return nil, err
		}
		if p.tally {
			if r.tally.Count == 0 {
				k.counted = append(k.counted, r)
			}
			r.count(m, ts, p.seq[r.tp])
		}
	}
	return k.used, nil
}

// largeBytes is the size from which a message is looked at before it is compressed.
const largeBytes = 8 << 20

// packs reports whether lz4 makes a value smaller by an eighth at least, from a look at its beginning.
func packs(value []byte) bool {
	sample := value[:min(len(value), 256<<10)]
	var c lz4.Compressor
	n, err := c.CompressBlock(sample, make([]byte, lz4.CompressBlockBound(len(sample))))
	return err == nil && n > 0 && n < len(sample)*7/8
}

// append adds a message that is not tallied to what batch has made.
func (p *Producer) append(m *Message) ([]*run, error) {
	_, _, err := p.add(m, time.Now().UnixMilli())
	return p.batcher.used, err
}

// add puts a message into the batch of its partition, and returns that partition's run and the message's time.
func (p *Producer) add(m *Message, now int64) (*run, int64, error) {
	k := &p.batcher
	partition, err := p.place(m)
	if err != nil {
		return nil, 0, err
	}
	ts := m.TimestampMS
	if ts == 0 {
		ts = now
	}
	size := m.size()
	r := k.run(m.Topic, partition)
	if len(r.batches) == 0 || r.size+size > maxBatchBytes {
		b := k.fresh()
		b.Version, b.Codec, b.CompressionLevel = 2, p.codec, sarama.CompressionLevelDefault
		b.ProducerID, b.ProducerEpoch, b.IsTransactional = p.pid, p.epoch, p.id != ""
		b.FirstTimestamp = time.UnixMilli(ts)
		b.MaxTimestamp = b.FirstTimestamp
		r.batches, r.size = append(r.batches, b), 0
	}
	if size > largeBytes && p.codec == sarama.CompressionLZ4 && !packs(m.Value) {
		// I8: packing it would take as much memory again as it has, for nothing.
		r.batches[len(r.batches)-1].Codec = sarama.CompressionNone
	}
	r.size += size
	b := r.batches[len(r.batches)-1]
	delta := time.Duration(ts-b.FirstTimestamp.UnixMilli()) * time.Millisecond
	if delta > b.MaxTimestamp.Sub(b.FirstTimestamp) {
		b.MaxTimestamp = b.FirstTimestamp.Add(delta)
	}
	rec := next(b)
	*rec = sarama.Record{
		Key: m.Key, Value: m.Value, Headers: k.encode(m.Headers), OffsetDelta: int64(len(b.Records) - 1), TimestampDelta: delta,
	}
	b.LastOffsetDelta = int32(len(b.Records) - 1)
	return r, ts, nil
}

// size is about what a message takes in a batch.
func (m *Message) size() int {
	n := len(m.Key) + len(m.Value) + recordOverhead
	for i := range m.Headers {
		n += len(m.Headers[i].Key) + len(m.Headers[i].Value) + 8
	}
	return n
}

// encode turns headers into sarama's, once for messages that share them.
func (k *batcher) encode(list []Header) []*sarama.RecordHeader {
	if len(list) == 0 {
		return nil
	}
	if len(k.headers) == len(list) && &k.headers[0] == &list[0] {
		return k.encoded
	}
	k.headers, k.encoded = list, make([]*sarama.RecordHeader, len(list))
	for i, h := range list {
		k.encoded[i] = &sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value}
	}
	return k.encoded
}

// place chooses a message's partition.
func (p *Producer) place(m *Message) (int32, error) {
	if m.Partition >= 0 {
		return m.Partition, nil
	}
	n, ok := p.partitions[m.Topic]
	if !ok {
		list, err := p.client.Partitions(m.Topic)
		if err != nil {
			return 0, fmt.Errorf("partitions of topic %s: %w", m.Topic, classify(err))
		}
		n = int32(len(list))
		p.partitions[m.Topic] = n
	}
	switch {
	case n == 1:
		return 0, nil
	case m.Key == nil:
		return p.batcher.turn & 0x7fffffff % n, nil
	}
	return PartitionOf(m.Key, n), nil
}
