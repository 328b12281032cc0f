package config_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/config"
)

func TestResolve(t *testing.T) {
	t.Setenv("MR_SECRET", "s3cret")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "db.properties"), []byte("# comment\nuser = cdc\npassword=a=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("tok\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{
		"a": "x-${env:MR_SECRET}-y", "b": "${file:" + dir + "/db.properties:password}", "c": "${dir:" + dir + ":token}", "d": "plain ${table}", "e": "${directory:" + dir + ":token}",
	}
	got, problems := config.Resolve(given)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for k, want := range map[string]string{"a": "x-s3cret-y", "b": "a=b", "c": "tok", "d": "plain ${table}", "e": "tok"} {
		if got[k] != want {
			t.Errorf("%s: %q, want %q", k, got[k], want)
		}
	}
	_, problems = config.Resolve(map[string]string{"p": "${env:NOT_SET_ANYWHERE}", "q": "${vault:x}", "r": "${file:/nope:k}"})
	if len(problems) != 3 {
		t.Errorf("problems %v, want three", problems)
	}
	for _, p := range problems {
		if !strings.Contains(p.Message, p.Key) {
			t.Errorf("a problem that does not name its key: %v", p)
		}
	}
}

// Flags win over the environment, that over the file, that over the defaults; all problems come at once.
func TestLoadNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte("rest: a:1\ncluster: b:2\njoin: [x:1, y:2]\nlabels: {zone: a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := config.LoadNode(map[string]string{"rest": "flag:1"}, []string{"MILLRACE_REST=env:1", "MILLRACE_CLUSTER=env:2", "OTHER=1"}, file)
	if err != nil {
		t.Fatal(err)
	}
	if v.String(config.NodeREST) != "flag:1" || v.String(config.NodeCluster) != "env:2" || strings.Join(v.List(config.NodeJoin), " ") != "x:1 y:2" || v.List(config.NodeLabels)[0] != "zone=a" {
		t.Errorf("settings: %v", v.Given())
	}
	_, err = config.LoadNode(map[string]string{"roles": "boss", "lease-ms": "600", "heartbeat-ms": "300", "join": "nohost"}, nil, "")
	for _, want := range []string{"roles", "heartbeat-ms", "join"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	for _, c := range []struct {
		expect, join, brokers, want string
	}{
		{"4", "a:1,b:1,c:1,d:1", "k:1", "1, 3 or 5"},
		{"3", "a:1", "k:1", "join must have the cluster addresses of all of them (it has 1)"},
		{"3", "a:1,b:1,c:1", "", "set brokers"},
		{"3", "a:1,b:1,c:1", "k:1", ""},
	} {
		_, err := config.LoadNode(map[string]string{"bootstrap-expect": c.expect, "join": c.join, "brokers": c.brokers}, nil, "")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err = config.LoadNode(map[string]string{"roles": "worker"}, nil, ""); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("a worker without a cluster: %v", err)
	}
}

// The framework's spec declares each key once, and every default is a value of its key; New panics otherwise.
func TestConnectorSpecs(t *testing.T) {
	for _, k := range []connectors.Kind{connectors.KindSource, connectors.KindSink, connectors.KindTransform} {
		spec := config.Connector(k)
		if _, problems := spec.Parse(map[string]string{"name": "x", "connector.class": "y", "topics": "t"}); len(problems) > 0 {
			t.Errorf("%s: %v", k, problems)
		}
	}
	if p := config.Connector(connectors.KindSink).Unknown(map[string]string{"tpoics": "a"}); len(p) != 1 || !strings.Contains(p[0].Message, `"topics"`) {
		t.Errorf("nearest name: %v", p)
	}
}

// What a reference resolves to is in no message, whether the spec or the connector finds fault with it.
func TestSecretsAreNotShown(t *testing.T) {
	t.Setenv("MR_SECRET", "hunter2")
	spec := configdef.New(configdef.Key{Name: "host", Type: configdef.String, Required: true, Doc: "x"})
	p := &connectors.Plugin{
		Class: "secretive", Kind: connectors.KindSink, Spec: spec,
		Validate: func(_ context.Context, c map[string]string) []configdef.Problem {
			return []configdef.Problem{{Key: "host", Value: c["host"], Message: "no host " + c["host"]}}
		},
	}
	good := map[string]string{"name": "n", "connector.class": "secretive", "topics": "t", "host": "${env:MR_SECRET}"}
	bad := map[string]string{"name": "n", "connector.class": "secretive", "topics": "t", "host": "h", "tasks.max": "${env:MR_SECRET}", "placement.labels": "a=b,${env:MR_SECRET}"}
	for _, given := range []map[string]string{good, bad} {
		problems := config.Check(t.Context(), p, given)
		if len(problems) == 0 {
			t.Fatal("no problem was found")
		}
		for _, x := range problems {
			if strings.Contains(x.Message+x.Value, "hunter2") || !strings.Contains(x.Message, "${env:MR_SECRET}") {
				t.Errorf("%s: value %q, message %q", x.Key, x.Value, x.Message)
			}
		}
	}
	cause := errors.New("cause")
	err := config.NewRedactor(good).Error(fmt.Errorf("dial hunter2:3306: %w", cause))
	if strings.Contains(err.Error(), "hunter2") || !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}
