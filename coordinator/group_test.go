package coordinator

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/testkit"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// member is a real coordinator on a real port, with its data in a directory.
type member struct {
	*Coordinator
	opts Options
	stop context.CancelFunc
	done chan struct{}
	err  error // what Run returned, once done is closed
}

func options(t *testing.T, id string) Options {
	return Options{
		NodeID: id, DataDir: filepath.Join(t.TempDir(), id), ListenAddr: testkit.FreePort(t), RESTAddr: id + ":8083", Brokers: []string{"kafka:9092"},
		Logger: testkit.Logger(t).With("node", id),
	}
}

func start(t *testing.T, o Options) *member {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Coordinator: c, opts: o, stop: cancel, done: make(chan struct{})}
	go func() {
		m.err = c.Run(ctx)
		close(m.done)
	}()
	t.Cleanup(func() { _ = m.end(t) })
	select {
	case <-c.Ready():
	case <-m.done:
	case <-time.After(10 * time.Second):
		t.Fatal("a coordinator is not ready")
	}
	return m
}

// end stops a member and returns what its Run returned.
func (m *member) end(t *testing.T) error {
	t.Helper()
	m.stop()
	return m.ended(t)
}

// ended waits until a member has ended by itself.
func (m *member) ended(t *testing.T) error {
	t.Helper()
	select {
	case <-m.done:
		return m.err
	case <-time.After(20 * time.Second):
		t.Errorf("%s does not end", m.opts.NodeID)
		return nil
	}
}

// together starts n coordinators that make a cluster, at the same moment.
func together(t *testing.T, n int) []*member {
	t.Helper()
	var all []Options
	var addrs []string
	for i := range n {
		o := options(t, fmt.Sprintf("n%d", i+1))
		all, addrs = append(all, o), append(addrs, o.ListenAddr)
	}
	var out []*member
	for _, o := range all {
		if n > 1 {
			o.Join, o.BootstrapExpect = addrs, n
		}
		out = append(out, start(t, o))
	}
	whole(t, out...)
	return out
}

// whole waits until all of ms are the voters of one cluster, and no others, and know each other.
func whole(t *testing.T, ms ...*member) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, "one cluster of all", func() error {
		for _, m := range ms {
			voters, ids := 0, map[string]bool{}
			for _, x := range m.raft.Members() {
				if x.Voter {
					voters++
				}
			}
			m.View(func(s *state.State) {
				for _, n := range s.Nodes() {
					ids[n.Id] = true
				}
			})
			l, led := m.Leader()
			if !led || voters != len(ms) || len(ids) != len(ms) || len(m.raft.Members()) != len(ms) || m.clusterID() != ms[0].clusterID() {
				return fmt.Errorf("%s: leader %v, %v, nodes %v, cluster %s", m.opts.NodeID, l, m.raft.Members(), ids, m.clusterID())
			}
		}
		return nil
	})
}

func leaderOf(t *testing.T, ms ...*member) *member {
	t.Helper()
	var out *member
	testkit.Eventually(t, 10*time.Second, "a leader", func() error {
		for _, m := range ms {
			if l, ok := m.Leader(); ok && l.Self {
				out = m
				return nil
			}
		}
		return errors.New("none")
	})
	return out
}

func others(ms []*member, not *member) []*member {
	return slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == not })
}

func putConnector(t *testing.T, m *member, name string) {
	t.Helper()
	if err := propose(t.Context(), m, name); err != nil {
		t.Fatal(err)
	}
}

func propose(ctx context.Context, m *member, name string) error {
	_, err := m.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{
		Name: name, Config: map[string]string{"connector.class": "file"},
	}}})
	return err
}

// sameState waits until all have the same state, to the byte.
func sameState(t *testing.T, ms ...*member) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, "the same state everywhere", func() error {
		var first []byte
		for _, m := range ms {
			var img *commandv1.Image
			m.View(func(s *state.State) { img = s.Image() })
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(img)
			if err != nil {
				return err
			}
			if first == nil {
				first = b
			}
			if string(b) != string(first) {
				return fmt.Errorf("%s differs: %v", m.opts.NodeID, img)
			}
		}
		return nil
	})
}

// However they start, coordinators that are to be one cluster are one.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			ms := together(t, n)
			// On a busy machine the first leader need not last.
			testkit.Eventually(t, 10*time.Second, "a leader takes a connector", func() error { return propose(t.Context(), leaderOf(t, ms...), "a") })
			sameState(t, ms...)
		})
	}
}

