package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// ConsumerOptions tune a consumer; the zero value reads committed records.
type ConsumerOptions struct {
	// ReadUncommitted also shows records of open and aborted transactions.
	ReadUncommitted bool
	// Batches has each record say which batch it came in.
	Batches bool
	// MaxBytes of one answer of a broker. Default 8 MiB. A single larger batch still comes whole.
	MaxBytes int32
	// MaxWait is how long a broker may hold a request while there is nothing; data ends the wait at once. Default 500 ms.
	MaxWait time.Duration
}

// Consumer reads partitions that it is told, without a group. One fetch request at a time is open to each broker, and one
// answer at a time waits to be polled, so memory is bounded by MaxBytes times the number of brokers, twice (I8).
//
// Assign, Poll and Positions belong to one goroutine.
type Consumer struct {
	client sarama.Client
	opts   ConsumerOptions

	answers chan answer
	wake    chan struct{} // something may have become fetchable
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex // guards: parts
	parts map[TopicPartition]*part
}

// part is one partition's place. Its fields are guarded by Consumer.mu.
type part struct {
	next    int64 // to fetch from
	polled  int64 // next offset after what Poll has returned
	high    int64 // end of what may be read: the last stable offset for committed readers
	gen     int   // changes with each Assign: answers to older requests are dropped
	busy    bool  // an answer for it waits to be polled
	broker  int32
	maxSize int32
}

type answer struct {
	msgs []Fetched
	next map[TopicPartition]position
	err  error
}

type position struct {
	next, high int64
	gen        int
}

// NewConsumer connects and starts to fetch once partitions are assigned.
func NewConsumer(ctx context.Context, c Config, o ConsumerOptions) (*Consumer, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 8 << 20
	}
	if o.MaxWait == 0 {
		o.MaxWait = 500 * time.Millisecond
	}
	client, err := c.client(ctx)
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	k := &Consumer{client: client, opts: o, answers: make(chan answer), wake: make(chan struct{}, 1), stop: stop, parts: map[TopicPartition]*part{}}
	k.done.Go(func() { k.run(run) })
	return k, nil
}

// Assign replaces the set of partitions: each with the offset to read next. Partitions that were assigned before and have the
// same offset as their position go on undisturbed.
func (k *Consumer) Assign(from map[TopicPartition]int64) {
	defer k.signal()
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.parts
	k.parts = make(map[TopicPartition]*part, len(from))
	for tp, offset := range from {
		if p := old[tp]; p != nil && p.polled == offset {
			k.parts[tp] = p
			continue
		}
		gen := 1
		if p := old[tp]; p != nil {
			gen = p.gen + 1
		}
		k.parts[tp] = &part{next: offset, polled: offset, high: -1, gen: gen, broker: -1, maxSize: k.opts.MaxBytes}
	}
}

// Poll returns messages as soon as there are any; messages of one partition come in order. An empty answer without error means that
// positions moved past control records. It blocks until ctx ends. An error is about the consumer's connection or a
// partition, and lasts until the cause is gone; polling on is legal.
func (k *Consumer) Poll(ctx context.Context) ([]Fetched, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-k.answers:
		if a.err != nil {
			return nil, a.err
		}
		k.mu.Lock()
		stale := map[TopicPartition]bool{}
		for tp, pos := range a.next {
			p := k.parts[tp]
			if p == nil || p.gen != pos.gen {
				stale[tp] = true
				continue
			}
			p.polled, p.high = pos.next, pos.high
		}
		k.mu.Unlock()
		k.signal()
		if len(stale) > 0 {
			a.msgs = slices.DeleteFunc(a.msgs, func(m Fetched) bool { return stale[TopicPartition{m.Topic, m.Partition}] })
		}
		return a.msgs, nil
	}
}

func (k *Consumer) signal() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Position is a partition's place: the next offset after what Poll returned, and how much was seen to be after it.
type Position struct {
	Next int64
	// Lag in offsets, control records included; -1 when the broker has not been asked yet.
	Lag int64
}

// Positions returns the place of each assigned partition.
func (k *Consumer) Positions() map[TopicPartition]Position {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[TopicPartition]Position, len(k.parts))
	for tp, p := range k.parts {
		pos := Position{Next: p.polled, Lag: -1}
		if p.high >= 0 {
			pos.Lag = max(0, p.high-p.polled)
		}
		out[tp] = pos
	}
	return out
}

// Close ends the consumer. Called once.
func (k *Consumer) Close() error {
	k.stop()
	err := k.client.Close()
	k.done.Wait()
	return err
}

