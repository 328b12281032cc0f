package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/ledger"
	"github.com/millrace/millrace/internal/testkit"
)

// brokers runs f against the embedded broker and a real Kafka.
func brokers(t *testing.T, f func(t *testing.T, x *bench)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0", DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		f(t, newBench(t, b.Addr()))
	})
	t.Run("kafka", func(t *testing.T) { f(t, newBench(t, testkit.Kafka(t))) })
}

// bench is a topic with three partitions and a ledger of its own.
type bench struct {
	*testing.T
	c             kafka.Config
	a             *kafka.Admin
	topic, ledger string
	seq           int
}

func newBench(t *testing.T, addr string) *bench {
	t.Helper()
	x := &bench{T: t, c: kafka.Config{Brokers: []string{addr}}, topic: testkit.UniqueName("orders"), ledger: testkit.UniqueName("ledger")}
	a, err := kafka.NewAdmin(t.Context(), x.c)
	if err != nil {
		t.Fatal(err)
	}
	x.a = a
	t.Cleanup(func() {
		for _, topic := range []string{x.topic, x.ledger} {
			_ = a.DeleteTopic(context.Background(), topic)
		}
		_ = a.Close()
	})
	if err := a.EnsureTopic(t.Context(), x.topic, kafka.TopicConfig{Partitions: 3, Replication: 1}); err != nil {
		t.Fatal(err)
	}
	return x
}

// writer is a task that keeps a ledger.
type writer struct {
	*bench
	p    *kafka.Producer
	book *ledger.Book
}

func (x *bench) writer(connector string, epoch uint64) *writer {
	x.Helper()
	p, err := kafka.NewProducer(x.Context(), x.c, x.topic+connector, kafka.ProducerOptions{Tally: true})
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { _ = p.Close() })
	book, err := ledger.Open(x.Context(), x.a, ledger.Options{Topic: x.ledger, Connector: connector, Epoch: epoch})
	if err != nil {
		x.Fatal(err)
	}
	return &writer{x, p, book}
}

func (x *bench) messages(n int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		x.seq++
		out[i] = kafka.Message{Topic: x.topic, Partition: -1, Key: fmt.Appendf(nil, "k%d", x.seq%17), Value: fmt.Appendf(nil, "%d", x.seq)}
		if x.seq%10 == 0 {
			out[i].Value = nil
		}
	}
	return out
}

