package systest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// stop stops a connector and waits until nothing of it runs.
func stop(ctx context.Context, t *testing.T, c fleet.Cluster, name string) {
	t.Helper()
	if err := c.Stop(ctx, name); err != nil {
		t.Fatal(err)
	}
}

func resume(ctx context.Context, t *testing.T, c fleet.Cluster, name string) {
	t.Helper()
	if err := c.Resume(ctx, name); err != nil {
		t.Fatal(err)
	}
}

func alter(t *testing.T, url, name, method, body string) {
	t.Helper()
	if status, answer := do(t, url, method, "/connectors/"+name+"/offsets", body, "application/json"); status != http.StatusOK {
		t.Fatalf("%s offsets of %s: %d %s", method, name, status, answer)
	}
}

func sinkOffset(topic string, next int) string {
	return fmt.Sprintf(`{"offsets":[{"partition":{"kafka_topic":%q,"kafka_partition":0},"offset":{"kafka_offset":%d}}]}`, topic, next)
}

// I2: what a sink has polled and not flushed when it is stopped is not behind its group's offsets.
func TestStoppedSinkCommitsWhatIsFlushed(t *testing.T) {
	broker := embeddedBroker(t)
	_, c := sickNodes(t, 1, "--brokers", broker)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const topic = "numbers"
	produceNumbers(ctx, t, broker, topic, 0, 6)
	config := map[string]string{"connector.class": "chaos-sink", "topics": topic, "chaos.mode": "wait"}
	create(ctx, t, c, "out", config)
	reached := func(want uint64) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, "the records are taken", func() error {
			p, err := c.Progress(ctx, "out")
			if err == nil && (len(p.Tasks) != 1 || p.Tasks[0].RecordsIn != want) {
				err = fmt.Errorf("%+v", p.Tasks)
			}
			return err
		})
	}
	reached(6)
	stop(ctx, t, c, "out")
	if next := groupOffset(ctx, t, c); next > 0 {
		t.Fatalf("the group is at %d, and nothing was flushed", next)
	}
	config["chaos.mode"] = "steady"
	if _, err := c.PutConfig(ctx, "out", config); err != nil {
		t.Fatal(err)
	}
	resume(ctx, t, c, "out")
	reached(6)
	testkit.Eventually(t, 20*time.Second, "the group's offset follows", func() error {
		if next := groupOffset(ctx, t, c); next < 6 {
			return fmt.Errorf("it is at %d", next)
		}
		return nil
	})
}

