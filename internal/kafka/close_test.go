package kafka_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
)

// freezer is a net that, once frozen, takes what is written and brings nothing: what a broker looks like that is stopped.
type freezer struct {
	frozen atomic.Bool
	asked  chan struct{} // a request was written since
}

func (f *freezer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &freezing{conn, f}, err
}

type freezing struct {
	net.Conn
	f *freezer
}

func (c *freezing) Write(b []byte) (int, error) {
	if !c.f.frozen.Load() {
		return c.Conn.Write(b)
	}
	select {
	case c.f.asked <- struct{}{}:
	default:
	}
	return len(b), nil
}

// A request that is under way, to a broker that does not answer, does not keep Close waiting for the request's 15 s. sarama's own Close would: it
// wants the connection's mutex, which a request holds.
func TestCloseCutsRequest(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, p *kafka.Producer, topic string) error{
		"adding partitions": func(ctx context.Context, p *kafka.Producer, topic string) error {
			return p.Send(ctx, messages(topic, 10, 10))
		},
		"commit": func(ctx context.Context, p *kafka.Producer, _ string) error { return p.Commit(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			protocols(t, func(t *testing.T, c kafka.Config) {
				ctx := t.Context()
				first, _ := topic(t, c, 1)
				second, _ := topic(t, c, 1)
				f := &freezer{asked: make(chan struct{}, 1)}
				c.Dial = f.dial
				p, err := kafka.NewProducer(ctx, c, "frozen-"+first, kafka.ProducerOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				if err := p.Send(ctx, messages(first, 0, 10)); err != nil {
					t.Fatal(err)
				}
				f.frozen.Store(true)
				ended := make(chan error, 1)
				go func() { ended <- call(ctx, p, second) }()
				<-f.asked
				began := time.Now()
				_ = p.Close() // its connections are gone, as they are to be
				if err := <-ended; err == nil {
					t.Error("the request is answered by a broker that is frozen")
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("Close and the end of the request took %v", took)
				}
			})
		})
	}
}
