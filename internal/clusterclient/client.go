// Package clusterclient finds the leader among the coordinators and talks to it: for workers, joining nodes and REST
// forwarding.
//
// A Client is safe for concurrent use. It keeps one connection to each address it has used and no goroutines of its own.
package clusterclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// ErrNoLeader: no coordinator that answers knows a leader.
var ErrNoLeader = errors.New("no leader is known")

// Dialer connects to an address.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Client knows some coordinators and learns of more.
type Client struct {
	dialer Dialer

	mu    sync.Mutex // guards: addrs, conns, hint
	addrs []string
	conns map[string]*grpc.ClientConn
	hint  string
}

// New makes a client that begins with the given cluster addresses. It does no I/O. A nil Dialer is the host's network, without TLS.
func New(addrs []string, d Dialer) *Client {
	return &Client{dialer: d, addrs: slices.Clone(addrs), conns: map[string]*grpc.ClientConn{}}
}

// Learn adds addresses of coordinators.
func (c *Client) Learn(info *clusterv1.InfoResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range info.GetNodes() {
		if n.Coordinator && !slices.Contains(c.addrs, n.ClusterAddr) {
			c.addrs = append(c.addrs, n.ClusterAddr)
		}
	}
	if a := info.GetLeaderAddr(); a != "" {
		c.hint = a
	}
}

// candidates lists the addresses to try, the likeliest first.
func (c *Client) candidates() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []string{}
	if c.hint != "" {
		out = append(out, c.hint)
	}
	for _, a := range c.addrs {
		if a != c.hint {
			out = append(out, a)
		}
	}
	return out
}

func (c *Client) dial(addr string) (clusterv1.ClusterClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[addr]; conn != nil {
		return clusterv1.NewClusterClient(conn), nil
	}
	opts := []grpc.DialOption{
		// The dialer below does the TLS, one for gRPC and for Raft, whose connections share the port.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A restarted coordinator should be found in milliseconds, not after gRPC's default of seconds.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)),
	}
	if d := c.dialer; d != nil {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return d(ctx, "tcp", addr) }))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	c.conns[addr] = conn
	return clusterv1.NewClusterClient(conn), nil
}

// Leader calls f with coordinators until one does not answer that it is not the leader. It follows hints, and returns the last error when
// each has been tried.
func (c *Client) Leader(ctx context.Context, f func(context.Context, clusterv1.ClusterClient) error) error {
	tried := map[string]bool{}
	queue := c.candidates()
	var last error
	for len(queue) > 0 {
		addr := queue[0]
		queue = queue[1:]
		if tried[addr] || addr == "" {
			continue
		}
		tried[addr] = true
		client, err := c.dial(addr)
		if err != nil {
			last = err
			continue
		}
		err = f(ctx, client)
		if err == nil {
			c.mu.Lock()
			c.hint = addr
			c.mu.Unlock()
			return nil
		}
		last = err
		hint, notLeader := NotLeader(err)
		switch {
		case notLeader && hint != "":
			queue = append([]string{hint}, queue...)
		case notLeader, status.Code(err) == codes.Unavailable, status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil:
		default:
			return err
		}
	}
	if last == nil {
		last = ErrNoLeader
	}
	return last
}

// Info asks any coordinator that answers, preferring what knows a leader.
func (c *Client) Info(ctx context.Context) (*clusterv1.InfoResponse, error) {
	var found *clusterv1.InfoResponse
	var last error = ErrNoLeader
	for _, addr := range c.candidates() {
		info, err := c.Ask(ctx, addr)
		if err != nil {
			last = err
			continue
		}
		if found = info; info.LeaderAddr != "" {
			break
		}
	}
	if found == nil {
		return nil, fmt.Errorf("ask the coordinators: %w", last)
	}
	c.Learn(found)
	return found, nil
}

// Ask asks the coordinator at one address.
func (c *Client) Ask(ctx context.Context, addr string) (*clusterv1.InfoResponse, error) {
	client, err := c.dial(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return client.Info(ctx, &clusterv1.InfoRequest{})
}

// NotLeader reports whether err is a coordinator's answer that it does not lead, and whom it thinks does.
func NotLeader(err error) (hint string, ok bool) {
	s, isStatus := status.FromError(err)
	if !isStatus {
		return "", false
	}
	for _, d := range s.Details() {
		if n, is := d.(*clusterv1.NotLeader); is {
			return n.LeaderAddr, true
		}
	}
	return "", false
}

// NotLeaderError is that answer.
func NotLeaderError(leader string) error {
	s := status.New(codes.FailedPrecondition, "this node is not the leader")
	if d, err := s.WithDetails(&clusterv1.NotLeader{LeaderAddr: leader}); err == nil {
		s = d
	}
	return s.Err()
}

// Close closes all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	clear(c.conns)
	return errors.Join(errs...)
}
