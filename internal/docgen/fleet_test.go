package docgen

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/testkit"
)

// The settings in docker-compose.yml and in the example for systemd are ones that a node takes.
func TestFleetFilesUseDeclaredSettings(t *testing.T) {
	var compose struct {
		Services map[string]struct{ Command []string }
	}
	read(t, "../../docker-compose.yml", yaml.Unmarshal, &compose)
	nodes := 0
	for name, s := range compose.Services {
		if len(s.Command) == 0 || s.Command[0] != "node" {
			continue
		}
		nodes++
		given := map[string]string{}
		for _, arg := range s.Command[1:] {
			key, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			given[key] = value
		}
		for _, p := range config.Node().Unknown(given) {
			t.Errorf("docker-compose.yml, %s: %s", name, p.Message)
		}
		if _, err := config.LoadNode(given, nil, ""); err != nil {
			t.Errorf("docker-compose.yml, %s: %v", name, err)
		}
	}
	if nodes != 4 {
		t.Errorf("docker-compose.yml has %d services that are nodes, want three coordinators and the worker", nodes)
	}
	if _, err := config.LoadNode(nil, nil, "../../deploy/systemd/node.yml"); err != nil {
		t.Error(err)
	}
}

// systemd's own checker. It wants programs to exist, so another stands in for ours.
func TestSystemdUnit(t *testing.T) {
	analyze := testkit.Program(t, "systemd-analyze")
	unit, err := os.ReadFile("../../deploy/systemd/millrace.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "millrace.service")
	if err := os.WriteFile(path, []byte(strings.Replace(string(unit), "ExecStart=/usr/local/bin/millrace", "ExecStart=/bin/true", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
