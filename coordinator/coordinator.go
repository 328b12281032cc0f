package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/coordinator/fsm"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/reconcile"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/clusterclient"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/tlsfile"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// ErrNotLeader: ask the leader.
var ErrNotLeader = raftnode.ErrNotLeader

// Options of a Coordinator.
type Options struct {
	// NodeID is this node's name, unique in the cluster.
	NodeID string
	// DataDir holds the log and the Raft snapshots.
	DataDir string
	// ListenAddr is the cluster's port; AdvertiseAddr what others dial, empty: the listener's own.
	ListenAddr, AdvertiseAddr string
	// TLS, if set, secures the traffic between nodes.
	TLS *tlsfile.Source
	// RESTAddr is where this node answers REST, as others reach it: host:port.
	RESTAddr string
	Labels   map[string]string
	// Worker: this process is a worker too, of this capacity.
	Worker   bool
	Capacity uint32
	Version  string
	// Join lists cluster addresses of a cluster to join. Empty, with an empty data directory: this node makes a new one.
	Join []string
	// BootstrapExpect, if above 1: so many coordinators with empty data directories, those of Join and this one, make a cluster together.
	BootstrapExpect int
	// Brokers and EmbeddedBroker are what a new cluster uses; a cluster that exists knows its own.
	Brokers        []string
	EmbeddedBroker bool

	Timing          session.Timing
	ElectionTimeout time.Duration
	Compaction      raftnode.Compaction
	// MovesMax bounds how many running tasks are on the move at a time. Default 8.
	MovesMax int
	Logger   *slog.Logger

	// Listen, Dial and Storage, if set, stand in for the host's network and for the log's files in DataDir.
	Listen  func(network, addr string) (net.Listener, error)
	Dial    clusterclient.Dialer
	Storage *raftnode.Storage
}

// Validate names what is missing.
func (o Options) Validate() error {
	switch {
	case o.NodeID == "":
		return errors.New("a coordinator needs a node id")
	case o.DataDir == "":
		return errors.New("a coordinator needs a data directory")
	case o.ListenAddr == "":
		return errors.New("a coordinator needs a cluster address")
	case o.Logger == nil:
		return errors.New("a coordinator needs a logger")
	}
	return nil
}

// Coordinator is one coordinator.
type Coordinator struct {
	opts     Options
	fsm      *fsm.FSM
	sessions *session.Registry
	ready    chan struct{}
	leading  atomic.Bool                    // leads, and has applied all that earlier leaders stored
	loop     atomic.Pointer[reconcile.Loop] // of the newest leadership
	// restoring: the state is being replaced, and no session may begin.
	restoring atomic.Bool

	// Set before ready is closed.
	mux  *raftnode.Mux
	raft *raftnode.Node

	// Owned by register, once Run has called enter: the node takes part in Raft, was on the cluster's list, has looked whether the peers are another
	// cluster.
	entered, listed, peersSeen bool

	wake   chan struct{} // to the reconcile loop, capacity 1
	rounds rounds

	mu       sync.Mutex // guards: watchers
	watchers map[chan struct{}]struct{}
}

// New makes a coordinator without touching anything.
func New(o Options) (*Coordinator, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Timing == (session.Timing{}) {
		o.Timing = session.DefaultTiming()
	}
	if o.Dial == nil && o.TLS != nil {
		o.Dial = o.TLS.DialContext
	}
	c := &Coordinator{opts: o, ready: make(chan struct{}), wake: make(chan struct{}, 1), watchers: map[chan struct{}]struct{}{}}
	c.fsm = fsm.New(c.changed)
	c.sessions = session.New(o.Timing, c.wakeLoop)
	return c, nil
}

// changed tells the reconcile loop and the sessions that the state moved.
func (c *Coordinator) changed() {
	c.wakeLoop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		poke(w)
	}
}

