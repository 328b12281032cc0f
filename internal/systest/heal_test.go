package systest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// I9: connectors that hang or panic on a node are cut off, tried again and quarantined with the reason, while another pipeline on the same node
// keeps its rate, which max.records.per.second sets.
func TestSickConnectorsContained(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: takes half a minute; make test runs it")
	}
	const rate = 400
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, c := sickNodes(t, 1, "--brokers", embeddedBroker(t))
	create(ctx, t, c, "steady", map[string]string{"connector.class": "chaos-source", "max.records.per.second": fmt.Sprint(rate)})
	create(ctx, t, c, "archive", map[string]string{"connector.class": "file", "topics": "chaos", "file.path": t.TempDir(), "value.converter": "bytes"})
	running(ctx, t, c)
	time.Sleep(2 * time.Second) // the first second's burst
	before, began := outOf(ctx, t, c, "archive")

	short := map[string]string{
		"task.hang.timeout.ms": "1000", "task.stall.after.ms": "500", "restart.max.crashes": "2", "restart.backoff.ms": "100", "restart.move.after": "0",
	}
	sick := map[string]map[string]string{
		"hanging-source":   {"connector.class": "chaos-source", "chaos.mode": "hang", "chaos.topic": "other"},
		"panicking-source": {"connector.class": "chaos-source", "chaos.mode": "panic", "chaos.topic": "other"},
		"hanging-sink":     {"connector.class": "chaos-sink", "chaos.mode": "hang", "topics": "chaos"},
		"panicking-sink":   {"connector.class": "chaos-sink", "chaos.mode": "panic", "topics": "chaos"},
	}
	for name, config := range sick {
		maps.Copy(config, short)
		create(ctx, t, c, name, config)
	}
	for name := range sick {
		kind, says := "HUNG", "hangs"
		if strings.HasPrefix(name, "panicking") {
			kind, says = "PANICKED", "panic: the connector is sick"
		}
		testkit.Eventually(t, time.Minute, name+" is quarantined", func() error {
			p, err := c.Progress(ctx, name)
			if err != nil {
				return err
			}
			if len(p.Tasks) != 1 || p.Tasks[0].State != "FAILED" || p.Tasks[0].RetryAtUnixMS != 0 || p.Tasks[0].Attempts != 2 || p.Tasks[0].MaxAttempts != 2 || !strings.Contains(p.Tasks[0].Error, says) {
				return fmt.Errorf("%+v", p.Tasks)
			}
			return nil
		})
		if kinds := seen(ctx, t, c, name); count(kinds, kind) != 1 || count(kinds, "QUARANTINED") != 1 {
			t.Errorf("events of %s: %v, want one %s and one QUARANTINED", name, kinds, kind)
		}
	}
	after, ended := outOf(ctx, t, c, "archive")
	got := float64(after-before) / ended.Sub(began).Seconds()
	t.Logf("the healthy pipeline made %.0f records a second over %v, want %d", got, ended.Sub(began).Round(time.Second), rate)
	if got < rate*0.85 || got > rate*1.15 {
		t.Errorf("its rate was disturbed")
	}
	st, err := c.Status(ctx, "archive")
	if err != nil || st.Tasks[0].State != "RUNNING" {
		t.Errorf("archive: %+v, %v", st, err)
	}
}

// A task that fails again and again on one worker is tried by another; the log of events says so.
func TestSickTaskMoves(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, c := sickNodes(t, 2, "--brokers", embeddedBroker(t))
	config := map[string]string{"connector.class": "chaos-source", "max.records.per.second": "100", "restart.backoff.ms": "50", "restart.move.after": "2"}
	create(ctx, t, c, "picky", config)
	running(ctx, t, c)
	p, err := c.Progress(ctx, "picky")
	if err != nil {
		t.Fatal(err)
	}
	bad := p.Tasks[0].Worker
	config["chaos.mode"], config["chaos.node"] = "fail", bad
	if _, err := c.PutConfig(ctx, "picky", config); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the other worker runs it", func() error {
		p, err := c.Progress(ctx, "picky")
		if err != nil {
			return err
		}
		if len(p.Tasks) != 1 || p.Tasks[0].Worker == bad || p.Tasks[0].State != "RUNNING" || p.Tasks[0].RecordsOut == 0 {
			return fmt.Errorf("%+v", p.Tasks)
		}
		return nil
	})
	if kinds := seen(ctx, t, c, "picky"); count(kinds, "FAILED") < 2 || count(kinds, "MOVED") != 1 {
		t.Errorf("events: %v", kinds)
	}
	if out := millrace(ctx, t, c, "connector", "events", "picky"); !strings.Contains(out, "MOVED") || !strings.Contains(out, "the connector is sick here; tries again in") {
		t.Errorf("connector events:\n%s", out)
	}
}

