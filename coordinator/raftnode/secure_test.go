package raftnode

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/pki"
	"github.com/millrace/millrace/internal/tlsfile"
)

// A node with TLS that asks one without is told by that one's log, once; somebody who only looks whether the port is open is not mentioned.
func TestNodeWithoutTLSRefusesTLS(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.New(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(dir, "node", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	source, err := tlsfile.Load(tlsfile.Files{Cert: cert, Key: key, CA: ca.File}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var log lines
	m, err := Listen(Port{Addr: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Serve() }()
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	look, err := net.Dial("tcp", m.Advertised())
	if err != nil {
		t.Fatal(err)
	}
	_ = look.Close()
	for range 3 {
		if _, err := source.DialContext(t.Context(), "tcp", m.Advertised()); err == nil {
			t.Fatal("a handshake with a port without TLS")
		}
	}
	testkit.Eventually(t, 5*time.Second, "three refusals are counted", func() error {
		if m.Refused() != 3 {
			return errNotTLS
		}
		return nil
	})
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "set cluster-tls-cert") {
		t.Errorf("log:\n%s", said)
	}
}

type lines struct {
	mu sync.Mutex // guards: b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
