package systest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/cli"
	"github.com/millrace/millrace/internal/testkit"
)

// The commands that make a cluster equal files, on a real node: what they print, their exit codes, and what the cluster has after them.
func TestCLIFiles(t *testing.T) {
	_, c := nodes(t, 1, "--brokers", embeddedBroker(t))
	dir, out := t.TempDir(), t.TempDir()
	run := func(want int, args ...string) string {
		t.Helper()
		var b bytes.Buffer
		if code := cli.Main(append([]string{"--url", c.Client.URL}, args...), strings.NewReader(""), &b, &b); code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s", args, code, want, b.String())
		}
		return strings.ReplaceAll(b.String(), out, "OUT")
	}
	has := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in\n%s", w, text)
			}
		}
	}
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := func(name string) map[string]string {
		t.Helper()
		i, err := c.Client.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return i.Config
	}

	// All files are checked, and every problem is told, before the first connector is made.
	write("a.json", `{"name":"a","initial_state":"STOPPED","config":{"connector.class":"file","topics":"t","file.path":"`+out+`"}}`)
	write("b.yaml", "name: b\nconnector.class: file\ntopics: t\nfile.pth: "+out+"\n")
	write("c.properties", "name=a\nconnector.class=file\n")
	has(run(2, "apply", "-f", dir), "b.yaml: file.path:", "file.pth", "c.properties: name: "+filepath.Join(dir, "a.json")+" has connector a already.", "nothing was changed")
	if names, err := c.Client.Connectors(t.Context()); err != nil || len(names) > 0 {
		t.Fatalf("%v %v", names, err)
	}

	write("b.yaml", "name: b\nconnector.class: file\ntopics: t\nfile.path: "+out+"\n")
	write("c.properties", "name=c\nconnector.class=file\ntopics=t\nfile.path="+out+"\n")
	has(run(0, "apply", "-f", dir, "--dry-run"), "create a\n  + connector.class: file\n  + file.path: OUT\n", "3 to create, 0 to change, 0 to delete, 0 unchanged")
	if names, err := c.Client.Connectors(t.Context()); err != nil || len(names) > 0 {
		t.Fatalf("dry run: %v %v", names, err)
	}
	has(run(0, "apply", "-f", dir), "a: create done", "c: create done")
	has(run(0, "apply", "-f", dir), "0 to create, 0 to change, 0 to delete, 3 unchanged")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := c.Client.Status(t.Context(), "a") // UNASSIGNED until a worker has it
		if err == nil && s.Connector.State == "STOPPED" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("initial state: %+v %v", s, err)
		}
	}

	b := write("b.yaml", "name: b\nconnector.class: file\ntopics: t,u\nfile.path: "+out+"\n")
	has(run(0, "connector", "diff", "b", "-f", b), "  ~ topics: t → t,u\n")
	if err := os.Remove(filepath.Join(dir, "c.properties")); err != nil {
		t.Fatal(err)
	}
	has(run(0, "apply", "-f", dir), "change b\n  ~ topics: t → t,u\n", "0 to delete, 1 unchanged")
	has(run(0, "connector", "list"), "c ")
	has(run(2, "apply", "-f", b, "--prune"), "--prune needs a directory")
	has(run(0, "apply", "-f", dir, "--prune"), "delete c\n", "c: delete done")
	has(run(3, "connector", "get", "c"), "not found")
	has(run(0, "connector", "diff", "b", "-f", b), "no difference")

	has(run(2, "connector", "validate", "-f", b, "topics=", "rotate.bytes=x"), "rotate.bytes", "topics")
	has(run(2, "connector", "validate", "x"), "connector.class", "plugins")
	has(run(0, "connector", "validate", "-f", b), "the config is good")

	// Editing sends what was changed, and keeps a text that is no good.
	t.Setenv("VISUAL", `sed -i -e s/t,u/v/ -e '$a rotate.bytes: 1000'`)
	has(run(0, "connector", "edit", "b", "--dry-run"), "  + rotate.bytes: 1000\n  ~ topics: t,u → v\n")
	if got := config("b")["topics"]; got != "t,u" {
		t.Errorf("dry run: topics %q", got)
	}
	run(0, "connector", "edit", "b")
	if got := config("b"); got["topics"] != "v" || got["rotate.bytes"] != "1000" {
		t.Errorf("%v", got)
	}
	t.Setenv("VISUAL", `sed -i /rotate/d`)
	has(run(0, "connector", "edit", "b"), "  - rotate.bytes: 1000\n")
	if got, there := config("b")["rotate.bytes"]; there {
		t.Errorf("rotate.bytes=%s is still there", got)
	}
	has(run(0, "connector", "edit", "b"), "nothing was changed")
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("VISUAL", `sed -i /topics/d`)
	has(run(2, "connector", "edit", "b"), "topics", "your text is kept in")

	// Offsets are JSON in and out, of stopped connectors only.
	offsets := filepath.Join(t.TempDir(), "offsets.json")
	const at = `{"offsets":[{"partition":{"kafka_topic":"t","kafka_partition":0},"offset":{"kafka_offset":7}}]}`
	if err := os.WriteFile(offsets, []byte(at), 0o600); err != nil {
		t.Fatal(err)
	}
	has(run(2, "connector", "offsets", "set", "b", "-f", offsets), "STOPPED")
	has(run(0, "connector", "offsets", "get", "a"), `"offsets": []`)

	has(run(0, "loggers", "set", "worker", "DEBUG", "--cluster"))
	has(run(0, "loggers", "get", "worker"), "DEBUG")
	has(run(3, "loggers", "get", "nope"), "is not known")
	has(run(0, "__complete", "connector", "pause", ""), "a\nb\n")
	has(run(0, "__complete", "connector", "offsets", "reset", ""), "a\nb\n")
	has(run(0, "completion", "bash"), "__start_millrace")
}

