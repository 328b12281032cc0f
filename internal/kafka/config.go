package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
	gometrics "github.com/rcrowley/go-metrics"
)

// sarama's meters start a process-wide ticker and cost on each request; Millrace counts for itself.
func init() { gometrics.UseNilMetrics = true }

// Config says where the brokers are and how to talk to them.
type Config struct {
	Brokers  []string
	ClientID string
	// Dial, if set, makes the connections, as with TLS.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Login, if it has a User, is what to log in with.
	Login  Login
	Logger *slog.Logger

	// first keeps to the first transaction protocol, for tests.
	first bool
	// full has a client learn of all topics when it connects, not only of those that it is used for.
	full bool
}

// Timeouts of a single request on the wire. Waits are bounded by the caller's context.
const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 15 * time.Second
)

func (c Config) sarama() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	s.ClientID = "millrace"
	if c.ClientID != "" {
		s.ClientID = c.ClientID
	}
	s.Net.DialTimeout = dialTimeout
	s.Net.ReadTimeout = requestTimeout
	s.Net.WriteTimeout = requestTimeout
	s.Net.MaxOpenRequests = maxInFlight
	s.Metadata.Retry.Max = 2
	s.Metadata.Retry.Backoff = 100 * time.Millisecond
	s.Metadata.RefreshFrequency = 0
	s.Metadata.AllowAutoTopicCreation = false
	s.Admin.Timeout = requestTimeout
	s.Admin.Retry.Max = 10
	c.Login.apply(s)
	return s
}

// cuttable is a client whose Close cuts what is under way. sarama's own waits for it: a request holds its connection's mutex until it is answered.
type cuttable struct {
	sarama.Client
	dialer *dialer
}

// Close implements sarama.Client.
func (c cuttable) Close() error {
	c.dialer.close()
	return c.Client.Close()
}

// dialer keeps the connections of a client, and refuses more once it is closed. It is a proxy.Dialer, as sarama wants it.
type dialer struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex // guards: conns, closed
	conns  map[*tracked]struct{}
	closed bool
}

// Dial implements proxy.Dialer.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	t := &tracked{c, d}
	d.conns[t] = struct{}{}
	return t, nil
}

// tracked is a connection that its dialer forgets when it is closed.
type tracked struct {
	net.Conn
	d *dialer
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.d.mu.Lock()
	delete(t.d.conns, t)
	t.d.mu.Unlock()
	return t.Conn.Close()
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for t := range d.conns {
		_ = t.Conn.Close()
	}
	clear(d.conns)
}

// client makes a client. One that is to know all topics connects at once; another one when it is used: it asks for the topics that it is used for, so that a
// thousand tasks don't each read the names of a thousand topics. It tries only once, so that the caller owns the retries.
func (c Config) client(ctx context.Context) (sarama.Client, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("no Kafka brokers are known")
	}
	d := &dialer{dial: c.Dial, conns: map[*tracked]struct{}{}}
	if d.dial == nil {
		d.dial = new(net.Dialer).DialContext
	}
	s := c.sarama()
	s.Metadata.Full = c.full
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, d
	type result struct {
		client sarama.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		client, err := sarama.NewClient(c.Brokers, s)
		done <- result{client, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("connect to Kafka at %v: %w", c.Brokers, classify(r.err))
		}
		return cuttable{r.client, d}, nil
	case <-ctx.Done():
		d.close()
		go func() {
			if r := <-done; r.err == nil {
				_ = r.client.Close()
			}
		}()
		return nil, fmt.Errorf("connect to Kafka at %v: %w", c.Brokers, ctx.Err())
	}
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String returns topic-partition, as Kafka's tools print it.
func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// Header is one header of a message; a nil Value is null.
type Header struct {
	Key   string
	Value []byte
}

// Message is what a Producer sends. Its bytes must not change until the transaction has ended.
type Message struct {
	Topic string
	// Partition, or -1: by the murmur2 hash of the key, as Kafka's own clients do, or in turn where the key is nil.
	Partition int32
	// nil is null, which for a value means a tombstone; empty is empty.
	Key, Value []byte
	Headers    []Header
	// TimestampMS since the Unix epoch; 0: now.
	TimestampMS int64
}

// Fetched is a message that a Consumer got.
type Fetched struct {
	Topic       string
	Partition   int32
	Offset      int64
	Key, Value  []byte
	Headers     []Header
	TimestampMS int64
	// Batch is what the record came in, when the consumer was asked to say.
	Batch *Batch
}

// Batch is what Kafka keeps of the batches that producers sent.
type Batch struct {
	Origin
	// Sequence and Offset are of the batch's first record.
	Sequence int32
	Offset   int64
}

// Sequence is the record's, which its producer gave it; -1 when the producer gives none.
func (m *Fetched) Sequence() int32 {
	if m.Batch == nil || m.Batch.Sequence < 0 {
		return -1
	}
	return int32((int64(m.Batch.Sequence) + m.Offset - m.Batch.Offset) & 0x7fffffff)
}

// Size is the bytes of the messages' keys and values.
func Size(msgs []Fetched) int {
	n := 0
	for i := range msgs {
		n += len(msgs[i].Key) + len(msgs[i].Value)
	}
	return n
}

// classify turns what sarama and the net say into this package's errors, keeping the cause.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if k, ok := errors.AsType[sarama.KError](err); ok {
		return kerror(k)
	}
	var n net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrFenced), errors.Is(err, ErrTooLarge):
		return err
	case errors.As(err, &n), errors.Is(err, sarama.ErrOutOfBrokers), errors.Is(err, sarama.ErrNotConnected), errors.Is(err, sarama.ErrClosedClient):
		return &Error{kind: ErrUnavailable, err: err}
	}
	return &Error{kind: ErrUnavailable, err: err}
}