// run keeps one fetching goroutine for each broker that leads a partition.
func (k *Consumer) run(ctx context.Context) {
	fetching := map[int32]bool{}
	ended := make(chan int32)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		leaders, err := k.leaders()
		if err != nil {
			k.report(ctx, answer{err: err})
		}
		for id, b := range leaders {
			if !fetching[id] {
				fetching[id] = true
				wg.Go(func() {
					k.fetchFrom(ctx, id, b)
					select {
					case ended <- id:
					case <-ctx.Done():
					}
				})
			}
		}
		select {
		case <-ctx.Done():
			return
		case id := <-ended:
			delete(fetching, id)
		case <-k.wake:
		case <-tick.C:
		}
	}
}

// leaders gives each partition without one its broker, and returns the brokers in use.
func (k *Consumer) leaders() (map[int32]*sarama.Broker, error) {
	k.mu.Lock()
	var missing []TopicPartition
	used := map[int32]bool{}
	for tp, p := range k.parts {
		if p.broker < 0 {
			missing = append(missing, tp)
		} else {
			used[p.broker] = true
		}
	}
	k.mu.Unlock()
	out := map[int32]*sarama.Broker{}
	var firstErr error
	for _, tp := range missing {
		b, err := k.client.Leader(tp.Topic, tp.Partition)
		if err != nil {
			firstErr = fmt.Errorf("leader of %v: %w", tp, classify(err))
			continue
		}
		k.mu.Lock()
		if p := k.parts[tp]; p != nil {
			p.broker = b.ID()
		}
		k.mu.Unlock()
		out[b.ID()] = b
	}
	for id := range used {
		if out[id] == nil {
			if b, err := k.client.Broker(id); err == nil {
				_ = b.Open(k.client.Config()) // no error when it is open
				out[id] = b
			} else {
				k.forget(id)
			}
		}
	}
	return out, firstErr
}

// forget makes the partitions of a broker look for their leader again.
func (k *Consumer) forget(broker int32) {
	k.mu.Lock()
	topics := map[string]bool{}
	for tp, p := range k.parts {
		if p.broker == broker {
			p.broker = -1
			topics[tp.Topic] = true
		}
	}
	k.mu.Unlock()
	if len(topics) > 0 {
		_ = k.client.RefreshMetadata(slices.Collect(maps.Keys(topics))...)
	}
}

// fetchFrom reads from one broker until it leads nothing that can be read, or fails.
func (k *Consumer) fetchFrom(ctx context.Context, id int32, b *sarama.Broker) {
	for ctx.Err() == nil {
		req, asked := k.request(id)
		if len(asked) == 0 {
			return
		}
		resp, err := b.Fetch(req)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			_ = b.Close()
			k.forget(id)
			k.report(ctx, answer{err: fmt.Errorf("fetch from broker %d: %w", id, classify(err))})
			return
		}
		a := k.take(resp, asked)
		if a.err != nil {
			k.forget(id)
			k.report(ctx, answer{err: a.err})
			if len(a.next) == 0 {
				return
			}
			a.err = nil
		}
		if len(a.next) > 0 {
			k.report(ctx, a)
			k.handed(a)
		}
	}
}

// handed frees the partitions of an answer that Poll has taken. Whoever fetches does it, before its next request: one that left them out
// would not see what comes to them for as long as the broker holds it.
func (k *Consumer) handed(a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for tp, pos := range a.next {
		if p := k.parts[tp]; p != nil && p.gen == pos.gen {
			p.busy = false
		}
	}
}