func (c *Coordinator) wakeLoop() { poke(c.wake) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (c *Coordinator) watch() (ch chan struct{}, stop func()) {
	ch = make(chan struct{}, 1)
	c.mu.Lock()
	c.watchers[ch] = struct{}{}
	c.mu.Unlock()
	return ch, func() {
		c.mu.Lock()
		delete(c.watchers, ch)
		c.mu.Unlock()
	}
}

// Ready is closed when the cluster's port is open and Raft runs; there may be no leader yet.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Addr is the cluster address that others dial. Valid once Ready.
func (c *Coordinator) Addr() string { return c.mux.Advertised() }

// Run runs the coordinator until ctx ends or something fails that it cannot go on without. On the way out it hands leadership over.
func (c *Coordinator) Run(ctx context.Context) error {
	if _, err := os.Stat(c.removedMark()); err == nil {
		return fault.New(fault.Conflict, "%v", ErrRemoved)
	}
	mux, err := raftnode.Listen(raftnode.Port{
		Addr: c.opts.ListenAddr, Advertise: c.opts.AdvertiseAddr, TLS: c.opts.TLS, Listen: c.opts.Listen, Dial: c.opts.Dial, Logger: c.opts.Logger,
	})
	if err != nil {
		return err
	}
	c.mux = mux
	var serving errgroup.Group
	serving.Go(mux.Serve)
	c.raft, err = raftnode.New(raftnode.Options{
		ID: c.opts.NodeID, Dir: filepath.Join(c.opts.DataDir, "raft"), Mux: mux, FSM: c.fsm, ElectionTimeout: c.opts.ElectionTimeout,
		Storage: c.opts.Storage, Compaction: c.opts.Compaction, Logger: c.opts.Logger,
	})
	if err != nil {
		return errors.Join(err, mux.Close(), serving.Wait())
	}
	stopGRPC := c.serve(&serving)
	if err := c.enter(); err != nil {
		return errors.Join(err, c.raft.Shutdown(ctx), mux.Close(), serving.Wait())
	}
	close(c.ready)

	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	g, run := errgroup.WithContext(work)
	g.Go(func() error {
		select {
		case <-ctx.Done():
			c.finishMoves()
			endWork()
		case <-run.Done():
		}
		return nil
	})
	g.Go(func() error { return c.lead(run) })
	g.Go(func() error { return c.register(run) })
	g.Go(func() error {
		select {
		case <-c.fsm.Halted():
			return c.fsm.Halt()
		case <-run.Done():
			return nil
		}
	})
	err = g.Wait()

	// Leadership moves first, so that the sessions find the new leader while their leases run.
	shut := c.raft.Shutdown(context.WithoutCancel(ctx))
	stopGRPC()
	return errors.Join(err, shut, mux.Close(), serving.Wait())
}

// lead runs the reconcile loop while this node leads.
func (c *Coordinator) lead(ctx context.Context) error {
	var stop context.CancelFunc = func() {}
	var loop sync.WaitGroup
	end := func() {
		c.leading.Store(false)
		stop()
		loop.Wait()
		c.sessions.Step()
	}
	defer end()
	for {
		select {
		case <-ctx.Done():
			return nil
		case leads := <-c.raft.Leadership():
			end()
			if !leads {
				c.opts.Logger.Info("leadership lost", "term", c.raft.Term())
				c.changed()
				continue
			}
			run, cancel := context.WithCancel(ctx)
			stop = cancel
			loop.Go(func() {
				if err := c.begin(run); err != nil {
					if run.Err() == nil {
						c.opts.Logger.Warn("leadership could not begin", "err", err)
					}
					return
				}
				l := &reconcile.Loop{View: c.fsm.View, Raft: c.raft, Sessions: c.sessions, Wake: c.wake, MovesMax: c.opts.MovesMax, Observe: c.rounds.observe, Logger: c.opts.Logger.With("component", "reconcile")}
				c.loop.Store(l)
				_ = l.Run(run)
			})
		}
	}
}

// finishMoves lets the units that are on their way arrive, for a moment: the next leader would wait a lease before it gives them to anybody, since
// this node's worker, which may have run them, will not say hello to it.
func (c *Coordinator) finishMoves() {
	for until := time.Now().Add(time.Second); c.leading.Load() && time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if l := c.loop.Load(); l == nil || l.Placed() {
			return
		}
	}
}

