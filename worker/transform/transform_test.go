package transform

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
	transformv1 "github.com/millrace/millrace/proto/transform/v1"
	millrace "github.com/millrace/millrace/sdk/go"
	"github.com/millrace/millrace/worker/pipe"
)

// The test binary plays the function when EVIL says which.
func TestMain(m *testing.M) {
	if evil := os.Getenv("EVIL"); evil != "" {
		play(evil)
		return
	}
	os.Exit(m.Run())
}

func play(evil string) {
	switch evil {
	case "exits":
		fmt.Println("no licence found")
		os.Exit(3)
	case "silent":
		time.Sleep(time.Hour)
	case "slow start":
		time.Sleep(time.Second)
	case "garbage":
		l, err := net.Listen("unix", strings.TrimPrefix(os.Getenv("MILLRACE_LISTEN"), "unix://"))
		if err != nil {
			os.Exit(1)
		}
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("this is no gRPC at all\n"))
			_ = c.Close()
		}
	case "wrong count":
		l, err := net.Listen("unix", strings.TrimPrefix(os.Getenv("MILLRACE_LISTEN"), "unix://"))
		if err != nil {
			os.Exit(1)
		}
		s := grpc.NewServer()
		transformv1.RegisterTransformServer(s, miscount{})
		_ = s.Serve(l)
	}
	if evil == "child" {
		_ = exec.Command("sleep", "300").Start()
	}
	seen := 0
	millrace.Serve(millrace.Function{
		Name: "evil", Version: "1",
		Init: func(_ context.Context, c millrace.Config) error {
			if c["refuse"] != "" {
				return errors.New("refuse is set")
			}
			return nil
		},
		Handle: func(_ context.Context, r millrace.Record) ([]millrace.Record, error) {
			v := string(r.Value)
			if evil == "stamp" {
				r.Headers = append(r.Headers, millrace.Header{Key: "pid", Value: fmt.Append(nil, os.Getpid())})
			}
			switch {
			case v == "die":
				os.Exit(7)
			case strings.HasPrefix(v, "die once"):
				if _, err := os.Stat(os.Getenv("MARK")); err != nil {
					_ = os.WriteFile(os.Getenv("MARK"), nil, 0o600)
					os.Exit(7)
				}
			case v == "leak":
				for held := [][]byte{}; ; time.Sleep(20 * time.Millisecond) {
					held = append(held, bytes.Repeat([]byte{1}, 40<<20))
				}
			case v == "hang":
				time.Sleep(time.Hour)
			case v == "panic":
				panic("oops")
			case v == "fail":
				return nil, errors.New("no good")
			case v == "later":
				return nil, millrace.Retry(errors.New("away"))
			case v == "drop":
				return nil, nil
			case v == "split":
				a, b := r, r
				a.Value, b.Value, b.Topic = []byte("1"), nil, "side"
				return []millrace.Record{a, b}, nil
			case evil == "flood":
				fmt.Println(strings.Repeat("x", 10000))
			}
			if seen++; evil == "thousandth" && seen == 1000 {
				os.Exit(7)
			}
			return []millrace.Record{r}, nil
		},
	})
}

// miscount answers one result too few.
type miscount struct {
	transformv1.UnimplementedTransformServer
}

func (miscount) Describe(context.Context, *transformv1.DescribeRequest) (*transformv1.DescribeResponse, error) {
	return &transformv1.DescribeResponse{Name: "miscount"}, nil
}

func (miscount) Apply(s transformv1.Transform_ApplyServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if b := r.GetBatch(); b != nil {
			err = s.Send(&transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Result{Result: &transformv1.BatchResult{Id: b.Id, Results: make([]*transformv1.Result, len(b.Records)-1)}}})
		} else {
			err = s.Send(&transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Configured{Configured: &transformv1.Configured{}}})
		}
		if err != nil {
			return err
		}
	}
}

func options(t *testing.T, evil string) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Command: []string{self}, Env: map[string]string{"EVIL": evil, "MARK": filepath.Join(t.TempDir(), "mark")}, Config: map[string]string{},
		StartTimeout: 5 * time.Second, BatchTimeout: 700 * time.Millisecond, MaxRecords: 1000, MaxCrashes: 2, Connector: "c", Logger: slog.New(slog.DiscardHandler),
	}
}

func records(values ...string) []kafka.Fetched {
	out := make([]kafka.Fetched, len(values))
	for i, v := range values {
		out[i] = kafka.Fetched{Topic: "in", Offset: int64(i), Key: []byte("k"), Value: []byte(v)}
	}
	return out
}

