package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDefinition(t *testing.T) {
	t.Parallel()
	want := definition{name: "a", config: map[string]string{"connector.class": "file", "tasks.max": "2", "topics": "x,y"}, state: "STOPPED"}
	flat := definition{name: "a", config: map[string]string{"name": "a", "id": "0012", "on": "yes", "sql": "a=b:c", "path": `C:\x`}}
	for _, x := range []struct {
		file, text string
		want       definition
		err        string
	}{
		{file: "a.json", text: `{"name":"a","initial_state":"STOPPED","config":{"connector.class":"file","tasks.max":2,"topics":"x,y"}}`, want: want},
		{file: "a.yaml", text: "name: a\ninitial_state: STOPPED\nconfig:\n  connector.class: file\n  tasks.max: 2\n  topics: x,y\n", want: want},
		{file: "a.yml", text: "name: a\nid: 0012\non: yes\nsql: a=b:c\npath: C:\\x\n", want: flat},
		{file: "a.properties", text: "# c\n! c\r\n\nname=a\nid : 0012\non = yes\nsql=a=\\\n   b:c\npath=C:\\\\x", want: flat},
		{file: "b.json", text: `{"name":"a","initial-state":"STOPPED","config":{}}`, err: `unknown field "initial-state"`},
		{file: "b.json", text: `{"name":7,"config":{}}`, err: "name must be text"},
		{file: "b.json", text: `{"topics":["a"]}`, err: `the value of "topics" must be`},
		{file: "b.yaml", text: "topics:\n", err: `the value of "topics" must be`},
		{file: "b.yaml", text: "topics: [a]\n", err: `the value of "topics" must be`},
		{file: "b.yaml", text: "- a\n", err: "is no YAML mapping"},
		{file: "b.properties", text: "a=1\nnonsense\n", err: "line 2 is not key=value"},
	} {
		got, err := parseDefinition(x.file, []byte(x.text))
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%s %q: error %v, want %q", x.file, x.text, err, x.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %q: %v", x.file, x.text, err)
			continue
		}
		if d := cmp.Diff(x.want, got, cmp.AllowUnexported(definition{})); d != "" {
			t.Errorf("%s %q: -want +got\n%s", x.file, x.text, d)
		}
	}
}

// What may be a secret is hidden on both sides, whether or not it is declared; references are shown, for they are none.
func TestChangesHideSecrets(t *testing.T) {
	t.Parallel()
	before := map[string]string{
		"connector.class": "sql", "topics": "a", "connection.url": "mysql://u:geheim1@db/x", "connection.password": "geheim2", "undeclared": "geheim3", "gone": "geheim4",
	}
	after := map[string]string{"connector.class": "sql", "topics": "b", "connection.url": "mysql://u:geheim5@db/y", "connection.password": "${env:P}", "undeclared": "geheim6"}
	var b strings.Builder
	showChanges(&b, changes(before, after))
	const want = `  ~ connection.password: [hidden] → ${env:P}
  ~ connection.url: mysql://u:[hidden]@db/x → mysql://u:[hidden]@db/y
  - gone: [hidden]
  ~ topics: a → b
  ~ undeclared: [hidden] → [hidden]
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	// A key is secret if either config's class says so.
	b.Reset()
	showChanges(&b, changes(map[string]string{"connector.class": "mysql", "database.password": "geheim"}, map[string]string{"connector.class": "file"}))
	if strings.Contains(b.String(), "geheim") {
		t.Error(b.String())
	}
}
