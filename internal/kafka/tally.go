package kafka

import (
	"context"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// Origin names a producer's life: the id that the brokers gave it, and the epoch of it. With a record's sequence it names the record: Kafka
// itself keeps the three with each batch, and lets none of them come twice.
type Origin struct {
	Producer int64
	Epoch    int16
}

// Tally sums up what the current transaction has for a partition: records by sequence from Sequence on, and what makes it possible to
// compare them with what is read back.
type Tally struct {
	TopicPartition
	Sequence int32
	Count    int64
	// Sum of the records' Hash, modulo 2⁶⁴: their order does not matter.
	Sum uint64
	// OldestMS is the smallest timestamp; retention goes by timestamps.
	OldestMS int64
}

// Hash is of a record's key and value; null and empty are different things.
func Hash(key, value []byte) uint64 {
	const odd1, odd2, odd3 = 0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9
	k, v := uint64(odd3), uint64(odd3)
	if key != nil {
		k = xxhash.Sum64(key)
	}
	if value != nil {
		v = xxhash.Sum64(value)
	}
	h := bits.RotateLeft64(k*odd1, 31) + v*odd2
	h ^= h >> 29 // a sum of what is linear in k and v would not see two values swapped
	h *= odd3
	return h ^ h>>32
}

// count adds a record to the run's tally.
func (r *run) count(m *Message, ts int64, next int32) {
	t := &r.tally
	if t.Count == 0 {
		t.TopicPartition, t.Sequence, t.OldestMS = r.tp, next, ts
	}
	t.Count++
	t.Sum += Hash(m.Key, m.Value)
	t.OldestMS = min(t.OldestMS, ts)
}

// tallies are those of the transaction. They are good until the next Commit.
func (p *Producer) tallies() []Tally {
	k := &p.batcher
	k.sums = k.sums[:0]
	for _, r := range k.counted {
		k.sums = append(k.sums, r.tally)
	}
	return k.sums
}

// SendLast sends the last messages of a transaction and, on the same way, one more that entry makes out of what the whole transaction holds;
// nil: none. The producer must have been made with Tally.
func (p *Producer) SendLast(ctx context.Context, msgs []Message, entry func(Origin, []Tally) (*Message, error)) error {
	if p.err != nil {
		return p.fail(nil)
	}
	runs, err := p.batch(msgs)
	if err != nil {
		return p.fail(err)
	}
	m, err := entry(Origin{p.pid, p.epoch}, p.tallies())
	if err != nil {
		return p.fail(err)
	}
	if m != nil {
		if runs, err = p.append(m); err != nil {
			return p.fail(err)
		}
	}
	return p.fail(p.send(ctx, runs))
}
