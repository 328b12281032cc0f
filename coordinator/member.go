package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/clusterclient"
	"github.com/millrace/millrace/internal/fault"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

var (
	// ErrRemoved: this node was taken out of its cluster; its Run ends with it.
	ErrRemoved = errors.New("this node was removed from its cluster; to let it join again start it with an empty --data directory")
	// errOtherCluster: the data is of another cluster than the nodes to join; Run ends with it.
	errOtherCluster = errors.New("another cluster")
	errCatchingUp   = errors.New("the log is on its way")
)

// removedMark is the file that keeps a removed node from coming back with what it knew.
func (c *Coordinator) removedMark() string { return filepath.Join(c.opts.DataDir, "raft", "removed") }

// enter makes a cluster, or opens the node to one that it has been in. A fresh node that is to join or to make one with others stays shut until
// register has found out which.
func (c *Coordinator) enter() error {
	switch {
	case !c.raft.Fresh():
	case len(c.opts.Join) > 0 || c.opts.BootstrapExpect > 1:
		return nil
	default:
		if err := c.raft.Bootstrap(raftnode.Member{ID: c.opts.NodeID, Addr: c.Addr()}); err != nil {
			return fmt.Errorf("make a new cluster: %w", err)
		}
	}
	c.open()
	return nil
}

// open lets Raft's messages in.
func (c *Coordinator) open() {
	c.entered = true
	c.mux.OpenRaft()
}

// register makes this node known to the cluster, and keeps its entry true. It returns an error only when the node can't stay.
func (c *Coordinator) register(ctx context.Context) error {
	changed, stop := c.watch()
	defer stop()
	client := clusterclient.New(c.opts.Join, c.opts.TLS)
	defer client.Close()
	var last string
	began := time.Now()
	for {
		err := c.registerOnce(ctx, client)
		switch {
		case errors.Is(err, ErrRemoved):
			if werr := os.WriteFile(c.removedMark(), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); werr != nil {
				return errors.Join(err, werr)
			}
			return err
		case errors.Is(err, errOtherCluster):
			return err
		// A moment without a leader is how every start begins.
		case err != nil && ctx.Err() == nil && err.Error() != last && time.Since(began) > 3*time.Second:
			last = err.Error()
			c.opts.Logger.Warn("not known to the cluster yet; trying on", "err", err)
		}
		wait := 5 * time.Second
		if err != nil {
			wait = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if err != nil {
				time.Sleep(20 * time.Millisecond) // a change often is our own doing; not a busy loop
			}
		case <-time.After(wait):
		}
	}
}

func (c *Coordinator) registerOnce(ctx context.Context, client *clusterclient.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	me := c.self()
	if !c.entered {
		if c.opts.BootstrapExpect > 1 {
			if err := c.together(ctx, client); err != nil || c.entered {
				return err
			}
		}
		if err := c.join(ctx, client, &clusterv1.JoinRequest{Node: me, Learner: true}); err != nil {
			return err
		}
		c.open()
		return errCatchingUp
	}
	var have *commandv1.Node
	c.fsm.View(func(s *state.State) { have, _ = s.Node(me.Id) })
	m, member := c.raft.Member(me.Id)
	voter := member && m.Voter
	if len(c.raft.Members()) > 1 {
		if err := c.raft.Grown(); err != nil {
			return err
		}
	}
	switch {
	case have == nil && c.listed:
		return ErrRemoved
	case have == nil && !voter:
		return errCatchingUp
	case have != nil:
		c.listed = true
	}
	if c.leading.Load() {
		if err := c.otherCluster(ctx, client); err != nil {
			return err
		}
	}
	if voter && proto.Equal(have, toCommand(me)) {
		return nil
	}
	return c.join(ctx, client, &clusterv1.JoinRequest{Node: me, ClusterId: c.clusterID()})
}

func (c *Coordinator) join(ctx context.Context, client *clusterclient.Client, r *clusterv1.JoinRequest) error {
	r.OldestProtocol = clusterv1.OldestProtocol
	if c.leading.Load() {
		return c.admit(ctx, r)
	}
	if _, leader := c.raft.Leader(); leader != "" {
		client.Learn(&clusterv1.InfoResponse{LeaderAddr: leader})
	}
	err := client.Leader(ctx, func(ctx context.Context, cc clusterv1.ClusterClient) error {
		_, err := cc.Join(ctx, r)
		return err
	})
	if status.Code(err) == codes.PermissionDenied {
		return ErrRemoved
	}
	return err
}

