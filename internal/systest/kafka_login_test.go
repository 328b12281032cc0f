package systest

import (
	"context"
	"crypto/tls"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
	"github.com/millrace/millrace/internal/tlsfile"
)

// A node's settings, and those of a command, reach a broker that wants TLS and a login (internal/kafka tests the mechanisms on a real one);
// with a wrong password the node says so.
func TestBrokersWithLogin(t *testing.T) {
	dir := t.TempDir()
	files := issue(t, authority(t, dir, "ca"), dir, "broker")
	broker := securedBroker(t, files)
	server := testkit.MariaDB(t)
	db, name := testkit.Database(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := shop.Create(ctx, db, 100); err != nil {
		t.Fatal(err)
	}
	login := []string{
		"--kafka-security-protocol", "SASL_SSL", "--kafka-sasl-mechanism", "SCRAM-SHA-256", "--kafka-sasl-username", "mill", "--kafka-ssl-ca-location", files.CA,
	}
	t.Setenv("MILLRACE_KAFKA_SASL_PASSWORD", "right")
	f, cluster := nodes(t, 1, append(login, "--brokers", broker)...)
	prefix := testkit.UniqueName("l")
	create(ctx, t, cluster, "source", sourceConfig(server, name, prefix))
	if err := cluster.WaitCommitted(ctx, "source"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "millrace topic tail shows all rows", func() error {
		args := append([]string{"topic", "tail", prefix + "." + name + ".orders", "--from-beginning", "--follow=false", "--url", f.Nodes[0].REST}, login...)
		out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
		if n := strings.Count(string(out), "\n"); err != nil || n != 100 {
			return fmt.Errorf("%d lines, %w: %s", n, err, out[:min(len(out), 500)])
		}
		return nil
	})

	wrong := &fleet.Fleet{Bin: bin, Dir: t.TempDir(), Args: append(login, "--brokers", broker), Env: []string{"MILLRACE_KAFKA_SASL_PASSWORD=wrong"}}
	defer wrong.Close()
	n, err := wrong.Add("wrong")
	if err == nil {
		err = n.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the node says that the login fails", func() error {
		if log := n.Log(1 << 20); !strings.Contains(log, "the brokers can't be used") {
			return fmt.Errorf("log:\n%s", log)
		}
		return nil
	})
}

func securedBroker(t *testing.T, files tlsfile.Files) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "mill", "right"),
		kfake.TLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}), kfake.DataDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}