// begin catches up with the log and opens the sessions.
func (c *Coordinator) begin(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.raft.Barrier(wait); err != nil {
		return err
	}
	var cluster *commandv1.SetCluster
	c.fsm.View(func(s *state.State) { cluster = s.Cluster() })
	if cluster == nil {
		id := make([]byte, 11)
		if _, err := rand.Read(id); err != nil {
			return fmt.Errorf("make a cluster id: %w", err)
		}
		if err := c.setCluster(wait, hex.EncodeToString(id)); err != nil {
			return err
		}
	} else if cluster.EmbeddedBroker && c.opts.EmbeddedBroker && !slices.Equal(cluster.Brokers, c.opts.Brokers) {
		// The embedded broker came back on another port.
		if err := c.setCluster(wait, cluster.ClusterId); err != nil {
			return err
		}
	}
	c.sessions.Lead()
	c.leading.Store(true)
	c.opts.Logger.Info("leading", "term", c.raft.Term())
	c.changed()
	return nil
}

func (c *Coordinator) setCluster(ctx context.Context, id string) error {
	_, err := c.raft.Propose(ctx, command(&commandv1.Command{Kind: &commandv1.Command_SetCluster{SetCluster: &commandv1.SetCluster{
		ClusterId: id, Brokers: c.opts.Brokers, EmbeddedBroker: c.opts.EmbeddedBroker,
	}}}))
	if err != nil {
		return fmt.Errorf("store the cluster's settings: %w", err)
	}
	return nil
}

func command(c *commandv1.Command) *commandv1.Command {
	c.ProposedUnixMs = time.Now().UnixMilli()
	return c
}

func (c *Coordinator) self() *clusterv1.NodeInfo {
	return &clusterv1.NodeInfo{
		Id: c.opts.NodeID, ClusterAddr: c.mux.Advertised(), RestAddr: c.opts.RESTAddr, Labels: c.opts.Labels, Coordinator: true,
		Worker: c.opts.Worker, Version: c.opts.Version, Capacity: c.opts.Capacity, Protocol: clusterv1.Protocol,
	}
}

func toCommand(n *clusterv1.NodeInfo) *commandv1.Node {
	return &commandv1.Node{
		Id: n.Id, ClusterAddr: n.ClusterAddr, RestAddr: n.RestAddr, Labels: n.Labels, Coordinator: n.Coordinator, Worker: n.Worker, Version: n.Version,
		Capacity: n.Capacity, Protocol: n.Protocol,
	}
}

// Propose stores a command. On the leader; ErrNotLeader elsewhere.
func (c *Coordinator) Propose(ctx context.Context, cmd *commandv1.Command) (state.Result, error) {
	if !c.leading.Load() {
		return state.Result{}, ErrNotLeader
	}
	needs, speak := state.Needs(cmd), uint32(0)
	c.fsm.View(func(s *state.State) { speak = s.Protocol() })
	if needs > speak {
		return state.Result{}, fault.New(fault.Conflict,
			"Not all coordinators know this yet: it needs protocol %d, and one speaks %d. Upgrade all of them first (millrace cluster members)", needs, speak)
	}
	if needs > 1 {
		cmd.Protocol = needs
	}
	return c.raft.Propose(ctx, command(cmd))
}

// View lets f read the state; f must not keep it, call back or block.
func (c *Coordinator) View(f func(*state.State)) { c.fsm.View(f) }

// Leader is who leads.
type Leader struct {
	ID, ClusterAddr, RESTAddr string
	// Self: this node, ready to act.
	Self bool
}

// Leader returns the leader as far as this node knows.
func (c *Coordinator) Leader() (Leader, bool) {
	select {
	case <-c.ready:
	default:
		return Leader{}, false
	}
	if c.leading.Load() {
		return Leader{c.opts.NodeID, c.Addr(), c.opts.RESTAddr, true}, true
	}
	id, addr := c.raft.Leader()
	if id == "" || id == c.opts.NodeID {
		return Leader{}, false // none, or this one, which is not ready yet
	}
	l := Leader{ID: id, ClusterAddr: addr}
	c.fsm.View(func(s *state.State) {
		if n, ok := s.Node(id); ok {
			l.RESTAddr = n.RestAddr
		}
	})
	return l, l.RESTAddr != ""
}

