package systest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/internal/testkit"
)

var recordClients = flag.Bool("clients", false, "write what TestClients expects anew, from the real Kafka Connect")

// Clients made for Kafka Connect, unmodified, see the same of Millrace as of Kafka Connect. What they saw of Connect is stored; where it can
// be had they are asked again.
func TestClients(t *testing.T) {
	db := testkit.MySQL(t) // the peers' sources name it
	program := filepath.Join(t.TempDir(), "clients")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = "clients"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the Go clients: %v\n%s", err, out)
	}
	kc := testkit.Program(t, "kc")
	for client, play := range map[string]func(*testing.T, *peer) []any{
		"go-kafka-connect": func(t *testing.T, p *peer) []any { return p.goClient(t, program, "go-kafka-connect") },
		"connect-client":   func(t *testing.T, p *peer) []any { return p.goClient(t, program, "connect-client") },
		"kc":               func(t *testing.T, p *peer) []any { return p.pythonClient(t, kc) },
	} {
		t.Run(client, func(t *testing.T) {
			id := testkit.UniqueName("client") // of its own: a consumer group that has read a topic does not read it again
			got := play(t, millracePeer(t, id, db))
			path := filepath.Join("testdata", "connect-rest", "client-"+client+".json")
			var want []any
			if theirs := connectPeer(t, id, db); theirs != nil {
				want = play(t, theirs)
			}
			switch {
			case *recordClients && want == nil:
				t.Fatal("-clients needs Java")
			case *recordClients:
				writeLines(t, path, want)
			case want == nil:
				b, err := os.ReadFile(path)
				if err == nil {
					err = decode(b, &want)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-Kafka Connect +Millrace\n%s", diff)
			}
		})
	}
}

// goClient plays a scenario of the program under clients.
func (p *peer) goClient(t *testing.T, program, client string) []any {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, client, p.url, p.fill("{c}"), p.fill(`{{sink},"topics":"{t}"}`))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", client, err, &stderr)
	}
	var steps []any
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		steps = append(steps, p.leveled(lines.Text()))
	}
	return steps
}

// clientCommands are what kc, the command of the Python client kafka-connect-py, is called with: a line each, and what its output must have
// before it counts. A deletion that is refused for the moment shows only in what is there after it.
var clientCommands = [][2]string{
	{"get {c}"},
	{"status {c}"},
	{`create -d {"name":"{c}","config":{{sink}}}`},
	{`create -d {"name":"{c}","config":{{sink},"topics":"{t}"}}`, `"tasks": []`},
	{"status {c}", `"tasks": [{"id": 0, "state": "RUNNING"`},
	{`create -d {"name":"{c}","config":{{sink},"topics":"{t}"}}`},
	{"get {c}"},
	{"config {c}"},
	{"list -p {c} -s running"},
	{"list-topics {c}", `["{t}"]`},
	{`update {c} -d {{sink},"topics":"{t}","errors.tolerance":"all"}`},
	{"task-status {c} 0", `"RUNNING"`},
	{"pause {c}"},
	{"task-status {c} 0", `"PAUSED"`},
	{"reset-topics {c}"},
	{"list-topics {c}", `[]`},
	{"resume {c}"},
	{"task-status {c} 0", `"RUNNING"`},
	{"restart-task {c} 0"},
	{"restart-task {c} 7"},
	{"task-status {c} 7"},
	{"delete {c} && get {c}", "404"},
}

// pythonClient runs kc's commands.
func (p *peer) pythonClient(t *testing.T, kc string) []any {
	t.Helper()
	var steps []any
	for _, c := range clientCommands {
		line, until := c[0], p.fill(c[1])
		for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			var out []byte
			for one := range strings.SplitSeq(line, " && ") {
				name, data, given := strings.Cut(one, " -d ")
				args := append([]string{"-u", p.url}, strings.Fields(p.fill(name))...)
				if given {
					args = append(args, "-d", p.fill(data))
				}
				var err error
				if out, err = exec.CommandContext(t.Context(), kc, args...).CombinedOutput(); err != nil {
					t.Fatalf("kc %s: %v\n%s", line, err, out)
				}
			}
			// Connect refuses while its workers agree on who does what. kc shows the status alone, which is also that of a name that is taken.
			passing := bytes.HasPrefix(out, []byte("409")) && !strings.HasPrefix(line, "create")
			if !passing && strings.Contains(string(out), until) {
				steps = append(steps, map[string]any{"step": line, "result": p.leveled(strings.TrimSpace(string(out)))})
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("kc %s never printed %q; now %s", line, until, out)
			}
		}
	}
	return steps
}

// leveled is a client's output with what no two systems share made equal.
func (p *peer) leveled(s string) any {
	s = p.names(strings.ReplaceAll(s, p.url, "{url}"))
	var v any
	if decode([]byte(s), &v) != nil {
		return s
	}
	var ownOut func(v any)
	ownOut = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			p.ownKeysOut(v)
			for _, x := range v {
				ownOut(x)
			}
		case []any:
			for _, x := range v {
				ownOut(x)
			}
		}
	}
	ownOut(v)
	return p.plain(v)
}

func writeLines(t *testing.T, path string, steps []any) {
	t.Helper()
	lines := make([]string, len(steps))
	for i, s := range steps {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(b)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "[\n%s\n]\n", strings.Join(lines, ",\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}
