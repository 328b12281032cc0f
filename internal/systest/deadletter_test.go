package systest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// I5: a record that can't be handled fails its task with the reason where people look; with errors.tolerance=all it is counted and goes to the dead
// letter queue with the reason, and the others pass in order. For a function and for a sink.
func TestDeadLetters(t *testing.T) {
	broker := embeddedBroker(t)
	_, c := nodes(t, 1, "--brokers", broker)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	maria := testkit.MariaDB(t)
	db, name := testkit.Database(t, maria)
	kc := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, kc)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.EnsureTopic(ctx, "in", kafka.TopicConfig{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewProducer(ctx, kc, "", kafka.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var msgs []kafka.Message
	for i := range 10 {
		value := fmt.Sprintf(`{"data":[{"id":"%d","email":"a@b","quantity":"2","unit_price":"1.50"}],"database":"d","mysqlType":{"id":"int","email":"varchar(20)","quantity":"int","unit_price":"decimal(10,2)"},"old":null,"pkNames":["id"],"sqlType":{},"table":"t","type":"INSERT"}`, i)
		switch i {
		case 3:
			value = "garbage"
		case 6: // good for the function, not for the sink: the value does not fit its column
			value = strings.Replace(value, `"id":"6"`, `"id":"3000000000"`, 1)
		}
		msgs = append(msgs, kafka.Message{Topic: "in", Partition: 0, Key: fmt.Appendf(nil, "%d", i), Value: []byte(value)})
	}
	if err := p.Send(ctx, msgs); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	strict := map[string]string{"connector.class": "transform", "topics": "in", "transform.output.topic": "out", "function.command": mask}
	create(ctx, t, c, "mask", strict)
	testkit.Eventually(t, 20*time.Second, "the task fails with the reason", func() error {
		st, err := c.Status(ctx, "mask")
		if err != nil {
			return err
		}
		if len(st.Tasks) != 1 || st.Tasks[0].State != "FAILED" || !strings.Contains(st.Tasks[0].Trace, "in-0@3") || !strings.Contains(st.Tasks[0].Trace, "no Canal JSON") {
			return fmt.Errorf("%+v", st.Tasks)
		}
		return nil
	})
	strict["errors.tolerance"], strict["errors.deadletterqueue.topic.name"], strict["errors.deadletterqueue.context.headers.enable"] = "all", "dead", "true"
	if _, err := c.PutConfig(ctx, "mask", strict); err != nil {
		t.Fatal(err)
	}
	create(ctx, t, c, "sink", map[string]string{
		"connector.class": "sql", "topics": "out", "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", maria.User, maria.Password, maria.Addr, name),
	})
	testkit.Eventually(t, 20*time.Second, "the sink fails on the value that does not fit", func() error {
		st, err := c.Status(ctx, "sink")
		if err != nil {
			return err
		}
		if len(st.Tasks) != 1 || st.Tasks[0].State != "FAILED" || !strings.Contains(st.Tasks[0].Trace, "column 'id'") {
			return fmt.Errorf("%+v", st.Tasks)
		}
		return nil
	})
	if _, err := db.ExecContext(ctx, "ALTER TABLE t MODIFY id bigint NOT NULL"); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(ctx, "sink", true, false); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "all but the garbage arrives", func() error {
		var n int
		if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM t WHERE total=3.00").Scan(&n); err != nil {
			return err
		}
		if n != 9 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	var dead []kafka.Fetched
	if err := kafka.ReadToEnd(ctx, kc, a, "dead", nil, func(m kafka.Fetched) error { dead = append(dead, m); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(dead) != 1 || string(dead[0].Value) != "garbage" || string(dead[0].Key) != "3" {
		t.Fatalf("dead letters: %+v", dead)
	}
	headers := map[string]string{}
	for _, h := range dead[0].Headers {
		headers[strings.TrimPrefix(h.Key, "__connect.errors.")] = string(h.Value)
	}
	if headers["topic"] != "in" || headers["offset"] != "3" || headers["stage"] != "TRANSFORMATION" || headers["connector.name"] != "mask" || !strings.Contains(headers["exception.message"], "no Canal JSON") {
		t.Errorf("its headers: %v", headers)
	}
	testkit.Eventually(t, 10*time.Second, "it is counted", func() error { // with the worker's next heartbeats
		pr, err := c.Progress(ctx, "mask")
		if err == nil && pr.Tasks[0].RecordsDropped != 1 {
			err = fmt.Errorf("%+v", pr)
		}
		return err
	})
}
