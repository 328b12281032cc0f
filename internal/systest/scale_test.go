package systest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

var idleSpec = configdef.New()

func init() {
	connectors.Register(connectors.Plugin{
		Class: "idle-source", Kind: connectors.KindSource, Doc: "A source with nothing to say.", Spec: idleSpec, KeyConverter: "string", ValueConverter: "bytes",
		NewSource: func() connectors.SourceTask { return idleSource{} },
		Plan: func(_ context.Context, r connectors.PlanRequest) ([]map[string]string, error) {
			out := make([]map[string]string, r.MaxTasks)
			for i := range out {
				out[i] = maps.Clone(r.Raw)
			}
			return out, nil
		},
	})
}

// idleSource has an offset to read, as every source, and then waits.
type idleSource struct{}

func (idleSource) Open(ctx context.Context, sc connectors.SourceContext) error {
	_, err := sc.Offset(ctx, map[string]any{"idle": sc.Connector, "task": sc.Task})
	return err
}

func (idleSource) Poll(ctx context.Context) (*connectors.Batch, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (idleSource) Committed(context.Context, connectors.Offset) error { return nil }
func (idleSource) Close() error                                       { return nil }

// Many connectors with five tasks each on five nodes: all come up, those of a worker that is killed come up elsewhere, and a new leader moves none.
// SCALE_CONNECTORS=1000 measures what docs/benchmarks.md says.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: takes a minute; make test runs it")
	}
	connectors := 30
	if s := os.Getenv("SCALE_CONNECTORS"); s != "" {
		var err error
		if connectors, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const per = 5
	limit := 30*time.Second + time.Duration(connectors)*300*time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 4*limit)
	defer cancel()
	broker := os.Getenv("SCALE_BROKER")
	if broker == "" {
		broker = embeddedBroker(t)
	}
	f, c := sickNodes(t, 5, on(broker)...)
	idle := usage(t, f)
	t.Logf("5 nodes without tasks: %v", idle)

	began := time.Now()
	createMany(ctx, t, c, connectors, per)
	t.Logf("%d connectors created in %v", connectors, time.Since(began).Round(10*time.Millisecond))
	place := allRun(ctx, t, c, limit, connectors*per, "")
	t.Logf("%d tasks run %v after the first was created; %s", connectors*per, time.Since(began).Round(10*time.Millisecond), troubles(f))
	for id, n := range place {
		if n < connectors*per/5-per || n > connectors*per/5+per {
			t.Errorf("%s runs %d of %d tasks", id, n, connectors*per)
		}
	}
	t.Logf("with tasks, idle: %v", usage(t, f))

	info, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var leader, worker *fleet.Node
	for _, n := range f.Nodes {
		if n.ID == info.Leader {
			leader = n
		} else {
			worker = n
		}
	}
	began = time.Now()
	lost := place[worker.REST]
	worker.Kill()
	for _, n := range f.Nodes {
		if n != worker && n != leader {
			c = fleet.Cluster{Client: api.NewClient(n.REST)}
		}
	}
	place = allRun(ctx, t, c, limit, connectors*per, worker.REST)
	t.Logf("a worker with %d tasks was killed; they run elsewhere after %v", lost, time.Since(began).Round(10*time.Millisecond))

	began = time.Now()
	if out := via(ctx, t, leader, "cluster", "transfer"); out != "" {
		t.Log(strings.TrimSpace(out))
	}
	after := allRun(ctx, t, c, limit, connectors*per, worker.REST)
	t.Logf("leadership was handed over; the new leader knows that all tasks run after %v; %s", time.Since(began).Round(10*time.Millisecond), troubles(f))
	if !maps.Equal(place, after) {
		t.Errorf("tasks moved with the leader: %v, then %v", place, after)
	}
}

// troubles counts what nodes that have too much to do suffer from.
func troubles(f *fleet.Fleet) string {
	elections, lapses := 0, 0
	for _, n := range f.Nodes {
		log := n.Log(64 << 20)
		elections += strings.Count(log, "msg=leading")
		lapses += strings.Count(log, "lease ran out")
	}
	return fmt.Sprintf("%d leaders began and %d leases ran out so far", elections, lapses)
}

func createMany(ctx context.Context, t *testing.T, c fleet.Cluster, n, per int) {
	t.Helper()
	names := make(chan string)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for name := range names {
				if _, err := c.Create(ctx, name, map[string]string{"connector.class": "idle-source", "tasks.max": strconv.Itoa(per)}); err != nil {
					t.Errorf("create %s: %v", name, err)
				}
			}
		})
	}
	for i := range n {
		names <- fmt.Sprintf("idle-%04d", i)
	}
	close(names)
	clients.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// allRun waits until n tasks run, none of them on gone, and returns how many each node has, by its REST address.
func allRun(ctx context.Context, t *testing.T, c fleet.Cluster, limit time.Duration, n int, gone string) (place map[string]int) {
	t.Helper()
	testkit.Eventually(t, limit, fmt.Sprintf("%d tasks run", n), func() error {
		time.Sleep(100 * time.Millisecond) // the answer has a megabyte
		all, err := c.Expanded(ctx)
		if err != nil {
			return err
		}
		place = map[string]int{}
		states, running := map[string]int{}, 0
		for _, x := range all {
			for _, task := range x.Status.Tasks {
				worker := "http://" + task.WorkerID
				states[task.State]++
				if task.State == "RUNNING" && worker != gone {
					running++
					place[worker]++
				}
			}
		}
		if running != n {
			return fmt.Errorf("%v, by worker %v", states, place)
		}
		return nil
	})
	return place
}

// usage is the processor time of some seconds and the memory of each node that lives.
func usage(t *testing.T, f *fleet.Fleet) string {
	t.Helper()
	before := map[string]time.Duration{}
	for _, n := range f.Nodes {
		before[n.ID] = cpu(t, n)
	}
	const span = 10 * time.Second
	time.Sleep(span)
	var out []string
	for _, n := range f.Nodes {
		rss, err := n.RSS()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %d MB, %.1f %% of a core", n.ID, rss>>20, 100*(cpu(t, n)-before[n.ID]).Seconds()/span.Seconds()))
	}
	return strings.Join(out, "; ")
}

func cpu(t *testing.T, n *fleet.Node) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // the kernel counts in hundredths
}
