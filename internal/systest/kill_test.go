package systest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// rowsOf the initial table; SYSTEST_ROWS makes a quick run of it.
func rowsOf(t *testing.T) int {
	if s := os.Getenv("SYSTEST_ROWS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 200_000
}

// I1-I4: 200,000 rows are snapshotted while 1,000 changes a second come in; a worker is killed four times, the first time during the snapshot, and the leader twice. The
// committed topic holds each change exactly once and in order per key, so does the topic behind a function, and the sink's table
// equals the source's.
func TestExactlyOnceThroughKills(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: takes minutes; make test runs it")
	}
	for _, c := range []struct {
		name   string
		server func(testing.TB) testkit.Server
		broker func(*testing.T) string
	}{
		{"mariadb, embedded broker", testkit.MariaDB, embeddedBroker},
		{"mysql, kafka", testkit.MySQL, func(t *testing.T) string { return testkit.Kafka(t) }},
	} {
		t.Run(c.name, func(t *testing.T) { throughKills(t, c.server(t), c.broker(t)) })
	}
}

func throughKills(t *testing.T, server testkit.Server, broker string) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	db, name := testkit.Database(t, server)
	copyDB, copyName := testkit.Database(t, server)
	_ = copyDB
	s, err := shop.Create(ctx, db, rowsOf(t))
	if err != nil {
		t.Fatal(err)
	}
	f, cluster := nodes(t, 3, "--brokers", broker)

	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	var writers sync.WaitGroup
	var writeErr error
	writers.Go(func() { writeErr = s.Write(writing, 1000) })
	defer writers.Wait()
	defer stopWriting()

	prefix := testkit.UniqueName("k")
	topic, masked := prefix+"."+name+".orders", prefix+".masked"
	create(ctx, t, cluster, prefix+"-source", sourceConfig(server, name, prefix))
	create(ctx, t, cluster, prefix+"-mask", map[string]string{
		"connector.class": "transform", "tasks.max": "2", "topics": topic, "transform.output.topic": masked, "function.command": mask,
		"topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
	})
	create(ctx, t, cluster, prefix+"-sink", map[string]string{
		"connector.class": "sql", "tasks.max": "2", "topics": topic, "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", server.User, server.Password, server.Addr, copyName),
	})
	t.Cleanup(func() {
		if t.Failed() {
			logState(t, fleet.Cluster{Client: api.NewClient(f.Nodes[0].REST)}, broker, []string{prefix + "-source", prefix + "-mask", prefix + "-sink"}, []string{topic, masked})
		}
	})
	running(ctx, t, cluster)
	if err := cluster.WaitCommitted(ctx, prefix+"-source"); err != nil {
		t.Fatal(err)
	}
	from := s.Seq()
	began := time.Now()
	killOne(ctx, t, f, cluster, "worker", prefix+"-source") // sinks have flushed little yet
	testkit.Eventually(t, 3*time.Minute, "the snapshot ends", func() error {
		p, err := cluster.Progress(ctx, prefix+"-source")
		if err != nil {
			return err
		}
		if len(p.Tasks) != 1 || p.Tasks[0].Detail["phase"] != "streaming" {
			return fmt.Errorf("%+v", p.Tasks)
		}
		return nil
	})
	t.Logf("snapshot of %d rows with 1,000 changes/s: %v", rowsOf(t), time.Since(began).Round(100*time.Millisecond))

	for i, kill := range []string{"worker", "leader", "worker", "leader", "worker"} {
		killOne(ctx, t, f, cluster, kill, prefix+"-source")
		t.Logf("kill %d done", i+1)
		time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
	}

	stopWriting()
	writers.Wait()
	if writeErr != nil {
		t.Fatal(writeErr)
	}
	t.Logf("%d changes were made", s.Changes())
	cluster = fleet.Cluster{Client: api.NewClient(f.Nodes[0].REST)}
	began = time.Now()
	testkit.Eventually(t, 2*time.Minute, "the sink's table equals the source's", func() error { return shop.TablesEqual(ctx, db, name, copyName) })
	t.Logf("equal %v after the last change", time.Since(began).Round(100*time.Millisecond))
	for _, check := range []string{topic, masked} {
		testkit.Eventually(t, time.Minute, "topic "+check+" holds each change once", func() error {
			events, n, err := shop.ReadTopic(ctx, []string{broker}, check)
			if err != nil {
				return err
			}
			if bad := shop.Check(s.History(), events, from); len(bad) > 0 {
				return errors.New(strings.Join(bad, "\n"))
			}
			t.Logf("%s: %d messages, each change once and in order", check, n)
			return nil
		})
	}
}

func create(ctx context.Context, t *testing.T, c fleet.Cluster, name string, config map[string]string) {
	t.Helper()
	if _, err := c.Create(ctx, name, config); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func running(ctx context.Context, t *testing.T, c fleet.Cluster) {
	t.Helper()
	took, err := c.WaitRunning(ctx, 40*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all tasks run after %v", took.Round(time.Millisecond))
}

// killOne kills the leader, or a worker that does not lead (the source's, if it can), waits until all tasks run again, and starts the node again.
func killOne(ctx context.Context, t *testing.T, f *fleet.Fleet, c fleet.Cluster, what, source string) {
	t.Helper()
	info, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	owner := ""
	if p, err := c.Progress(ctx, source); err == nil && len(p.Tasks) > 0 {
		owner = p.Tasks[0].Worker
	}
	var victim *fleet.Node
	for _, n := range f.Nodes {
		leads := n.ID == info.Leader
		if what == "leader" && leads || what == "worker" && !leads && (victim == nil || n.ID == owner) {
			victim = n
		}
	}
	victim.Kill()
	began := time.Now()
	for _, n := range f.Nodes {
		if n != victim {
			c = fleet.Cluster{Client: api.NewClient(n.REST)}
		}
	}
	testkit.Eventually(t, 40*time.Second, "all tasks run without "+victim.ID, func() error {
		place, err := c.TasksByWorker(ctx)
		if err != nil {
			return err
		}
		if len(place[victim.ID]) > 0 || place.Running() != 5 {
			return fmt.Errorf("%v", place)
		}
		return nil
	})
	t.Logf("killed %s %s; all tasks run after %v", what, victim.ID, time.Since(began).Round(10*time.Millisecond))
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	if err := victim.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}
