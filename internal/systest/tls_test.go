package systest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/pki"
	"github.com/millrace/millrace/internal/tlsfile"
)

// secured are nodes whose traffic has TLS, and the files it comes from.
type secured struct {
	*fleet.Fleet
	dir   string
	files tlsfile.Files
}

func authority(t *testing.T, dir, name string) *pki.Authority {
	t.Helper()
	a, err := pki.New(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *pki.Authority, dir, name string) tlsfile.Files {
	t.Helper()
	cert, key, err := a.Issue(dir, name, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return tlsfile.Files{Cert: cert, Key: key, CA: a.File}
}

func clusterTLS(f tlsfile.Files) []string {
	return []string{"--cluster-tls-cert", f.Cert, "--cluster-tls-key", f.Key, "--cluster-tls-ca", f.CA}
}

func startSecured(t *testing.T, ca *pki.Authority, dir string, n int, args ...string) *secured {
	t.Helper()
	files := issue(t, ca, dir, "node")
	source, err := tlsfile.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, clusterTLS(files)...)
	args = append(args, "--rest-tls-cert", files.Cert, "--rest-tls-key", files.Key, "--rest-tls-ca", files.CA, "--rest-tls-client-auth", "required")
	f := &fleet.Fleet{Bin: bin, Dir: t.TempDir(), Args: args, HTTPS: &http.Client{Transport: &http.Transport{DialTLSContext: source.DialContext}}}
	t.Cleanup(func() {
		f.Close()
		if t.Failed() {
			for _, n := range f.Nodes {
				t.Logf("--- log of %s\n%s", n.ID, n.Log(6000))
			}
		}
	})
	for i := range n {
		add(t, f, fmt.Sprintf("node%d", i+1))
	}
	return &secured{Fleet: f, dir: dir, files: files}
}

func add(t *testing.T, f *fleet.Fleet, id string) {
	t.Helper()
	node, err := f.Add(id)
	if err == nil {
		err = node.Start()
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err = node.WaitReady(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *secured) client(i int) *api.Client {
	c := api.NewClient(s.Nodes[i].REST)
	c.HTTP = s.HTTPS
	return c
}

// The traffic between nodes and REST have TLS with certificates on both sides. Who has none of our authority's gets in nowhere. Then the
// authority is replaced by another while the nodes run: first both are trusted, then certificates change, then the old one goes.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	old := authority(t, dir, "ca")
	s := startSecured(t, old, dir, 3, "--brokers", embeddedBroker(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// On a node that does not lead, so that the request is passed on.
	running := func(i int, name string) {
		t.Helper()
		_, err := s.client(i).Create(ctx, name, map[string]string{"connector.class": "file", "topics": "a", "file.path": t.TempDir()})
		if err == nil {
			_, err = fleet.Cluster{Client: s.client(i)}.WaitRunning(ctx, 20*time.Second)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	running(2, "before")

	t.Run("strangers", func(t *testing.T) { strangers(t, s) })
	t.Run("commands", func(t *testing.T) { commands(t, s) })

	// Rotation, as docs/guides/deploy.md tells it.
	outdated := issue(t, old, dir, "outdated")
	oldPEM, err := os.ReadFile(old.File)
	if err != nil {
		t.Fatal(err)
	}
	next := authority(t, dir, "next")
	nextPEM, err := os.ReadFile(next.File)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, s.files.CA, append(oldPEM, nextPEM...))
	time.Sleep(1100 * time.Millisecond) // files are looked at once a second
	issue(t, next, dir, "node")
	for _, n := range s.Nodes {
		testkit.Eventually(t, 10*time.Second, n.ID+" shows the new certificate", func() error { return shows(n.Cluster, s.files, nextPEM) })
	}
	replace(t, s.files.CA, nextPEM)
	time.Sleep(1100 * time.Millisecond)
	// A node that comes back makes all its connections anew, and so do the others with it.
	s.Nodes[1].Kill()
	if err := s.Nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Nodes[1].WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	running(1, "after")
	outdated.CA = s.files.CA
	refused(t, s, "outdated", clusterTLS(outdated), "unknown certificate authority", "certificate signed by unknown authority")
}

func strangers(t *testing.T, s *secured) {
	dir := t.TempDir()
	theirs := issue(t, authority(t, dir, "theirs"), dir, "theirs")
	trusting := theirs
	trusting.CA = s.files.CA
	refused(t, s, "stranger", clusterTLS(trusting), "unknown certificate authority", "certificate signed by unknown authority")
	refused(t, s, "suspicious", clusterTLS(theirs), "certificate signed by unknown authority", "bad certificate")
	refused(t, s, "plain", nil, "error reading server preface", "first record does not look like a TLS handshake")
	source, err := tlsfile.Load(tlsfile.Files{CA: s.files.CA}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient(s.Nodes[0].REST)
	c.HTTP = &http.Client{Transport: &http.Transport{DialTLSContext: source.DialContext}}
	if _, err := c.Connectors(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("REST without a certificate: %v", err)
	}
}

// refused starts a node that asks to join, and wants it to say why it can't, and the cluster to say why it may not.
func refused(t *testing.T, s *secured, id string, args []string, says, told string) {
	t.Helper()
	stranger := &fleet.Fleet{Bin: bin, Dir: t.TempDir(), Args: append([]string{"--join", s.Nodes[0].Cluster, "--roles", "worker"}, args...)}
	n, err := stranger.Add(id)
	if err == nil {
		err = n.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	has := func(n *fleet.Node, want string) func() error {
		return func() error {
			if !strings.Contains(n.Log(1<<20), want) {
				return fmt.Errorf("no %q in the log of %s:\n%s", want, n.ID, n.Log(3000))
			}
			return nil
		}
	}
	testkit.Eventually(t, 15*time.Second, id+" says why", has(n, says))
	testkit.Eventually(t, 15*time.Second, "node1 says why", has(s.Nodes[0], told))
	k, err := s.client(0).Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range k.Nodes {
		if n.ID == id {
			t.Errorf("%s is in the cluster", id)
		}
	}
}

// Commands find REST by https.
func commands(t *testing.T, s *secured) {
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), bin, append(args, "--url", s.Nodes[2].REST)...).CombinedOutput()
		return string(out), err
	}
	if out, err := run("cluster", "status", "--cacert", s.files.CA, "--cert", s.files.Cert, "--key", s.files.Key); err != nil || !strings.Contains(out, "node3") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("cluster", "status"); err == nil || !strings.Contains(out, "unknown authority") {
		t.Errorf("without --cacert: %v: %s", err, out)
	}
}

// shows connects to a node's cluster port and looks whether its certificate comes from the authority.
func shows(addr string, f tlsfile.Files, caPEM []byte) error {
	source, err := tlsfile.Load(f, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := source.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return errors.New("not PEM")
	}
	_, err = c.(*tls.Conn).ConnectionState().PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
	return err
}

func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), "new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}
