package systest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

const tickEvery = "tick.every.ms"

var tickSpec = configdef.New(configdef.Key{Name: tickEvery, Type: configdef.Int, Default: "20", Doc: "How often there is a record."})

func init() {
	connectors.Register(connectors.Plugin{
		Class: "tick-source", Kind: connectors.KindSource, Doc: "A source that says its epoch all the time.", Spec: tickSpec, KeyConverter: "string", ValueConverter: "bytes",
		NewSource: func() connectors.SourceTask { return &tickSource{} },
	})
}

// tickSource makes a record every now and then with its number and the epoch of the task, in the topic that has the connector's name.
type tickSource struct {
	connectors.SourceContext
	every time.Duration
	n     int
}

func (s *tickSource) Open(ctx context.Context, sc connectors.SourceContext) error {
	v, _ := tickSpec.Parse(sc.Config)
	s.SourceContext, s.every = sc, v.Duration(tickEvery)
	at, err := sc.Offset(ctx, s.partition())
	if err != nil || at == nil {
		return err
	}
	s.n, err = strconv.Atoi(fmt.Sprint(at["n"]))
	return err
}

func (s *tickSource) partition() map[string]any { return map[string]any{"tick": s.Connector} }

func (s *tickSource) Poll(ctx context.Context) (*connectors.Batch, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.every):
	}
	s.n++
	return &connectors.Batch{
		Records: []record.Record{{Topic: s.Connector, Partition: 0, Key: "k", Value: fmt.Appendf(nil, "%d %d", s.n, s.Epoch)}},
		Offset:  connectors.Offset{Partition: s.partition(), Position: map[string]any{"n": s.n}},
	}, nil
}

func (*tickSource) Committed(context.Context, connectors.Offset) error { return nil }
func (*tickSource) Close() error                                       { return nil }

// tick is a record of a tickSource, and when it was seen.
type tick struct {
	n     int
	epoch uint64
	at    time.Time
}

func parseTick(m kafka.Fetched) (x tick, err error) {
	x.at = time.Now()
	_, err = fmt.Sscan(string(m.Value), &x.n, &x.epoch)
	return x, err
}

// ticks follows what tickSources commit.
type ticks struct {
	mu   sync.Mutex // guards: seen
	seen map[string][]tick
}

// tickers makes a tickSource of each name and follows what they say until ctx ends.
func tickers(ctx context.Context, t *testing.T, c fleet.Cluster, broker string, running *sync.WaitGroup, configs map[string]map[string]string) *ticks {
	t.Helper()
	k := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	f, from := &ticks{seen: map[string][]tick{}}, map[kafka.TopicPartition]int64{}
	for name, config := range configs {
		if err := a.EnsureTopic(ctx, name, kafka.TopicConfig{Partitions: 1, Replication: 1}); err != nil {
			t.Fatal(err)
		}
		all := map[string]string{"connector.class": "tick-source"}
		maps.Copy(all, config)
		create(ctx, t, c, name, all)
		from[kafka.TopicPartition{Topic: name}] = 0
	}
	follow(ctx, t, k, from, running, func(msgs []kafka.Fetched) { f.take(t, msgs) })
	return f
}

func (f *ticks) take(t *testing.T, msgs []kafka.Fetched) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range msgs {
		x, err := parseTick(m)
		if err != nil {
			t.Errorf("%s@%d: %v", m.Topic, m.Offset, err)
		}
		f.seen[m.Topic] = append(f.seen[m.Topic], x)
	}
}

func (f *ticks) of(name string) []tick {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen[name])
}

// flow waits until each of the names has said more, beyond an epoch.
func (f *ticks) flow(t *testing.T, names []string, beyond uint64) {
	t.Helper()
	asked := time.Now()
	testkit.Eventually(t, time.Minute, "records flow", func() error {
		for _, name := range names {
			all := f.of(name)
			if len(all) == 0 || all[len(all)-1].at.Before(asked) || all[len(all)-1].epoch <= beyond {
				return fmt.Errorf("%s says nothing new after %d records", name, len(all))
			}
		}
		return nil
	})
}

// gap is the longest time without a record of a name since a moment.
func (f *ticks) gap(name string, since time.Time) (most time.Duration) {
	last := since
	for _, x := range f.of(name) {
		if x.at.After(since) {
			most = max(most, x.at.Sub(last))
			last = x.at
		}
	}
	return most
}

