package systest

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/migrate"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// A Debezium connector runs on the real Kafka Connect while its database is written to. Its shadow is found equal; one whose config was made
// to differ is not, and the report names the column. What a run made is gone after it.
func TestShadow(t *testing.T) {
	url := testkit.NeedConnect(t)
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			shadowWhileWriting(t, url, kind)
		})
	}
}

func shadowWhileWriting(t *testing.T, url, kind string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	srv, class := testkit.MySQL(t), "io.debezium.connector.mysql.MySqlConnector"
	if kind == "mariadb" {
		srv, class = testkit.MariaDB(t), "io.debezium.connector.mariadb.MariaDbConnector"
	}
	db, name := testkit.Database(t, srv)
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id int PRIMARY KEY, price decimal(8,2) NOT NULL, note varchar(20)); INSERT INTO orders VALUES (-1, 1, 'old')"); err != nil {
		t.Fatal(err)
	}
	_, c := nodes(t, 1, "--brokers", testkit.Kafka(t), "--offsets-topic", testkit.UniqueName("offsets"))
	theirs := connect(t, url, name, kind)
	theirs.post(map[string]string{
		"connector.class": class, "topic.prefix": theirs.prefix, "database.hostname": srv.Host(), "database.port": srv.Port(), "database.user": srv.User,
		"database.password": srv.Password, "database.include.list": name, "poll.interval.ms": "50", "provide.transaction.metadata": "true",
		"key.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter": "org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable": "false",
	})
	connector, topic := "diff-"+name, theirs.prefix+"."+name+".orders"
	w := writeOn(50*time.Millisecond, func(n int) error { return changeOrders(ctx, db, n) })
	there := api.NewClient(url)
	testkit.Eventually(t, time.Minute, "changes by Debezium", func() error {
		if n := len(theirs.fetch(ctx, t)[topic]); n < 5 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	if err := there.Restart(ctx, connector, true, false); err != nil { // it stores its offsets
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "an offset of Debezium's after its snapshot", func() error {
		o, err := there.Offsets(ctx, connector)
		if err == nil && (len(o.Offsets) != 1 || o.Offsets[0].Offset["snapshot"] != nil && o.Offsets[0].Offset["snapshot_completed"] != true) {
			err = fmt.Errorf("%+v", o)
		}
		return err
	})

	equal, code := shadowRun(ctx, t, c, url, connector, "--caught-up")
	if code != 0 || equal.Verdict != migrate.Equal || equal.Compared == 0 || equal.Same != equal.Compared || !slices.Contains(equal.Topics, topic) || !strings.HasPrefix(equal.Reason, "caught up") {
		report, _ := json.Marshal(equal)
		t.Errorf("exit code %d, %s", code, report)
	}

	other := interruptedShadow(ctx, t, c, url, connector)
	if other.Verdict != migrate.Different || other.Compared == 0 || other.Reason != "interrupted" {
		t.Fatalf("%+v", other)
	}
	for _, d := range other.Differences {
		if !strings.Contains(d.Path, "price") || d.Topic != topic {
			t.Errorf("a difference that was not planted: %+v", d)
		}
	}
	if !slices.ContainsFunc(other.Differences, func(d *migrate.DifferenceClass) bool {
		return d.Path == "value.payload.after.price" && d.Records > 0 && d.Sample.There != "" && d.Sample.Here != "" && d.Sample.Key != ""
	}) {
		t.Errorf("the planted difference is not named: %+v", other.Differences)
	}
	nothingLeft(ctx, t, c, theirs.brokers, connector, other.Prefix)
	// Nobody else has written to the old topics.
	w.stop(t)
	seen := map[string]bool{}
	for _, m := range theirs.fetch(ctx, t)[topic] {
		var e struct {
			Payload struct {
				Op     string
				Source struct {
					File     string
					Pos, Row int64
				}
			}
		}
		if m.Value == nil || json.Unmarshal(m.Value, &e) != nil || e.Payload.Op == "r" {
			continue
		}
		if at := fmt.Sprint(e.Payload); seen[at] {
			t.Fatalf("offset %d of %s repeats %s", m.Offset, topic, at)
		} else {
			seen[at] = true
		}
	}
}

// changeOrders is a transaction with all that changes a row, a changed key too.
func changeOrders(ctx context.Context, db *sql.DB, n int) error {
	_, err := db.ExecContext(ctx, fmt.Sprintf(`BEGIN; INSERT INTO orders VALUES (%d, %d.25, 'a'), (%d, 7, NULL); UPDATE orders SET price=price+0.5 WHERE id IN (%[1]d, %[3]d);
		UPDATE orders SET id=%d WHERE id=%[3]d; DELETE FROM orders WHERE id=%[1]d; COMMIT`, 3*n, n%1000, 3*n+1, 3*n+2))
	return err
}

// shadowRun runs the command, and returns its report and exit code.
func shadowRun(ctx context.Context, t *testing.T, c fleet.Cluster, url, connector string, more ...string) (*migrate.Equivalence, int) {
	t.Helper()
	cmd := shadowCommand(ctx, c, url, connector, more...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return shadowReport(t, cmd)
}

// interruptedShadow runs it with a setting that changes a column, and presses Ctrl-C once it has written some records.
func interruptedShadow(ctx context.Context, t *testing.T, c fleet.Cluster, url, connector string) *migrate.Equivalence {
	t.Helper()
	cmd := shadowCommand(ctx, c, url, connector, "--set", "decimal.handling.mode=string")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "records of the shadow", func() error {
		p, err := c.Progress(ctx, connector+"-shadow")
		if err == nil && (len(p.Tasks) == 0 || p.Tasks[0].RecordsOut < 50) {
			err = fmt.Errorf("%+v", p.Tasks)
		}
		return err
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	out, code := shadowReport(t, cmd)
	if code != 4 {
		t.Errorf("exit code %d", code)
	}
	return out
}

func shadowCommand(ctx context.Context, c fleet.Cluster, url, connector string, more ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, bin, append([]string{"--url", c.URL, "--json", "migrate", "kafka-connect", url, connector, "--shadow"}, more...)...)
	cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return cmd
}

// shadowReport is what a command that runs answers at its end.
func shadowReport(t *testing.T, cmd *exec.Cmd) (*migrate.Equivalence, int) {
	t.Helper()
	_ = cmd.Wait()
	stdout := cmd.Stdout.(*bytes.Buffer)
	var out []*migrate.Equivalence
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || len(out) != 1 {
		t.Fatalf("%v: %v\n%s\n%s", cmd.Args, err, stdout, cmd.Stderr)
	}
	return out[0], cmd.ProcessState.ExitCode()
}

func nothingLeft(ctx context.Context, t *testing.T, c fleet.Cluster, brokers []string, connector, prefix string) {
	t.Helper()
	if names, err := c.Connectors(ctx); err != nil || len(names) > 0 {
		t.Errorf("connectors are left: %v, %v", names, err)
	}
	a, err := kafka.NewAdmin(ctx, kafka.Config{Brokers: brokers, ClientID: "systest"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	testkit.Eventually(t, 30*time.Second, "no topic of the shadow of "+connector, func() error {
		topics, err := a.Topics(ctx)
		for _, topic := range topics {
			if strings.HasPrefix(topic, prefix) {
				return fmt.Errorf("%s is left", topic)
			}
		}
		return err
	})
}
