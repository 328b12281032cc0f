package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace"

type listed struct {
	ImportPath, Name, Dir string
	Standard              bool
	GoFiles, Imports      []string
}

// list runs `go list` over the module. -deps tells the standard library from other modules for every import there is.
func list(t *testing.T) (ours []listed, standard map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Name,Dir,Standard,GoFiles,Imports", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	standard = map[string]bool{"C": true, "unsafe": true}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch {
		case p.Standard:
			standard[p.ImportPath] = true
		case p.ImportPath == module, strings.HasPrefix(p.ImportPath, module+"/"):
			ours = append(ours, p)
		}
	}
	return ours, standard
}

func short(importPath string, standard map[string]bool) string {
	switch rest, ours := strings.CutPrefix(importPath, module); {
	case ours && rest == "":
		return "."
	case ours && rest[0] == '/':
		return rest[1:]
	case standard[importPath]:
		return "std:" + importPath
	}
	return "other:" + importPath
}

func TestImports(t *testing.T) {
	ours, standard := list(t)
	edges := 0
	for _, p := range ours {
		for _, to := range p.Imports {
			edges++
			for _, why := range forbidden(rules, edge{short(p.ImportPath, standard), short(to, standard)}) {
				t.Error(why)
			}
		}
	}
	if len(ours) < 10 || edges < 100 {
		t.Errorf("go list shows %d packages with %d imports: too few to be this module", len(ours), edges)
	}
}

func TestEachPackageHasOnePackageComment(t *testing.T) {
	ours, _ := list(t)
	for _, p := range ours {
		var with []string
		generated := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Error(err)
				continue
			}
			switch {
			case ast.IsGenerated(f):
				generated++
			case f.Doc != nil && len(strings.Fields(f.Doc.Text())) > 3:
				with = append(with, name)
			}
		}
		if len(p.GoFiles) == generated {
			continue
		}
		if len(with) != 1 {
			t.Errorf("%s has a package comment in %d files %v, want one, in doc.go (or main.go): it says what the package owns and what it does not do",
				p.ImportPath, len(with), with)
		}
	}
}

// The rules themselves: each must catch what it is there for, and let through what it must.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"coordinator/reconcile", "worker/runner", false},
		{"worker", "coordinator/state", false},
		{"worker/runner", "proto/cluster/v1", true},
		{"worker/source", "connectors", true},
		{"worker/source", "connectors/mysqlcdc", false},
		{"coordinator/herder", "connectors/mysqlcdc", false},
		{"connectors/mysqlcdc", "connectors/record", true},
		{"connectors/mysqlcdc", "connectors/mysqlcdc/event", true},
		{"connectors/mysqlcdc", "other:github.com/go-mysql-org/go-mysql/mysql", true},
		{"connectors/mysqlcdc", "connectors/filesink", false},
		{"connectors/mysqlcdc", "internal/kafka", false},
		{"connectors/mysqlcdc", "worker/runner", false},
		{"connectors/mysqlcdc/event", "coordinator/state", false},
		{"connectors/record", "other:github.com/google/go-cmp/cmp", false},
		{"connectors/record", "std:math", true},
		{"connectors", "connectors/mysqlcdc", false},
		{"connectors/all", "connectors/mysqlcdc", true},
		{"coordinator/state", "std:time", false},
		{"coordinator/state", "std:math/rand/v2", false},
		{"coordinator/assign", "std:net/http", false},
		{"coordinator/assign", "std:slices", true},
		{"coordinator/state", "coordinator/session", false},
		{"coordinator/state", "proto/command/v1", true},
		{"worker/source", "other:github.com/IBM/sarama", false},
		{"internal/kafka", "other:github.com/IBM/sarama", true},
		{"coordinator", "other:github.com/hashicorp/raft", false},
		{"coordinator/session", "other:github.com/hashicorp/raft-boltdb/v2", false},
		{"coordinator/raftnode", "other:github.com/hashicorp/raft", true},
		{"internal/kafka", "coordinator/state", false},
		{"internal/convert", "connectors/mysqlcdc", false},
		{"internal/config", "connectors/configdef", true},
		{"internal/cli", "coordinator", true},
		{"internal/cli", "connectors/all", true},
		{"worker", "connectors/all", false},
		{"worker", "internal/cli", false},
		{".", "internal/cli", true},
		{".", "worker", false},
		{"worker", "internal/testkit", false},
		{"deploy/demo", "internal/testkit/fleet", true},
		{"connectors/connectortest", "internal/testkit", true},
		{"internal/api", "std:testing", false},
		{"sdk/go/millrace", "internal/kafka", false},
		{"sdk/go/millrace", "proto/transform/v1", true},
		{"proto/cluster/v1", "internal/kafka", false},
	} {
		if why := forbidden(rules, edge{c.from, c.to}); (len(why) == 0) != c.allowed {
			t.Errorf("%s → %s: allowed %t, want %t %v", c.from, c.to, len(why) == 0, c.allowed, why)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"a/...", "a", true},
		{"a/...", "a/b/c", true},
		{"a/...", "ab", false},
		{"a", "a/b", false},
		{"a/*", "a/b", true},
		{"a/*", "a", false},
		{"a/*", "a/b/c", false},
		{"a/*/...", "a/b/c", true},
		{"a/*/...", "a", false},
		{"std", "std:net", true},
		{"std:net/...", "std:net", true},
		{"std:net/...", "std:net/http", true},
		{"std:net/...", "std:netip", false},
		{"...", "a/b", true},
		{"...", "std:net", false},
		{"...", ".", true},
	} {
		if got := match(c.pattern, c.path); got != c.want {
			t.Errorf("match(%q, %q) = %t", c.pattern, c.path, got)
		}
	}
}
