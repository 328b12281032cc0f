package systest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit"
)

// A connector's log lines are had from any node, whichever node wrote them; what a reference resolves to is in none of them.
func TestConnectorLogs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const secret = "hunter2"
	t.Setenv("LOGS_SECRET", secret)
	f, c := sickNodes(t, 2, "--brokers", embeddedBroker(t))
	create(ctx, t, c, "sick", map[string]string{"connector.class": "chaos-sink", "topics": "none", "tasks.max": "2", "restart.backoff.ms": "100"})
	var logs *api.Logs
	testkit.Eventually(t, 30*time.Second, "both nodes have lines of tasks", func() (err error) {
		logs, err = api.NewClient(f.Nodes[1].REST).Logs(ctx, "sick")
		if err != nil {
			return err
		}
		for _, n := range f.Nodes {
			if !slices.ContainsFunc(logs.Lines, func(l api.LogLine) bool { return l.Node == n.ID && l.Task != nil }) {
				return fmt.Errorf("none of %s: %+v", n.ID, logs)
			}
		}
		return nil
	})
	for i, l := range logs.Lines {
		if l.Text == "" || l.Level == "" || l.Seq == 0 || i > 0 && l.AtUnixMS < logs.Lines[i-1].AtUnixMS {
			t.Errorf("line %d: %+v", i, l)
		}
	}
	for line := range strings.SplitSeq(strings.TrimSpace(millrace(ctx, t, c, "connector", "logs", "sick", "--task", "1")), "\n") {
		if fields := strings.Fields(line); len(fields) < 5 || fields[3] != "1" || !strings.Contains(line, "msg=") {
			t.Errorf("a line of task 1: %q", line)
		}
	}
	create(ctx, t, c, "broken", map[string]string{"connector.class": "file", "topics": "none", "file.path": "/proc/${env:LOGS_SECRET}", "restart.backoff.ms": "100"})
	testkit.Eventually(t, 30*time.Second, "the failure is in the log", func() error {
		logs, err := c.Logs(ctx, "broken")
		if text := fmt.Sprintf("%+v", logs); err != nil || !strings.Contains(text, "/proc/${env:LOGS_SECRET}") || strings.Contains(text, secret) {
			return fmt.Errorf("%s %w", text, err)
		}
		return nil
	})
	if status, body := do(t, f.Nodes[0].REST, "GET", "/millrace/v1/connectors/nope/logs", "", ""); status != 404 || !strings.Contains(body, "Connector nope not found") {
		t.Errorf("logs of what is not there: %d %s", status, body)
	}
	// A node that is gone is named, and the others' lines are there.
	f.Nodes[1].Kill()
	testkit.Eventually(t, 30*time.Second, "the other's lines are there", func() error {
		logs, err := c.Logs(ctx, "sick")
		if err != nil {
			return err
		}
		if len(logs.Lines) == 0 || len(logs.Unreachable) != 1 || "http://"+logs.Unreachable[0] != f.Nodes[1].REST {
			return fmt.Errorf("%d lines, unreachable %v", len(logs.Lines), logs.Unreachable)
		}
		return nil
	})
}
