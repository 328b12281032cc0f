package transform

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	spec "github.com/millrace/millrace/connectors/transform"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

const order = `{"data":[{"id":"1","customer_id":"500","email":"ann@example.com","phone":"+49 170 1234567","quantity":"3","unit_price":"19.99","note":null}],"database":"shop","es":1,"mysqlType":{"id":"int"},"old":null,"sqlType":{},"table":"orders","type":"INSERT"}`

// examples are the SDKs' own, each as a command. Python needs an interpreter with the SDK: MILLRACE_PYTHON.
func examples(b *testing.B) map[string]string {
	b.Helper()
	out := map[string]string{"go": filepath.Join(b.TempDir(), "maskorders")}
	if text, err := exec.Command("go", "build", "-o", out["go"], "github.com/millrace/millrace/sdk/go/examples/maskorders").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	if python := os.Getenv("MILLRACE_PYTHON"); python != "" {
		script, err := filepath.Abs("../../sdk/python/examples/route_orders.py")
		if err != nil {
			b.Fatal(err)
		}
		out["python"] = python + " " + script
	}
	return out
}

// BenchmarkColdStart is the time from a record to its output where no process runs: make bench-go PKG=./worker/transform BENCH=ColdStart, with
// -benchtime 50x for fifty rounds.
func BenchmarkColdStart(b *testing.B) {
	for language, command := range examples(b) {
		b.Run(language, func(b *testing.B) {
			l, out := benchLine(b, language, command, map[string]string{spec.InstancesMin: "0", spec.IdleTimeout: "1"})
			defer l.end()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				l.send(kafka.Message{Key: []byte("k"), Value: []byte(order)})
				l.poll(out, 1)
				took = append(took, time.Since(began))
				l.left(0)
			}
			percentiles(b, took)
		})
	}
}

// BenchmarkBurst sends 100,000 records to a pipeline without processes. It says when the first came out, when two processes and more were up, when
// all were out and when no process was left.
func BenchmarkBurst(b *testing.B) {
	for language, command := range examples(b) {
		b.Run(language, func(b *testing.B) {
			l, out := benchLine(b, language, command, map[string]string{spec.InstancesMin: "0", spec.InstancesMax: "4", spec.IdleTimeout: "200"})
			defer l.end()
			var second, all, gone []time.Duration
			for b.Loop() {
				msgs := numbers(0, 100_000, 10_000)
				for i := range msgs {
					msgs[i].Value = []byte(order)
				}
				began := time.Now()
				scaled := make(chan time.Duration, 1)
				go func() {
					for children(l.mark()) < 2 && b.Context().Err() == nil {
						time.Sleep(5 * time.Millisecond)
					}
					scaled <- time.Since(began)
				}()
				for part := range slices.Chunk(msgs, 5000) {
					l.send(part...)
				}
				l.poll(out, len(msgs))
				all = append(all, time.Since(began))
				second = append(second, <-scaled)
				l.left(0)
				gone = append(gone, time.Since(began))
			}
			for what, took := range map[string][]time.Duration{"scaled": second, "done": all, "gone": gone} {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Milliseconds()), what+"-ms")
			}
		})
	}
}

// BenchmarkNeighbour is the rate of a pipeline that is offered 5,000 records a second, alone and beside pipelines whose functions flood, crash, hang and
// take memory all the time.
func BenchmarkNeighbour(b *testing.B) {
	for _, beside := range []bool{false, true} {
		b.Run(map[bool]string{false: "alone", true: "beside"}[beside], func(b *testing.B) {
			good, _ := benchLine(b, "good", examples(b)["go"], map[string]string{})
			defer good.end()
			stop := make(chan struct{})
			var g errgroup.Group
			if beside {
				for _, bad := range []struct{ evil, value string }{{"flood", "x"}, {"none", "die"}, {"none", "hang"}, {"none", "leak"}} {
					l := good.run(testkit.UniqueName("bad"), bad.evil, map[string]string{spec.MemoryMax: "200"})
					defer l.end()
					g.Go(func() error {
						for i := 0; ; i++ {
							select {
							case <-stop:
								return nil
							case <-time.After(20 * time.Millisecond):
							}
							if err := l.write(kafka.Message{Key: fmt.Append(nil, i), Value: []byte(bad.value)}); err != nil {
								return err
							}
						}
					})
				}
			}
			var offered int
			g.Go(func() (err error) {
				offered, err = good.pace(100, stop)
				return err
			})
			before := good.progress.Message().RecordsIn
			for b.Loop() {
				time.Sleep(5 * time.Second)
			}
			done := good.progress.Message().RecordsIn - before
			close(stop)
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
			// The sender has to share the processors, too.
			b.ReportMetric(float64(offered)/b.Elapsed().Seconds(), "offered/s")
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// benchLine starts a pipeline and a consumer of its output.
func benchLine(b *testing.B, language, command string, more map[string]string) (*line, *kafka.Consumer) {
	b.Helper()
	y := yardAt(b, testkit.Kafka(b)) // the embedded broker is slow to tell who waits of a commit
	more[spec.Command] = command
	more[spec.Routes] = "orders.big"
	src, err := filepath.Abs("../../sdk/python/src")
	if err != nil {
		b.Fatal(err)
	}
	more[spec.EnvPrefix+"PYTHONPATH"] = src
	l := y.run(testkit.UniqueName(language), "none", more)
	least, err := strconv.Atoi(cmp.Or(more[spec.InstancesMin], "1"))
	if err != nil {
		b.Fatal(err)
	}
	out, err := kafka.NewConsumer(b.Context(), y.kafka, kafka.ConsumerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = out.Close() })
	if err := y.admin.EnsureTopic(b.Context(), l.name+"-out", kafka.TopicConfig{Partitions: 1, Replication: 1}); err != nil {
		b.Fatal(err)
	}
	out.Assign(map[kafka.TopicPartition]int64{{Topic: l.name + "-out"}: 0})
	l.send(kafka.Message{Key: []byte("k"), Value: []byte(order)})
	l.poll(out, 1)
	l.left(least)
	return l, out
}

// poll reads n records, which must come within a minute.
func (l *line) poll(from *kafka.Consumer, n int) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	for n > 0 {
		got, err := from.Poll(ctx)
		if err != nil {
			l.Fatalf("%d records are missing: %v; the task failed on %v", n, err, l.progress.Counted().Errors)
		}
		n -= len(got)
	}
}

func percentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[min(len(took)-1, len(took)*p/100)].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}
