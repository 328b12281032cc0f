package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// handOver bounds how long a node that ends waits for another to take over.
const handOver = 2 * time.Second

// Member is a coordinator as Raft's configuration has it.
type Member struct {
	ID, Addr string
	// Voter: it counts for the quorum. A learner follows only, until it has the log.
	Voter bool
	// Away: it did not answer the last heartbeats. Only the leader knows.
	Away bool
}

// Members returns the group's members.
func (n *Node) Members() []Member {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var out []Member
	for _, s := range f.Configuration().Servers {
		out = append(out, Member{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Away: n.peers.away(s.ID)})
	}
	return out
}

// Member returns one member.
func (n *Node) Member(id string) (Member, bool) {
	for _, m := range n.Members() {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Voters counts those that vote.
func (n *Node) Voters() int {
	count := 0
	for _, m := range n.Members() {
		if m.Voter {
			count++
		}
	}
	return count
}

// Bootstrap makes a cluster of the given coordinators, all of them fresh. Each of them may call it, with the same list.
func (n *Node) Bootstrap(members ...Member) error {
	var c raft.Configuration
	for _, m := range members {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Addr)})
	}
	if len(members) > 1 {
		if err := n.Grown(); err != nil {
			return err
		}
	}
	err := n.raft.BootstrapCluster(c).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil // another one that made the same cluster was faster
	}
	return err
}

// AddLearner adds a coordinator that follows and does not vote yet. On the leader only.
func (n *Node) AddLearner(ctx context.Context, id, addr string) error {
	return n.wait(ctx, n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, bound(ctx)))
}

// AddVoter adds a coordinator, makes a learner a voter, or corrects an address. On the leader only.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error {
	if id != n.opts.ID {
		if err := n.Grown(); err != nil {
			return err
		}
	}
	return n.wait(ctx, n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, bound(ctx)))
}

// Remove removes a coordinator. On the leader only.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.wait(ctx, n.raft.RemoveServer(raft.ServerID(id), 0, bound(ctx)))
}

// Transfer hands leadership to a voter, empty: to the one whose log is furthest, and returns when this node knows the new leader.
func (n *Node) Transfer(ctx context.Context, id string) error {
	var f raft.Future
	if id == "" {
		f = n.raft.LeadershipTransfer()
	} else {
		m, ok := n.Member(id)
		if !ok || !m.Voter {
			return fmt.Errorf("%s is no voter", id)
		}
		f = n.raft.LeadershipTransferToServer(raft.ServerID(m.ID), raft.ServerAddress(m.Addr))
	}
	if err := n.wait(ctx, f); err != nil {
		return err
	}
	for {
		if leader, _ := n.Leader(); leader != "" && leader != n.opts.ID {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no new leader is known yet: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Restore puts an image in the place of the whole state, on all coordinators. The log goes on behind the image's index, so epochs given
// after it are higher than all in it (I1). On the leader only.
func (n *Node) Restore(ctx context.Context, img *commandv1.Image) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(img)
	if err != nil {
		return fmt.Errorf("encode image: %w", err)
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: img.Index, Size: int64(len(b))}
	done := make(chan error, 1)
	go func() { done <- n.raft.Restore(meta, io.NopCloser(bytes.NewReader(b)), bound(ctx)) }()
	select {
	case <-ctx.Done():
		return fmt.Errorf("raft: %w", ctx.Err())
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) {
			return ErrNotLeader
		}
		return err
	}
}

// LastIndex is the index of the newest entry of the log here.
func (n *Node) LastIndex() uint64 { return n.raft.LastIndex() }

// peers knows which members answer heartbeats, from what Raft tells of it. Its goroutine ends with stop.
type peers struct {
	r        *raft.Raft
	observer *raft.Observer
	events   chan raft.Observation
	done     chan struct{}

	mu   sync.Mutex // guards: gone
	gone map[raft.ServerID]bool
}

func watchPeers(r *raft.Raft) *peers {
	p := &peers{r: r, events: make(chan raft.Observation, 64), done: make(chan struct{}), gone: map[raft.ServerID]bool{}}
	// Not blocking: a lost event is mended by the next heartbeat that fails.
	p.observer = raft.NewObserver(p.events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.RegisterObserver(p.observer)
	go p.run()
	return p
}

func (p *peers) run() {
	defer close(p.done)
	for o := range p.events {
		p.mu.Lock()
		switch e := o.Data.(type) {
		case raft.FailedHeartbeatObservation:
			p.gone[e.PeerID] = true
		case raft.ResumedHeartbeatObservation:
			delete(p.gone, e.PeerID)
		case raft.RaftState: // a new role knows nothing of the others
			clear(p.gone)
		}
		p.mu.Unlock()
	}
}

func (p *peers) away(id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone[id]
}

func (p *peers) stop() {
	p.r.DeregisterObserver(p.observer)
	close(p.events)
	<-p.done
}
