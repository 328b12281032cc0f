package filesink

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

var tp0 = connectors.TopicPartition{Topic: "t", Partition: 0}

func open(t *testing.T, dir string, rotate int) *task {
	t.Helper()
	k := &task{}
	err := k.Open(t.Context(), connectors.TaskContext{Config: map[string]string{Path: dir, RotateBytes: fmt.Sprint(rotate)}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func recs(from, n int64) []record.Record {
	out := make([]record.Record, n)
	for i := range out {
		out[i] = record.Record{Topic: "t", Offset: from + int64(i), Value: fmt.Appendf(nil, `{"n":%d}`, from+int64(i))}
	}
	return out
}

// lines reads all files in order, as a reader of the archive would.
func lines(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "t", "0", "*.jsonl*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			out = append(out, strings.TrimSuffix(l, "\n"))
		}
	}
	return out
}

// I3: whatever a crash leaves behind (unflushed data, half lines, a file that was finished but not yet forgotten), going on from the offset that
// the files tell gives each record once, in order.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		next := int64(0)
		const total = 400
		for next < total {
			k := open(t, dir, 500)
			offsets, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0})
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if at, ok := offsets[tp0]; ok {
				if at > next || at < next-40 {
					t.Fatalf("seed %d: the files say %d, written were %d", seed, at, next)
				}
				next = at
			} else if next > 40 {
				t.Fatalf("seed %d: the files know no offset", seed)
			} else {
				next = 0
			}
			for range 1 + rng.IntN(5) {
				n := 1 + rng.Int64N(20)
				if err := k.Put(t.Context(), recs(next, n)); err != nil {
					t.Fatal(err)
				}
				next += n
				if rng.IntN(3) > 0 {
					if err := k.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					break
				}
			}
			p := k.parts[tp0]
			// What the crash lets through of the unflushed part is anybody's guess.
			if p.w != nil && rng.IntN(2) == 0 {
				_ = p.w.Flush()
			}
			if p.f != nil && rng.IntN(3) == 0 {
				_, _ = p.f.WriteString(`{"n":half a li`)
			}
			_ = k.Close()
		}
		k := open(t, dir, 500)
		offsets, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Put(context.Background(), recs(max(0, offsets[tp0]), total+100-max(0, offsets[tp0]))); err != nil {
			t.Fatal(err)
		}
		if err := k.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = k.Close()
		got := lines(t, dir)
		for i, l := range got {
			if want := fmt.Sprintf(`{"n":%d}`, i); l != want {
				t.Fatalf("seed %d: line %d is %s, want %s", seed, i, l, want)
			}
		}
		if len(got) != total+100 {
			t.Fatalf("seed %d: %d lines, want %d", seed, len(got), total+100)
		}
	}
}

func TestRedeliveryAndRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := open(t, dir, 1<<20)
	defer k.Close()
	for range 2 { // the second time changes nothing
		if err := k.Put(t.Context(), recs(0, 5)); err != nil {
			t.Fatal(err)
		}
		if err := k.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := lines(t, dir); len(got) != 5 {
		t.Errorf("%d lines after a redelivery, want 5", len(got))
	}
	err := k.Put(t.Context(), []record.Record{{Topic: "t", Offset: 5, Value: []byte("a\nb")}})
	if err == nil || !strings.Contains(err.Error(), "line break") {
		t.Errorf("a value of two lines: %v", err)
	}
	other := open(t, dir, 1<<20)
	defer other.Close()
	if _, err := other.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err == nil || !connectors.IsRetriable(err) {
		t.Errorf("a second writer: %v, want to be told to wait", err)
	}
}