func actions(out []pipe.Outcome) (s []pipe.Action) {
	for _, o := range out {
		s = append(s, o.Action)
	}
	return s
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := f.Apply(t.Context(), records("a", "drop", "split", "fail", "later", "panic", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(actions(out)), fmt.Sprint([]pipe.Action{pipe.Replace, pipe.Drop, pipe.Replace, pipe.Fail, pipe.Fail, pipe.Fail, pipe.Replace}); got != want {
		t.Errorf("actions %s, want %s", got, want)
	}
	if s := out[2].Records; len(s) != 2 || string(s[0].Value) != "1" || s[0].Topic != "" || s[1].Value != nil || s[1].Topic != "side" {
		t.Errorf("split: %+v", s)
	}
	if out[3].Reason != "no good" || out[3].Retriable || !out[4].Retriable || out[5].Reason != "panic: oops" {
		t.Errorf("reasons: %+v", out[3:6])
	}
}

// One record that crashes or hangs the function is found among the others, which all pass, in order.
func TestPoison(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{"die", "hang"} {
		t.Run(evil, func(t *testing.T) {
			t.Parallel()
			f, err := Open(t.Context(), options(t, "none"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			out, err := f.Apply(t.Context(), records("a", "b", "c", evil, "d"))
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range out {
				want := pipe.Replace
				if i == 3 {
					want = pipe.Fail
				}
				if o.Action != want {
					t.Errorf("record %d: %v, want %v", i, o.Action, want)
				}
			}
			if r := out[3].Reason; evil == "die" && !strings.Contains(r, "exit status 7") || evil == "hang" && !strings.Contains(r, "function.batch.timeout.ms") {
				t.Errorf("the reason does not say what happened: %s", r)
			}
		})
	}
}

func TestCrashOnceCostsARetry(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := f.Apply(t.Context(), records("a", "die once", "b"))
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if o.Action != pipe.Replace {
			t.Errorf("record %d: %+v", i, o)
		}
	}
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "wrong count"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := f.Apply(t.Context(), records("a", "b"))
	if err != nil || out[0].Action != pipe.Fail || !strings.Contains(out[0].Reason, "0 results for 1 records") {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestWillNotStart(t *testing.T) {
	t.Parallel()
	for evil, want := range map[string][]string{
		"exits":   {"exit status 3", "no licence found"},
		"silent":  {"function.start.timeout.ms"},
		"garbage": {"function.start.timeout.ms"},
	} {
		o := options(t, evil)
		o.StartTimeout = time.Second
		_, err := Open(t.Context(), o)
		if err == nil || !connectors.IsRetriable(err) {
			t.Errorf("%s: %v, want a retriable error", evil, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not say %q: %v", evil, w, err)
			}
		}
	}
	o := options(t, "none")
	o.Config = map[string]string{"refuse": "1"}
	if _, err := Open(t.Context(), o); !errors.Is(err, errRefused) || connectors.IsRetriable(err) || !strings.Contains(err.Error(), "refuse is set") {
		t.Errorf("refused config: %v", err)
	}
	o.Command = []string{"/no/such/program"}
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("no program: %v", err)
	}
}

// Closing ends the process and what it started, and leaves no directory.
func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, dir := f.proc.PID(), filepath.Dir(strings.TrimPrefix(f.proc.Addr(), "unix://"))
	_ = f.Close()
	for range 100 {
		if !group(pid) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if group(pid) {
		t.Error("processes of the group are left")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
}

// group reports whether a live process is in the group.
func group(pgid int) bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range stats {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		line, _ := bufio.NewReader(f).ReadString('\n')
		_ = f.Close()
		fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
		if len(fields) > 2 && fields[2] == fmt.Sprint(pgid) && fields[0] != "Z" {
			return true
		}
	}
	return false
}

func TestFloodIsHarmless(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "flood"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values := make([]string, 300)
	for i := range values {
		values[i] = "x"
	}
	if out, err := f.Apply(t.Context(), records(values...)); err != nil || len(out) != 300 {
		t.Errorf("%d outcomes, %v", len(out), err)
	}
}

func TestKilledFromOutside(t *testing.T) {
	t.Parallel()
	f, err := Open(t.Context(), options(t, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = syscall.Kill(f.proc.PID(), syscall.SIGKILL)
	if out, err := f.Apply(t.Context(), records("a")); err != nil || out[0].Action != pipe.Replace {
		t.Errorf("%+v, %v", out, err)
	}
}

func BenchmarkPassThrough(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	f, err := Open(b.Context(), Options{Command: []string{self}, Env: map[string]string{"EVIL": "none"}, StartTimeout: 5 * time.Second, BatchTimeout: 5 * time.Second, MaxRecords: 1000, MaxCrashes: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	in := make([]kafka.Fetched, 1000)
	for i := range in {
		in[i] = kafka.Fetched{Topic: "in", Key: []byte("k"), Value: make([]byte, 550)}
	}
	for b.Loop() {
		if _, err := f.Apply(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