// together makes a cluster with the other coordinators that wait for one, when all of them are there and have the same in mind. It opens the
// node; when one of them is in a cluster already it leaves that to join, unless the cluster was made with this node a moment ago.
func (c *Coordinator) together(ctx context.Context, client *clusterclient.Client) error {
	expect := c.opts.BootstrapExpect
	found := map[string]raftnode.Member{c.opts.NodeID: {ID: c.opts.NodeID, Addr: c.Addr()}}
	for _, addr := range c.opts.Join {
		info, err := client.Ask(ctx, addr)
		if err != nil {
			return fmt.Errorf("%d coordinators are to make a cluster, but %s does not answer yet: %w", expect, addr, err)
		}
		peer := info.GetSelf()
		switch {
		case !peer.GetFresh():
			// A member that is not on the list is one that the group was made with a moment ago. One that is listed has votes and entries
			// to its name that the empty directory does not hold: it must follow first, and so must a stranger.
			listed := slices.ContainsFunc(info.Nodes, func(n *clusterv1.NodeInfo) bool { return n.Id == c.opts.NodeID })
			if slices.Contains(peer.GetMembers(), c.opts.NodeID) && !listed {
				c.open()
			}
			return nil
		case int(peer.BootstrapExpect) != expect:
			return fmt.Errorf("%s has bootstrap-expect %d and this node %d: give all of them the same", addr, peer.BootstrapExpect, expect)
		}
		found[peer.Id] = raftnode.Member{ID: peer.Id, Addr: peer.ClusterAddr}
	}
	if len(found) != expect {
		return fmt.Errorf("bootstrap-expect is %d, but --join and this node make %d coordinators with different ids", expect, len(found))
	}
	members := make([]raftnode.Member, 0, expect)
	for _, m := range found {
		members = append(members, m)
	}
	// The same list on all nodes, so that it does not matter who is first.
	slices.SortFunc(members, func(a, b raftnode.Member) int { return strings.Compare(a.ID, b.ID) })
	if err := c.raft.Bootstrap(members...); err != nil {
		return fmt.Errorf("make a cluster of %d coordinators: %w", expect, err)
	}
	c.open()
	return nil
}

// otherCluster returns an error when this node is a cluster of its own and the nodes to join are another one: two clusters where one was meant.
func (c *Coordinator) otherCluster(ctx context.Context, client *clusterclient.Client) error {
	if c.peersSeen || len(c.opts.Join) == 0 || len(c.raft.Members()) > 1 {
		return nil
	}
	mine := c.clusterID()
	for _, addr := range c.opts.Join {
		info, err := client.Ask(ctx, addr)
		if err != nil || info.GetSelf().GetClusterAddr() == c.Addr() || info.ClusterId == "" {
			continue
		}
		if info.ClusterId != mine {
			return fmt.Errorf("the data directory is of cluster %s, which this node leads alone, and %s is in %w, %s: to join that one start with an empty --data directory",
				mine, addr, errOtherCluster, info.ClusterId)
		}
	}
	c.peersSeen = true
	return nil
}

func (c *Coordinator) clusterID() (id string) {
	c.fsm.View(func(s *state.State) { id = s.Cluster().GetClusterId() })
	return id
}

// admit makes a node known, and a member of the Raft group when it is a coordinator. On the leader.
func (c *Coordinator) admit(ctx context.Context, r *clusterv1.JoinRequest) error {
	n := r.Node
	if err := clusterv1.CheckProtocol(n, r.OldestProtocol); err != nil {
		return fault.New(fault.Conflict, "%v", err)
	}
	if mine := c.clusterID(); r.ClusterId != "" && r.ClusterId != mine {
		return fault.New(fault.Conflict, "the data of node %s is of cluster %s and this is cluster %s: start it with an empty --data directory", n.Id, r.ClusterId, mine)
	}
	var have *commandv1.Node
	c.fsm.View(func(s *state.State) { have, _ = s.Node(n.Id) })
	if n.Coordinator && n.Id != c.opts.NodeID {
		if err := c.enrol(ctx, n, r.Learner, have != nil); err != nil {
			return fmt.Errorf("add coordinator %s: %w", n.Id, err)
		}
	}
	if have != nil && proto.Equal(have, toCommand(n)) {
		return nil
	}
	_, err := c.raft.Propose(ctx, command(&commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: toCommand(n)}}}))
	if err != nil {
		return fmt.Errorf("store node %s: %w", n.Id, err)
	}
	c.opts.Logger.Info("node joined", "node", n.Id, "coordinator", n.Coordinator, "worker", n.Worker)
	return nil
}

// enrol gives a coordinator its place in the Raft group.
func (c *Coordinator) enrol(ctx context.Context, n *clusterv1.NodeInfo, learner, listed bool) error {
	m, member := c.raft.Member(n.Id)
	switch {
	case !member && n.Protocol < 2: // knows nothing of learners
		return c.raft.AddVoter(ctx, n.Id, n.ClusterAddr)
	case !member && !learner:
		return ErrRemoved // it knows the cluster, which no longer knows it
	case !member:
		return c.raft.AddLearner(ctx, n.Id, n.ClusterAddr)
	case learner && listed && m.Voter:
		// It has lost its directory, and with it votes and entries that were counted.
		c.opts.Logger.Warn("coordinator comes back without its data: it follows first", "node", n.Id)
		if err := c.raft.Remove(ctx, n.Id); err != nil {
			return err
		}
		return c.raft.AddLearner(ctx, n.Id, n.ClusterAddr)
	case learner && m.Addr != n.ClusterAddr:
		return c.raft.AddLearner(ctx, n.Id, n.ClusterAddr)
	case !learner && (!m.Voter || m.Addr != n.ClusterAddr):
		return c.raft.AddVoter(ctx, n.Id, n.ClusterAddr)
	}
	return nil
}

