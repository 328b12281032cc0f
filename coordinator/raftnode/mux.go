package raftnode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/internal/tlsfile"
)

// raftMagic is the first byte of a connection that carries Raft; gRPC's begin with "PRI".
const raftMagic = 0x01

// Mux shares one listener between Raft and gRPC, told apart by a connection's first byte.
type Mux struct {
	port      Port
	l         net.Listener
	advertise net.Addr
	raft      *half
	grpc      *half
	closed    chan struct{}
	once      sync.Once
	open      atomic.Bool
	refusals  refusals
}

// Port says how the cluster's port is opened.
type Port struct {
	// Addr is listened on; Advertise is what others dial, empty: the listener's own address.
	Addr, Advertise string
	// TLS, if set, is for the connections that come in; both sides show certificates.
	TLS *tlsfile.Source
	// Listen and Dial, if set, stand in for the host's network. With TLS, Dial has to speak it.
	Listen func(network, addr string) (net.Listener, error)
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger *slog.Logger
}

// Listen opens the cluster's port.
func Listen(p Port) (*Mux, error) {
	if p.Listen == nil {
		p.Listen = net.Listen
	}
	if p.Dial == nil {
		p.Dial = new(net.Dialer).DialContext
	}
	l, err := p.Listen("tcp", p.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (--cluster): %w", p.Addr, err)
	}
	if p.Advertise == "" {
		p.Advertise = l.Addr().String()
	}
	m := &Mux{port: p, l: l, advertise: address(p.Advertise), closed: make(chan struct{})}
	m.raft, m.grpc = m.half(), m.half()
	return m, nil
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// Advertised is the address that others dial.
func (m *Mux) Advertised() string { return m.advertise.String() }

// OpenRaft lets Raft's connections in; until then they are closed, so that a node with an empty directory takes no part in the group before it is
// known what it may do there.
func (m *Mux) OpenRaft() { m.open.Store(true) }

// Serve accepts until Close. It returns when all it started has ended.
func (m *Mux) Serve() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := m.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			select {
			case <-m.closed:
				return nil
			case <-time.After(10 * time.Millisecond): // out of file descriptors, most likely
				continue
			}
		}
		wg.Go(func() { m.route(c) })
	}
}

func (m *Mux) route(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	c, err := m.secure(c)
	if err != nil {
		m.refuse(c, err)
		return
	}
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		_ = c.Close()
		return
	}
	if m.port.TLS == nil && first[0] == tlsHello {
		m.refuse(c, errNotTLS)
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	to := m.grpc
	if first[0] == raftMagic {
		_, _ = r.Discard(1)
		to = m.raft
		if !m.open.Load() {
			_ = c.Close()
			return
		}
	}
	select {
	case to.conns <- &peeked{c, r}:
	case <-to.closed:
		_ = c.Close()
	case <-m.closed:
		_ = c.Close()
	}
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// Close stops accepting.
func (m *Mux) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.l.Close()
}

// GRPC is the listener for a gRPC server. Closing it ends its part only: the Mux owns the port.
func (m *Mux) GRPC() net.Listener { return m.grpc }

// Raft is the stream layer for Raft.
func (m *Mux) Raft() raft.StreamLayer { return m.raft }

type half struct {
	m      *Mux
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (m *Mux) half() *half {
	return &half{m: m, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *half) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	case <-h.m.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *half) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *half) Addr() net.Addr { return h.m.advertise }

// Dial implements raft.StreamLayer.
func (h *half) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := h.m.port.Dial(ctx, "tcp", string(addr))
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{raftMagic}); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
