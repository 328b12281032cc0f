package kafka_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// A producer that ends with an open transaction leaves none behind: who reads committed records is not held up until the transaction's timeout.
func TestEndAborts(t *testing.T) {
	protocols(t, func(t *testing.T, c kafka.Config) {
		name, admin := topic(t, c, 1)
		p, err := kafka.NewProducer(t.Context(), c, "end-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Send(t.Context(), messages(name, 0, 10)); err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Commit(over); err == nil {
			t.Fatal("committed without a context")
		}
		p.End(over)
		testkit.Eventually(t, 5*time.Second, "the transaction is decided", func() error { return decided(t, admin, name) })
		if got := len(readAll(t, c, admin, name)); got != 0 {
			t.Errorf("%d records of an aborted transaction", got)
		}
	})
}

// The end of an older producer does not touch the transaction of a newer one with its id.
func TestEndOfOlderProducer(t *testing.T) {
	protocols(t, func(t *testing.T, c kafka.Config) {
		name, admin := topic(t, c, 1)
		var owners [2]*kafka.Producer
		for i := range owners {
			p, err := kafka.NewProducer(t.Context(), c, "end-"+name, kafka.ProducerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.Send(t.Context(), messages(name, i*10, 10)); err != nil {
				t.Fatal(err)
			}
			owners[i] = p
		}
		owners[0].End(t.Context())
		if err := owners[1].Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(readAll(t, c, admin, name)); got != 10 {
			t.Errorf("%d records, want the newer owner's 10", got)
		}
	})
}

func decided(t *testing.T, a *kafka.Admin, name string) error {
	t.Helper()
	written, err := a.ListOffsets(t.Context(), name, kafka.Latest)
	if err != nil {
		return err
	}
	committed, err := a.CommittedEnds(t.Context(), name)
	if err == nil && !maps.Equal(written, committed) {
		err = fmt.Errorf("written to %v, committed to %v", written, committed)
	}
	return err
}