// send sends a transaction in two parts, with its entry if there is to be one, and leaves it open.
func (w *writer) send(n int, entry bool) {
	w.Helper()
	err := w.p.Send(w.Context(), w.messages(n/2))
	if err == nil {
		err = w.p.SendLast(w.Context(), w.messages(n-n/2), func(o kafka.Origin, t []kafka.Tally) (*kafka.Message, error) {
			if !entry {
				return nil, nil
			}
			return w.book.Entry(o, t, nil, []ledger.Place{ledger.InputPlace(kafka.TopicPartition{Topic: "in"}, int64(w.seq))})
		})
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *writer) commit(n int, entry bool) {
	w.Helper()
	w.send(n, entry)
	if err := w.p.Commit(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (x *bench) auditor(connector string) *ledger.Auditor {
	return ledger.NewAuditor(ledger.AuditOptions{Kafka: x.c, Ledger: x.ledger, Connector: connector, BytesPerSecond: 8 << 20})
}

// until goes through rounds until so many batches are compared: a commit shows some milliseconds after it was answered.
func (x *bench) until(a *ledger.Auditor, batches int64) *api.Audit {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), 2*time.Minute)
	defer cancel()
	for {
		if err := a.Round(ctx); err != nil {
			x.Fatalf("%v; found %+v", err, a.Report())
		}
		if r := a.Report(); r.Batches >= batches && r.Pending == 0 {
			return r
		}
	}
}

func (x *bench) clean(a *ledger.Auditor, batches, records int64) {
	x.Helper()
	r := x.until(a, batches)
	if r.Batches != batches || r.Records != records || r.Missing+r.Extra+r.Changed+r.Expired+r.Uncovered+r.Pending != 0 || len(r.Differences) > 0 {
		x.Errorf("want %d whole batches with %d records, have %+v", batches, records, r)
	}
}

// A clean run compares equal, round by round: two tasks that write into each other's ranges, a transaction that was never committed, an owner that
// was killed and a new one.
func TestEqual(t *testing.T) {
	brokers(t, func(t *testing.T, x *bench) {
		audit := x.auditor("")
		one, two := x.writer("one", 1), x.writer("two", 2)
		for range 20 {
			one.send(30, true)
			two.send(7, true)
			for _, w := range []*writer{two, one} {
				if err := w.p.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		x.clean(audit, 40, 20*37)
		one.send(11, true) // and killed
		_ = one.p.Close()
		one = x.writer("one", 3)
		for range 5 {
			one.commit(30, true)
		}
		x.clean(audit, 45, 20*37+150)
		r := audit.Report()
		if len(r.Verified) != 2 || !strings.Contains(string(r.Verified[0].Position), fmt.Sprintf(`"kafka_offset":%d`, x.seq)) {
			t.Errorf("verified to %+v, want to position %d", r.Verified, x.seq)
		}
		x.clean(audit, 45, 20*37+150) // nothing new
		x.clean(x.auditor("two"), 20, 140)
		x.clean(x.auditor(""), 45, 20*37+150) // from the start
	})
}

// What is open is not missing, also when it has begun before its neighbours were committed.
func TestOpenTransaction(t *testing.T) {
	brokers(t, func(t *testing.T, x *bench) {
		audit := x.auditor("one")
		one := x.writer("one", 1)
		one.commit(10, true)
		x.clean(audit, 1, 10)
		if err := one.p.Send(t.Context(), x.messages(10)); err != nil {
			t.Fatal(err)
		}
		two := x.writer("two", 2)
		two.commit(10, true)
		x.clean(audit, 1, 10)
		one.commit(10, true)
		x.clean(audit, 2, 30)
		x.clean(x.auditor(""), 3, 40)
	})
}

// What somebody else writes, what is deleted, what is committed without an entry, and an entry without its records: each is found and named.
func TestDifferences(t *testing.T) {
	brokers(t, func(t *testing.T, x *bench) {
		audit := x.auditor("one")
		one := x.writer("one", 1)
		one.commit(60, true)
		x.clean(audit, 1, 60)

		tp := kafka.TopicPartition{Topic: x.topic, Partition: 1}
		ends := func() int64 {
			t.Helper()
			e, err := x.a.CommittedEnds(t.Context(), x.topic)
			if err != nil {
				t.Fatal(err)
			}
			return e[tp]
		}
		planted := ends()
		other, err := kafka.NewProducer(t.Context(), x.c, "", kafka.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := other.Send(t.Context(), []kafka.Message{{Topic: x.topic, Partition: 1, Key: []byte("k"), Value: []byte("planted")}}); err != nil {
			t.Fatal(err)
		}
		if err := other.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		one.commit(60, true)
		r := x.until(audit, 2)
		want := api.Difference{Kind: api.Extra, Topic: x.topic, Partition: 1, FromOffset: planted, ToOffset: planted, Records: 1}
		if r.Batches != 2 || r.Records != 120 || r.Extra != 1 || r.Missing+r.Changed != 0 || len(r.Differences) != 1 || !same(r.Differences[0], want) {
			t.Fatalf("want %+v, have %+v", want, r)
		}

		// A transaction that is there and should not be: as when it tore, and was done again.
		one.commit(30, false)
		one.commit(30, true)
		if r = x.until(audit, 3); r.Extra != 31 || r.Missing+r.Changed != 0 || r.Batches != 3 {
			t.Errorf("a batch without entry: %+v", r)
		}
		// The other way round: an entry of records that never came.
		err = one.p.SendLast(t.Context(), nil, func(o kafka.Origin, _ []kafka.Tally) (*kafka.Message, error) {
			return one.book.Entry(o, []kafka.Tally{{TopicPartition: tp, Sequence: 1 << 20, Count: 5}}, nil, nil)
		})
		if err == nil {
			err = one.p.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		one.commit(30, true)
		if r = x.until(audit, 5); r.Missing != 5 || r.Extra != 31 || r.Changed != 0 {
			t.Errorf("an entry without records: %+v", r)
		}
		last := r.Differences[len(r.Differences)-1]
		if last.Kind != api.Missing || last.Partition != 1 || last.FromOffset <= planted || last.ToOffset >= ends() {
			t.Errorf("an entry without records: %+v", last)
		}

		// Deleted before anybody looked, though the topic keeps its records for days.
		if err := x.a.DeleteRecords(t.Context(), x.topic, map[int32]int64{1: 10}); err != nil {
			t.Fatal(err)
		}
		r = x.until(x.auditor(""), 5)
		var found bool
		for _, d := range r.Differences {
			found = found || same(d, api.Difference{Kind: api.Missing, Topic: x.topic, Partition: 1, FromOffset: 0, ToOffset: 9, Records: 10})
		}
		if !found || r.Missing != 15 || r.Expired != 0 {
			t.Errorf("10 records deleted from partition 1: %+v", r)
		}
	})
}

func same(d, want api.Difference) bool {
	d.Detail = ""
	return d == want
}

// Values swapped between two keys, or a null in place of an empty value, are a change that the count does not show.
func TestHash(t *testing.T) {
	h := func(kv ...string) (sum uint64) {
		for i := 0; i < len(kv); i += 2 {
			sum += kafka.Hash([]byte(kv[i]), []byte(kv[i+1]))
		}
		return sum
	}
	if h("a", "1", "b", "2") == h("a", "2", "b", "1") {
		t.Error("swapped values are not seen")
	}
	if h("a", "1", "b", "2") != h("b", "2", "a", "1") {
		t.Error("order matters")
	}
	if kafka.Hash([]byte("a"), nil) == kafka.Hash([]byte("a"), []byte{}) || kafka.Hash(nil, nil) == kafka.Hash([]byte{}, nil) {
		t.Error("null and empty are the same")
	}
	if h("ab", "c") == h("a", "bc") {
		t.Error("the border between key and value is not seen")
	}
}

func BenchmarkHash(b *testing.B) {
	key, value := []byte(`{"order_id":123456}`), make([]byte, 550)
	b.ReportAllocs()
	var sum uint64
	for b.Loop() {
		sum += kafka.Hash(key, value)
	}
	_ = sum
}

// What the ledger costs a transaction, on a real broker: small ones, whose latency counts, and big ones.
func BenchmarkTransaction(b *testing.B) {
	c := kafka.Config{Brokers: []string{testkit.Kafka(b)}}
	a, err := kafka.NewAdmin(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	topic, book := testkit.UniqueName("bench"), testkit.UniqueName("bench-ledger")
	defer func() { _, _ = a.DeleteTopic(b.Context(), topic), a.DeleteTopic(b.Context(), book) }()
	if err := a.EnsureTopic(b.Context(), topic, kafka.TopicConfig{Partitions: 4, Replication: 1}); err != nil {
		b.Fatal(err)
	}
	l, err := ledger.Open(b.Context(), a, ledger.Options{Topic: book, Connector: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 5000} {
		msgs := make([]kafka.Message, n)
		for i := range msgs {
			msgs[i] = kafka.Message{Topic: topic, Partition: int32(i * 4 / n), Key: fmt.Append(nil, i), Value: make([]byte, 550)}
		}
		for _, keep := range []bool{false, true} {
			b.Run(fmt.Sprintf("records=%d/ledger=%v", n, keep), func(b *testing.B) {
				p, err := kafka.NewProducer(b.Context(), c, topic, kafka.ProducerOptions{Tally: keep})
				if err != nil {
					b.Fatal(err)
				}
				defer p.Close()
				began := cpu(b)
				for b.Loop() {
					if keep {
						err = p.SendLast(b.Context(), msgs, func(o kafka.Origin, t []kafka.Tally) (*kafka.Message, error) { return l.Entry(o, t, nil, nil) })
					} else {
						err = p.Send(b.Context(), msgs)
					}
					if err == nil {
						err = p.Commit(b.Context())
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu(b)-began)/float64(b.N*n), "cpu-ns/record")
			})
		}
	}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