// Remove takes a node out of the cluster: off the list, and out of the Raft group. A live coordinator ends when it learns of it. On the leader.
func (c *Coordinator) Remove(ctx context.Context, id string) error {
	if !c.leading.Load() {
		return ErrNotLeader
	}
	var node *commandv1.Node
	c.fsm.View(func(s *state.State) { node, _ = s.Node(id) })
	m, member := c.raft.Member(id)
	switch {
	case node == nil && !member:
		return fault.New(fault.NotFound, "Node %s is not in the cluster", id)
	case id == c.opts.NodeID:
		return fault.New(fault.Conflict, "Node %s leads: hand leadership over first (millrace cluster transfer), then remove it", id)
	case !member && c.sessions.Alive(id):
		return fault.New(fault.Conflict, "Worker %s is alive: stop it first (its tasks move while it ends), then remove it", id)
	}
	if err := c.quorumWithout(m); err != nil {
		return err
	}
	if node != nil {
		// First, so that the node gets this entry while it still gets any.
		if _, err := c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_RemoveNode{RemoveNode: &commandv1.RemoveNode{Id: id}}}); err != nil {
			return fmt.Errorf("remove node %s: %w", id, err)
		}
	}
	if member {
		if err := c.raft.Remove(ctx, id); err != nil {
			return fmt.Errorf("remove coordinator %s: %w", id, err)
		}
	}
	c.opts.Logger.Info("node removed", "node", id, "coordinator", member)
	return nil
}

// quorumWithout refuses to remove a voter when those that answer would then be no majority: the cluster could not store that it has.
func (c *Coordinator) quorumWithout(m raftnode.Member) error {
	if !m.Voter {
		return nil
	}
	voters, answer := 0, 0
	for _, o := range c.raft.Members() {
		if o.Voter && o.ID != m.ID {
			voters++
			if !o.Away {
				answer++
			}
		}
	}
	if answer <= voters/2 {
		return fault.New(fault.Conflict, "Without %s only %d of %d coordinators would answer, which is no majority: start another one first", m.ID, answer, voters)
	}
	return nil
}

// Transfer hands leadership to a coordinator, empty: to the one whose log is furthest, and returns who leads then. On the leader.
func (c *Coordinator) Transfer(ctx context.Context, to string) (string, error) {
	if !c.leading.Load() {
		return "", ErrNotLeader
	}
	m, member := c.raft.Member(to)
	switch {
	case to == c.opts.NodeID:
		return to, nil
	case to != "" && (!member || !m.Voter):
		return "", fault.New(fault.NotFound, "%s is no coordinator that can lead", to)
	case m.Away:
		return "", fault.New(fault.Conflict, "Coordinator %s does not answer", to)
	case c.raft.Voters() < 2:
		return "", fault.New(fault.Conflict, "There is no other coordinator to lead")
	}
	if err := c.raft.Transfer(ctx, to); err != nil {
		return "", fault.New(fault.Unavailable, "Leadership was not handed over: %v", err)
	}
	id, _ := c.raft.Leader()
	return id, nil
}

// SetDrain drains a worker, or takes that back. On the leader.
func (c *Coordinator) SetDrain(ctx context.Context, id string, drained bool) error {
	var node *commandv1.Node
	c.fsm.View(func(s *state.State) { node, _ = s.Node(id) })
	if !node.GetWorker() {
		return fault.New(fault.NotFound, "%s is no worker of the cluster", id)
	}
	_, err := c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: id, Drained: drained}}})
	return err
}

// Image returns the state with all in it that was stored before the call. On the leader.
func (c *Coordinator) Image(ctx context.Context) (*commandv1.Image, error) {
	if !c.leading.Load() {
		return nil, ErrNotLeader
	}
	if err := c.raft.Barrier(ctx); err != nil {
		return nil, err
	}
	var img *commandv1.Image
	c.fsm.View(func(s *state.State) { img = s.Image() })
	return img, nil
}

// Restore puts the connectors of an image in the place of the cluster's own. On the leader.
func (c *Coordinator) Restore(ctx context.Context, img *commandv1.Image) error {
	now, err := c.Image(ctx)
	if err != nil {
		return err
	}
	// The cluster's id changes, which workers learn with their hellos: none may come in between, and all must come after.
	c.restoring.Store(true)
	defer c.restoring.Store(false)
	c.sessions.Lead()
	defer c.sessions.Lead()
	return c.raft.Restore(ctx, state.Transplant(img, now, c.raft.LastIndex()))
}