// connectorsOn lists the connectors whose task a node runs, and those that run elsewhere.
func connectorsOn(ctx context.Context, t *testing.T, c fleet.Cluster, node string) (here, elsewhere []string) {
	t.Helper()
	place, err := c.TasksByWorker(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, tasks := range place {
		for _, task := range tasks {
			name := strings.TrimSuffix(task, "-0")
			if id == node {
				here = append(here, name)
			} else {
				elsewhere = append(elsewhere, name)
			}
		}
	}
	return here, elsewhere
}

// clusterOf asks a node that is not one of those.
func clusterOf(f *fleet.Fleet, not ...*fleet.Node) fleet.Cluster {
	for _, n := range f.Nodes {
		if !slices.Contains(not, n) {
			return fleet.Cluster{Client: api.NewClient(n.REST)}
		}
	}
	panic("no node is left")
}

func leaderOf(ctx context.Context, t *testing.T, f *fleet.Fleet, c fleet.Cluster) *fleet.Node {
	t.Helper()
	info, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(f.Nodes, func(n *fleet.Node) bool { return n.ID == info.Leader })
	if at < 0 {
		t.Fatalf("nobody leads: %+v", info)
	}
	return f.Nodes[at]
}

// memoryBroker is an embedded broker that waits for no disk.
func memoryBroker(t *testing.T) string {
	t.Helper()
	b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b.Addr()
}

// number reads a setting of a long form of a test.
func number(t *testing.T, env string, def int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The leader is killed, again and again: tasks on other nodes go on as if nothing had happened, and no record is lost, there twice or out of order.
// FAILOVER_KILLS=10 FAILOVER_GAP_MS=100 is the long form, for a machine with nothing else to do.
func TestLeaderKilledTasksGoOn(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: kills real processes; make test runs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	broker := memoryBroker(t)
	f, c := sickNodes(t, 3, on(broker)...)
	configs := map[string]map[string]string{}
	for i := range 6 {
		configs[fmt.Sprint("tick-", i)] = nil
	}
	names := slices.Sorted(maps.Keys(configs))
	var running sync.WaitGroup
	defer running.Wait()
	following, end := context.WithCancel(ctx)
	defer end()
	said := tickers(following, t, c, broker, &running, configs)
	var rest, gaps, own []time.Duration
	for range number(t, "FAILOVER_KILLS", 2) {
		said.flow(t, names, 0)
		leader := leaderOf(ctx, t, f, c)
		here, elsewhere := connectorsOn(ctx, t, c, leader.ID)
		if len(elsewhere) == 0 {
			t.Fatal("all tasks are on the leader")
		}
		quiet := time.Now()
		time.Sleep(2 * time.Second)
		for _, name := range elsewhere {
			rest = append(rest, said.gap(name, quiet))
		}
		killed := time.Now()
		leader.Kill()
		said.flow(t, here, 0)
		said.flow(t, elsewhere, 0)
		for _, name := range elsewhere {
			gaps = append(gaps, said.gap(name, killed))
		}
		for _, name := range here {
			own = append(own, said.gap(name, killed))
		}
		c = clusterOf(f, leader)
		restart(ctx, t, leader)
		testkit.Eventually(t, time.Minute, "the load is even", func() error {
			place, err := c.TasksByWorker(ctx)
			if err == nil && (len(place) != 3 || place.Running() != len(names)) {
				err = fmt.Errorf("%v", place)
			}
			return err
		})
	}
	end()
	running.Wait()
	for _, name := range names {
		for i, x := range said.of(name) {
			if x.n != i+1 {
				t.Fatalf("%s: record %d has number %d", name, i+1, x.n)
			}
		}
	}
	t.Logf("longest gap of each task that was not on the leader: %s; at rest: %s; of those on it: %s", spread(gaps), spread(rest), spread(own))
	limit := number(t, "FAILOVER_GAP_MS", 0)
	if longest := slices.Max(gaps); limit > 0 && longest > time.Duration(limit)*time.Millisecond {
		t.Errorf("a task on another node was silent for %v when the leader was killed", longest)
	}
	// A machine with too much to do shows gaps all the time: there only those count that are as long as those of tasks that had to move.
	if median(rest) < 200*time.Millisecond && len(own) > 0 && median(gaps) > median(own)/2 {
		t.Error("tasks on other nodes were silent as if they had moved")
	}
}

func median(list []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("p50 %v, longest %v of %d", round(median(list)), round(list[len(list)-1]), len(list))
}

// I1: a worker is stopped by a signal for longer than its lease. Its tasks run elsewhere meanwhile; when it goes on it writes nothing: not with
// transactions, where Kafka would refuse it, and not without, where only the lease keeps it from writing.
func TestStoppedWorkerWritesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: stops real processes; make test runs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	broker := memoryBroker(t)
	f, c := sickNodes(t, 3, on(broker)...)
	configs := map[string]map[string]string{}
	for i := range 3 {
		configs[fmt.Sprint("with-transactions-", i)] = nil
		configs[fmt.Sprint("without-", i)] = map[string]string{"exactly.once.support": "disabled", tickEvery: "200"}
	}
	names := slices.Sorted(maps.Keys(configs))
	var running sync.WaitGroup
	defer running.Wait()
	following, end := context.WithCancel(ctx)
	defer end()
	said := tickers(following, t, c, broker, &running, configs)
	said.flow(t, names, 0)
	testkit.Eventually(t, time.Minute, "each node has its share", func() error {
		place, err := c.TasksByWorker(ctx)
		if err == nil && (len(place) != 3 || place.Running() != len(names)) {
			err = fmt.Errorf("%v", place)
		}
		return err
	})

	stopped, its := victim(ctx, t, f, c)
	before := make([]uint64, len(its))
	for i, name := range its {
		all := said.of(name)
		before[i] = all[len(all)-1].epoch
	}
	// The moment between the look at the lease and the write can't be closed without transactions, so the worker is not stopped in it: not when a
	// record is due.
	said.flow(t, its[:1], 0)
	if err := stopped.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for i, name := range its {
		said.flow(t, []string{name}, before[i])
	}
	if err := stopped.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "the worker has seen that its lease is over", func() error {
		if !strings.Contains(stopped.Log(1<<20), "lease ran out") {
			return fmt.Errorf("%s says nothing of it", stopped.ID)
		}
		return nil
	})
	said.flow(t, names, 0)
	end()
	running.Wait()
	t.Logf("%s was stopped with %v", stopped.ID, its)
	for _, name := range its {
		oneAfterTheOther(ctx, t, broker, name)
	}
}