// report hands an answer to Poll. After an error it waits a little, so that a broken broker does not make a busy loop.
func (k *Consumer) report(ctx context.Context, a answer) {
	select {
	case <-ctx.Done():
		return
	case k.answers <- a:
	}
	if a.err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (k *Consumer) request(id int32) (*sarama.FetchRequest, map[TopicPartition]position) {
	req := &sarama.FetchRequest{
		Version: 11, MinBytes: 1, MaxBytes: k.opts.MaxBytes, MaxWaitTime: int32(k.opts.MaxWait / time.Millisecond),
		SessionID: 0, SessionEpoch: -1, Isolation: sarama.ReadCommitted,
	}
	if k.opts.ReadUncommitted {
		req.Isolation = sarama.ReadUncommitted
	}
	asked := map[TopicPartition]position{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for tp, p := range k.parts {
		if p.broker == id && !p.busy {
			asked[tp] = position{next: p.next, gen: p.gen}
		}
	}
	// I8: the partitions share MaxBytes. The bound of the whole answer is out of reach on purpose: when the embedded broker (kfake)
	// meets it in the middle of a partition, it leaves out that partition's list of aborted transactions, and records
	// that were never committed would pass for committed ones (I3).
	share := max(k.opts.MaxBytes/int32(max(len(asked), 1)), 64<<10)
	total := int64(0)
	for tp := range asked {
		p := k.parts[tp]
		size := share
		if p.maxSize > k.opts.MaxBytes {
			size = p.maxSize // a batch that did not fit
		}
		req.AddBlock(tp.Topic, tp.Partition, p.next, size, -1)
		total += int64(size) + 8<<20 // the broker counts the batch that did not fit any more, too
	}
	req.MaxBytes = int32(min(total, 1<<30))
	return req, asked
}

// take reads an answer. It moves the fetch positions, and marks partitions with something to poll as busy until it is.
func (k *Consumer) take(resp *sarama.FetchResponse, asked map[TopicPartition]position) answer {
	a := answer{next: map[TopicPartition]position{}}
	for tp, pos := range asked {
		block := resp.GetBlock(tp.Topic, tp.Partition)
		if block == nil {
			continue
		}
		if block.Err != sarama.ErrNoError {
			a.err = fmt.Errorf("fetch %v from offset %d: %w", tp, pos.next, kerror(block.Err))
			continue
		}
		high := block.LastStableOffset
		if k.opts.ReadUncommitted || high < 0 {
			high = block.HighWaterMarkOffset
		}
		msgs, next, tooSmall, err := k.read(tp, pos.next, block)
		if err != nil {
			a.err = fmt.Errorf("read %v from offset %d: %w", tp, pos.next, err)
			continue
		}
		k.mu.Lock()
		p := k.parts[tp]
		if p == nil || p.gen != pos.gen {
			k.mu.Unlock()
			continue
		}
		p.next = next
		switch {
		case tooSmall:
			p.maxSize = min(p.maxSize*2, 1<<30)
		case next > pos.next:
			p.maxSize = k.opts.MaxBytes
		}
		if next == pos.next {
			// Nothing came: what Poll knows of the end still moves.
			p.high = high
		} else {
			p.busy = true
			a.next[tp] = position{next: next, high: high, gen: pos.gen}
			a.msgs = append(a.msgs, msgs...)
		}
		k.mu.Unlock()
	}
	return a
}

// read turns a partition's answer into messages and the next offset, leaving out control records and aborted transactions.
func (k *Consumer) read(tp TopicPartition, from int64, block *sarama.FetchResponseBlock) (msgs []Fetched, next int64, tooSmall bool, err error) {
	next = from
	pending := slices.Clone(block.AbortedTransactions)
	slices.SortFunc(pending, func(a, b *sarama.AbortedTransaction) int { return int(a.FirstOffset - b.FirstOffset) })
	aborted := map[int64]bool{}
	for _, set := range block.RecordsSet {
		b := set.RecordBatch
		if b == nil {
			return nil, from, false, errors.New("message format older than Kafka 0.11")
		}
		if b.PartialTrailingRecord {
			return msgs, next, next == from, nil
		}
		for len(pending) > 0 && pending[0].FirstOffset <= b.LastOffset() {
			aborted[pending[0].ProducerID] = true
			pending = pending[1:]
		}
		end := b.LastOffset() + 1
		switch {
		case b.Control:
			// A marker's key is version and type, 16 bits each; type 0 is abort.
			if len(b.Records) > 0 && len(b.Records[0].Key) >= 4 && binary.BigEndian.Uint16(b.Records[0].Key[2:]) == 0 {
				delete(aborted, b.ProducerID)
			}
		case b.IsTransactional && aborted[b.ProducerID] && !k.opts.ReadUncommitted:
		default:
			var batch *Batch
			if k.opts.Batches {
				batch = &Batch{Origin: Origin{b.ProducerID, b.ProducerEpoch}, Sequence: b.FirstSequence, Offset: b.FirstOffset}
			}
			for _, r := range b.Records {
				offset := b.FirstOffset + r.OffsetDelta
				if offset < from {
					continue // a batch is sent whole, also when reading starts in its middle
				}
				ts := b.FirstTimestamp.Add(r.TimestampDelta)
				if b.LogAppendTime {
					ts = b.MaxTimestamp
				}
				m := Fetched{Topic: tp.Topic, Partition: tp.Partition, Offset: offset, Key: r.Key, Value: r.Value, TimestampMS: ts.UnixMilli(), Batch: batch}
				for _, h := range r.Headers {
					m.Headers = append(m.Headers, Header{string(h.Key), h.Value})
				}
				msgs = append(msgs, m)
			}
		}
		next = max(next, end)
	}
	return msgs, next, false, nil
}
