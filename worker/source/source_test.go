package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/worker/runner"
)

// counter is a source that counts: batch i holds the records of widths[i], and then it waits, or fails with err.
type counter struct {
	topic  string
	widths [][]int
	err    error
	next   int
	seq    int
	stored map[string]any
	done   chan struct{} // closed when the last batch is committed
}

func (c *counter) Open(ctx context.Context, tc connectors.SourceContext) error {
	var err error
	c.stored, err = tc.Offset(ctx, map[string]any{"source": "counter"})
	return err
}

func (c *counter) Poll(ctx context.Context) (*connectors.Batch, error) {
	if c.next == len(c.widths) {
		if c.err != nil {
			return nil, c.err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b := &connectors.Batch{Boundary: true}
	for _, width := range c.widths[c.next] {
		c.seq++
		b.Records = append(b.Records, record.Record{
			Topic: c.topic, Partition: record.AnyPartition, Key: fmt.Sprint(c.seq), Value: fmt.Sprintf("%d:%s", c.seq, strings.Repeat("x", width)),
		})
	}
	c.next++
	b.Offset = connectors.Offset{Partition: map[string]any{"source": "counter"}, Position: map[string]any{"batch": c.next}}
	return b, nil
}

func (c *counter) Committed(_ context.Context, o connectors.Offset) error {
	if o.Position["batch"] == len(c.widths) {
		close(c.done)
	}
	return nil
}

func (c *counter) Close() error { return nil }

type bench struct {
	kafka  kafka.Config
	offset string
}

func newBench(t *testing.T) bench {
	t.Helper()
	b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return bench{kafka.Config{Brokers: []string{b.Addr()}}, "offsets"}
}

// run runs the task until all of it is committed, or until it fails.
func (b bench) run(t *testing.T, task *counter, s runner.Settings) error {
	t.Helper()
	task.done = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lease := runner.NewLease(runner.Faults{})
	lease.Extend(lease.Term(), time.Now(), time.Hour)
	d := runner.Deps{
		Kafka: b.kafka, ClusterID: "test", OffsetsTopic: b.offset, Offsets: &kafka.OffsetReader{}, Admins: &kafka.Admins{}, Lease: lease.Hold(), Gate: &runner.Gate{}, Progress: runner.NewProgress(), Signals: &runner.Signals{},
		Logger: slog.New(slog.DiscardHandler), Connector: "counter", Tasks: 1, Settings: s,
	}
	d.Settings.Creation.Default = kafka.TopicConfig{Partitions: 1, Replication: 1, Configs: map[string]string{"max.message.bytes": "8000000"}}
	enc, err := convert.NewEncoder(convert.Config{Key: convert.String, Value: convert.String})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, d, task, enc, enc) }()
	select {
	case err := <-ended:
		return err
	case <-task.done:
		cancel()
		<-ended
		return nil
	}
}

func (b bench) read(t *testing.T, topic string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := kafka.NewAdmin(ctx, b.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var out []string
	if err := kafka.ReadToEnd(ctx, b.kafka, a, topic, nil, func(m kafka.Fetched) error { out = append(out, string(m.Value)); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// Records come whole and in order, whatever their size is to the blocks, the budget and the bounds of a transaction; and the offset with them.
func TestEveryRecord(t *testing.T) {
	for name, s := range map[string]runner.Settings{
		"exactly once":  {MaxRecords: 100, MaxBytes: 1 << 20},
		"small budget":  {MaxRecords: 10000, MaxBytes: 65536},
		"linger":        {MaxRecords: 50, MaxBytes: 1 << 20, Linger: 5 * time.Millisecond},
		"at least once": {MaxRecords: 100, MaxBytes: 1 << 20, AtLeastOnce: true},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.LeakCheck(t)
			b := newBench(t)
			task := &counter{topic: "numbers"}
			for i := range 60 {
				var widths []int
				for n := range i % 13 {
					widths = append(widths, (i*n*397)%5000)
				}
				switch i {
				case 20:
					widths = []int{blockSize - 1, blockSize, blockSize + 1, 1, 3_000_000}
				case 40:
					widths = nil // an offset alone
				}
				task.widths = append(task.widths, widths)
			}
			if err := b.run(t, task, s); err != nil {
				t.Fatal(err)
			}
			seq := 0
			got := b.read(t, "numbers")
			for _, widths := range task.widths {
				for _, w := range widths {
					if want := fmt.Sprintf("%d:%s", seq+1, strings.Repeat("x", w)); seq >= len(got) || got[seq] != want {
						t.Fatalf("record %d of %d, which should be %d bytes long, is wrong", seq+1, len(got), len(want))
					}
					seq++
				}
			}
			if len(got) != seq {
				t.Fatalf("%d records of %d", len(got), seq)
			}
			again := &counter{topic: "numbers", widths: [][]int{{1}}}
			if err := b.run(t, again, s); err != nil {
				t.Fatal(err)
			}
			if at := again.stored["batch"]; fmt.Sprint(at) != "60" {
				t.Errorf("the stored offset is %v after batch 60", again.stored)
			}
		})
	}
}

// What a transaction holds shows whole or not at all (I3): when the task fails, a consumer of committed records has whole batches, up to the
// stored offset.
func TestWholeBatches(t *testing.T) {
	b := newBench(t)
	boom := errors.New("boom")
	task := &counter{topic: "numbers", err: boom}
	for range 50 {
		task.widths = append(task.widths, []int{10, 20, 30})
	}
	if err := b.run(t, task, runner.Settings{MaxRecords: 7, MaxBytes: 1 << 20}); !errors.Is(err, boom) {
		t.Fatalf("ended with %v", err)
	}
	again := &counter{topic: "others", widths: [][]int{{1}}}
	if err := b.run(t, again, runner.Settings{MaxRecords: 7, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	at := 0
	if n, ok := again.stored["batch"].(json.Number); ok {
		v, _ := n.Int64()
		at = int(v)
	} else if f, ok := again.stored["batch"].(float64); ok {
		at = int(f)
	}
	if got := b.read(t, "numbers"); len(got) != 3*at {
		t.Errorf("the offset says %d batches of 3, the topic has %d records", at, len(got))
	}
}