// Fault says why this node can't store the cluster's state, empty when it can.
func (c *Coordinator) Fault() string {
	select {
	case <-c.ready:
		return c.raft.Fault()
	default:
		return ""
	}
}

// Statuses returns what is known of a connector's units, by task number (planning half: -1).
func (c *Coordinator) Statuses(connector string) map[int32]*clusterv1.UnitStatus {
	out := map[int32]*clusterv1.UnitStatus{}
	var units []state.UnitID
	c.fsm.View(func(s *state.State) {
		if k, ok := s.Connector(connector); ok {
			units = append(units, state.UnitID{Connector: connector, Task: state.PlanningHalf})
			for i := range k.TaskConfigs {
				units = append(units, state.UnitID{Connector: connector, Task: int32(i)})
			}
		}
	})
	for _, u := range units {
		if s, ok := c.sessions.Status(u); ok {
			out[u.Task] = s
		}
	}
	return out
}

// Events returns what has happened to a connector's units under this leader. On the leader.
func (c *Coordinator) Events(connector string) []session.Event { return c.sessions.Events(connector) }

// WorkerAlive reports whether a worker has a lease. On the leader.
func (c *Coordinator) WorkerAlive(id string) bool { return c.sessions.Alive(id) }

// Running reports whether a worker may still run a task of a connector. On the leader.
func (c *Coordinator) Running(connector string) bool {
	return !c.sessions.Settled() || c.sessions.Runs(connector)
}

// Signal hands a signal to a task and waits for its answer.
func (c *Coordinator) Signal(ctx context.Context, u state.UnitID, kind, data string) error {
	return c.sessions.Signal(ctx, u, kind, data)
}

// Info describes the cluster.
func (c *Coordinator) Info() *clusterv1.InfoResponse {
	members := c.raft.Members()
	out := &clusterv1.InfoResponse{Term: c.raft.Term(), Self: &clusterv1.Self{
		Id: c.opts.NodeID, ClusterAddr: c.Addr(), Fresh: c.raft.Fresh() && len(members) == 0, BootstrapExpect: int32(c.opts.BootstrapExpect),
	}}
	for _, m := range members {
		out.Self.Members = append(out.Self.Members, m.ID)
	}
	live := map[string]bool{}
	if c.leading.Load() {
		for _, m := range members {
			live[m.ID] = !m.Away
		}
		for _, w := range c.sessions.Workers() {
			live[w.Node.Id] = true
		}
	}
	c.fsm.View(func(s *state.State) {
		if k := s.Cluster(); k != nil {
			out.ClusterId, out.Brokers, out.EmbeddedBroker = k.ClusterId, k.Brokers, k.EmbeddedBroker
		}
		for _, n := range s.Nodes() {
			out.Nodes = append(out.Nodes, &clusterv1.NodeInfo{
				Id: n.Id, ClusterAddr: n.ClusterAddr, RestAddr: n.RestAddr, Labels: n.Labels, Coordinator: n.Coordinator, Worker: n.Worker,
				Version: n.Version, Alive: live[n.Id], Capacity: n.Capacity, Protocol: n.Protocol,
			})
		}
	})
	if l, ok := c.Leader(); ok {
		out.LeaderId, out.LeaderAddr, out.LeaderRestAddr = l.ID, l.ClusterAddr, l.RESTAddr
	}
	return out
}

// Members returns the Raft group.
func (c *Coordinator) Members() []raftnode.Member { return c.raft.Members() }

// Restart gives units new epochs, on the workers that they are on.
func (c *Coordinator) Restart(ctx context.Context, units []state.UnitID) error {
	cmd := &commandv1.Assign{}
	c.fsm.View(func(s *state.State) {
		for _, u := range units {
			if a, ok := s.Assignment(u); ok && a.Worker != "" {
				cmd.Assignments = append(cmd.Assignments, &commandv1.Assignment{
					Unit: &commandv1.Unit{Connector: u.Connector, Task: u.Task}, Worker: a.Worker, ExpectedEpoch: a.Epoch,
				})
			}
		}
	})
	if len(cmd.Assignments) == 0 {
		return nil
	}
	_, err := c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_Assign{Assign: cmd}})
	return err
}
