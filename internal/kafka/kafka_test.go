package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
)

// brokers runs f against the embedded broker and a real Kafka.
func brokers(t *testing.T, f func(t *testing.T, c kafka.Config)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0", DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		f(t, kafka.Config{Brokers: []string{b.Addr()}})
	})
	t.Run("kafka", func(t *testing.T) {
		f(t, kafka.Config{Brokers: []string{testkit.Kafka(t)}})
	})
}

// protocols runs f against both, with both transaction protocols.
func protocols(t *testing.T, f func(t *testing.T, c kafka.Config)) {
	t.Helper()
	brokers(t, func(t *testing.T, c kafka.Config) {
		for want, c := range map[int]kafka.Config{1: c.FirstProtocol(), 2: c} {
			t.Run(fmt.Sprintf("protocol %d", want), func(t *testing.T) {
				p, err := kafka.NewProducer(t.Context(), c, testkit.UniqueName("which"), kafka.ProducerOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				if got := p.Protocol(); got != want {
					t.Fatalf("the producer speaks protocol %d, want %d", got, want)
				}
				f(t, c)
			})
		}
	})
}

func topic(t *testing.T, c kafka.Config, partitions int32) (string, *kafka.Admin) {
	t.Helper()
	a, err := kafka.NewAdmin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	name := fmt.Sprintf("t-%d", time.Now().UnixNano())
	if err := a.EnsureTopic(t.Context(), name, kafka.TopicConfig{Partitions: partitions, Replication: 1}); err != nil {
		t.Fatal(err)
	}
	return name, a
}

func messages(topic string, from, n int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		out[i] = kafka.Message{Topic: topic, Partition: -1, Key: fmt.Appendf(nil, "k%d", (from+i)%17), Value: fmt.Appendf(nil, "%d", from+i)}
	}
	return out
}

