package systest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// The second half of deploy/docker/test.sh: docker-compose.yml is up with four workers.
func TestCompose(t *testing.T) {
	base := os.Getenv("MILLRACE_COMPOSE_URL")
	if base == "" {
		t.Skip("SKIP: make test-compose runs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cluster := fleet.Cluster{Client: api.NewClient(base)}
	wholeFleet(ctx, t, cluster)
	testkit.Eventually(t, time.Minute, "the engine says that all containers are healthy", func() error {
		out, err := exec.CommandContext(ctx, "docker", "ps", "--format", "{{.Names}} {{.Status}}").CombinedOutput()
		if n := strings.Count(string(out), "(healthy)"); err != nil || n != 7 {
			return fmt.Errorf("%d of 7 are: %w\n%s", n, err, out)
		}
		return nil
	})

	server, broker := testkit.MariaDB(t), testkit.Kafka(t)
	db, name := testkit.Database(t, server)
	_, copyName := testkit.Database(t, server)
	s, err := shop.Create(ctx, db, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	prefix := testkit.UniqueName("c")
	topic := prefix + "." + name + ".orders"
	config := sourceConfig(server, name, prefix)
	config["database.hostname"] = "mysql" // as the containers know it
	create(ctx, t, cluster, "source", config)
	create(ctx, t, cluster, "sink", map[string]string{
		"connector.class": "sql", "tasks.max": "2", "topics": topic,
		"connection.url": fmt.Sprintf("mysql://%s:%s@mysql:%s/%s", server.User, server.Password, server.Port(), copyName),
	})
	running(ctx, t, cluster)
	if err := cluster.WaitCommitted(ctx, "source"); err != nil {
		t.Fatal(err)
	}
	from := s.Seq()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var writers sync.WaitGroup
	var writeErr error
	writers.Go(func() { writeErr = s.Write(writing, 200) })
	defer writers.Wait()
	defer stop()

	for _, connector := range []string{"source", "sink"} {
		time.Sleep(2 * time.Second) // let changes flow
		killContainer(ctx, t, cluster, connector)
	}
	time.Sleep(2 * time.Second)
	stop()
	writers.Wait()
	if writeErr != nil {
		t.Fatal(writeErr)
	}
	testkit.Eventually(t, time.Minute, "the sink's table equals the source's", func() error { return shop.TablesEqual(ctx, db, name, copyName) })
	events, n, err := shop.ReadTopic(ctx, []string{broker}, topic)
	if err != nil {
		t.Fatal(err)
	}
	if bad := shop.Check(s.History(), events, from); len(bad) > 0 {
		t.Fatal(errors.New(strings.Join(bad, "\n")))
	}
	t.Logf("%d changes through two killed containers: %d messages, each change once and in order, tables equal", s.Changes(), n)
}

func wholeFleet(ctx context.Context, t *testing.T, c fleet.Cluster) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "three coordinators and four workers", func() error {
		k, err := c.Cluster(ctx)
		if err != nil {
			return err
		}
		coordinators, workers := 0, 0
		for _, n := range k.Nodes {
			switch {
			case n.Coordinator:
				coordinators++
			case n.Alive:
				workers++
			}
		}
		if coordinators != 3 || workers != 4 {
			return fmt.Errorf("%d coordinators, %d workers", coordinators, workers)
		}
		return nil
	})
}

// killContainer kills the container that runs a connector's first task, and waits until the task has committed elsewhere.
func killContainer(ctx context.Context, t *testing.T, c fleet.Cluster, connector string) {
	t.Helper()
	p, err := c.Progress(ctx, connector)
	if err != nil {
		t.Fatal(err)
	}
	victim := p.Tasks[0].Worker
	k, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range k.Nodes {
		if n.ID != victim {
			continue
		}
		host, _, err := net.SplitHostPort(n.REST) // a worker's REST address begins with its host name, the container's id
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(ctx, "docker", "kill", host).CombinedOutput(); err != nil {
			t.Fatalf("docker kill %s: %v\n%s", host, err, out)
		}
	}
	killed := time.Now()
	testkit.Eventually(t, 30*time.Second, connector+" goes on elsewhere", func() error {
		p, err := c.Progress(ctx, connector)
		if err != nil {
			return err
		}
		if task := p.Tasks[0]; task.Worker == victim || task.LastCommitUnixMS < killed.UnixMilli() {
			return fmt.Errorf("%+v", task)
		}
		return nil
	})
	t.Logf("worker %s of %s killed; commits elsewhere after %v", victim, connector, time.Since(killed).Round(10*time.Millisecond))
}
