package tlsfile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Files names PEM files. Cert may be followed by its intermediates, in one file.
type Files struct {
	Cert, Key string
	// CA are the authorities that the other side's certificate must come from; empty: the system's.
	CA string
}

// Set reports whether any file is named.
func (f Files) Set() bool { return f.Cert != "" || f.Key != "" || f.CA != "" }

// Source is what the files hold now. Safe for concurrent use.
type Source struct {
	files   Files
	log     *slog.Logger
	now     atomic.Pointer[material]
	reloads atomic.Uint64
	bad     atomic.Uint64

	mu     sync.Mutex // guards: looked, stamp
	looked time.Time
	stamp  string
}

type material struct {
	cert *tls.Certificate // nil: none is shown
	pool *x509.CertPool   // nil: the system's
}

// lookEvery bounds how often the files are looked at.
const lookEvery = time.Second

// Load reads the files for the first time; what is wrong with them is an error that names the file.
func Load(f Files, log *slog.Logger) (*Source, error) {
	s := &Source{files: f, log: log, looked: time.Now(), stamp: f.stamp()}
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	s.now.Store(m)
	return s, nil
}

// Reloads counts how often changed files were taken up, and how often they could not be.
func (s *Source) Reloads() (good, bad uint64) { return s.reloads.Load(), s.bad.Load() }

// Expires is when the certificate ends; zero when there is none.
func (s *Source) Expires() time.Time {
	if c := s.current().cert; c != nil {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

func (f Files) read() (*material, error) {
	m := &material{}
	if f.Cert != "" || f.Key != "" {
		c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
		}
		m.cert = &c
	}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		m.pool = x509.NewCertPool()
		if !m.pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate authorities: %s holds no certificate in PEM form", f.CA)
		}
	}
	return m, nil
}

// stamp changes when a file does. Names are followed: Kubernetes replaces a link.
func (f Files) stamp() string {
	var b strings.Builder
	for _, name := range []string{f.Cert, f.Key, f.CA} {
		if st, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%d %d", st.ModTime().UnixNano(), st.Size())
		}
		b.WriteByte('|')
	}
	return b.String()
}

func (s *Source) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < lookEvery {
		return s.now.Load()
	}
	s.looked = time.Now()
	stamp := s.files.stamp()
	if stamp == s.stamp {
		return s.now.Load()
	}
	s.stamp = stamp
	m, err := s.files.read()
	if err != nil {
		// Certificate and key are two files, replaced one after the other: the next look may find them whole.
		s.bad.Add(1)
		s.log.Warn("changed certificates can't be used; the last good ones stay", "err", err)
		return s.now.Load()
	}
	s.reloads.Add(1)
	s.now.Store(m)
	s.log.Info("certificates reloaded", "cert", s.files.Cert, "ca", s.files.CA)
	return m
}

// Server is the configuration of a listener. With any other auth than tls.NoClientCert the clients' certificates are checked against CA.
func (s *Source) Server(auth tls.ClientAuthType, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := s.current()
			c := &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: auth, ClientCAs: m.pool, NextProtos: protocols}
			if m.cert == nil {
				return nil, errors.New("no certificate is set")
			}
			c.Certificates = []tls.Certificate{*m.cert}
			return c, nil
		},
	}
}

// DialContext connects to host:port, shows the certificate if asked for one, and checks the server's against CA and the host. It is made anew
// for each connection because crypto/tls takes a client's authorities once only.
func (s *Source) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	m := s.current()
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.pool}
	if m.cert != nil {
		// Shown whatever authorities the server names: "unknown authority" says more than "no certificate".
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.cert, nil }
	}
	d := tls.Dialer{Config: c}
	return d.DialContext(ctx, network, addr)
}