func readAll(t *testing.T, c kafka.Config, a *kafka.Admin, topic string) []kafka.Fetched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []kafka.Fetched
	if err := kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error { out = append(out, m); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// What comes to a partition is there at once, also right after something else of it was polled: no request is held without that partition.
func TestPollAtOnce(t *testing.T) {
	brokers(t, func(t *testing.T, c kafka.Config) {
		name, _ := topic(t, c, 2)
		p, err := kafka.NewProducer(t.Context(), c, "", kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		k, err := kafka.NewConsumer(t.Context(), c, kafka.ConsumerOptions{MaxWait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		k.Assign(map[kafka.TopicPartition]int64{{Topic: name, Partition: 0}: 0, {Topic: name, Partition: 1}: 0})
		for i := range 100 {
			if err := p.Send(t.Context(), []kafka.Message{{Topic: name, Partition: int32(i / 3 % 2), Value: []byte("v")}}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			got, err := k.Poll(ctx)
			cancel()
			if err != nil || len(got) != 1 {
				t.Fatalf("record %d: %d records, %v", i, len(got), err)
			}
		}
	})
}

func TestTransactions(t *testing.T) {
	protocols(t, func(t *testing.T, c kafka.Config) {
		ctx := t.Context()
		name, a := topic(t, c, 3)
		p, err := kafka.NewProducer(ctx, c, "tx-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		group := "g-" + name
		if none, err := a.GroupOffsets(ctx, group); err != nil || len(none) > 0 {
			t.Fatalf("a group that nobody committed to: %v, %v", none, err)
		}
		for i := range 10 {
			if err := p.Send(ctx, messages(name, i*100, 100)); err != nil {
				t.Fatal(err)
			}
			p.AddOffsets(group, map[kafka.TopicPartition]int64{{Topic: name, Partition: 0}: int64(i + 1)})
			if err := p.Commit(ctx); err != nil {
				t.Fatal(err)
			}
		}
		// Sent, not committed, and cut off: never visible.
		if err := p.Send(ctx, messages(name, 5000, 10)); err != nil {
			t.Fatal(err)
		}
		p.AddOffsets(group, map[kafka.TopicPartition]int64{{Topic: name, Partition: 0}: 99})
		_ = p.Close()
		p2, err := kafka.NewProducer(ctx, c, "tx-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer p2.Close()
		if err := p2.Send(ctx, messages(name, 1000, 1)); err != nil {
			t.Fatal(err)
		}
		if err := p2.Commit(ctx); err != nil {
			t.Fatal(err)
		}

		seen := map[string]int{}
		lastOf := map[string]int{}
		for _, m := range readAll(t, c, a, name) {
			seen[string(m.Value)]++
			var n int
			_, _ = fmt.Sscan(string(m.Value), &n)
			if n <= lastOf[string(m.Key)]-1 {
				t.Errorf("key %s: %d after %d", m.Key, n, lastOf[string(m.Key)])
			}
			lastOf[string(m.Key)] = n
		}
		if len(seen) != 1001 {
			t.Errorf("%d different messages, want 1001", len(seen))
		}
		for v, n := range seen {
			if n != 1 {
				t.Errorf("message %s is there %d times", v, n)
			}
		}
		offsets, err := a.GroupOffsets(ctx, group)
		if err != nil {
			t.Fatal(err)
		}
		if got := offsets[kafka.TopicPartition{Topic: name, Partition: 0}]; got != 10 {
			t.Errorf("committed offset %d, want 10", got)
		}
		// As sinks do it: without a transaction, into a new group and again.
		tp := kafka.TopicPartition{Topic: name, Partition: 1}
		for _, o := range []int64{3, 5} {
			if err := a.CommitGroupOffsets(ctx, group+"-sink", map[kafka.TopicPartition]int64{tp: o}); err != nil {
				t.Fatal(err)
			}
			if offsets, err := a.GroupOffsets(ctx, group+"-sink"); err != nil || offsets[tp] != o {
				t.Fatalf("sink's offsets %v, %v, want %d", offsets, err, o)
			}
		}
	})
}

func TestFencing(t *testing.T) {
	protocols(t, func(t *testing.T, c kafka.Config) {
		ctx := t.Context()
		name, a := topic(t, c, 1)
		old, err := kafka.NewProducer(ctx, c, "fence-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if err := old.Send(ctx, messages(name, 0, 5)); err != nil {
			t.Fatal(err)
		}
		fresh, err := kafka.NewProducer(ctx, c, "fence-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		err = old.Commit(ctx)
		if !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("commit of the older producer: %v, want ErrFenced", err)
		}
		if err := old.Send(ctx, messages(name, 5, 5)); !errors.Is(err, kafka.ErrDead) {
			t.Errorf("send after the failure: %v, want ErrDead", err)
		}
		if err := fresh.Send(ctx, messages(name, 100, 3)); err != nil {
			t.Fatal(err)
		}
		if err := fresh.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, c, a, name); len(got) != 3 {
			t.Errorf("%d messages visible, want 3", len(got))
		}
	})
}

// A quiet topic is seen within milliseconds, and the lag of a committed reader reaches zero past control records.
func TestConsumerLatencyAndLag(t *testing.T) {
	brokers(t, func(t *testing.T, c kafka.Config) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		name, _ := topic(t, c, 1)
		p, err := kafka.NewProducer(ctx, c, "lat-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		k, err := kafka.NewConsumer(ctx, c, kafka.ConsumerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		tp := kafka.TopicPartition{Topic: name, Partition: 0}
		k.Assign(map[kafka.TopicPartition]int64{tp: 0})
		var worst time.Duration
		for i := range 20 {
			time.Sleep(10 * time.Millisecond)
			if err := p.Send(ctx, messages(name, i, 1)); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for {
				msgs, err := k.Poll(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if len(msgs) > 0 {
					break
				}
			}
			if i > 2 {
				worst = max(worst, time.Since(began))
			}
		}
		t.Logf("slowest from commit to poll: %v", worst)
		if worst > 400*time.Millisecond {
			t.Errorf("slowest from commit to poll %v: the consumer waits for its timer, not for data", worst)
		}
		for k.Positions()[tp].Lag != 0 {
			if _, err := k.Poll(ctx); err != nil {
				t.Fatalf("lag stays at %d: %v", k.Positions()[tp].Lag, err)
			}
		}
	})
}

func TestTooLarge(t *testing.T) {
	brokers(t, func(t *testing.T, c kafka.Config) {
		name, _ := topic(t, c, 1)
		p, err := kafka.NewProducer(t.Context(), c, "", kafka.ProducerOptions{Compression: "none"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		err = p.Send(t.Context(), []kafka.Message{{Topic: name, Partition: 0, Value: make([]byte, 3<<20)}})
		if err == nil {
			err = p.Commit(t.Context())
		}
		if !errors.Is(err, kafka.ErrTooLarge) {
			t.Errorf("3 MiB message: %v, want ErrTooLarge", err)
		}
	})
}

func TestSourceOffsets(t *testing.T) {
	brokers(t, func(t *testing.T, c kafka.Config) {
		ctx := t.Context()
		a, err := kafka.NewAdmin(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		name := fmt.Sprintf("offsets-%d", time.Now().UnixNano())
		cfg := kafka.OffsetsTopicConfig()
		cfg.Replication = 1
		if err := a.EnsureTopic(ctx, name, cfg); err != nil {
			t.Fatal(err)
		}
		part := map[string]any{"server": "shop"}
		if got, err := kafka.ReadOffset(ctx, c, name, "c1", part); err != nil || got != nil {
			t.Fatalf("empty store: %v, %v", got, err)
		}
		p, err := kafka.NewProducer(ctx, c, "off-"+name, kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for i := range 5 {
			key, _ := kafka.OffsetKey("c1", part)
			val, _ := kafka.OffsetValue(map[string]any{"file": "binlog.000001", "pos": i})
			if err := p.Send(ctx, []kafka.Message{{Topic: name, Partition: -1, Key: key, Value: val}}); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(ctx); err != nil {
				t.Fatal(err)
			}
		}
		got, err := kafka.ReadOffset(ctx, c, name, "c1", part)
		if err != nil || fmt.Sprint(got["pos"]) != "4" || got["file"] != "binlog.000001" {
			t.Errorf("stored offset %v, %v", got, err)
		}
		if got, err := kafka.ReadOffset(ctx, c, name, "c2", part); err != nil || got != nil {
			t.Errorf("another connector's offset: %v, %v", got, err)
		}
		sharedReads(ctx, t, c, a, p, name)
	})
}

// Many readers at a time: each sees what was committed before it asked, whoever it shares a read with.
func sharedReads(ctx context.Context, t *testing.T, c kafka.Config, a *kafka.Admin, p *kafka.Producer, topic string) {
	var r kafka.OffsetReader
	var readers sync.WaitGroup
	for i := range 100 {
		connector := fmt.Sprintf("many%d", i%40)
		part := map[string]any{"i": i}
		key, _ := kafka.OffsetKey(connector, part)
		val, _ := kafka.OffsetValue(map[string]any{"pos": i})
		if err := p.Send(ctx, []kafka.Message{{Topic: topic, Partition: -1, Key: key, Value: val}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			if got, err := r.Read(ctx, c, a, topic, connector, part); err != nil || fmt.Sprint(got["pos"]) != fmt.Sprint(i) {
				t.Errorf("offset of %s %v: %v, %v", connector, part, got, err)
			}
		})
	}
	readers.Wait()
}

// With and without what the ledger wants to know.
func BenchmarkProducer(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkProducer(b, false) })
	b.Run("tally", func(b *testing.B) { benchmarkProducer(b, true) })
}

func benchmarkProducer(b *testing.B, tally bool) {
	br, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer br.Close()
	c := kafka.Config{Brokers: []string{br.Addr()}}
	a, err := kafka.NewAdmin(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	if err := a.EnsureTopic(b.Context(), "b", kafka.TopicConfig{Partitions: 4}); err != nil {
		b.Fatal(err)
	}
	p, err := kafka.NewProducer(b.Context(), c, "bench", kafka.ProducerOptions{Tally: tally})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	msgs := messages("b", 0, 2000)
	for i := range msgs {
		msgs[i].Value = make([]byte, 550)
	}
	b.SetBytes(2000 * 550)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Send(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
		if err := p.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(2000*b.N)/b.Elapsed().Seconds(), "records/s")
}
