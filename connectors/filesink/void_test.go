package filesink

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/millrace/millrace/connectors"
)

// Offsets that were altered from outside: the file's own counts no more, and what is there already stays. A crash at any point of it
// changes nothing.
func TestVoidOffset(t *testing.T) {
	t.Parallel()
	for _, rotate := range []int{1, 1 << 20} { // with files finished, and with one in the making
		dir := t.TempDir()
		at := func(epoch, void uint64) *task {
			k := &task{}
			err := k.Open(t.Context(), connectors.TaskContext{
				Config: map[string]string{Path: dir, RotateBytes: fmt.Sprint(rotate)}, Logger: slog.New(slog.DiscardHandler), Epoch: epoch,
				VoidBelow: func(connectors.TopicPartition) uint64 { return void },
			})
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		own := func(k *task) string {
			o, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0})
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(o)
		}
		write := func(k *task, from, n int64, flush bool) {
			if err := k.Put(t.Context(), recs(from, n)); err != nil {
				t.Fatal(err)
			}
			if !flush {
				return
			}
			if err := k.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		k := at(10, 0)
		own(k)
		write(k, 0, 5, true)
		_ = k.Close()
		for range 2 { // the first attempt ends before it has flushed
			k = at(30, 20)
			if got := own(k); got != "map[]" {
				t.Fatalf("the void offset counts: %s", got)
			}
			write(k, 0, 2, false)
			_ = k.Close()
		}
		k = at(31, 20)
		own(k)
		write(k, 0, 3, true)
		_ = k.Close()
		k = at(40, 20)
		if got := own(k); got != "map[{t 0}:3]" {
			t.Errorf("the offset after it: %s", got)
		}
		_ = k.Close()
		got := lines(t, dir)
		slices.Sort(got)
		if want := []string{`{"n":0}`, `{"n":0}`, `{"n":1}`, `{"n":1}`, `{"n":2}`, `{"n":2}`, `{"n":3}`, `{"n":4}`}; !slices.Equal(got, want) {
			t.Errorf("rotate at %d: %v, want %v", rotate, got, want)
		}
	}
}