// The lowest rung: a sink whose put fails but may pass is tried again in place for errors.retry.timeout, visibly, and only then restarted.
func TestRetriesInPlace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker := embeddedBroker(t)
	_, c := sickNodes(t, 1, "--brokers", broker)
	produce(ctx, t, broker, "rows", row(1, "a"))
	create(ctx, t, c, "sink", map[string]string{"connector.class": "chaos-sink", "topics": "rows", "chaos.mode": "fail", "errors.retry.timeout": "2500"})
	testkit.Eventually(t, 20*time.Second, "the retry is shown", func() error {
		p, err := c.Progress(ctx, "sink")
		if err == nil && (len(p.Tasks) != 1 || p.Tasks[0].State != "RUNNING" || p.Tasks[0].Retrying != "the connector is sick here") {
			err = fmt.Errorf("%+v", p.Tasks)
		}
		return err
	})
	testkit.Eventually(t, 20*time.Second, "then it is restarted", func() error {
		// The leader sees samples: STARTING and RUNNING may be over before it looks.
		kinds := seen(ctx, t, c, "sink")
		if retry, fail := slices.Index(kinds, "RETRYING"), slices.Index(kinds, "FAILED"); retry < 0 || fail < retry {
			return fmt.Errorf("events: %v", kinds)
		}
		return nil
	})
}

// Status tells the truth: a task that has something to do and does not move is stalled, with what it waits for, while Kafka Connect's clients see
// RUNNING. The broker is frozen, then a target's table is locked.
func TestStalled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	f := &fleet.Fleet{Bin: bin, Dir: t.TempDir()}
	t.Cleanup(f.Close)
	host, err := f.Add("broker", "--embedded-kafka", "127.0.0.1:0", "--roles", "coordinator")
	if err == nil {
		err = host.Start()
	}
	if err == nil {
		err = host.WaitReady(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := api.NewClient(host.REST).Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	maria := testkit.MariaDB(t)
	db, name := testkit.Database(t, maria)
	_, c := sickNodes(t, 1, "--brokers", info.Brokers[0])
	create(ctx, t, c, "steady", map[string]string{"connector.class": "chaos-source", "max.records.per.second": "200", "task.stall.after.ms": "1500"})
	create(ctx, t, c, "sink", map[string]string{
		"connector.class": "sql", "topics": "rows", "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", maria.User, maria.Password, maria.Addr, name), "task.stall.after.ms": "1500",
	})
	running(ctx, t, c)
	if err := c.WaitCommitted(ctx, "steady"); err != nil {
		t.Fatal(err)
	}
	stalled := func(name, on string) {
		t.Helper()
		testkit.Eventually(t, 12*time.Second, name+" is shown as stalled", func() error {
			p, err := c.Progress(ctx, name)
			if err != nil {
				return err
			}
			if s := p.Tasks[0].Stalled; s == nil || s.WaitsFor != on || time.Since(time.UnixMilli(s.SinceUnixMS)) < 1500*time.Millisecond {
				return fmt.Errorf("%+v, %+v", p.Tasks[0], s)
			}
			st, err := c.Status(ctx, name)
			if err == nil && st.Tasks[0].State != "RUNNING" {
				err = fmt.Errorf("connect's state: %+v", st.Tasks[0])
			}
			return err
		})
	}
	movesOn := func(name string) {
		t.Helper()
		from, _ := outOf(ctx, t, c, name)
		testkit.Eventually(t, 30*time.Second, name+" moves on", func() error {
			p, err := c.Progress(ctx, name)
			if err != nil {
				return err
			}
			if x := p.Tasks[0]; x.Stalled != nil || x.RecordsOut <= from {
				return fmt.Errorf("%+v", x)
			}
			return nil
		})
		if kinds := seen(ctx, t, c, name); count(kinds, "STALLED") != 1 || count(kinds, "MOVES ON") != 1 {
			t.Errorf("events of %s: %v", name, kinds)
		}
	}
	if err := host.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stalled("steady", "broker ack")
	if out := millrace(ctx, t, c, "connector", "status", "steady"); !strings.Contains(out, "STALLED") || !strings.Contains(out, "it waits for broker ack") {
		t.Errorf("connector status:\n%s", out)
	}
	if err := host.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	movesOn("steady")

	produce(ctx, t, info.Brokers[0], "rows", row(1, "a"))
	testkit.Eventually(t, 10*time.Second, "the first row", func() error {
		var n int
		return db.QueryRowContext(ctx, "SELECT id FROM t").Scan(&n)
	})
	lock, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := lock.ExecContext(ctx, "LOCK TABLES t WRITE"); err != nil {
		t.Fatal(err)
	}
	produce(ctx, t, info.Brokers[0], "rows", row(2, "b"))
	stalled("sink", "sink flush")
	if _, err := lock.ExecContext(ctx, "UNLOCK TABLES"); err != nil {
		t.Fatal(err)
	}
	movesOn("sink")
}

