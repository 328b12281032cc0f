package source

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/runner"
)

// The rows of an event make one message, without a key, in partition 0. Where a row can't be written, the others are, each by itself (I5).
func TestGroups(t *testing.T) {
	b := newBench(t)
	admin, err := kafka.NewAdmin(t.Context(), b.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	enc, err := convert.NewEncoder(convert.Config{ValueOptions: map[string]string{"canal.rows": "event"}})
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{
		enc: enc, dead: enc, group: grouper(enc), admin: admin, bundles: make(chan *bundle, 1), blocks: make(chan []byte, 1),
		topics: runner.NewTopics(admin, runner.Creation{Default: kafka.TopicConfig{Partitions: 3, Replication: 1}}),
		Deps: runner.Deps{
			Progress: runner.NewProgress(),
			Settings: runner.Settings{Dead: deadletter.Policy{TolerateAll: true, Logger: slog.New(slog.DiscardHandler)}},
		},
	}
	table := &record.Table{Database: "shop", Name: "t", Key: []int{0}, Columns: []record.Column{{Name: "id", Type: "int", Family: record.FamilyInt}}}
	batch := func(bad int) *connectors.Batch {
		out := &connectors.Batch{}
		for i := range 4 {
			row := record.Row{record.Int(int64(i))}
			if i == bad {
				row = append(row, record.Null())
			}
			pos := uint64(100)
			if i == 3 { // the next event
				pos = 200
			}
			out.Records = append(out.Records, record.Record{
				Topic: "shop.t", Partition: record.AnyPartition, Key: &record.KeyRow{Table: table, Row: row},
				Value: &record.ChangeEvent{Table: table, Op: record.OpCreate, After: row, Source: record.Source{Pos: pos, Row: int32(i % 3)}},
			})
		}
		return out
	}
	for bad, want := range map[int][]string{
		-1: {`"data":[{"id":"0"},{"id":"1"},{"id":"2"}]`, `"data":[{"id":"3"}]`},
		1:  {`"data":[{"id":"0"}]`, `"data":[{"id":"2"}]`, `"data":[{"id":"3"}]`},
	} {
		got, err := l.convert(t.Context(), batch(bad))
		if err != nil || len(got.msgs) != len(want) {
			t.Fatalf("bad row %d: %d messages, %v; want %d", bad, len(got.msgs), err, len(want))
		}
		for i, m := range got.msgs {
			if !strings.Contains(string(m.Value), want[i]) || m.Key != nil || m.Partition != 0 {
				t.Errorf("bad row %d: message %d is %s, key %q, partition %d", bad, i, m.Value, m.Key, m.Partition)
			}
		}
	}
	l.Settings.Dead.TolerateAll = false
	if _, err := l.convert(t.Context(), batch(1)); err == nil {
		t.Error("a row that can't be written is passed over")
	}
}
