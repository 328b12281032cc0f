package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

const (
	// maxInFlight produce requests per producer: Kafka keeps order and idempotence for up to five.
	maxInFlight = 5
	// maxBatchBytes of one record batch before compression. Brokers take 1 MiB by default.
	maxBatchBytes = 900 << 10
	// recordOverhead is a generous estimate of a record's framing.
	recordOverhead = 24
	// txnBackoff is how long to wait at first while the coordinator still writes the markers of the last transaction, and txnBackoffMax at
	// most. They decide the latency of exactly-once: with sarama's 100 ms a commit takes 30 ms, with 2 ms it takes 5.
	txnBackoff    = 500 * time.Microsecond
	txnBackoffMax = 4 * time.Millisecond
)

// ProducerOptions tune a producer; the zero value is good.
type ProducerOptions struct {
	// Compression: none, gzip, snappy, lz4 (the default) or zstd.
	Compression string
	// TransactionTimeout is how long the broker lets a transaction stay open when its producer is gone. Default 60 s.
	TransactionTimeout time.Duration
	// Tally sums up what each transaction holds, for SendLast.
	Tally bool
}

// Producer sends messages in transactions (exactly once), or just idempotently when it has no transactional id.
//
// Any error is final: the producer is dead and its transaction aborts, with End, when a new producer with the same id is made, or by its timeout.
// That is also the answer to a commit whose outcome is not known (KAFKA-17754): drop the producer, make a new one, which
// resolves the old transaction first, and look at the stored offset.
//
// It belongs to one goroutine; only Close may be called from another, to cut it off.
type Producer struct {
	client sarama.Client
	id     string // "" when not transactional
	pid    int64
	epoch  int16
	codec  sarama.CompressionCodec
	tally  bool
	// ender commits where the brokers speak the second transaction protocol; nil: the first.
	ender *ender

	partitions map[string]int32
	batcher    batcher
	seq        map[TopicPartition]int32
	inTxn      map[TopicPartition]bool
	offsets    map[string]map[TopicPartition]int64
	acks       chan ack
	inFlight   int
	// refused are batches that a broker did not take because it does not lead the partition (yet); they go out again, in order.
	refused  []sent
	refusals time.Time // when the first of them was refused; zero: none
	err      error
	closed   atomic.Bool
}

type ack struct {
	resp    *sarama.ProduceResponse
	err     error
	batches []sent
}

// sent is a batch on its way.
type sent struct {
	tp TopicPartition
	b  *sarama.RecordBatch
}

// refusalLimit bounds how long refused batches are tried again.
const refusalLimit = 15 * time.Second

// TransactionalID is the same for a task on every worker, so that a new owner fences the old one (I1).
func TransactionalID(cluster, connector string, task int) string {
	return fmt.Sprintf("%s-%s-%d", cluster, connector, task)
}

// NewProducer makes a producer. With a transactional id, older producers with that id are fenced and their open transactions
// are resolved when it returns (I1). It tries until ctx ends.
func NewProducer(ctx context.Context, c Config, transactionalID string, o ProducerOptions) (*Producer, error) {
	codec, err := codecOf(o.Compression)
	if err != nil {
		return nil, err
	}
	client, err := c.client(ctx)
	if err != nil {
		return nil, err
	}
	p := &Producer{
		client: client, id: transactionalID, codec: codec, partitions: map[string]int32{}, seq: map[TopicPartition]int32{},
		inTxn: map[TopicPartition]bool{}, acks: make(chan ack, maxInFlight), tally: o.Tally && transactionalID != "",
	}
	if o.TransactionTimeout == 0 {
		o.TransactionTimeout = time.Minute
	}
	if transactionalID != "" && !c.first {
		if p.ender, err = newEnder(c, client); err != nil {
			_ = client.Close()
			return nil, err
		}
	}
	if err := p.init(ctx, o.TransactionTimeout); err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("initialise producer %q: %w", transactionalID, err)
	}
	return p, nil
}

func codecOf(name string) (sarama.CompressionCodec, error) {
	switch name {
	case "none":
		return sarama.CompressionNone, nil
	case "gzip":
		return sarama.CompressionGZIP, nil
	case "snappy":
		return sarama.CompressionSnappy, nil
	case "", "lz4":
		return sarama.CompressionLZ4, nil
	case "zstd":
		return sarama.CompressionZSTD, nil
	}
	return 0, fmt.Errorf("compression %q: none, gzip, snappy, lz4 or zstd", name)
}

