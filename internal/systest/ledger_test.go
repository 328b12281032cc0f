package systest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/cli"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// The ledger of a source and of a function agrees with their topics through kill -9 of the worker; then somebody writes to the topic, and
// deletes from it, and both are named: by the cluster's auditor and on the command line.
func TestLedger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	broker := testkit.Kafka(t)
	f, cluster := sickNodes(t, 3, "--brokers", broker)
	name := testkit.UniqueName("ledger")
	topic, kept := name+".numbers", name+".kept"
	common := map[string]string{
		"ledger.topic": name + ".ledger", "ledger.audit.interval.ms": "500", "topic.creation.default.partitions": "3", "topic.creation.default.replication.factor": "1",
	}
	with := func(more map[string]string) map[string]string {
		maps.Copy(more, common)
		return more
	}
	create(ctx, t, cluster, name+"-source", with(map[string]string{"connector.class": "chaos-source", "chaos.topic": topic, "max.records.per.second": "2000"}))
	create(ctx, t, cluster, name+"-mask", with(map[string]string{
		"connector.class": "transform", "topics": topic, "transform.output.topic": kept, "function.command": mask, "errors.tolerance": "all",
		"errors.deadletterqueue.topic.name": name + ".dead", "errors.deadletterqueue.topic.replication.factor": "1",
	}))
	if err := cluster.WaitCommitted(ctx, name+"-source"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		cluster = killOwner(ctx, t, f, cluster, name+"-source")
	}
	if err := cluster.Stop(ctx, name+"-source"); err != nil {
		t.Fatal(err)
	}

	k := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	url := "--url=" + f.Nodes[0].REST
	verify := func(topic string) (string, int) {
		t.Helper()
		var out, errOut bytes.Buffer
		code := cli.Main([]string{url, "verify", "topic", topic, "--ledger", name + ".ledger"}, nil, &out, &errOut)
		return out.String() + errOut.String(), code
	}
	testkit.Eventually(t, time.Minute, "the command line finds no difference", func() error {
		for _, topic := range []string{topic, name + ".dead"} {
			if out, code := verify(topic); code != 0 || !strings.Contains(out, " 0 missing, 0 extra, 0 changed") {
				return fmt.Errorf("verify %s: %d: %s", topic, code, out)
			}
		}
		return nil
	})
	out, _ := verify(topic)
	t.Log(out)

	planted, err := a.CommittedEnds(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	at := planted[kafka.TopicPartition{Topic: topic, Partition: 2}]
	p, err := kafka.NewProducer(ctx, k, "", kafka.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	err = p.Send(ctx, []kafka.Message{{Topic: topic, Partition: 2, Key: []byte("k"), Value: []byte("7")}})
	if err == nil {
		err = p.Commit(ctx)
	}
	if err == nil {
		err = a.DeleteRecords(ctx, topic, map[int32]int64{0: 30})
	}
	if err != nil {
		t.Fatal(err)
	}
	out, code := verify(topic)
	t.Log(out)
	if code == 0 || !strings.Contains(out, fmt.Sprintf("%s-2  %d–%d", topic, at, at)) || !strings.Contains(out, topic+"-0  0–29") {
		t.Errorf("a record planted at 2@%d and 0@0–29 deleted: exit code %d", at, code)
	}
	// The cluster's own had seen the deleted ones before, on the worker that holds the connector by now, if it was quick enough.
	if err := cluster.Resume(ctx, name+"-source"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 30*time.Second, "the auditor names the planted record", func() error {
		r, err := cluster.Audit(ctx, name+"-source")
		if err != nil {
			return err
		}
		for _, d := range r.Differences {
			if d.Kind == api.Extra && d.Partition == 2 && d.FromOffset == at && d.ToOffset == at && len(r.Verified) == 1 {
				return nil
			}
		}
		return fmt.Errorf("%+v", r)
	})
	r, err := cluster.Audit(ctx, name+"-mask")
	if err != nil || !r.Ledger || r.Missing+r.Extra+r.Changed != 0 {
		t.Errorf("audit of the function: %+v, %v", r, err)
	}
	progress, err := cluster.Progress(ctx, name+"-mask")
	if err != nil || len(progress.Tasks) != 1 || progress.Tasks[0].TransactionProtocol == "none" {
		t.Errorf("transaction protocol of the function: %+v, %v", progress, err)
	}
}

// killOwner kills the worker that runs a connector's task, waits until the task does more on another one, and starts the worker again.
func killOwner(ctx context.Context, t *testing.T, f *fleet.Fleet, c fleet.Cluster, name string) fleet.Cluster {
	t.Helper()
	p, err := c.Progress(ctx, name)
	if err != nil || len(p.Tasks) != 1 {
		t.Fatalf("progress: %+v, %v", p, err)
	}
	for _, n := range f.Nodes {
		if n.ID != p.Tasks[0].Worker {
			c = fleet.Cluster{Client: api.NewClient(n.REST)}
		}
	}
	for _, n := range f.Nodes {
		if n.ID != p.Tasks[0].Worker {
			continue
		}
		n.Kill()
		testkit.Eventually(t, 40*time.Second, "the task goes on without "+n.ID, func() error {
			now, err := c.Progress(ctx, name)
			if err != nil {
				return err
			}
			if len(now.Tasks) != 1 || now.Tasks[0].Worker == n.ID || now.Tasks[0].RecordsOut == 0 {
				return fmt.Errorf("%+v", now)
			}
			return nil
		})
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return c
}
