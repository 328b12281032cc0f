package testkit

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var rewrite = flag.Bool("rewrite", false, "write golden files anew instead of comparing with them")

// Golden compares got with the file at path (relative to the package, usually under testdata) and fails with the difference.
// With -rewrite it writes the file instead; review what that changed.
func Golden(t testing.TB, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read golden file (run the test with -rewrite to make it): %v", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if the new text is right, run the test with -rewrite:\n%s", path, diff)
	}
}

// Eventually waits until cond returns nil, trying every 10 ms, and fails with its last error when timeout has passed. It is for
// what happens outside of the process or on another goroutine without a signal; prefer a channel where there is one.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, timeout, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// LeakCheck fails the test if a goroutine that was not there at the call is still there when all later clean-ups have run. Call
// it first, and not in parallel tests.
func LeakCheck(t testing.TB) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test that broke off half-way leaves things behind; its own message counts
		}
		if err := goleak.Find(before); err != nil {
			t.Errorf("goroutines leaked: %v", err)
		}
	})
}

// FreePort returns a host:port on 127.0.0.1 that nobody listens on at the moment.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Logger returns a logger at level debug that writes to the test's log, which `go test` shows for failed tests only. What is
// logged after the end of the test is dropped: t.Log would panic there.
func Logger(t testing.TB) *slog.Logger {
	w := &logWriter{t: t}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime { // Raft has a "time" of its own
			return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05.000"))
		}
		return a
	}}))
}

type logWriter struct {
	mu    sync.Mutex // guards: ended, and the moment between looking at it and logging
	ended bool
	t     testing.TB
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.t.Log(strings.TrimSuffix(string(p), "\n"))
	}
	return len(p), nil
}

func (w *logWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}

// UniqueName returns prefix with a suffix that no other test uses, for topics, groups and connectors on shared servers.
func UniqueName(prefix string) string {
	return fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), time.Now().UnixNano())
}
