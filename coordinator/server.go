package coordinator

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/reconcile"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/clusterclient"
	"github.com/millrace/millrace/internal/fault"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// server answers the other nodes.
type server struct {
	clusterv1.UnimplementedClusterServer
	c *Coordinator
}

// serve starts the gRPC server; what it returns stops it.
func (c *Coordinator) serve(g *errgroup.Group) (stop func()) {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		// Workers ping every 10 s; gRPC's default would take that for abuse.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	clusterv1.RegisterClusterServer(s, server{c: c})
	g.Go(func() error {
		if err := s.Serve(c.mux.GRPC()); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			c.opts.Logger.Debug("grpc server ended", "err", err)
		}
		return nil
	})
	return s.Stop
}

func (s server) notLeader() error {
	_, addr := s.c.raft.Leader()
	if addr == s.c.Addr() {
		addr = ""
	}
	return clusterclient.NotLeaderError(addr)
}

// Info implements Cluster.
func (s server) Info(context.Context, *clusterv1.InfoRequest) (*clusterv1.InfoResponse, error) {
	return s.c.Info(), nil
}

// Join implements Cluster.
func (s server) Join(ctx context.Context, r *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	if !s.c.leading.Load() {
		return nil, s.notLeader()
	}
	if r.GetNode().GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, "node has no id")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.c.admit(ctx, r); err != nil {
		switch {
		case errors.Is(err, ErrNotLeader):
			return nil, s.notLeader()
		case errors.Is(err, ErrRemoved):
			return nil, status.Error(codes.PermissionDenied, err.Error())
		case fault.KindOf(err) == fault.Conflict:
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &clusterv1.JoinResponse{Info: s.c.Info()}, nil
}

// Session implements Cluster. The receiving half runs here; the sending half is a goroutine that ends with the stream.
func (s server) Session(stream clusterv1.Cluster_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetNode().GetId() == "" || hello.GetBootId() == "" {
		return status.Error(codes.InvalidArgument, "a session begins with a hello that names node and boot")
	}
	if !s.c.leading.Load() || s.c.restoring.Load() {
		return s.notLeader()
	}
	if err := clusterv1.CheckProtocol(hello.Node, hello.OldestProtocol); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	ctx := stream.Context()
	if err := s.c.admitWorker(ctx, hello.Node); err != nil {
		return s.notLeader()
	}
	if !s.c.sessions.Hello(hello) {
		return status.Errorf(codes.AlreadyExists, "another process with the node id %q is alive", hello.Node.Id)
	}
	id, boot := hello.Node.Id, hello.BootId
	defer s.c.sessions.Closed(id, boot)
	s.c.opts.Logger.Info("worker session", "worker", id, "running", len(hello.Running))

	acks := make(chan uint64, 1)
	g, run := errgroup.WithContext(ctx)
	g.Go(func() error { return s.send(run, stream, hello, acks) })
	g.Go(func() error {
		for {
			m, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					return errEnded
				}
				return err
			}
			h := m.GetHeartbeat()
			if h == nil {
				return status.Error(codes.InvalidArgument, "only heartbeats follow the hello")
			}
			if !s.c.leading.Load() || !s.c.sessions.Heartbeat(id, boot, h) {
				return s.notLeader()
			}
			if h.Leaving {
				return errEnded
			}
			// Only the newest heartbeat needs an answer.
			select {
			case <-acks:
			default:
			}
			acks <- h.Seq
		}
	})
	if err := g.Wait(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

var errEnded = errors.New("session ended")

// admitWorker stores the node if it is new or changed.
func (c *Coordinator) admitWorker(ctx context.Context, n *clusterv1.NodeInfo) error {
	var same bool
	c.fsm.View(func(s *state.State) {
		have, ok := s.Node(n.Id)
		// A node that is a coordinator too registers itself.
		same = ok && (have.Coordinator || proto.Equal(have, toCommand(n)))
	})
	if same || n.Coordinator {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.admit(ctx, &clusterv1.JoinRequest{Node: n})
}

// send is the sending half: welcome, then answers to heartbeats, and what the worker is to run whenever that differs from what was sent last.
func (s server) send(ctx context.Context, stream clusterv1.Cluster_SessionServer, hello *clusterv1.Hello, acks <-chan uint64) error {
	worker, boot := hello.Node.Id, hello.BootId
	t, signals := s.c.opts.Timing, s.c.sessions.Signals(worker, boot)
	changed, stop := s.c.watch()
	defer stop()
	err := stream.Send(&clusterv1.LeaderMessage{Kind: &clusterv1.LeaderMessage_Welcome{Welcome: &clusterv1.Welcome{
		LeaseMs: t.Lease.Milliseconds(), HeartbeatIntervalMs: t.Heartbeat.Milliseconds(), Info: s.c.Info(), Protocol: clusterv1.Protocol,
	}}})
	if err != nil {
		return err
	}
	feed := reconcile.Feed{Worker: worker, Whole: hello.Node.Protocol < 2}
	stale := changed // nil while the set has just been looked at
	var rest <-chan time.Time
	look := func() error {
		stale, rest = nil, time.After(setInterval)
		var now *clusterv1.Assignments
		s.c.fsm.View(func(st *state.State) {
			// I1: what is in a message may run from when it is sent, whatever the hello before it said. Under the state's lock, so that nobody can take a
			// unit back between.
			if now = feed.Next(st); now != nil {
				s.c.sessions.HoldAll(worker, boot, now)
			}
		})
		if now == nil {
			return nil
		}
		if !s.c.leading.Load() {
			return s.notLeader()
		}
		return stream.Send(&clusterv1.LeaderMessage{Kind: &clusterv1.LeaderMessage_Assignments{Assignments: now}})
	}
	// strays asks for units that the worker was given and that were taken back before it saw them: it would never say that it has let go, and
	// nobody else could get them. The set without them goes first, so that the worker can't start one after it has said that it does not run it (I1).
	strays := func() error {
		var list []*clusterv1.Running
		s.c.fsm.View(func(st *state.State) {
			list = s.c.sessions.Strays(worker, boot, func(u state.UnitID) bool { a, ok := st.Assignment(u); return ok && a.Worker == worker })
		})
		if len(list) == 0 {
			return nil
		}
		if err := look(); err != nil {
			return err
		}
		return stream.Send(&clusterv1.LeaderMessage{Kind: &clusterv1.LeaderMessage_Strays{Strays: &clusterv1.Strays{Units: list}}})
	}
	if err := look(); err != nil {
		return err
	}
	var asked time.Time // for strays
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case seq := <-acks:
			if err := stream.Send(&clusterv1.LeaderMessage{Kind: &clusterv1.LeaderMessage_Ack{Ack: &clusterv1.HeartbeatAck{Seq: seq}}}); err != nil {
				return err
			}
			// Nobody is in a hurry, and when news come in their answers do, too.
			if time.Since(asked) < t.Heartbeat {
				continue
			}
			asked = time.Now()
			if err := strays(); err != nil {
				return err
			}
		case sig := <-signals:
			if err := stream.Send(&clusterv1.LeaderMessage{Kind: &clusterv1.LeaderMessage_Signal{Signal: sig}}); err != nil {
				return err
			}
		case <-rest:
			stale, rest = changed, nil
		case <-stale:
			if err := look(); err != nil {
				return err
			}
		}
	}
}

// setInterval is the least time between two looks at a worker's set: each looks at all of it, so a thousand changes in a row, such as the creation of
// a thousand connectors, must not make a thousand looks.
const setInterval = 10 * time.Millisecond
