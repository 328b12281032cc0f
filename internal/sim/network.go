package sim

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// network joins machines by streams that behave as TCP: what is lost comes later, what is cut waits, and order holds. Safe for concurrent use.
type network struct {
	mu        sync.Mutex // guards: all below and all fields of conns and halves
	rng       *rand.Rand
	listeners map[string]*listener // by address
	cut       map[link]int         // how many faults cut it
	paused    map[string]int
	slow      map[link]time.Duration
	lossy     map[link]float64
	conns     map[*conn]struct{}
	changed   chan struct{} // closed when something above changes for streams that wait
}

// link is one direction between two machines.
type link struct{ from, to string }

// machineDown is what those see who call a machine that does not run.
var errRefused = errors.New("connection refused")

func newNetwork(seed uint64) *network {
	return &network{
		rng: rand.New(rand.NewPCG(seed, 2)), listeners: map[string]*listener{}, cut: map[link]int{}, paused: map[string]int{},
		slow: map[link]time.Duration{}, lossy: map[link]float64{}, conns: map[*conn]struct{}{}, changed: make(chan struct{}),
	}
}

// change applies a change of the network's state and wakes the streams.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// blocked reports whether nothing goes over the link now. With mu held.
func (n *network) blocked(l link) bool {
	return n.cut[l] > 0 || n.paused[l.from] > 0 || n.paused[l.to] > 0
}

// delay is how long the next bytes take. With mu held.
func (n *network) delay(l link) time.Duration {
	d := time.Duration(n.rng.Int64N(int64(time.Millisecond)))
	if l.from != l.to {
		d += 200*time.Microsecond + n.slow[l]
		for again := 200 * time.Millisecond; n.rng.Float64() < n.lossy[l]; again *= 2 {
			if d += again; again > 2*time.Second {
				break
			}
		}
	}
	return d
}

// host is a machine's network while one process runs on it.
type host struct {
	n    *network
	name string
	dead bool // guarded by n.mu
}

func (n *network) host(name string) *host { return &host{n: n, name: name} }

// kill ends the process: its connections are gone, and the others learn of it unless silent.
func (h *host) kill(silent bool) {
	h.n.change(func() {
		h.dead = true
		for addr, l := range h.n.listeners {
			if l.host == h {
				delete(h.n.listeners, addr)
				l.close()
			}
		}
		for c := range h.n.conns {
			if c.host == h {
				c.closed = true
				c.out.ended = !silent
				delete(h.n.conns, c)
			}
		}
	})
}

// reset breaks all connections of a machine, at both ends.
func (n *network) reset(name string) {
	n.change(func() {
		for c := range n.conns {
			if c.host.name == name || c.peer == name {
				c.closed, c.out.ended = true, true
				delete(n.conns, c)
			}
		}
	})
}

type listener struct {
	host  *host
	addr  address
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

type address string

func (address) Network() string  { return "sim" }
func (a address) String() string { return string(a) }

// listen opens an address of the machine.
func (h *host) listen(_, addr string) (net.Listener, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.n.listeners[addr] != nil || h.dead {
		return nil, errors.New("address in use")
	}
	l := &listener{host: h, addr: address(addr), conns: make(chan net.Conn, 64), done: make(chan struct{})}
	h.n.listeners[addr] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) close() { l.once.Do(func() { close(l.done) }) }

// Close implements net.Listener.
func (l *listener) Close() error {
	l.host.n.mu.Lock()
	defer l.host.n.mu.Unlock()
	if l.host.n.listeners[string(l.addr)] == l {
		delete(l.host.n.listeners, string(l.addr))
	}
	l.close()
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// dial connects to an address. Over a link that is cut it waits until it is whole or ctx ends.
func (h *host) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	for {
		c, wait, err := h.connect(addr)
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait:
		}
	}
}

// dialKafka connects to the broker at once or not at all, and what is said at that moment takes no time: sarama holds a mutex meanwhile, and fake
// time stands still while anybody waits for one.
func (h *host) dialKafka(_ context.Context, _, addr string) (net.Conn, error) {
	c, _, err := h.connect(addr)
	if c == nil {
		return nil, errors.Join(err, errRefused)
	}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	c.out.free, c.in.free = time.Now(), time.Now()
	return c, nil
}

