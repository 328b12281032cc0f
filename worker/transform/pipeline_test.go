package transform

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	spec "github.com/millrace/millrace/connectors/transform"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/pipe"
	"github.com/millrace/millrace/worker/runner"
)

// yard is an embedded broker for pipelines of real processes.
type yard struct {
	testing.TB
	kafka kafka.Config
	admin *kafka.Admin
}

func newYard(t testing.TB) yard {
	t.Helper()
	b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return yardAt(t, b.Addr())
}

func yardAt(t testing.TB, broker string) yard {
	t.Helper()
	y := yard{TB: t, kafka: kafka.Config{Brokers: []string{broker}}}
	var err error
	if y.admin, err = kafka.NewAdmin(t.Context(), y.kafka); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = y.admin.Close() })
	return y
}

// line is one pipeline from topic name to topic name+"-out".
type line struct {
	yard
	name     string
	progress *runner.Progress
	producer *kafka.Producer
	ended    chan error
	stop     context.CancelFunc
}

// run starts the pipeline with the test binary as its function, or what more says.
func (y yard) run(name, evil string, more map[string]string) *line {
	y.Helper()
	self, err := os.Executable()
	if err != nil {
		y.Fatal(err)
	}
	raw := map[string]string{
		spec.Output: name + "-out", spec.Command: self, spec.EnvPrefix + "EVIL": evil, spec.EnvPrefix + "LINE": mark(y, name), spec.EnvPrefix + "MARK": y.TempDir() + "/mark", spec.BatchTimeout: "2000", spec.Crashes: "2",
		spec.EnvPrefix + "GORACE": "atexit_sleep_ms=0", // under the race detector a process takes a second to end
	}
	maps.Copy(raw, more)
	v, problems := spec.Spec().Parse(raw)
	if len(problems) > 0 {
		y.Fatal(problems)
	}
	if err := y.admin.EnsureTopic(y.Context(), name, kafka.TopicConfig{Partitions: 2, Replication: 1}); err != nil {
		y.Fatal(err)
	}
	l := &line{yard: y, name: name, progress: runner.NewProgress(), ended: make(chan error, 1)}
	if l.producer, err = kafka.NewProducer(y.Context(), y.kafka, "", kafka.ProducerOptions{}); err != nil {
		y.Fatal(err)
	}
	lease := runner.NewLease(runner.Faults{})
	lease.Extend(lease.Term(), time.Now(), time.Hour)
	log := testkit.Logger(y)
	d := runner.Deps{
		Kafka: y.kafka, ClusterID: "test", Admins: &kafka.Admins{}, Lease: lease.Hold(), Gate: &runner.Gate{}, Progress: l.progress, Signals: &runner.Signals{}, Logger: log, Connector: name, Tasks: 1,
		Settings: runner.Settings{
			MaxRecords: 10_000, MaxBytes: 8 << 20, Topics: []string{name}, Group: "connect-" + name,
			Creation: runner.Creation{Default: kafka.TopicConfig{Partitions: 1, Replication: 1}},
			Dead:     deadletter.Policy{TolerateAll: true, Topic: name + "-dead", Context: true, Logger: log}, DeadTopic: kafka.TopicConfig{Partitions: 1, Replication: 1},
		},
	}
	o, open := FromConfig(v, d)
	ctx, cancel := context.WithCancel(y.Context())
	l.stop = cancel
	go func() { l.ended <- pipe.Run(ctx, d, o, open) }()
	return l
}

func mark(y yard, name string) string { return y.Name() + " " + name }

// mark is in the environment of the pipeline's processes.
func (l *line) mark() string { return mark(l.yard, l.name) }

// end stops the pipeline, which must have gone on until then.
func (l *line) end() {
	l.Helper()
	select {
	case err := <-l.ended:
		l.Errorf("pipeline %s ended: %v", l.name, err)
	default:
		l.stop()
		<-l.ended
	}
	_ = l.producer.Close()
}

// send writes records and returns when they are in the topic.
func (l *line) send(msgs ...kafka.Message) {
	l.Helper()
	if err := l.write(msgs...); err != nil {
		l.Fatal(err)
	}
}

// write is send for other goroutines than the test's.
func (l *line) write(msgs ...kafka.Message) error {
	for i := range msgs {
		msgs[i].Topic, msgs[i].Partition = l.name, -1
	}
	if err := l.producer.Send(l.Context(), msgs); err != nil {
		return err
	}
	return l.producer.Commit(l.Context())
}

