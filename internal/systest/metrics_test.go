package systest

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/millrace/millrace/internal/cli" // declares all metrics
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/obs"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
)

// A node with a source, a function and a sink shows every metric that is declared, and the numbers are those of the data.
func TestMetrics(t *testing.T) {
	const rows = 500
	server := testkit.MariaDB(t)
	db, name := testkit.Database(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := shop.Create(ctx, db, rows); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, cluster := nodes(t, 1, append(clusterTLS(issue(t, authority(t, dir, "ca"), dir, "node")), "--embedded-kafka", "127.0.0.1:0")...)
	node := f.Nodes[0]
	prefix := testkit.UniqueName("m")
	topic, masked := prefix+"."+name+".orders", prefix+".masked"
	create(ctx, t, cluster, "source", sourceConfig(server, name, prefix))
	create(ctx, t, cluster, "mask", map[string]string{
		"connector.class": "transform", "topics": topic, "transform.output.topic": masked, "function.command": mask,
	})
	// A record that is no JSON: an error, and a dead letter.
	create(ctx, t, cluster, "file", map[string]string{
		"connector.class": "file", "topics": masked + "," + prefix + ".junk", "file.path": dir, "value.converter": "canal-json", "errors.tolerance": "all", "errors.deadletterqueue.topic.name": prefix + ".dead",
	})
	if _, err := cluster.WaitRunning(ctx, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	junk(ctx, t, cluster, prefix+".junk")
	// Somebody without a certificate knocks.
	_, _ = exec.CommandContext(ctx, "curl", "-s", "-m", "2", "http://"+node.Cluster).CombinedOutput()

	var text string
	testkit.Eventually(t, time.Minute, "all rows are in the file", func() error {
		text = metricsOf(t, node.REST)
		for series, want := range map[string]float64{
			`millrace_task_records_out_total{connector="source",task="0"}`: rows, `millrace_task_records_in_total{connector="mask",task="0"}`: rows,
			`millrace_function_records_out_total{connector="mask",function="mask-orders",task="0"}`: rows, `millrace_function_instances{connector="mask",function="mask-orders",task="0"}`: 1,
			`millrace_task_records_in_total{connector="file",task="0"}`: rows + 1, `millrace_task_dead_letters_total{connector="file",task="0"}`: 1,
			`millrace_task_record_errors_total{connector="file",stage="value_converter",task="0"}`: 1,
			`millrace_task_snapshot_rows{connector="source",task="0"}`:                             rows,
			`millrace_cluster_tasks{state="running"}`:                                              3,
			`millrace_task_lag_records{connector="file",task="0"}`:                                 0,
			`millrace_raft_leads`: 1, `millrace_node_ready`: 1, `millrace_worker_session_up`: 1, `millrace_node_connections_refused_total`: 1,
		} {
			if got, ok := value(text, series); !ok || got != want {
				return fmt.Errorf("%s is %v (there: %t), want %v", series, got, ok, want)
			}
		}
		return nil
	})
	// Some are there for a moment only, or after hours.
	late := map[string]bool{
		"millrace_raft_snapshot_age_seconds": true, "millrace_task_snapshot_rows_estimated": true, "millrace_task_snapshot_tables": true,
		"millrace_task_snapshot_tables_done": true,
	}
	for _, m := range obs.Declared() {
		if !strings.Contains(text, "# TYPE "+m.Name+" "+string(m.Kind)) && !late[m.Name] {
			t.Errorf("the node does not show %s", m.Name)
		}
	}
	testkit.Eventually(t, time.Minute, "the leader has heard what the function used", func() error {
		usage, err := exec.CommandContext(ctx, bin, "function", "usage", "--url", node.REST).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, usage)
		}
		if got := strings.Fields(string(usage)); !strings.Contains(string(usage), "COLD STARTS") || !slices.Contains(got, "mask-orders") || !slices.Contains(got, strconv.Itoa(rows)) {
			return fmt.Errorf("millrace function usage shows\n%s", usage)
		}
		return nil
	})
	if status, _ := do(t, node.REST, "GET", "/connectors/nope/"+testkit.UniqueName("x"), "", ""); status != 404 {
		t.Errorf("status %d", status)
	}
	if v, ok := value(metricsOf(t, node.REST), `millrace_rest_request_duration_seconds_count{code="404",method="GET",route="other"}`); !ok || v < 1 {
		t.Error("an unknown path is not counted as route other")
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.CommandContext(ctx, promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	}
}

func junk(ctx context.Context, t *testing.T, cluster fleet.Cluster, topic string) {
	t.Helper()
	brokers, err := cluster.Brokers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := kafka.Config{Brokers: brokers}
	admin, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.EnsureTopic(ctx, topic, kafka.TopicConfig{Partitions: 1, Replication: 1}); err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewProducer(ctx, c, "", kafka.ProducerOptions{})
	if err == nil {
		defer p.Close()
		err = p.Send(ctx, []kafka.Message{{Topic: topic, Partition: -1, Value: []byte("{")}})
	}
	if err == nil {
		err = p.Commit(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func metricsOf(t *testing.T, base string) string {
	t.Helper()
	status, body := do(t, base, "GET", "/metrics", "", "")
	if status != 200 {
		t.Fatalf("GET /metrics: %d %s", status, body)
	}
	return body
}

func value(text, series string) (float64, bool) {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	return v, err == nil
}

// Ready is who has a leader and a session; a node that was told to end is not ready any more, while it still answers.
func TestReadiness(t *testing.T) {
	f, _ := nodes(t, 2, "--brokers", embeddedBroker(t))
	ready := func(i int) (int, string) {
		status, body := do(t, f.Nodes[i].REST, "GET", "/millrace/v1/ready", "", "")
		var h struct{ Message string }
		if err := json.Unmarshal([]byte(body), &h); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return status, h.Message
	}
	for i := range f.Nodes {
		testkit.Eventually(t, 10*time.Second, "ready", func() error {
			if status, why := ready(i); status != 200 {
				return fmt.Errorf("%d %s", status, why)
			}
			return nil
		})
	}
	if out, err := exec.CommandContext(t.Context(), bin, "health", "--url", f.Nodes[1].REST).CombinedOutput(); err != nil || string(out) != "ready\n" {
		t.Errorf("millrace health: %v %s", err, out)
	}
	// One of two coordinators is no majority.
	if err := f.Nodes[0].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "node2 is not ready without a leader", func() error {
		if status, why := ready(1); status != 503 {
			return fmt.Errorf("%d %s", status, why)
		}
		return nil
	})
	if status, _ := do(t, f.Nodes[1].REST, "GET", "/millrace/v1/live", "", ""); status != 200 {
		t.Errorf("live: %d", status)
	}
	out, err := exec.CommandContext(t.Context(), bin, "health", "--url", f.Nodes[1].REST).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "leader") {
		t.Errorf("millrace health without a leader: %v %s", err, out)
	}
	testkit.Eventually(t, 20*time.Second, "node2's lease runs out", func() error {
		if left, ok := value(metricsOf(t, f.Nodes[1].REST), "millrace_worker_lease_seconds"); !ok || left > 0 {
			return fmt.Errorf("%v (there: %t)", left, ok)
		}
		return nil
	})
	// A worker that ends wants to tell the leader, who does not answer: for these seconds the node is up and takes nothing more.
	if err := f.Nodes[1].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*time.Second, "node2 says that it ends", func() error {
		if status, why := ready(1); status != 503 || !strings.Contains(why, "told to end") {
			return fmt.Errorf("%d %s", status, why)
		}
		return nil
	})
	if err := f.Nodes[0].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
