package migrate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/kafka"
)

// feed reads lines "there|here op key pos row value" into a pairing, of topic t and one partition, and returns what is found at the end.
func feed(t *testing.T, from map[string]any, lines string) *Equivalence {
	t.Helper()
	_, begin := startOf(from)
	out := &Equivalence{}
	p := newPairing(begin, out)
	readers := [2]*reader{newReader(""), newReader("private.")}
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		side, prefix := there, ""
		if f[0] == "here" {
			side, prefix = here, "private."
		}
		m := kafka.Fetched{Topic: prefix + "t", Key: []byte(`{"id":` + f[2] + `}`)}
		if f[1] != "tombstone" {
			m.Value = fmt.Appendf(nil, `{"op":%q,"after":{"v":%s},"source":{"server_id":1,"file":"b.000009","pos":%s,"row":%s},"ts_ms":%d}`, f[1], f[5], f[3], f[4], 1+side)
		}
		p.add(side, readers[side].read(&m))
	}
	p.finish(p.furthest)
	return out
}

func (e *Equivalence) brief() string {
	text := fmt.Sprintf("%s, %d of %d", e.Verdict, e.Same, e.Compared)
	for _, d := range e.Differences {
		text += fmt.Sprintf("; %s %s %d", d.Path, d.What, d.Records)
	}
	for _, n := range e.NotCompared {
		text += fmt.Sprintf("; %s %d", n.What, n.Records)
	}
	if e.Repeated+e.Undecided > 0 {
		text += fmt.Sprintf("; %d repeated, %d undecided", e.Repeated, e.Undecided)
	}
	return text
}

