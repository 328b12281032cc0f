package systest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// TestSnapshotKilled: a node is killed (kill -9) five times at random points of a snapshot, with writers busy. It resumes each time, and in
// the end the topic's state by key is the table. Then the table is read anew by a signal over REST.
func TestSnapshotKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const rows, kills = 300000, 5
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	if _, err := db.ExecContext(ctx, "CREATE TABLE t (a VARCHAR(20), b BINARY(4), v INT, PRIMARY KEY (a,b))"); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < rows; i += 5000 {
		var list []string
		for j := i; j < i+5000; j++ {
			list = append(list, fmt.Sprintf("('k%d',UNHEX(LPAD(HEX(%d),8,'0')),0)", j%97, j)) // few first parts: a skewed key
		}
		if _, err := db.ExecContext(ctx, "INSERT IGNORE INTO t VALUES "+strings.Join(list, ",")); err != nil {
			t.Fatal(err)
		}
	}
	broker := embeddedBroker(t)
	f, cluster := nodes(t, 1, "--brokers", broker)
	base := f.Nodes[0].REST
	config := map[string]string{
		"connector.class": "mysql", "topic.prefix": "p", "database.include.list": name, "database.hostname": srv.Host(), "database.port": srv.Port(),
		"database.user": srv.User, "database.password": srv.Password, "incremental.snapshot.chunk.size": "100",
	}
	if status, body := do(t, base, "POST", "/millrace/v1/connectors/s/signals", `{"type":"execute-snapshot"}`, "application/json"); status != http.StatusNotFound {
		t.Errorf("signal to no connector: %d %s", status, body)
	}
	create(ctx, t, cluster, "s", config)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := 1; !stop.Load(); i++ {
				j := rand.IntN(rows)
				key := fmt.Sprintf("a='k%d' AND b=UNHEX(LPAD(HEX(%d),8,'0'))", j%97, j)
				for _, s := range []string{"UPDATE t SET v=v+1 WHERE " + key, "DELETE FROM t WHERE " + key + " AND v%3=0", fmt.Sprintf("UPDATE IGNORE t SET a='moved%d' WHERE %s", j%7, key)} {
					_, _ = db.ExecContext(ctx, s) // a deadlock is fine
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	defer func() { stop.Store(true); wg.Wait() }()
	progress := func() map[string]string {
		p, err := cluster.Progress(ctx, "s")
		if err != nil || len(p.Tasks) == 0 {
			return nil
		}
		return p.Tasks[0].Detail
	}
	node := f.Nodes[0]
	middle := 0
	for range kills {
		testkit.Eventually(t, 30*time.Second, "the snapshot goes on", func() error {
			if d := progress(); d["phase"] == "" {
				return fmt.Errorf("%v", d)
			}
			return nil
		})
		time.Sleep(rand.N(400 * time.Millisecond))
		if progress()["phase"] == "snapshot" {
			middle++
		}
		node.Kill()
		restart(ctx, t, node)
	}
	if middle < 1 {
		t.Errorf("none of %d kills hit the snapshot: it is too quick for this test", kills)
	}
	finished := func() error {
		if d := progress(); d["phase"] != "streaming" || d["snapshot_requested"] != "" {
			return fmt.Errorf("%v", d)
		}
		return nil
	}
	testkit.Eventually(t, time.Minute, "the snapshot is complete", finished)
	for _, x := range []struct {
		body string
		want int
	}{{`{"type":"dance"}`, 409}, {`{"type":""}`, 400}, {`{"type":"execute-snapshot","data":{"data-collections":["no.table"]}}`, 409}} {
		if status, body := do(t, base, "POST", "/millrace/v1/connectors/s/signals", x.body, "application/json"); status != x.want {
			t.Errorf("signal %s: %d %s, want %d", x.body, status, body, x.want)
		}
	}
	read := snapshotRows(ctx, t, broker, "p."+name+".t")
	if read > rows*3/2 {
		t.Errorf("%d rows were read of a table of %d: the snapshot did not resume, it began anew", read, rows)
	}
	if err := cluster.Signal(ctx, "s", api.Signal{Type: "execute-snapshot", Data: json.RawMessage(`{"data-collections":["` + name + `[.]t"]}`)}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "the table is read again", func() error {
		if n := snapshotRows(ctx, t, broker, "p."+name+".t"); n < read+1000 {
			return fmt.Errorf("%d rows read, %d before", n, read)
		}
		return finished()
	})
	stop.Store(true)
	wg.Wait()
	testkit.Eventually(t, time.Minute, "the topic's state is the table", func() error {
		want, got := tableState(ctx, t, db), topicState(ctx, t, broker, "p."+name+".t")
		if !maps.Equal(want, got) {
			return fmt.Errorf("the table has %d rows, the topic's state %d", len(want), len(got))
		}
		return nil
	})
	t.Logf("%d of %d kills in the middle of the snapshot; %d rows read of %d", middle, kills, read, rows)
}

func restart(ctx context.Context, t *testing.T, n *fleet.Node) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

func eachMessage(ctx context.Context, t *testing.T, broker, topic string, f func(kafka.Fetched)) {
	t.Helper()
	c := kafka.Config{Brokers: []string{broker}, ClientID: "systest"}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error { f(m); return nil }); err != nil {
		t.Fatal(err)
	}
}

func snapshotRows(ctx context.Context, t *testing.T, broker, topic string) int {
	n := 0
	eachMessage(ctx, t, broker, topic, func(m kafka.Fetched) {
		for _, h := range m.Headers {
			if h.Key == "snapshot" {
				n++
			}
		}
	})
	return n
}

// topicState is the topic's last value for each key.
func topicState(ctx context.Context, t *testing.T, broker, topic string) map[string]string {
	out := map[string]string{}
	eachMessage(ctx, t, broker, topic, func(m kafka.Fetched) {
		var v struct {
			Type string
			Data []map[string]*string
		}
		if err := json.Unmarshal(m.Value, &v); err != nil {
			t.Fatal(err)
		}
		for _, row := range v.Data {
			var b []byte // Canal writes bytes as ISO 8859-1
			for _, r := range *row["b"] {
				b = append(b, byte(r))
			}
			key := fmt.Sprintf("%s/%x", *row["a"], b)
			if v.Type == "DELETE" {
				delete(out, key)
			} else {
				out[key] = *row["v"]
			}
		}
	})
	return out
}

func tableState(ctx context.Context, t *testing.T, db *sql.DB) map[string]string {
	t.Helper()
	rows, err := db.QueryContext(ctx, "SELECT a, b, v FROM t")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var a, v string
		var b []byte
		if err := rows.Scan(&a, &b, &v); err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprintf("%s/%x", a, b)] = v
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}