// pace writes so many records every 20 ms until stop is closed, and returns how many.
func (l *line) pace(records int, stop <-chan struct{}) (n int, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return n, nil
		case <-tick.C:
		}
		if err := l.write(numbers(n, records, 17)...); err != nil {
			return n, err
		}
		n += records
	}
}

// numbers makes n records that count up within each of some keys.
func numbers(from, n, keys int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		out[i] = kafka.Message{Key: fmt.Appendf(nil, "k%d", (from+i)%keys), Value: fmt.Append(nil, from+i)}
	}
	return out
}

// await waits until n records of input are done.
func (l *line) await(n uint64) {
	l.Helper()
	testkit.Eventually(l, time.Minute, fmt.Sprintf("%d records through %s", n, l.name), func() error {
		select {
		case err := <-l.ended:
			l.Fatalf("pipeline %s ended: %v", l.name, err)
		default:
		}
		if in := l.progress.Message().RecordsIn; in < n {
			return fmt.Errorf("%d so far", in)
		}
		return nil
	})
}

func (l *line) read(topic string) []kafka.Fetched {
	l.Helper()
	var out []kafka.Fetched
	if err := kafka.ReadToEnd(l.Context(), l.kafka, l.admin, topic, nil, func(m kafka.Fetched) error { out = append(out, m); return nil }); err != nil {
		l.Fatal(err)
	}
	return out
}

// I3, I4: processes share the keys of two partitions; each record comes out once, and each key in order, also when one of the processes is
// killed by a record. With none as the least number, nothing is left in quiet times, and all begins again.
func TestPoolOfProcesses(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	for _, least := range []int{0, 2} {
		name := fmt.Sprint("pool", least)
		l := y.run(name, "stamp", map[string]string{spec.InstancesMin: strconv.Itoa(least), spec.InstancesMax: "3", spec.IdleTimeout: "300", spec.DrainTarget: "5"})
		const n, keys = 3000, 101
		for round := range 2 {
			msgs := numbers(round*n, n, keys)
			if round == 0 {
				msgs[n/2].Value = []byte("die once " + string(msgs[n/2].Value))
			}
			l.send(msgs...)
			l.await(uint64(round+1) * n)
			l.left(least)
		}
		last, by := map[string]int{}, map[string]bool{}
		out := l.read(name + "-out")
		for _, m := range out {
			v, err := strconv.Atoi(strings.TrimPrefix(string(m.Value), "die once "))
			if err != nil {
				t.Fatal(err)
			}
			k := string(m.Key)
			if before, seen := last[k]; seen && v != before+keys {
				t.Fatalf("key %s: %d comes after %d", k, v, before)
			}
			last[k] = v
			by[string(m.Headers[0].Value)] = true
		}
		if len(out) != 2*n || len(last) != keys {
			t.Errorf("%d records of %d keys came out, want %d of %d", len(out), len(last), 2*n, keys)
		}
		if len(by) < 3 { // one for each round, or the least number; and one in place of the one that was killed
			t.Errorf("only the processes %v worked", slices.Collect(maps.Keys(by)))
		}
		u := l.progress.Message().Function
		if u.GetName() != "evil" || u.RecordsIn != 2*n || u.RecordsOut != 2*n || u.BytesIn == 0 || u.BytesOut != u.BytesIn || u.Invocations < 4 || u.BusySeconds <= 0 || u.Crashes != 1 || u.Restarts != 1 || u.RecordErrors != 0 || u.GigabyteSeconds <= 0 {
			t.Errorf("usage: %v", u)
		}
		if least == 0 && (u.ColdStarts != 2 || u.Instances != 0) || least == 2 && (u.ColdStarts != 0 || u.Instances != 2) {
			t.Errorf("with %d at the least: %d cold starts, %d instances at the end", least, u.ColdStarts, u.Instances)
		}
		l.end()
	}
}

func header(m kafka.Fetched, name string) string {
	for _, h := range m.Headers {
		if h.Key == deadletter.Prefix+name {
			return string(h.Value)
		}
	}
	return ""
}

// left waits until the pipeline has so many instances, and as many processes.
func (l *line) left(want int) {
	l.Helper()
	testkit.Eventually(l, 30*time.Second, fmt.Sprintf("%d processes are left", want), func() error {
		instances, n := int(l.progress.Message().GetFunction().GetInstances()), children(l.mark())
		if instances != want || n != want {
			return fmt.Errorf("%d instances, %d processes", instances, n)
		}
		return nil
	})
}

// children counts the processes that run with the mark of a pipeline in their environment.
func children(mark string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte("LINE="+mark+"\x00")) {
			n++
		}
	}
	return n
}