// The doctor finds what was made wrong on a real node, real brokers and a real database, tells no secret, and has its exit codes.
func TestDoctor(t *testing.T) {
	server := testkit.MariaDB(t)
	db, name := testkit.Database(t, server)
	for _, sql := range []string{
		"CREATE TABLE orders (id INT PRIMARY KEY)", "CREATE TABLE notes (n INT)",
		"CREATE TABLE parts (id INT PRIMARY KEY, o INT, CONSTRAINT of_order FOREIGN KEY (o) REFERENCES orders (id) ON DELETE CASCADE)",
	} {
		if _, err := db.ExecContext(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	config := sourceConfig(server, name, "doctor")
	delete(config, "table.include.list")
	run := func(args ...string) (int, string) {
		var b bytes.Buffer
		code := cli.Main(append([]string{"doctor"}, args...), strings.NewReader(""), &b, &b)
		return code, b.String()
	}
	source := func(more ...string) (int, string) {
		args := []string{"source", "shop"}
		for k, v := range config {
			args = append(args, k+"="+v)
		}
		return run(append(args, more...)...)
	}
	code, text := source()
	if code != 1 || !strings.Contains(text, "Tables without primary key: "+name+".notes.") || !strings.Contains(text, name+".parts (of_order)") {
		t.Errorf("source: exit code %d\n%s", code, text)
	}
	if code, text := source("table.include.list=" + name + ".nothing"); code != 1 || !strings.Contains(text, "captures no table") {
		t.Errorf("no table: exit code %d\n%s", code, text)
	}
	if code, text := source("database.password=geheim"); code != 5 || !strings.Contains(text, "error: database.password:") || strings.Contains(text, "geheim") {
		t.Errorf("password: exit code %d\n%s", code, text)
	}
	if code, text := run("--url", "http://127.0.0.1:1"); code != 5 || !strings.Contains(text, "no node answers") {
		t.Errorf("no node: exit code %d\n%s", code, text)
	}
	f, c := nodes(t, 1, "--brokers", testkit.Kafka(t), "--offsets-topic", testkit.UniqueName("offsets"))
	testkit.Eventually(t, 20*time.Second, "nothing is wrong with the node", func() error {
		if code, text := run("--url", c.Client.URL, "--trial"); strings.Contains(text, "error:") || strings.Contains(text, "node") || code > 1 {
			return fmt.Errorf("exit code %d\n%s", code, text)
		}
		return nil
	})
	if told, err := c.Condition(t.Context()); err != nil || told.Disk.FreeBytes <= 0 || told.Disk.TotalBytes < told.Disk.FreeBytes || time.Since(time.UnixMilli(told.AtUnixMS)) > time.Minute {
		t.Errorf("what the node tells: %+v, %v", told, err)
	}
	f.Nodes[0].Kill()
	if code, _ := run("--url", c.Client.URL); code != 5 {
		t.Errorf("killed node: exit code %d", code)
	}
}
