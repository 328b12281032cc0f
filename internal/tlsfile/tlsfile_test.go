package tlsfile

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit/pki"
)

func authority(t *testing.T, dir, name string) *pki.Authority {
	t.Helper()
	a, err := pki.New(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *pki.Authority, dir, name string, hosts ...string) Files {
	t.Helper()
	cert, key, err := a.Issue(dir, name, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return Files{Cert: cert, Key: key, CA: a.File}
}

func load(t *testing.T, f Files) *Source {
	t.Helper()
	s, err := Load(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve echoes one byte on each connection and tells how its handshakes end.
func serve(t *testing.T, c *tls.Config) (addr string, ended <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs, done := make(chan error, 16), make(chan struct{})
	go func() {
		defer close(done)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, c)
			errs <- conn.Handshake()
			_, _ = conn.Write([]byte{1})
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), errs
}

// dial returns the first error that the client sees: TLS 1.3 tells of a refused client certificate only when something is read.
func dial(t *testing.T, addr string, s *Source) (serial string, err error) {
	t.Helper()
	conn, err := s.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return "", err
	}
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func TestHandshakes(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := authority(t, dir, "ours"), authority(t, dir, "theirs")
	server := issue(t, ours, dir, "server", "127.0.0.1")
	elsewhere := issue(t, ours, dir, "elsewhere", "node9.example")
	stranger := issue(t, theirs, dir, "stranger", "127.0.0.1")
	trusting := stranger
	trusting.CA = ours.File
	for _, c := range []struct {
		name           string
		server, client Files
		want           string // in the client's error; empty: connects
		serverSees     string
	}{
		{"both of one authority", server, server, "", ""},
		{"client of another authority", server, trusting, "unknown certificate authority", "certificate signed by unknown authority"},
		{"client without a certificate", server, Files{CA: ours.File}, "certificate required", "client didn't provide a certificate"},
		{"server of another authority", stranger, server, "certificate signed by unknown authority", "bad certificate"},
		{"server under another name", elsewhere, server, "127.0.0.1", "bad certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, ended := serve(t, load(t, c.server).Server(tls.RequireAndVerifyClientCert))
			_, err := dial(t, addr, load(t, c.client))
			check(t, "client", err, c.want)
			check(t, "server", <-ended, c.serverSees)
		})
	}
}

func check(t *testing.T, who string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: got %v, want %q", who, err, want)
	}
}

// Both sides change to a new authority while they run; broken files in between harm nobody.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	files := issue(t, authority(t, dir, "ca"), dir, "node", "127.0.0.1")
	server, client := load(t, files), load(t, files)
	addr, _ := serve(t, server.Server(tls.RequireAndVerifyClientCert))
	first, err := dial(t, addr, client)
	if err != nil {
		t.Fatal(err)
	}
	later := func() {
		for _, s := range []*Source{server, client} {
			s.mu.Lock()
			s.looked = time.Time{} // as if a second had gone by
			s.mu.Unlock()
		}
	}
	if err := os.WriteFile(files.Cert, []byte("half a certi"), 0o600); err != nil {
		t.Fatal(err)
	}
	later()
	if again, err := dial(t, addr, client); err != nil || again != first {
		t.Fatalf("with a broken file: certificate %s, %v; want the last good one, %s", again, err, first)
	}
	if _, bad := server.Reloads(); bad != 1 {
		t.Errorf("broken files counted %d times", bad)
	}
	issue(t, authority(t, dir, "ca"), dir, "node", "127.0.0.1")
	later()
	second, err := dial(t, addr, client)
	if err != nil || second == first {
		t.Fatalf("after the change: certificate %s (first %s), %v", second, first, err)
	}
	if good, _ := server.Reloads(); good != 1 {
		t.Errorf("reloads counted %d times", good)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	files := issue(t, authority(t, dir, "ca"), dir, "node", "127.0.0.1")
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []Files{
		{Cert: empty, Key: files.Key}, {Cert: filepath.Join(dir, "empty.pem.missing"), Key: files.Key}, {CA: empty}, {CA: filepath.Join(dir, "empty.pem.missing")},
	} {
		if _, err := Load(f, nil); err == nil || !strings.Contains(err.Error(), "empty.pem") {
			t.Errorf("%+v: got %v, want an error that names the file", f, err)
		}
	}
}