// victim is a node that does not lead, with the connectors to look at: one that writes without transactions, and those that write with them.
func victim(ctx context.Context, t *testing.T, f *fleet.Fleet, c fleet.Cluster) (n *fleet.Node, its []string) {
	t.Helper()
	leader := leaderOf(ctx, t, f, c)
	for _, n := range f.Nodes {
		here, _ := connectorsOn(ctx, t, c, n.ID)
		without := slices.IndexFunc(here, func(name string) bool { return strings.HasPrefix(name, "without-") })
		if n != leader && without >= 0 {
			with := slices.DeleteFunc(slices.Clone(here), func(name string) bool { return strings.HasPrefix(name, "without-") })
			return n, append([]string{here[without]}, with...)
		}
	}
	t.Fatal("no node that does not lead writes without transactions")
	return nil, nil
}

// oneAfterTheOther checks what was written to a topic, committed or not: once there is something of an epoch, nothing of an older one follows.
func oneAfterTheOther(ctx context.Context, t *testing.T, broker, topic string) {
	t.Helper()
	k := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, k)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	end, err := a.ListOffsets(ctx, topic, kafka.Latest)
	if err != nil {
		t.Fatal(err)
	}
	from := map[kafka.TopicPartition]int64{{Topic: topic}: 0}
	var last tick
	epochs := map[uint64]int{}
	err = kafka.ReadRange(ctx, k, kafka.ConsumerOptions{ReadUncommitted: true}, from, end, func(m kafka.Fetched) error {
		x, err := parseTick(m)
		if x.epoch < last.epoch {
			t.Errorf("%s@%d: record %d of epoch %d after record %d of epoch %d", topic, m.Offset, x.n, x.epoch, last.n, last.epoch)
		}
		last = x
		epochs[x.epoch]++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(epochs) < 2 {
		t.Errorf("%s: epochs %v, want the new owner's, too", topic, epochs)
	}
}