// row is a Canal message of a row.
func row(id int64, v string) kafka.Message {
	value := fmt.Sprintf(`{"data":[{"id":"%d","v":%q}],"database":"d","mysqlType":{"id":"int","v":"varchar(20)"},"old":null,"pkNames":["id"],"sqlType":{},"table":"t","type":"INSERT"}`, id, v)
	return kafka.Message{Key: fmt.Appendf(nil, "%d", id), Value: []byte(value)}
}

// produce writes messages to partition 0 of a topic, which it makes.
func produce(ctx context.Context, t *testing.T, broker, topic string, msgs ...kafka.Message) {
	t.Helper()
	k := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.EnsureTopic(ctx, topic, kafka.TopicConfig{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewProducer(ctx, k, "", kafka.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range msgs {
		msgs[i].Topic, msgs[i].Partition = topic, 0
	}
	if err := p.Send(ctx, msgs); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(ctx); err != nil {
		t.Fatal(err)
	}
}

// millrace runs the command line.
func millrace(ctx context.Context, t *testing.T, c fleet.Cluster, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(ctx, bin, append([]string{"--url", c.URL}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("millrace %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// I5: the sql sink's target refuses some rows of a batch. The others pass; the refused are in the dead letter queue with the reason; when the
// table is mended they are replayed from there.
func TestPoisonRows(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker := embeddedBroker(t)
	_, c := nodes(t, 1, "--brokers", broker)
	maria := testkit.MariaDB(t)
	db, name := testkit.Database(t, maria)
	if _, err := db.ExecContext(ctx, "CREATE TABLE t (id int PRIMARY KEY, v varchar(5))"); err != nil {
		t.Fatal(err)
	}
	var msgs []kafka.Message
	for i := range int64(300) {
		switch i {
		case 7, 250:
			msgs = append(msgs, row(i, "far too long"))
		case 299:
			msgs = append(msgs, row(3_000_000_000, "ok"))
		default:
			msgs = append(msgs, row(i, "ok"))
		}
	}
	produce(ctx, t, broker, "rows", msgs...)
	create(ctx, t, c, "loader", map[string]string{
		"connector.class": "sql", "topics": "rows", "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", maria.User, maria.Password, maria.Addr, name),
		"errors.tolerance": "all", "errors.deadletterqueue.topic.name": "rows.dead",
	})
	rows := func(want int) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, fmt.Sprintf("%d rows in the target", want), func() error {
			var n int
			err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM t").Scan(&n)
			if err == nil && n != want {
				err = fmt.Errorf("%d rows", n)
			}
			return err
		})
	}
	rows(297)
	var list []struct {
		Topic   string
		Records int
		Reasons []struct {
			Stage, Reason string
			Records       int
		}
	}
	testkit.Eventually(t, 10*time.Second, "the dead letters, by reason", func() error {
		if err := json.Unmarshal([]byte(millrace(ctx, t, c, "--json", "dlq", "list")), &list); err != nil {
			return err
		}
		if len(list) != 1 || list[0].Topic != "rows.dead" || list[0].Records != 3 || len(list[0].Reasons) != 2 || list[0].Reasons[0].Records != 2 ||
			list[0].Reasons[0].Stage != "TASK_PUT" || !strings.Contains(list[0].Reasons[0].Reason, "column 'v'") {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
	show := millrace(ctx, t, c, "dlq", "show", "loader")
	for _, want := range []string{"rows-0@7", "rows-0@250", "rows-0@299", "loader-0", "Data too long for column 'v'", "Out of range value for column 'id'", "far too long"} {
		if !strings.Contains(show, want) {
			t.Errorf("dlq show does not say %q:\n%s", want, show)
		}
	}
	testkit.Eventually(t, 5*time.Second, "they are counted", func() error {
		p, err := c.Progress(ctx, "loader")
		if err == nil && (p.Tasks[0].RecordsDropped != 3 || p.Tasks[0].State != "RUNNING") {
			err = fmt.Errorf("%+v", p.Tasks[0])
		}
		return err
	})
	if _, err := db.ExecContext(ctx, "ALTER TABLE t MODIFY v varchar(50), MODIFY id bigint"); err != nil {
		t.Fatal(err)
	}
	if out := millrace(ctx, t, c, "dlq", "replay", "rows.dead", "--all", "--dry-run"); !strings.Contains(out, "would replay 3 to rows") {
		t.Errorf("dry run: %s", out)
	}
	rows(297)
	if out := millrace(ctx, t, c, "dlq", "replay", "loader", "--partition", partitionOf(ctx, t, c, 7), "--to", "0"); !strings.Contains(out, "replayed 1 to rows") {
		t.Errorf("one record: %s", out)
	}
	rows(298)
	// The rest, and the first once more: it changes nothing.
	if out := millrace(ctx, t, c, "dlq", "replay", "rows.dead", "--all"); !strings.Contains(out, "replayed 3 to rows") {
		t.Errorf("all: %s", out)
	}
	rows(300)
	var n int
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM t WHERE v='far too long' OR id=3000000000").Scan(&n); err != nil || n != 3 {
		t.Errorf("the replayed rows: %d, %v", n, err)
	}
}

// partitionOf is where the dead letter that came from an offset lies.
func partitionOf(ctx context.Context, t *testing.T, c fleet.Cluster, origin int64) string {
	t.Helper()
	var letters []struct {
		Partition    int   `json:"partition"`
		OriginOffset int64 `json:"origin_offset"`
	}
	if err := json.Unmarshal([]byte(millrace(ctx, t, c, "--json", "dlq", "show", "rows.dead")), &letters); err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		if l.OriginOffset == origin {
			return fmt.Sprint(l.Partition)
		}
	}
	t.Fatalf("no dead letter from offset %d: %+v", origin, letters)
	return ""
}

// I5: a source's record that can't be converted goes to the dead letter queue, within the transaction that holds the others.
func TestSourceDeadLetters(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, c := sickNodes(t, 1, "--brokers", embeddedBroker(t))
	config := map[string]string{"connector.class": "chaos-source", "chaos.mode": "mixed"}
	create(ctx, t, c, "mixed", config)
	testkit.Eventually(t, 20*time.Second, "the task fails with the reason", func() error {
		st, err := c.Status(ctx, "mixed")
		if err != nil {
			return err
		}
		if len(st.Tasks) != 1 || st.Tasks[0].State != "FAILED" || !strings.Contains(st.Tasks[0].Trace, "record for topic chaos: the bytes converter can't write") {
			return fmt.Errorf("%+v", st.Tasks)
		}
		return nil
	})
	config["errors.tolerance"], config["errors.deadletterqueue.topic.name"] = "all", "dead"
	if _, err := c.PutConfig(ctx, "mixed", config); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the others pass", func() error {
		p, err := c.Progress(ctx, "mixed")
		if err != nil {
			return err
		}
		if len(p.Tasks) != 1 || p.Tasks[0].RecordsDropped != 10 || p.Tasks[0].LastCommitUnixMS == 0 {
			return fmt.Errorf("%+v", p.Tasks)
		}
		return nil
	})
	show := millrace(ctx, t, c, "dlq", "show", "mixed", "--limit", "0")
	if n := strings.Count(show, "VALUE_CONVERTER"); n != 10 || !strings.Contains(show, "→ chaos") || !strings.Contains(show, `{"n":50}`) {
		t.Errorf("%d dead letters:\n%s", n, show)
	}
	out, err := exec.CommandContext(ctx, bin, "--url", c.URL, "dlq", "replay", "mixed", "--all").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "refused by the source connector mixed") {
		t.Errorf("a replay to the topic that it never was in: %v\n%s", err, out)
	}
}