// A coordinator that can't see the others, or sees others with something else in mind, waits: it makes no cluster of its own.
func TestNoClusterByAccident(t *testing.T) {
	t.Parallel()
	a, b := options(t, "a"), options(t, "b")
	a.Join, a.BootstrapExpect = []string{a.ListenAddr, b.ListenAddr, testkit.FreePort(t)}, 3
	b.Join, b.BootstrapExpect = a.Join, 5
	alone := options(t, "alone")
	alone.Join = []string{testkit.FreePort(t)}
	ms := []*member{start(t, a), start(t, b), start(t, alone)}
	time.Sleep(1500 * time.Millisecond) // several elections long
	for _, m := range ms {
		if id := m.clusterID(); id != "" || len(m.raft.Members()) > 0 {
			t.Errorf("%s is in cluster %q with %v", m.opts.NodeID, id, m.raft.Members())
		}
	}
}

// Two clusters where one was meant: the node says so instead of going on alone.
func TestDataOfAnotherCluster(t *testing.T) {
	t.Parallel()
	mine, other := together(t, 1)[0], together(t, 1)[0]
	if err := mine.end(t); err != nil {
		t.Fatal(err)
	}
	o := mine.opts
	o.Join = []string{other.opts.ListenAddr}
	if err := start(t, o).ended(t); !errors.Is(err, errOtherCluster) {
		t.Errorf("ended with %v", err)
	}
}

// A voter that comes back with an empty directory is no voter until it has the log again: what it voted for and held is gone.
func TestLostDirectory(t *testing.T) {
	t.Parallel()
	ms := together(t, 3)
	l := leaderOf(t, ms...)
	lost := others(ms, l)[0]
	if err := lost.end(t); err != nil {
		t.Fatal(err)
	}
	putConnector(t, l, "a")
	o := lost.opts
	o.DataDir = filepath.Join(t.TempDir(), "new")
	seen := make(chan bool, 1)
	watching, stop := context.WithCancel(t.Context())
	go func() {
		learner := false
		for watching.Err() == nil {
			m, ok := l.raft.Member(o.NodeID)
			learner = learner || !ok || !m.Voter
		}
		seen <- learner
	}()
	back := start(t, o)
	now := append(others(ms, lost), back)
	testkit.Eventually(t, 10*time.Second, "it has the log", func() error {
		var err error
		back.View(func(s *state.State) {
			if _, ok := s.Connector("a"); !ok {
				err = errors.New("not yet")
			}
		})
		return err
	})
	whole(t, now...)
	stop()
	if !<-seen {
		t.Error("it kept its vote without its data")
	}
	sameState(t, now...)
}

