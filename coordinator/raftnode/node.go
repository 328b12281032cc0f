// Package raftnode wires hashicorp/raft: transport, stores, elections, membership. Raft's types stay inside it and package fsm.
//
// The log and the stable store are one bbolt file that is synced before an entry is acknowledged; Raft snapshots are files
// written whole and renamed. Goroutines are Raft's own and end with Shutdown.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/fsm"
	"github.com/millrace/millrace/coordinator/state"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

var (
	// ErrNotLeader: ask the leader.
	ErrNotLeader = errors.New("this node is not the leader")
	// ErrUnknownOutcome: leadership was lost while the command was on its way; it may be applied later.
	ErrUnknownOutcome = errors.New("leadership was lost before the command was known to be stored; look at the result before trying again")
)

// Options of a Node.
type Options struct {
	ID  string
	Dir string
	// Mux is the cluster's port, listening.
	Mux *Mux
	FSM *fsm.FSM
	// ElectionTimeout is how long followers wait for a silent leader. Default 600 ms.
	ElectionTimeout time.Duration
	Compaction      Compaction
	// Storage, if set, stands in for the files in Dir.
	Storage *Storage
	Logger  *slog.Logger
}

// Storage is where the log, the votes and the Raft snapshots are.
type Storage struct {
	Log interface {
		raft.LogStore
		raft.StableStore
		io.Closer
	}
	Snapshots raft.SnapshotStore
}

// files opens the storage in a directory.
func files(dir string, log hclog.Logger) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, "raft.db")
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions()})
	if err != nil {
		return nil, fmt.Errorf("open %s (is another node running on this data directory?): %w", path, err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft snapshots: %w", err), store.Close())
	}
	return &Storage{store, snaps}, nil
}

// Compaction says when the log gives way to a Raft snapshot. The zero value stands for DefaultCompaction.
type Compaction struct {
	// Entries since the last Raft snapshot make a new one, looked at every Interval or so.
	Entries  uint64
	Interval time.Duration
	// Trailing entries stay behind a Raft snapshot, so that a node that was away for a moment needs no whole image.
	Trailing uint64
}

// DefaultCompaction suits a state that changes a few times a second.
func DefaultCompaction() Compaction {
	return Compaction{Entries: 8192, Interval: 30 * time.Second, Trailing: 4096}
}

// alone is the timeout while there is nobody to lose a leader to: how long a single node takes to lead after its start.
// leaderLease must not be above it.
const (
	alone       = 250 * time.Millisecond
	leaderLease = 250 * time.Millisecond
)

// Node is a member of the Raft group.
type Node struct {
	opts   Options
	raft   *raft.Raft
	store  io.Closer
	trans  *raft.NetworkTransport
	snaps  raft.SnapshotStore
	leader chan bool
	fresh  bool
	peers  *peers
	// fault is why the log could not be written last; nil once it was again.
	fault atomic.Pointer[string]
}

// New opens the stores and starts Raft. A node whose directory is empty waits to be bootstrapped or added.
func New(o Options) (*Node, error) {
	if o.ElectionTimeout == 0 {
		o.ElectionTimeout = 600 * time.Millisecond
	}
	if o.Compaction == (Compaction{}) {
		o.Compaction = DefaultCompaction()
	}
	n := &Node{opts: o, leader: make(chan bool, 16)}
	hlog := n.logAdapter(o.Logger)
	if o.Storage == nil {
		s, err := files(o.Dir, hlog)
		if err != nil {
			return nil, err
		}
		o.Storage = s
	}
	store, snaps := o.Storage.Log, o.Storage.Snapshots
	n.store, n.snaps = store, snaps
	// One request in flight turns pipelines off: one whose follower refuses an entry (a disk that is full for a moment is enough) can lock up for good
	// (hashicorp/raft issue 612). That follower then gets heartbeats and no entries, and Shutdown does not return.
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: o.Mux.Raft(), MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 5 * time.Second, Logger: hlog,
	})
	has, err := raft.HasExistingState(store, store, snaps)
	if err != nil {
		return nil, n.abandon(fmt.Errorf("read raft state: %w", err))
	}
	n.fresh = !has
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(o.ID)
	cfg.Logger = hlog
	cfg.NotifyCh = n.leader
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = alone, alone, leaderLease
	// How often a leader with nothing to say tells followers how far it has committed. Each answer renews its own lease too, so a longer wait would spare
	// processor time, and cost a busy machine its leader.
	cfg.CommitTimeout = 20 * time.Millisecond
	cfg.SnapshotInterval, cfg.SnapshotThreshold, cfg.TrailingLogs = o.Compaction.Interval, o.Compaction.Entries, o.Compaction.Trailing
	n.raft, err = raft.NewRaft(cfg, o.FSM, store, store, snaps, n.trans)
	if err != nil {
		return nil, n.abandon(fmt.Errorf("start raft: %w", err))
	}
	n.peers = watchPeers(n.raft)
	if len(n.Members()) > 1 {
		if err := n.setTimeouts(o.ElectionTimeout); err != nil {
			n.peers.stop()
			return nil, errors.Join(err, n.raft.Shutdown().Error(), n.store.Close())
		}
	}
	return n, nil
}