func (p *Producer) init(ctx context.Context, timeout time.Duration) error {
	if p.id == "" {
		return p.initIdempotent(ctx)
	}
	return p.withCoordinator(ctx, "init producer id", func(b *sarama.Broker) (sarama.KError, error) {
		resp, err := b.InitProducerID(&sarama.InitProducerIDRequest{
			Version: 4, TransactionalID: &p.id, TransactionTimeout: timeout, ProducerID: -1, ProducerEpoch: -1,
		})
		if err != nil {
			return 0, err
		}
		p.pid, p.epoch = resp.ProducerID, resp.ProducerEpoch
		return resp.Err, nil
	})
}

// initIdempotent asks any broker for a producer id. A broker that has not got its block of ids yet, as just after it started, says
// that its coordinator is loading.
func (p *Producer) initIdempotent(ctx context.Context) error {
	for {
		resp, err := p.client.InitProducerID()
		if err != nil {
			return classify(err)
		}
		if resp.Err == sarama.ErrNoError {
			p.pid, p.epoch = resp.ProducerID, resp.ProducerEpoch
			return nil
		}
		if resp.Err != sarama.ErrOffsetsLoadInProgress && resp.Err != sarama.ErrConsumerCoordinatorNotAvailable {
			return kerror(resp.Err)
		}
		select {
		case <-ctx.Done():
			return &Error{ErrUnavailable, fmt.Errorf("%w (last answer: %w)", ctx.Err(), resp.Err)}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// withCoordinator calls the transaction coordinator until it answers for good or ctx ends. call is only repeated on answers that say
// that nothing was done.
func (p *Producer) withCoordinator(ctx context.Context, what string, call func(*sarama.Broker) (sarama.KError, error)) error {
	backoff := txnBackoff
	for {
		b, err := p.client.TransactionCoordinator(p.id)
		code := sarama.KError(0)
		if err == nil {
			code, err = call(b)
			if err != nil {
				// Sent, perhaps done: not to be repeated here.
				return fmt.Errorf("%s: %w", what, classify(err))
			}
		} else if !errors.As(err, &code) {
			return fmt.Errorf("find the transaction coordinator: %w", classify(err))
		}
		wait := 50 * time.Millisecond
		switch code {
		case sarama.ErrNoError:
			return nil
		case sarama.ErrConcurrentTransactions:
			wait, backoff = backoff, min(2*backoff, txnBackoffMax)
		case sarama.ErrNotCoordinatorForConsumer, sarama.ErrConsumerCoordinatorNotAvailable:
			_ = p.client.RefreshTransactionCoordinator(p.id)
		case sarama.ErrOffsetsLoadInProgress:
		case sarama.ErrUnknownTopicOrPartition:
			// A topic that was just created, and the coordinator has not heard of it.
		default:
			return fmt.Errorf("%s: %w", what, kerror(code))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, &Error{ErrUnavailable, fmt.Errorf("%w (last answer: %w)", ctx.Err(), code)})
		case <-time.After(wait):
		}
	}
}

// Transactional reports whether the producer writes in transactions.
func (p *Producer) Transactional() bool { return p.id != "" }

// Protocol is the version of Kafka's transaction protocol that the producer speaks; 0: none.
func (p *Producer) Protocol() int {
	switch {
	case p.id == "":
		return 0
	case p.ender == nil:
		return 1
	}
	return 2
}

// Send hands messages over, whose memory is the caller's again when it returns. It returns when they are on their way, and blocks while too much is unanswered (I8). Errors of
// earlier messages show up in later calls.
func (p *Producer) Send(ctx context.Context, msgs []Message) error {
	if p.err != nil {
		return p.fail(nil)
	}
	if len(msgs) == 0 {
		return nil
	}
	runs, err := p.batch(msgs)
	if err != nil {
		return p.fail(err)
	}
	return p.fail(p.send(ctx, runs))
}

// send sends what batch has made.
func (p *Producer) send(ctx context.Context, runs []*run) error {
	if p.id != "" {
		if err := p.addPartitions(ctx, runs); err != nil {
			return err
		}
	}
	// Batches behind a refused one would be out of sequence.
	if err := p.settle(ctx); err != nil {
		return err
	}
	// Round by round: a request holds at most one batch of a partition.
	for round := 0; ; round++ {
		var list []sent
		for _, r := range runs {
			if round < len(r.batches) {
				b := r.batches[round]
				b.FirstSequence = p.seq[r.tp]
				p.seq[r.tp] = int32((int64(p.seq[r.tp]) + int64(len(b.Records))) & 0x7fffffff)
				list = append(list, sent{r.tp, b})
			}
		}
		if len(list) == 0 {
			return nil
		}
		if err := p.produce(ctx, list); err != nil {
			return err
		}
	}
}

// produce sends batches of different partitions, each to its leader.
func (p *Producer) produce(ctx context.Context, list []sent) error {
	byBroker := map[*sarama.Broker][]sent{}
	var brokers []*sarama.Broker
	for _, x := range list {
		leader, err := p.client.Leader(x.tp.Topic, x.tp.Partition)
		if err != nil {
			return fmt.Errorf("leader of %v: %w", x.tp, classify(err))
		}
		if byBroker[leader] == nil {
			brokers = append(brokers, leader)
		}
		byBroker[leader] = append(byBroker[leader], x)
	}
	for _, b := range brokers {
		req := &sarama.ProduceRequest{RequiredAcks: sarama.WaitForAll, Timeout: int32(requestTimeout / time.Millisecond), Version: 7}
		if p.id != "" {
			req.TransactionalID = &p.id
		}
		batches := byBroker[b]
		for _, x := range batches {
			req.AddBatch(x.tp.Topic, x.tp.Partition, x.b)
		}
		if err := p.await(ctx, maxInFlight-1); err != nil {
			return err
		}
		err := b.AsyncProduce(req, func(resp *sarama.ProduceResponse, err error) { p.acks <- ack{resp, err, batches} })
		if err != nil {
			return fmt.Errorf("produce: %w", classify(err))
		}
		p.inFlight++
	}
	return nil
}

// settle sends refused batches again until none is left or their time is over.
func (p *Producer) settle(ctx context.Context) error {
	for len(p.refused) > 0 {
		if err := p.await(ctx, 0); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		list := p.refused
		p.refused = nil
		topics := map[string]bool{}
		for _, x := range list {
			topics[x.tp.Topic] = true
		}
		if err := p.client.RefreshMetadata(slices.Collect(maps.Keys(topics))...); err != nil {
			return fmt.Errorf("find leaders anew: %w", classify(err))
		}
		// One batch of a partition at a time, so that another refusal keeps their order.
		for len(list) > 0 {
			var round, rest []sent
			for _, x := range list {
				if slices.ContainsFunc(round, func(y sent) bool { return y.tp == x.tp }) {
					rest = append(rest, x)
				} else {
					round = append(round, x)
				}
			}
			if err := p.produce(ctx, round); err != nil {
				return err
			}
			if err := p.await(ctx, 0); err != nil {
				return err
			}
			if len(p.refused) > 0 {
				p.refused = append(p.refused, rest...)
				break
			}
			list = rest
		}
	}
	p.refusals = time.Time{}
	return nil
}

func (p *Producer) addPartitions(ctx context.Context, runs []*run) error {
	var fresh map[string][]int32
	for _, r := range runs {
		if !p.inTxn[r.tp] {
			if fresh == nil {
				fresh = map[string][]int32{}
			}
			fresh[r.tp.Topic] = append(fresh[r.tp.Topic], r.tp.Partition)
		}
	}
	if fresh == nil {
		return nil
	}
	err := p.withCoordinator(ctx, "add partitions to the transaction", func(b *sarama.Broker) (sarama.KError, error) {
		resp, err := b.AddPartitionsToTxn(&sarama.AddPartitionsToTxnRequest{
			Version: 2, TransactionalID: p.id, ProducerID: p.pid, ProducerEpoch: p.epoch, TopicPartitions: fresh,
		})
		if err != nil {
			return 0, err
		}
		return firstError(resp.Errors), nil
	})
	if err != nil {
		return err
	}
	for topic, parts := range fresh {
		for _, n := range parts {
			p.inTxn[TopicPartition{topic, n}] = true
		}
	}
	return nil
}

// firstError picks the error to act on: one that is more than "not attempted" because of another partition's.
func firstError(byTopic map[string][]*sarama.PartitionError) sarama.KError {
	const operationNotAttempted sarama.KError = 55
	found := sarama.ErrNoError
	for _, parts := range byTopic {
		for _, e := range parts {
			if e.Err != sarama.ErrNoError && (found == sarama.ErrNoError || found == operationNotAttempted) {
				found = e.Err
			}
		}
	}
	return found
}

// await reads answers until at most n requests are unanswered.
func (p *Producer) await(ctx context.Context, n int) error {
	for p.inFlight > n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-p.acks:
			p.inFlight--
			if a.err != nil {
				return fmt.Errorf("produce: %w", classify(a.err))
			}
			if err := p.take(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// take reads one answer. A batch that was refused before it was stored is kept for settle; so are those behind it, which the broker
// finds out of sequence.
func (p *Producer) take(a ack) error {
	for _, x := range a.batches {
		block := a.resp.GetBlock(x.tp.Topic, x.tp.Partition)
		if block == nil {
			return fmt.Errorf("produce to %v: %w", x.tp, &Error{ErrUnavailable, sarama.ErrIncompleteResponse})
		}
		behind := slices.ContainsFunc(p.refused, func(y sent) bool { return y.tp == x.tp })
		switch block.Err {
		case sarama.ErrNoError:
			p.batcher.recycle(x.b)
			continue
		case sarama.ErrNotLeaderForPartition, sarama.ErrLeaderNotAvailable, sarama.ErrUnknownTopicOrPartition, sarama.ErrReplicaNotAvailable, sarama.ErrNotEnoughReplicas:
		case sarama.ErrOutOfOrderSequenceNumber:
			if !behind {
				return fmt.Errorf("produce to %v: %w", x.tp, kerror(block.Err))
			}
		default:
			return fmt.Errorf("produce to %v: %w", x.tp, kerror(block.Err))
		}
		if p.refusals.IsZero() {
			p.refusals = time.Now()
		}
		if time.Since(p.refusals) > refusalLimit {
			return fmt.Errorf("produce to %v, for %v: %w", x.tp, refusalLimit, kerror(block.Err))
		}
		p.refused = append(p.refused, x)
	}
	return nil
}

// AddOffsets makes consumer offsets part of the transaction: for each partition, the next one to read.
func (p *Producer) AddOffsets(group string, offsets map[TopicPartition]int64) {
	if p.offsets == nil {
		p.offsets = map[string]map[TopicPartition]int64{}
	}
	if p.offsets[group] == nil {
		p.offsets[group] = map[TopicPartition]int64{}
	}
	maps.Copy(p.offsets[group], offsets)
}

// Commit waits until everything sent is acknowledged and commits the transaction, with the offsets added to it (I3). A
// producer without transactional id just waits. After nil, all of it is durable and visible; after an error, the outcome may
// be unknown and the producer is dead.
func (p *Producer) Commit(ctx context.Context) error {
	if p.err != nil {
		return p.fail(nil)
	}
	return p.fail(p.commit(ctx))
}

func (p *Producer) commit(ctx context.Context) error {
	if err := p.await(ctx, 0); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if p.id == "" {
		return nil
	}
	for group, offsets := range p.offsets {
		if len(offsets) == 0 {
			continue
		}
		if err := p.commitOffsets(ctx, group, offsets); err != nil {
			return err
		}
	}
	if len(p.inTxn) == 0 && len(p.offsets) == 0 {
		return nil
	}
	if err := p.end(ctx); err != nil {
		return err
	}
	clear(p.inTxn)
	p.offsets = nil
	for _, r := range p.batcher.counted {
		r.tally = Tally{}
	}
	p.batcher.counted = p.batcher.counted[:0]
	return nil
}

// end commits. With the second protocol each transaction has an epoch of its own, so that nothing of the last one can end up in the next.
func (p *Producer) end(ctx context.Context) error {
	return p.withCoordinator(ctx, "commit the transaction", func(b *sarama.Broker) (sarama.KError, error) { return p.endTxn(ctx, b, true) })
}

// endTxn commits or aborts.
func (p *Producer) endTxn(ctx context.Context, b *sarama.Broker, commit bool) (sarama.KError, error) {
	if p.ender == nil {
		resp, err := b.EndTxn(&sarama.EndTxnRequest{
			Version: 2, TransactionalID: p.id, ProducerID: p.pid, ProducerEpoch: p.epoch, TransactionResult: commit,
		})
		if err != nil {
			return 0, err
		}
		return resp.Err, nil
	}
	a, err := p.ender.endTxn(ctx, b.Addr(), p.id, p.pid, p.epoch, commit)
	if err != nil || a.code != sarama.ErrNoError {
		return a.code, err
	}
	p.pid, p.epoch = a.producer, a.epoch
	clear(p.seq) // sequences begin anew
	return sarama.ErrNoError, nil
}

func (p *Producer) commitOffsets(ctx context.Context, group string, offsets map[TopicPartition]int64) error {
	err := p.withCoordinator(ctx, "add offsets to the transaction", func(b *sarama.Broker) (sarama.KError, error) {
		resp, err := b.AddOffsetsToTxn(&sarama.AddOffsetsToTxnRequest{
			Version: 2, TransactionalID: p.id, ProducerID: p.pid, ProducerEpoch: p.epoch, GroupID: group,
		})
		if err != nil {
			return 0, err
		}
		return resp.Err, nil
	})
	if err != nil {
		return err
	}
	req := &sarama.TxnOffsetCommitRequest{
		Version: 3, TransactionalID: p.id, GroupID: group, ProducerID: p.pid, ProducerEpoch: p.epoch,
		GenerationID: -1, Topics: map[string][]*sarama.PartitionOffsetMetadata{},
	}
	for tp, o := range offsets {
		req.Topics[tp.Topic] = append(req.Topics[tp.Topic], &sarama.PartitionOffsetMetadata{Partition: tp.Partition, Offset: o, LeaderEpoch: -1})
	}
	for {
		b, err := p.client.Coordinator(group)
		if err != nil {
			return fmt.Errorf("coordinator of group %s: %w", group, classify(err))
		}
		resp, err := b.TxnOffsetCommit(req)
		if err != nil {
			return fmt.Errorf("commit offsets of group %s: %w", group, classify(err))
		}
		switch code := firstError(resp.Topics); code {
		case sarama.ErrNoError:
			return nil
		case sarama.ErrNotCoordinatorForConsumer, sarama.ErrConsumerCoordinatorNotAvailable, sarama.ErrOffsetsLoadInProgress:
			_ = p.client.RefreshCoordinator(group)
		default:
			return fmt.Errorf("commit offsets of group %s: %w", group, kerror(code))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("commit offsets of group %s: %w", group, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fail makes err the producer's end, unless it is nil; it returns the error to report.
func (p *Producer) fail(err error) error {
	if p.err != nil {
		return fmt.Errorf("%w: %w", ErrDead, p.err)
	}
	if err != nil {
		if p.closed.Load() {
			err = fmt.Errorf("producer was closed: %w", err)
		}
		p.err = err // nothing more is sent; End aborts what is open
		if p.id == "" {
			_ = p.Close()
		}
	}
	return err
}

// endLimit is how long End waits for the brokers.
const endLimit = 2 * time.Second

// End aborts what is not committed, so that nobody who reads committed records waits for the transaction's timeout, and closes the producer.
// It is the last call of the producer's goroutine, whose ctx may be over. A newer owner of the transactional id is not touched, for the epoch is
// older; a commit whose outcome is not known stays as the broker decided it. (Asking for a new producer id would abort faster what is
// open, but a newer owner's transaction just as well.)
func (p *Producer) End(ctx context.Context) {
	defer p.Close()
	if p.closed.Load() || len(p.inTxn) == 0 && len(p.offsets) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	defer context.AfterFunc(bounded, func() { _ = p.Close() })() // it cuts a request that is not answered
	if p.ender == nil {
		// With the first protocol a batch that comes after the abort would open the transaction again.
		for ; p.inFlight > 0; p.inFlight-- {
			select {
			case <-p.acks:
			case <-bounded.Done():
				return
			}
		}
	} else {
		p.ender.hangUp() // what it may have asked last is not answered yet
	}
	b, err := p.client.TransactionCoordinator(p.id)
	if err == nil {
		// Whatever the answer is, nothing more can be done: the timeout ends the transaction at the latest.
		_, _ = p.endTxn(bounded, b, false)
	}
}

// Close cuts the producer off, as a crash would. What is not committed will never be visible. It may be called from any goroutine, and twice.
func (p *Producer) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	if p.ender != nil {
		p.ender.close()
	}
	return p.client.Close()
}
