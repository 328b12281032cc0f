package kafka_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/millrace/millrace/internal/kafka"
)

// endTxn is the key of the request that commits.
const endTxn = 26

// cutter is a net that cuts the connection at the first commit: before the broker gets it, or after it has answered.
type cutter struct {
	answer bool // the answer is cut off, otherwise the request

	mu   sync.Mutex
	cut  bool
	sent []int16 // keys of the requests that came after
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return &cutConn{Conn: conn, c: c}, err
}

type cutConn struct {
	net.Conn
	c *cutter
}

// Write gets whole requests: their length, and then their key.
func (c *cutConn) Write(b []byte) (int, error) {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	key := int16(-1)
	if len(b) > 6 {
		key = int16(binary.BigEndian.Uint16(b[4:]))
	}
	if c.c.cut {
		c.c.sent = append(c.c.sent, key)
	}
	if key != endTxn || c.c.cut {
		return c.Conn.Write(b)
	}
	c.c.cut = true
	if c.c.answer {
		if _, err := c.Conn.Write(b); err != nil {
			return 0, err
		}
		if _, err := c.Conn.Read(make([]byte, 1)); err != nil { // it has answered
			return 0, err
		}
	}
	_ = c.Conn.Close()
	return len(b), nil
}

// When a commit's answer is lost the producer is of no more use, sends nothing any more, and a new one with its id finds the transaction
// decided: as the broker had it, whole, with the offsets in it (KAFKA-17754).
func TestIndefiniteCommit(t *testing.T) {
	for name, answer := range map[string]bool{"answer is lost": true, "request is lost": false} {
		t.Run(name, func(t *testing.T) {
			protocols(t, func(t *testing.T, c kafka.Config) {
				ctx := t.Context()
				name, a := topic(t, c, 3)
				group, tp := "g-"+name, kafka.TopicPartition{Topic: name}
				through := &cutter{answer: answer}
				cut := c
				cut.Dial = through.dial
				p, err := kafka.NewProducer(ctx, cut, "cut-"+name, kafka.ProducerOptions{})
				if err != nil {
					t.Fatal(err)
				}
				send := func(p *kafka.Producer, from, n int) error {
					if err := p.Send(ctx, messages(name, from, n)); err != nil {
						return err
					}
					p.AddOffsets(group, map[kafka.TopicPartition]int64{tp: int64(from + n)})
					return p.Commit(ctx)
				}
				err = send(p, 0, 100)
				if !errors.Is(err, kafka.ErrUnavailable) || errors.Is(err, kafka.ErrDead) {
					t.Fatalf("commit: %v, want ErrUnavailable", err)
				}
				if err := p.Send(ctx, messages(name, 5000, 10)); !errors.Is(err, kafka.ErrDead) {
					t.Errorf("send after it: %v, want ErrDead", err)
				}
				if err := p.Commit(ctx); !errors.Is(err, kafka.ErrDead) {
					t.Errorf("commit after it: %v, want ErrDead", err)
				}
				through.mu.Lock()
				if len(through.sent) > 0 {
					t.Errorf("after the commit whose outcome is not known, requests with the keys %v were sent", through.sent)
				}
				through.mu.Unlock()

				p, err = kafka.NewProducer(ctx, c, "cut-"+name, kafka.ProducerOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				offsets, err := a.GroupOffsets(ctx, group)
				if err != nil {
					t.Fatal(err)
				}
				if want := map[bool]int64{true: 100}[answer]; offsets[tp] != want {
					t.Errorf("offset %d, want %d", offsets[tp], want)
				}
				// The task goes on from the stored offset.
				for from := int(offsets[tp]); from < 300; from += 100 {
					if err := send(p, from, 100); err != nil {
						t.Fatal(err)
					}
				}
				var got []string
				for _, m := range readAll(t, c, a, name) {
					got = append(got, string(m.Value))
				}
				slices.Sort(got)
				var want []string
				for i := range 300 {
					want = append(want, fmt.Sprint(i))
				}
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%d messages, want each of 300 once", len(got))
				}
			})
		})
	}
}