func (h *host) connect(addr string) (*conn, <-chan struct{}, error) {
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[addr]
	to, _, err := net.SplitHostPort(addr)
	if err != nil || h.dead {
		return nil, nil, errors.Join(err, errRefused)
	}
	if n.blocked(link{h.name, to}) || n.blocked(link{to, h.name}) {
		return nil, n.changed, nil
	}
	if l == nil {
		return nil, nil, errRefused
	}
	there, back := newHalf(n, link{h.name, to}), newHalf(n, link{to, h.name})
	mine := &conn{host: h, peer: to, in: back, out: there, local: address(h.name + ":0"), remote: l.addr}
	theirs := &conn{host: l.host, peer: h.name, in: there, out: back, local: l.addr, remote: address(h.name + ":0")}
	select {
	case l.conns <- theirs:
	default:
		return nil, nil, errRefused
	}
	n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
	return mine, nil, nil
}

// half is one direction of a connection.
type half struct {
	n     *network
	link  link
	queue []segment
	last  time.Time
	// ended: nothing follows the queue.
	ended bool
	// What is written at this moment takes no time and passes over what is cut.
	free time.Time
	wake chan struct{}
}

type segment struct {
	due  time.Time
	data []byte
	free bool
}

func newHalf(n *network, l link) *half { return &half{n: n, link: l, wake: make(chan struct{}, 1)} }

func (f *half) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take moves what has arrived into b. When there is nothing yet it returns how long to wait (0: until something changes). With mu held.
func (f *half) take(b []byte) (n int, wait time.Duration, err error) {
	if len(f.queue) == 0 {
		// What a dead peer's kernel says travels as its data does.
		if f.ended && !f.n.blocked(f.link) {
			return 0, 0, io.EOF
		}
		return 0, 0, nil
	}
	s := &f.queue[0]
	if f.n.blocked(f.link) && !s.free {
		return 0, 0, nil
	}
	if wait := time.Until(s.due); wait > 0 {
		return 0, wait, nil
	}
	n = copy(b, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		f.queue = f.queue[1:]
	}
	return n, 0, nil
}

// conn is one end of a connection. Writes never block: the kernel's buffers are as large as need be.
type conn struct {
	host          *host
	peer          string
	in, out       *half
	local, remote address
	closed        bool
	deadline      time.Time // of reads
}

var _ net.Conn = (*conn)(nil)

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	for {
		c.host.n.mu.Lock()
		if c.closed {
			c.host.n.mu.Unlock()
			return 0, net.ErrClosed
		}
		n, wait, err := c.in.take(b)
		changed, deadline := c.host.n.changed, c.deadline
		c.host.n.mu.Unlock()
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			if wait == 0 || left < wait {
				wait = left
			}
		}
		pause(wait, changed, c.in.wake)
	}
}

// pause waits for one of the channels, or for d if it is not 0.
func pause(d time.Duration, changed, wake <-chan struct{}) {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-changed:
	case <-wake:
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	n := c.host.n
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.out.ended:
		return 0, io.ErrClosedPipe
	}
	s := segment{due: time.Now(), data: append([]byte(nil), b...)}
	if s.due.Equal(c.out.free) {
		s.free = true
	} else {
		s.due = s.due.Add(n.delay(c.out.link))
	}
	if s.due.Before(c.out.last) {
		s.due = c.out.last
	}
	c.out.last = s.due
	c.out.queue = append(c.out.queue, s)
	c.out.poke()
	return len(b), nil
}

// Close implements net.Conn. What was written still arrives, as it does with TCP.
func (c *conn) Close() error {
	n := c.host.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed, c.out.ended = true, true
	delete(n.conns, c)
	c.out.poke()
	c.in.poke()
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn; writes do not wait.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.host.n.mu.Lock()
	defer c.host.n.mu.Unlock()
	c.deadline = t
	c.in.poke()
	return nil
}
