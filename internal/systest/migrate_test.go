package systest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/migrate"
	"github.com/millrace/millrace/internal/testkit"
)

// A Debezium connector is moved from the real Kafka Connect to here and back again while its database is written to: the topic has each
// change once, in order per key, and the rows of one snapshot.
func TestMigrateFromKafkaConnect(t *testing.T) {
	url := testkit.NeedConnect(t)
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) { migrateWhileWriting(t, url, kind) })
	}
}

const migrated = 40 // rows of the table

func migrateWhileWriting(t *testing.T, url, kind string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	srv, class := testkit.MySQL(t), "io.debezium.connector.mysql.MySqlConnector"
	if kind == "mariadb" {
		srv, class = testkit.MariaDB(t), "io.debezium.connector.mariadb.MariaDbConnector"
	}
	db, name := testkit.Database(t, srv)
	fillMigrated(ctx, t, db)
	_, c := nodes(t, 1, "--brokers", testkit.Kafka(t), "--offsets-topic", testkit.UniqueName("offsets"))
	theirs := connect(t, url, name, kind)
	theirs.post(map[string]string{
		"connector.class": class, "topic.prefix": theirs.prefix, "database.hostname": srv.Host(), "database.port": srv.Port(), "database.user": srv.User,
		"database.password": srv.Password, "database.include.list": name, "include.schema.changes": "false", "poll.interval.ms": "50",
		"key.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter": "org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
	})
	connector := "diff-" + name
	w := writeOn(20*time.Millisecond, func(n int) error { return writeAll(ctx, db, n) })
	reached := func(when string) {
		t.Helper()
		reach := w.count() + 5
		testkit.Eventually(t, time.Minute, "changes "+when, func() error {
			if last := lastOf(theirs.read(ctx, t, name)); last < reach {
				return fmt.Errorf("the topic is at %d of %d", last, reach)
			}
			return nil
		})
	}
	reached("by Debezium")

	m := &migrate.Migration{There: api.NewClient(url), Here: c.Client}
	reports, err := m.Look(ctx, []string{connector})
	if err != nil {
		t.Fatal(err)
	}
	if r := reports[0]; len(r.Blockers) > 0 || r.State != "RUNNING" || r.Offsets != 1 {
		t.Fatalf("the report: %+v", r)
	}
	millrace(ctx, t, c, "migrate", "kafka-connect", url, connector, "--apply")
	if s, err := m.There.Status(ctx, connector); err != nil || s.Connector.State != "STOPPED" {
		t.Fatalf("at Kafka Connect: %+v, %v", s, err)
	}
	reached("by Millrace")
	millrace(ctx, t, c, "migrate", "kafka-connect", url, connector, "--back")
	reached("by Debezium again")
	total := w.stop(t)
	testkit.Eventually(t, time.Minute, "the last change", func() error {
		if last := lastOf(theirs.read(ctx, t, name)); last != total {
			return fmt.Errorf("the topic is at %d of %d", last, total)
		}
		return nil
	})
	time.Sleep(time.Second) // what is doubled may come late
	eachOnce(t, theirs.read(ctx, t, name), name, total)
}

func fillMigrated(ctx context.Context, t *testing.T, db *sql.DB) {
	t.Helper()
	var rows []string
	for id := range migrated {
		rows = append(rows, fmt.Sprintf("(%d,0)", id))
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id int PRIMARY KEY, v int NOT NULL); INSERT INTO orders VALUES "+strings.Join(rows, ",")); err != nil {
		t.Fatal(err)
	}
}

// writer makes transactions all the time, each with its number.
type writer struct {
	done    chan struct{}
	ended   chan error
	counted chan int
}

func writeOn(every time.Duration, transaction func(n int) error) *writer {
	w := &writer{done: make(chan struct{}), ended: make(chan error, 1), counted: make(chan int)}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case <-w.done:
				w.ended <- nil
				return
			case w.counted <- n:
			case <-tick.C:
				n++
				if err := transaction(n); err != nil {
					w.ended <- err
					return
				}
			}
		}
	}()
	return w
}