// groupOffset is where the connector out is in its one partition.
func groupOffset(ctx context.Context, t *testing.T, c fleet.Cluster) int64 {
	t.Helper()
	o, err := c.Offsets(ctx, "out")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Offsets) == 0 {
		return 0
	}
	next, err := strconv.ParseInt(fmt.Sprint(o.Offsets[0].Offset["kafka_offset"]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// A sink that keeps its offsets with its data goes on from where they were altered to, on whatever node it runs then, and loses none of
// what it wrote before.
func TestAlteredOffsetsOfFileSink(t *testing.T) {
	broker := embeddedBroker(t)
	f, c := nodes(t, 2, "--brokers", broker)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	follower := f.Nodes[1].REST // any node answers
	topic := "numbers"
	produceNumbers(ctx, t, broker, topic, 0, 6)
	dir := t.TempDir()
	config := map[string]string{"connector.class": "file", "topics": topic, "file.path": dir}
	create(ctx, t, c, "out", config)
	waitLines(t, dir, 0, 1, 2, 3, 4, 5)
	stop(ctx, t, c, "out")

	// Back: the end is written again. The files' own offset, 6, does not count.
	alter(t, follower, "out", "PATCH", sinkOffset(topic, 4))
	resume(ctx, t, c, "out")
	waitLines(t, dir, 0, 1, 2, 3, 4, 4, 5, 5)

	// A restart after that must not read it a third time: nothing comes but what is new.
	if err := c.Restart(ctx, "out", true, false); err != nil {
		t.Fatal(err)
	}
	produceNumbers(ctx, t, broker, topic, 6, 7)
	waitLines(t, dir, 0, 1, 2, 3, 4, 4, 5, 5, 6)
	stop(ctx, t, c, "out")

	// Forward: 7 and 8 are left out.
	produceNumbers(ctx, t, broker, topic, 7, 10)
	alter(t, follower, "out", "PATCH", sinkOffset(topic, 9))
	resume(ctx, t, c, "out")
	waitLines(t, dir, 0, 1, 2, 3, 4, 4, 5, 5, 6, 9)
	stop(ctx, t, c, "out")

	// A reset outlives the connector.
	alter(t, follower, "out", "DELETE", "")
	if err := c.Delete(ctx, "out"); err != nil {
		t.Fatal(err)
	}
	create(ctx, t, c, "out", config)
	waitLines(t, dir, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 8, 9, 9)
}

// produceNumbers writes {"n":from} up to, not including, {"n":to} to the topic's only partition.
func produceNumbers(ctx context.Context, t *testing.T, broker, topic string, from, to int) {
	t.Helper()
	var msgs []kafka.Message
	for i := from; i < to; i++ {
		msgs = append(msgs, kafka.Message{Value: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	produce(ctx, t, broker, topic, msgs...)
}

// waitLines waits until the files hold exactly these numbers, in any order, and still do a moment later.
func waitLines(t *testing.T, dir string, want ...int) {
	t.Helper()
	look := func() error {
		var got []int
		files, err := filepath.Glob(filepath.Join(dir, "*", "0", "*.jsonl*"))
		if err != nil {
			return err
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				var x struct{ N int }
				if err := json.Unmarshal([]byte(line), &x); err != nil {
					return fmt.Errorf("%s: %q: %w", name, line, err)
				}
				got = append(got, x.N)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("have %v, want %v", got, want)
		}
		return nil
	}
	testkit.Eventually(t, 20*time.Second, "lines in the files", look)
	time.Sleep(300 * time.Millisecond)
	if err := look(); err != nil {
		t.Fatal(err)
	}
}

// The sql sink's offsets are in its target; a source's are in the offsets topic. Both go where they are altered to, the source's by the
// command line.
func TestAlteredOffsetsOfSourceAndSQLSink(t *testing.T) {
	broker := embeddedBroker(t)
	_, c := nodes(t, 1, "--brokers", broker)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	srv := testkit.MySQL(t)
	from, name := testkit.Database(t, srv)
	to, target := testkit.Database(t, srv)
	if _, err := from.ExecContext(ctx, "CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders VALUES (1,1),(2,2),(3,3)"); err != nil {
		t.Fatal(err)
	}
	config := sourceConfig(srv, name, "p")
	config["topic.creation.default.partitions"] = "1"
	create(ctx, t, c, "src", config)
	create(ctx, t, c, "dst", map[string]string{
		"connector.class": "sql", "topics.regex": `p\..*orders`, "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", srv.User, srv.Password, srv.Addr, target),
	})
	rows := func(want string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "rows in the target", func() error {
			var got *string
			if err := to.QueryRowContext(ctx, "SELECT GROUP_CONCAT(id ORDER BY id) FROM orders").Scan(&got); err != nil {
				return err
			}
			if got == nil || *got != want {
				return fmt.Errorf("have %v, want %s", got, want)
			}
			return nil
		})
	}
	rows("1,2,3")

	// The sink reads all again.
	stop(ctx, t, c, "dst")
	if _, err := to.ExecContext(ctx, "DELETE FROM orders"); err != nil {
		t.Fatal(err)
	}
	alter(t, c.Client.URL, "dst", "DELETE", "")
	resume(ctx, t, c, "dst")
	rows("1,2,3")

	// The source begins anew, with a snapshot: row 9 came while nobody looked.
	stop(ctx, t, c, "src")
	var before api.Offsets
	text, file := millrace(ctx, t, c, "connector", "offsets", "get", "src"), filepath.Join(t.TempDir(), "offsets.json")
	err := errors.Join(json.Unmarshal([]byte(text), &before), os.WriteFile(file, []byte(text), 0o600))
	if err != nil || len(before.Offsets) != 1 || before.Offsets[0].Partition["server"] != "p" {
		t.Fatalf("offsets of the source: %s, %v", text, err)
	}
	if got := millrace(ctx, t, c, "connector", "offsets", "reset", "src"); !strings.Contains(got, "have been reset successfully") {
		t.Errorf("offsets reset: %s", got)
	}
	if got := millrace(ctx, t, c, "connector", "offsets", "get", "src"); !strings.Contains(got, `"offsets": []`) {
		t.Errorf("offsets after a reset: %s", got)
	}
	stop(ctx, t, c, "dst")
	if _, err := from.ExecContext(ctx, "SET sql_log_bin=0; INSERT INTO orders VALUES (9,9); SET sql_log_bin=1"); err != nil {
		t.Fatal(err)
	}
	if _, err := to.ExecContext(ctx, "DELETE FROM orders"); err != nil {
		t.Fatal(err)
	}
	resume(ctx, t, c, "src")
	resume(ctx, t, c, "dst")
	rows("1,2,3,9")

	// Back to where it was: what the binlog has since comes again, and the snapshot is done. A wrong offset is refused.
	stop(ctx, t, c, "src")
	status, body := do(t, c.Client.URL, "PATCH", "/connectors/src/offsets", `{"offsets":[{"partition":{"server":"other"},"offset":{"file":"x","pos":4}}]}`, "application/json")
	if status != http.StatusBadRequest || !strings.Contains(body, "topic.prefix") {
		t.Errorf("another server's partition: %d %s", status, body)
	}
	status, body = do(t, c.Client.URL, "PATCH", "/connectors/src/offsets", `{"offsets":[{"partition":{"server":"p"},"offset":{"pos":"x"}}]}`, "application/json")
	if status != http.StatusBadRequest || !strings.Contains(body, "pos") {
		t.Errorf("a position that is none: %d %s", status, body)
	}
	if got := millrace(ctx, t, c, "connector", "offsets", "set", "src", "-f", file); !strings.Contains(got, "have been altered successfully") {
		t.Errorf("offsets set: %s", got)
	}
	if got := millrace(ctx, t, c, "connector", "offsets", "get", "src"); got != text {
		t.Errorf("offsets that were set: %s, want %s", got, text)
	}
	if _, err := from.ExecContext(ctx, "INSERT INTO orders VALUES (10,10)"); err != nil {
		t.Fatal(err)
	}
	resume(ctx, t, c, "src")
	rows("1,2,3,9,10")
	testkit.Eventually(t, 10*time.Second, "the source says that it sent that one row", func() error {
		p, err := c.Progress(ctx, "src")
		if err == nil && p.Tasks[0].RecordsOut != 1 {
			err = fmt.Errorf("it sent %d", p.Tasks[0].RecordsOut)
		}
		return err
	})
}

// Topics that a connector has used outlive its tasks and the leader; a reset forgets those that are used no more.
func TestTopicsOfConnector(t *testing.T) {
	broker := embeddedBroker(t)
	f, c := nodes(t, 3, "--brokers", broker)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	produceNumbers(ctx, t, broker, "a", 0, 1)
	produceNumbers(ctx, t, broker, "b", 0, 1)
	create(ctx, t, c, "out", map[string]string{"connector.class": "file", "topics": "a,b", "file.path": t.TempDir()})
	topics := func(url, want string) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, "topics", func() error {
			if _, got := do(t, url, "GET", "/connectors/out/topics", "", ""); strings.TrimSpace(got) != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	url := f.Nodes[2].REST
	topics(url, `{"out":{"topics":["a","b"]}}`)
	info, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Nodes {
		if n.ID == info.Leader && n.REST != url {
			n.Kill()
		}
	}
	topics(url, `{"out":{"topics":["a","b"]}}`)
	if status, body := do(t, url, "PUT", "/connectors/out/topics/reset", "", ""); status != http.StatusAccepted {
		t.Fatal(status, body)
	}
	topics(url, `{"out":{"topics":[]}}`)
	next := 1
	testkit.Eventually(t, 20*time.Second, "the topic that is used again", func() error {
		// What is read before the task has heard of the reset belongs to the time before it.
		produceNumbers(ctx, t, broker, "b", next, next+1)
		next++
		if _, got := do(t, url, "GET", "/connectors/out/topics", "", ""); strings.TrimSpace(got) != `{"out":{"topics":["b"]}}` {
			return errors.New(got)
		}
		return nil
	})
}

// Levels take effect in the log: of one node, of all, and of one connector.
func TestLoggers(t *testing.T) {
	broker := embeddedBroker(t)
	f, c := nodes(t, 1, "--brokers", broker)
	worker, err := f.Add("worker", "--roles", "worker")
	if err == nil {
		err = worker.Start()
	}
	if err == nil {
		err = worker.WaitReady(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	set := func(url, path, level string, want int) string {
		t.Helper()
		status, body := do(t, url, "PUT", "/admin/loggers/"+path, fmt.Sprintf(`{"level":%q}`, level), "application/json")
		if status != want {
			t.Fatal(status, body)
		}
		return strings.TrimSpace(body)
	}
	if got := set(f.Nodes[0].REST, "rest", "DEBUG", http.StatusOK); got != `["rest"]` {
		t.Errorf("changed: %s", got)
	}
	level := func(url, name string) string {
		_, body := do(t, url, "GET", "/admin/loggers/"+name, "", "")
		return body
	}
	if got := level(worker.REST, "rest"); !strings.Contains(got, `"level":"INFO","last_modified":null`) {
		t.Errorf("the other node's level moved, too: %s", got)
	}
	for i, from := range []string{f.Nodes[0].REST, worker.REST} { // a worker tells the coordinator, too
		want := []string{"WARN", "DEBUG"}[i]
		set(from, "worker?scope=cluster", want, http.StatusNoContent)
		for _, url := range []string{f.Nodes[0].REST, worker.REST} {
			if got := level(url, "worker"); !strings.Contains(got, `"level":"`+want+`"`) {
				t.Errorf("set on %s, %s has %s, want %s", from, url, got, want)
			}
		}
	}
	// A connector's own level: its units say at info that they start, and at error no more.
	set(f.Nodes[0].REST, "worker.quiet?scope=cluster", "ERROR", http.StatusNoContent)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	produceNumbers(ctx, t, broker, "a", 0, 1)
	dir := t.TempDir()
	for _, name := range []string{"quiet", "loud"} {
		create(ctx, t, c, name, map[string]string{"connector.class": "file", "topics": "a", "file.path": filepath.Join(dir, name)})
	}
	waitLines(t, filepath.Join(dir, "quiet"), 0)
	waitLines(t, filepath.Join(dir, "loud"), 0)
	log := f.Nodes[0].Log(1<<20) + worker.Log(1<<20)
	if !strings.Contains(log, `msg="unit starts" node=`) || !strings.Contains(log, "connector=loud") || strings.Contains(log, "component=worker connector=quiet") {
		t.Error("the levels have no effect in the log")
	}
}
