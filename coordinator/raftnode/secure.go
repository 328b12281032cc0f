package raftnode

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// tlsHello is the first byte of a connection that begins with TLS.
const tlsHello = 0x16

var errNotTLS = errors.New("it speaks TLS and this node does not: set cluster-tls-cert, cluster-tls-key and cluster-tls-ca on all nodes or on none")

// secure does the handshake where the port has TLS.
func (m *Mux) secure(c net.Conn) (net.Conn, error) {
	if m.port.TLS == nil {
		return c, nil
	}
	t := tls.Server(c, m.port.TLS.Server(tls.RequireAndVerifyClientCert))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return t, t.HandshakeContext(ctx)
}

// refusals keeps a node that tries again and again from filling the log, and counts.
type refusals struct {
	mu    sync.Mutex // guards: the rest
	count uint64
	last  string
	at    time.Time
}

// Refused counts the connections that were refused: no certificate, a wrong one, or no TLS at all.
func (m *Mux) Refused() uint64 {
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	return m.refusals.count
}

// refuse closes a connection and says why.
func (m *Mux) refuse(c net.Conn, err error) {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	_ = c.Close()
	if errors.Is(err, io.EOF) {
		return // somebody looked whether the port is open
	}
	r, now := &m.refusals, time.Now()
	r.mu.Lock()
	r.count++
	say := r.last != host+err.Error() || now.Sub(r.at) > 10*time.Second
	if say {
		r.last, r.at = host+err.Error(), now
	}
	r.mu.Unlock()
	if say && m.port.Logger != nil {
		m.port.Logger.Warn("a connection to the cluster's port was refused", "remote", host, "err", err)
	}
}