func TestPairing(t *testing.T) {
	t.Parallel()
	from := map[string]any{"server_id": 1.0, "file": "b.000009", "pos": 100.0, "event": 3.0, "row": 1.0}
	for name, x := range map[string]struct{ lines, want string }{
		"the same, in another order": {"there c 1 110 0 5\nthere c 2 110 1 6\nhere c 1 110 0 5\nhere c 2 110 1 6.0", "equal, 2 of 2"},
		"from before the start":      {"there c 9 90 0 1\nthere c 1 110 0 5\nhere c 1 110 0 5", "equal, 1 of 1"},
		"a value":                    {"there u 1 110 0 5\nhere u 1 110 0 \"5\"", "different, 0 of 1; value.after.v a number there, text here 1"},
		"a key":                      {"there u 1 110 0 5\nhere u 2 110 0 5", "different, 0 of 1; key.id another value 1"},
		"an operation":               {"there d 1 110 0 5\nhere u 1 110 0 5", "different, 0 of 1; value.op another value 1"},
		"missing here":               {"there c 1 110 0 5\nthere c 2 120 0 5\nhere c 2 120 0 5", "different, 1 of 1; record missing here 1"},
		"missing there":              {"here c 1 110 0 5\nhere c 2 120 0 5\nthere c 2 120 0 5", "different, 1 of 1; record missing there 1"},
		"not come yet":               {"there c 1 110 0 5\nhere c 1 110 0 5\nthere c 2 120 0 5", "equal, 1 of 1; 0 repeated, 1 undecided"},
		"Kafka Connect was killed":   {"there c 1 110 0 5\nthere c 2 120 0 5\nthere c 1 110 0 5\nhere c 1 110 0 5\nhere c 2 120 0 5\nthere c 2 120 0 5", "equal, 2 of 2; 2 repeated, 0 undecided"},
		"twice here":                 {"there c 1 110 0 5\nhere c 1 110 0 5\nhere c 1 110 0 5", "different, 1 of 1; record more than once here 1"},
		"out of order here":          {"there c 1 110 0 5\nthere c 1 120 0 6\nhere c 1 120 0 6\nhere c 1 110 0 5", "different, 2 of 2; record out of order here 1"},
		"a changed key":              {"there d 1 110 0 5\nthere tombstone 1\nthere c 2 110 0 5\nhere d 1 110 0 5\nhere tombstone 1\nhere c 2 110 0 5", "equal, 3 of 3"},
		"a tombstone missing":        {"there d 1 110 0 5\nthere tombstone 1\nthere c 2 120 0 5\nhere d 1 110 0 5\nhere c 2 120 0 5", "different, 2 of 2; record missing here 1"},
		"a snapshot's rows":          {"there r 1 110 0 5\nthere c 1 120 0 5\nhere c 1 120 0 5", "equal, 1 of 1; rows of snapshots 1"},
		"nothing":                    {"there c 1 110 0 5", "not proven, 0 of 0; 0 repeated, 1 undecided"},
	} {
		if got := feed(t, from, x.lines).brief(); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// Debezium counts anew when it goes on within a transaction. That is tolerated in the transaction that its offset was in, and in no other.
func TestCutTransaction(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		offset map[string]any
		want   string
	}{
		"within it":       {map[string]any{"event": 3.0, "transaction_id": "t7"}, "equal, 2 of 2"},
		"another one":     {map[string]any{"event": 3.0, "transaction_id": "t6"}, "different, 1 of 2; value.transaction.total_order another value 1"},
		"between two":     {map[string]any{"transaction_id": "t7"}, "different, 1 of 2; value.transaction.total_order another value 1"},
		"it does not say": {map[string]any{"row": 1.0}, "different, 1 of 2; value.transaction.total_order another value 1"},
	} {
		_, begin := startOf(x.offset)
		out := &Equivalence{}
		p := newPairing(begin, out)
		record := func(side int, topic string, pos, order int, txn string) {
			p.add(side, newReader([]string{"", "private."}[side]).read(&kafka.Fetched{Topic: []string{"", "private."}[side] + topic, Key: []byte("1"), Value: fmt.Appendf(nil,
				`{"op":"c","after":{"v":1},"source":{"server_id":1,"file":"b.000009","pos":%d,"row":0},"transaction":{"id":%q,"total_order":%d,"data_collection_order":1}}`, pos, txn, order)}))
		}
		record(there, "t", 110, 1, "t7")
		record(here, "t", 110, 3, "t7")
		record(there, "t", 210, 1, "t8")
		record(here, "t", 210, 1, "t8")
		p.finish(p.furthest)
		if got := out.brief(); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// After a failover files and positions are another server's: the start is told by GTID.
func TestStart(t *testing.T) {
	t.Parallel()
	const uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	offset, from := startOf(map[string]any{"server_id": 1.0, "file": "b.000009", "pos": 100.0, "gtids": uuid + ":1-7", "event": 3.0, "row": 1.0, "ts_sec": 5.0})
	if offset["event"] != nil || offset["row"] != nil || offset["gtids"] == nil {
		t.Errorf("it does not begin at the transaction's start: %v", offset)
	}
	for p, want := range map[place]bool{
		{server: "1", file: "b.000009", pos: 90}:                      true,
		{server: "1", file: "b.000010", pos: 90}:                      false,
		{server: "2", file: "b.000001", pos: 9000, gtid: uuid + ":7"}: true,
		{server: "2", file: "b.000012", pos: 9, gtid: uuid + ":8"}:    false,
		{server: "2", file: "b.000001", pos: 9}:                       false,
		{server: "1", file: "b.1000000", pos: 9, gtid: ""}:            false,
	} {
		if got := from.before(p); got != want {
			t.Errorf("%+v is before the start: %v", p, got)
		}
	}
}

// Records that ExtractNewRecordState made flat are paired by the fields that it was told to add.
func TestFlatRecords(t *testing.T) {
	t.Parallel()
	r := newReader("")
	with := r.read(&kafka.Fetched{Topic: "t", Key: []byte("1"), Value: []byte(`{"id":1,"__op":"u","__source_file":"b.000009","__source_pos":110,"__source_row":2}`)})
	if with.kind != change || with.at != (place{file: "b.000009", pos: 110, row: 2}) {
		t.Errorf("%+v", with)
	}
	if without := r.read(&kafka.Fetched{Topic: "t", Key: []byte("1"), Value: []byte(`{"id":1}`)}); without.kind != placeless {
		t.Errorf("%+v", without)
	}
}