// writeAll changes all rows, by several statements, so that a stop falls within the transaction.
func writeAll(ctx context.Context, db *sql.DB, n int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for part := range 4 {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE orders SET v=%d WHERE id %% 4 = %d", n, part)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// count is how many transactions there have been.
func (w *writer) count() int { return <-w.counted }

func (w *writer) stop(t *testing.T) int {
	t.Helper()
	n := w.count()
	close(w.done)
	if err := <-w.ended; err != nil {
		t.Fatal(err)
	}
	return n
}

// orderChange is what this test needs of a Debezium event.
type orderChange struct {
	Op    string
	After struct{ ID, V int }
}

func changesOf(topics map[string][]captured) []orderChange {
	var out []orderChange
	for topic, list := range topics {
		if !strings.HasSuffix(topic, ".orders") {
			continue
		}
		for _, r := range list {
			b, _ := json.Marshal(r.Value)
			var c orderChange
			_ = json.Unmarshal(b, &c)
			out = append(out, c)
		}
	}
	return out
}

// lastOf is the last transaction of which the topic has all rows.
func lastOf(topics map[string][]captured) int {
	last := map[int]int{}
	for _, c := range changesOf(topics) {
		last[c.After.ID] = max(last[c.After.ID], c.After.V)
	}
	if len(last) < migrated {
		return 0
	}
	least := last[0]
	for _, v := range last {
		least = min(least, v)
	}
	return least
}

// eachOnce checks that each row came from one snapshot, and after it each of its changes once and in order.
func eachOnce(t *testing.T, topics map[string][]captured, db string, total int) {
	t.Helper()
	at := map[int]int{}
	for i, c := range changesOf(topics) {
		before, seen := at[c.After.ID]
		switch {
		case !seen && c.Op == "r":
		case c.Op == "r":
			t.Fatalf("record %d of %s: row %d is read a second time", i, db, c.After.ID)
		case c.After.V != before+1:
			t.Fatalf("record %d of %s: row %d is %d after %d", i, db, c.After.ID, c.After.V, before)
		}
		at[c.After.ID] = c.After.V
	}
	for id := range migrated {
		if at[id] != total {
			t.Errorf("row %d ends at %d of %d", id, at[id], total)
		}
	}
	t.Logf("%d transactions of %d rows", total, migrated)
}

// What can't move is named, with the reasons, and stays as it was.
func TestMigrateReport(t *testing.T) {
	url := testkit.NeedConnect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	broker := testkit.Kafka(t)
	_, c := nodes(t, 1, "--brokers", broker)
	there := api.NewClient(url)
	topic, name := testkit.UniqueName("numbers"), testkit.UniqueName("sink")
	produceNumbers(ctx, t, broker, topic, 0, 3)
	dir := t.TempDir()
	if _, err := there.Create(ctx, name, map[string]string{
		"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "topics": topic, "file": dir + "/connect.txt",
		"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter",
		"transforms": "x", "transforms.x.type": "org.apache.kafka.connect.transforms.InsertField$Value", "transforms.x.static.field": "a", "transforms.x.static.value": "b",
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Do(context.Background(), http.MethodDelete, "/connectors/"+name, nil, nil) })
	m := &migrate.Migration{There: there, Here: c.Client}
	testkit.Eventually(t, 30*time.Second, "a status there", func() error {
		_, err := m.Look(ctx, []string{name})
		return err
	})
	reports, err := m.Look(ctx, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	blockers := strings.Join(reports[0].Blockers, "\n")
	for _, key := range []string{"file: ", "file.path: "} {
		if !strings.Contains(blockers, key) {
			t.Errorf("no blocker for %s in %s", key, blockers)
		}
	}
	if err := m.Apply(ctx, name, func(string) {}); err == nil || !strings.Contains(err.Error(), "was left alone") {
		t.Errorf("it was moved: %v", err)
	}
	if e, err := m.Shadow(ctx, name, migrate.ShadowOptions{}); err != nil || e.Verdict != migrate.NotShadowed || !strings.Contains(e.Reason, "it is a sink") {
		t.Errorf("its shadow: %+v, %v", e, err)
	}
	if s, err := there.Status(ctx, name); err != nil || s.Connector.State != "RUNNING" {
		t.Errorf("at Kafka Connect: %+v, %v", s, err)
	}
}
