package systest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/cli"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// bin and mask are built once: the product as users get it, and the Go example function.
var bin, mask string

func TestMain(m *testing.M) {
	if os.Getenv(asNode) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "millrace-systest-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin, mask = filepath.Join(dir, "millrace"), filepath.Join(dir, "maskorders")
		for out, pkg := range map[string]string{bin: "github.com/millrace/millrace", mask: "github.com/millrace/millrace/sdk/go/examples/maskorders"} {
			cmd := exec.Command("go", "build", "-o", out, pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if b, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, b)
				return 1
			}
		}
		return m.Run()
	}())
}

// embeddedBroker is an embedded broker that outlives the nodes.
func embeddedBroker(t *testing.T) string {
	t.Helper()
	b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0", DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b.Addr()
}

// nodes starts n nodes that form a cluster. Their logs are shown when the test fails.
func nodes(t *testing.T, n int, args ...string) (*fleet.Fleet, fleet.Cluster) {
	t.Helper()
	return begin(t, n, &fleet.Fleet{Bin: bin, Dir: t.TempDir(), Args: args})
}

func begin(t *testing.T, n int, f *fleet.Fleet) (*fleet.Fleet, fleet.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		f.Close()
		if t.Failed() {
			for _, n := range f.Nodes {
				t.Logf("--- log of %s\n%s", n.ID, n.Log(20000))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range n {
		node, err := f.Add(fmt.Sprintf("node%d", i+1))
		if err == nil {
			err = node.Start()
		}
		if err == nil {
			err = node.WaitReady(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f, fleet.Cluster{Client: api.NewClient(f.Nodes[0].REST)}
}

// sourceConfig is a mysql source of one table.
func sourceConfig(s testkit.Server, db, prefix string) map[string]string {
	return map[string]string{
		"connector.class": "mysql", "topic.prefix": prefix, "database.include.list": db, "table.include.list": db + ".orders",
		"database.hostname": s.Host(), "database.port": s.Port(), "database.user": s.User, "database.password": s.Password,
		"topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
	}
}