func (n *Node) abandon(err error) error { return errors.Join(err, n.trans.Close(), n.store.Close()) }

func (n *Node) setTimeouts(d time.Duration) error {
	c := n.raft.ReloadableConfig()
	if c.HeartbeatTimeout == d {
		return nil
	}
	c.HeartbeatTimeout, c.ElectionTimeout = d, d
	if err := n.raft.ReloadConfig(c); err != nil {
		return fmt.Errorf("set election timeout %v: %w", d, err)
	}
	return nil
}

// Fresh reports whether the data directory held nothing when the node was made.
func (n *Node) Fresh() bool { return n.fresh }

// Grown must be called on every node when the group has more than one member: from then on elections take their time.
func (n *Node) Grown() error { return n.setTimeouts(n.opts.ElectionTimeout) }

// Propose stores a command and returns what it came to on this node.
func (n *Node) Propose(ctx context.Context, c *commandv1.Command) (state.Result, error) {
	if c.GetKind() == nil {
		return state.Result{}, errors.New("a command without a kind would halt every node")
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return state.Result{}, fmt.Errorf("encode command: %w", err)
	}
	f := n.raft.Apply(b, bound(ctx))
	if err := n.wait(ctx, f); err != nil {
		return state.Result{}, err
	}
	n.fault.Store(nil)
	r, ok := f.Response().(state.Result)
	if !ok {
		return state.Result{}, fmt.Errorf("command had no result: %v", f.Response())
	}
	return r, nil
}

// Fault is why this node could not store the log last, empty when it can. A full disk heals by itself when there is space again.
func (n *Node) Fault() string {
	if p := n.fault.Load(); p != nil {
		return *p
	}
	return ""
}

// Barrier waits until all that was stored before is applied here. On the leader only.
func (n *Node) Barrier(ctx context.Context) error { return n.wait(ctx, n.raft.Barrier(bound(ctx))) }

func bound(ctx context.Context) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return max(time.Until(d), time.Millisecond)
	}
	return 10 * time.Second
}

func (n *Node) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case <-ctx.Done():
		return fmt.Errorf("raft: %w", ctx.Err())
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
			return ErrNotLeader
		case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
			return ErrUnknownOutcome
		}
		return fmt.Errorf("raft: %w", err)
	}
}

// Leader returns the leader's id and address as far as this node knows; empty when it knows none.
func (n *Node) Leader() (id, addr string) {
	a, i := n.raft.LeaderWithID()
	return string(i), string(a)
}

// IsLeader reports whether this node believes to lead.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Leadership tells of each change: true when this node begins to lead, false when it no longer does.
func (n *Node) Leadership() <-chan bool { return n.leader }

// Term is the Raft term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// Shutdown hands leadership over, if that can be done quickly and while ctx lasts, and stops.
func (n *Node) Shutdown(ctx context.Context) error {
	if n.IsLeader() && n.Voters() > 1 {
		ctx, cancel := context.WithTimeout(ctx, handOver)
		if err := n.Transfer(ctx, ""); err != nil {
			n.opts.Logger.Warn("leadership was not handed over; the others elect a leader", "err", err)
		}
		cancel()
	}
	n.peers.stop()
	err := n.raft.Shutdown().Error()
	return errors.Join(err, n.trans.Close(), n.store.Close())
}

// logAdapter passes Raft's log on: its warnings and errors as they are, the rest for debugging.
func (n *Node) logAdapter(log *slog.Logger) hclog.Logger {
	l := hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: io.Discard})
	if log == nil {
		return l
	}
	i := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: io.Discard})
	i.RegisterSink(sink{log, n})
	return i
}

type sink struct {
	log *slog.Logger
	n   *Node
}

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if msg == "failed to commit logs" || msg == "failed to append to logs" {
		// Raft tells of a log that it can't write (a full disk) in this way only.
		for i := 0; i+1 < len(args); i += 2 {
			if args[i] == "error" {
				why := fmt.Sprint(args[i+1])
				s.n.fault.Store(&why)
			}
		}
	}
	at := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		at = slog.LevelWarn // Raft calls a peer that does not answer an error; it heals by itself.
	case level == hclog.Warn:
		at = slog.LevelInfo
	}
	switch {
	case strings.HasPrefix(msg, "heartbeat timeout reached"):
		at = slog.LevelInfo
	case strings.HasPrefix(msg, "failed to heartbeat to"), strings.HasPrefix(msg, "failed to appendEntries to"), strings.HasPrefix(msg, "failed to decode incoming command"):
		at = slog.LevelDebug // at each try; that a peer is away is said by "failed to contact"
	}
	s.log.Log(context.Background(), at, "raft", append([]any{"detail", msg}, args...)...)
}