// A coordinator that died for good is removed and another takes its place; a live one ends when it is removed, and does not come back.
func TestReplaceAndLeave(t *testing.T) {
	t.Parallel()
	ms := together(t, 3)
	l := leaderOf(t, ms...)
	dead := others(ms, l)[0]
	if err := dead.end(t); err != nil {
		t.Fatal(err)
	}
	remove := func(id string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return l.Remove(ctx, id)
	}
	if err := remove(l.opts.NodeID); fault.KindOf(err) != fault.Conflict {
		t.Errorf("remove the leader: %v", err)
	}
	if err := remove("nobody"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("remove a stranger: %v", err)
	}
	testkit.Eventually(t, 5*time.Second, "the leader misses it", func() error {
		if m, _ := l.raft.Member(dead.opts.NodeID); !m.Away {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	alive := others(others(ms, l), dead)[0]
	if err := remove(alive.opts.NodeID); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "no majority") {
		t.Errorf("remove what the quorum needs: %v", err)
	}
	if err := remove(dead.opts.NodeID); err != nil {
		t.Fatal(err)
	}
	o := options(t, "n4")
	o.Join = []string{alive.opts.ListenAddr}
	fourth := start(t, o)
	whole(t, l, alive, fourth)

	if err := remove(fourth.opts.NodeID); err != nil {
		t.Fatal(err)
	}
	if err := fourth.ended(t); !errors.Is(err, ErrRemoved) {
		t.Errorf("removed while alive: ended with %v", err)
	}
	if err := start(t, o).ended(t); fault.KindOf(err) != fault.Conflict {
		t.Errorf("started again: %v", err)
	}
	// The dead one wakes up with what it knew.
	if err := start(t, dead.opts).ended(t); !errors.Is(err, ErrRemoved) {
		t.Errorf("the one that was removed while it was away: %v", err)
	}
	whole(t, l, alive)
	// From two to one, while both live.
	if err := remove(alive.opts.NodeID); err != nil {
		t.Fatal(err)
	}
	whole(t, l)
	putConnector(t, l, "still works")
}

// Leadership moves before the leader goes: nobody waits for an election.
func TestHandOver(t *testing.T) {
	t.Parallel()
	ms := together(t, 3)
	l := leaderOf(t, ms...)
	to := others(ms, l)[1]
	if got, err := l.Transfer(t.Context(), to.opts.NodeID); err != nil || got != to.opts.NodeID {
		t.Fatalf("transfer: %s, %v", got, err)
	}
	if leaderOf(t, ms...) != to {
		t.Error("another one leads")
	}
	began := time.Now()
	to.stop()
	next := leaderOf(t, others(ms, to)...)
	took := time.Since(began)
	t.Logf("the next leader acts %v after the last one was told to end", took.Round(time.Millisecond))
	// An election begins when followers have waited for 600 ms at the least.
	if took > 550*time.Millisecond {
		t.Errorf("hand-over took %v: there was an election", took)
	}
	putConnector(t, next, "a")
	if err := to.end(t); err != nil {
		t.Error(err)
	}
}

// The log gives way to an image: a restarted coordinator and one that joins late have the whole state from it.
func TestCompaction(t *testing.T) {
	t.Parallel()
	o := options(t, "n1")
	o.Compaction = raftnode.Compaction{Entries: 16, Interval: 5 * time.Millisecond, Trailing: 4}
	first := start(t, o)
	l := leaderOf(t, first)
	for i := range 100 {
		putConnector(t, l, fmt.Sprint("c", i))
	}
	testkit.Eventually(t, 5*time.Second, "an image", func() error {
		if images, _ := filepath.Glob(filepath.Join(o.DataDir, "raft", "snapshots", "*", "state.bin")); len(images) == 0 {
			return errors.New("none")
		}
		return nil
	})
	if err := l.end(t); err != nil {
		t.Fatal(err)
	}
	again := start(t, o)
	l = leaderOf(t, again)
	late := options(t, "n2")
	late.Join, late.Compaction = []string{o.ListenAddr}, o.Compaction
	second := start(t, late)
	whole(t, again, second)
	sameState(t, again, second)
	l.View(func(s *state.State) {
		if n := len(s.Connectors()); n != 100 {
			t.Errorf("%d connectors of 100", n)
		}
	})
}

// A backup goes into a fresh cluster whole: on all coordinators, through their restart, and with epochs above all that it has.
func TestRestore(t *testing.T) {
	t.Parallel()
	old := together(t, 1)[0]
	for i := range 50 {
		putConnector(t, old, fmt.Sprint("c", i))
	}
	unit := &commandv1.Unit{Connector: "c7", Task: state.PlanningHalf}
	give := func(m *member) uint64 {
		r, err := m.Propose(t.Context(), &commandv1.Command{Kind: &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: []*commandv1.Assignment{{Unit: unit, Worker: "w"}}}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Index
	}
	epoch := give(old)
	img, err := old.Image(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ms := together(t, 3)
	l := leaderOf(t, ms...)
	if l.raft.LastIndex() >= epoch {
		t.Fatalf("the fresh cluster's log is at %d already: the test shows nothing", l.raft.LastIndex())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Restore(ctx, img); err != nil {
		t.Fatal(err)
	}
	if got := give(l); got <= epoch {
		t.Errorf("an epoch of %d after a restore of %d (I1)", got, epoch)
	}
	sameState(t, ms...)
	for i, m := range ms {
		if err := m.end(t); err != nil {
			t.Fatal(err)
		}
		ms[i] = start(t, m.opts)
	}
	whole(t, ms...)
	sameState(t, ms...)
	leaderOf(t, ms...).View(func(s *state.State) {
		if len(s.Connectors()) != 50 || s.Cluster().ClusterId != old.clusterID() || len(s.Nodes()) != 3 {
			t.Errorf("%d connectors, cluster %v, nodes %v", len(s.Connectors()), s.Cluster(), s.Nodes())
		}
	})
}

// A coordinator that finds a command in its log that it does not know ends, rather than go on with another state than the others (I6).
func TestNewerLog(t *testing.T) {
	t.Parallel()
	o := options(t, "n1")
	o.Compaction = raftnode.Compaction{Entries: 1, Interval: 5 * time.Millisecond}
	m := start(t, o)
	leaderOf(t, m)
	_, err := m.Propose(t.Context(), &commandv1.Command{Protocol: 9, Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also when it starts again: no image of its state has hidden the entry
		if err := m.ended(t); !errors.Is(err, state.ErrUnknownCommand) {
			t.Errorf("ended with %v", err)
		}
		m = start(t, m.opts)
	}
}
