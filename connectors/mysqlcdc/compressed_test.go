package mysqlcdc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/testkit"
)

// TestCompressedTransaction: a transaction that is small in the log and far bigger than memory should get when it is unpacked.
func TestCompressedTransaction(t *testing.T) {
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	const rows, width, most = 4096, 64 << 10, 96 << 20
	run("CREATE TABLE a (id INT PRIMARY KEY, v MEDIUMTEXT)", "SET SESSION binlog_transaction_compression=ON, cte_max_recursion_depth=10000")
	task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
	run(fmt.Sprintf("INSERT INTO a WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<%d) SELECT n, REPEAT(CHAR(97+n%%26),%d) FROM s", rows, width))
	var peak uint64
	for got, deadline := 0, time.Now().Add(60*time.Second); got < rows; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d rows", got, rows)
		}
		b, err := task.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			e := r.Value.(*record.ChangeEvent)
			id := e.After[0].Int()
			if want := byte(97 + id%26); int(id) != got+1 || len(e.After[1].B) != width || e.After[1].B[0] != want || e.After[1].B[width-1] != want {
				t.Fatalf("row %d after %d rows has %d bytes", id, got, len(e.After[1].B))
			}
			got++
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
		b.Release()
	}
	t.Logf("heap %d MiB for %d MiB", peak>>20, rows*width>>20)
	if peak > most {
		t.Errorf("the heap had %d MiB; at most %d are fine", peak>>20, most>>20)
	}
}

// TestCompressedResume: within a compressed transaction too, each row comes once, wherever the task is killed.
func TestCompressedResume(t *testing.T) {
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(4000))", "CREATE TABLE b (id INT PRIMARY KEY)", "SET SESSION binlog_transaction_compression=ON")
	cfg := config(srv, name, "snapshot.mode", "no_data", "max.batch.size", "3")
	task := open(t, cfg, nil)
	var want []string
	for txn := range 4 {
		run("BEGIN")
		for i := range 5 {
			id := txn*100 + i
			run(fmt.Sprintf("INSERT INTO a VALUES (%d, REPEAT('x',3000)), (%d, REPEAT('y',3000))", id, id+50), fmt.Sprintf("INSERT INTO b VALUES (%d)", id))
			want = append(want, fmt.Sprintf("a %d", id), fmt.Sprintf("a %d", id+50), fmt.Sprintf("b %d", id))
		}
		run("COMMIT")
	}
	var got []string
	for len(got) < len(want) {
		s, err := poll(t, task, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range s.events {
			got = append(got, e.Table+" "+strings.TrimPrefix(e.Key, "id=i"))
		}
		_ = task.Close()
		task = open(t, cfg, s.offset)
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// payloadOf packs a payload event.
func payloadOf(t testing.TB, compression byte, events []byte) []byte {
	t.Helper()
	body := events
	if compression == replication.ZSTD {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		body = w.EncodeAll(events, nil)
	}
	p := append(make([]byte, headerSize), 2, 1, compression)
	if compression == 255 {
		p = append(make([]byte, headerSize), 2, 3, 0xfc, 255, 0)
	}
	p = append(p, 3, 3, 0xfc, byte(len(events)), byte(len(events)>>8), 0)
	return append(p, body...)
}

func rawEvent(typ replication.EventType, body []byte) []byte {
	raw := append(make([]byte, headerSize), body...)
	raw[4] = byte(typ)
	binary.LittleEndian.PutUint32(raw[9:], uint32(len(raw)))
	return raw
}

func TestPayload(t *testing.T) {
	inner := append(rawEvent(replication.TABLE_MAP_EVENT, []byte("one")), rawEvent(replication.WRITE_ROWS_EVENTv2, bytes.Repeat([]byte("two"), 100))...)
	var p payload
	defer p.close()
	read := func(raw []byte) (sizes []int, err error) {
		err = p.each(newParser("mysql"), &replication.BinlogEvent{RawData: raw}, func(e *replication.BinlogEvent) error {
			sizes = append(sizes, len(e.RawData))
			return nil
		})
		return sizes, err
	}
	for _, compression := range []byte{replication.ZSTD, replication.NONE} {
		whole := payloadOf(t, compression, inner)
		if sizes, err := read(whole); err != nil || fmt.Sprint(sizes) != "[22 319]" {
			t.Errorf("compression %d: %v, %v", compression, sizes, err)
		}
		for n := headerSize; n < len(whole); n++ {
			if _, err := read(whole[:n]); err == nil {
				t.Errorf("%d of %d bytes are taken for a whole transaction", n, len(whole))
			}
		}
	}
	if _, err := read(payloadOf(t, 7, inner)); err == nil || !strings.Contains(err.Error(), "compression 7") {
		t.Error(err)
	}
}

// TestChecksum: a damaged event stops the reader, and an event without a checksum passes where the log has none.
func TestChecksum(t *testing.T) {
	d := &dump{parser: newParser("mysql"), checksum: true}
	raw := rawEvent(replication.WRITE_ROWS_EVENTv2, []byte("rows!123"))
	binary.LittleEndian.PutUint32(raw[len(raw)-4:], 0x2b68b0a1)
	if _, err := d.event(bytes.Clone(raw)); err == nil || !strings.Contains(err.Error(), "wrong checksum") {
		t.Errorf("a damaged event: %v", err)
	}
	d.checksum = false
	if e, err := d.event(raw); err != nil || len(e.RawData) != len(raw) {
		t.Error(err)
	}
}
