package systest

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/millrace/millrace/internal/testkit/fleet"
)

// description is what a node says of its API at /openapi.json. Safe for concurrent use.
type description struct {
	doc struct {
		Paths map[string]map[string]struct {
			RequestBody *struct {
				Content map[string]any `json:"content"`
			} `json:"requestBody"`
			Responses map[string]struct {
				Content map[string]any `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
	}

	mu       sync.Mutex // guards: compiler, schemas
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

func readDescription(t *testing.T, cluster fleet.Cluster) *description {
	t.Helper()
	status, body := do(t, cluster.Client.URL, "GET", "/openapi.json", "", "")
	if status != http.StatusOK {
		t.Fatal(status, body)
	}
	d := &description{compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	if err := decode([]byte(body), &d.doc); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err == nil {
		err = d.compiler.AddResource("mem:///openapi.json", doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// check finds a request or an answer that the description does not describe.
func (d *description) check(t *testing.T, req *http.Request, sent string, resp *http.Response, body []byte) {
	t.Helper()
	bad := func(why string, args ...any) {
		t.Helper()
		t.Errorf("/openapi.json does not describe %s %s %s → %d %s: "+why, append([]any{req.Method, req.URL, sent, resp.StatusCode, body}, args...)...)
	}
	path := d.path(req.URL)
	op, ok := d.doc.Paths[path][strings.ToLower(req.Method)]
	if !ok {
		refused := resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusBadRequest
		if !refused && req.Method != http.MethodHead && req.Method != http.MethodOptions {
			bad("no such path and method")
		}
		return
	}
	at := "/paths/" + escape(path) + "/" + strings.ToLower(req.Method)
	if op.RequestBody != nil {
		if err := d.valid(at+"/requestBody/content/"+escape("application/json")+"/schema", []byte(sent)); err != nil && resp.StatusCode < 300 {
			bad("the body: %v", err)
		}
	}
	status := strconv.Itoa(resp.StatusCode)
	answer, ok := op.Responses[status]
	if !ok {
		if resp.StatusCode < 400 {
			bad("no such status")
		}
		status, answer = "default", op.Responses["default"]
	}
	if len(answer.Content) == 0 {
		if len(body) > 0 {
			bad("a body")
		}
		return
	}
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if _, ok := answer.Content[media]; !ok {
		bad("the content type %s", media)
		return
	}
	if media != "application/json" {
		return
	}
	if err := d.valid(at+"/responses/"+status+"/content/"+escape(media)+"/schema", body); err != nil {
		bad("the answer: %v", err)
	}
}

// path finds the description's path for a URL.
func (d *description) path(u *url.URL) string {
	have := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for path := range d.doc.Paths {
		want := strings.Split(strings.Trim(path, "/"), "/")
		same := len(want) == len(have)
		for i := 0; same && i < len(want); i++ {
			same = want[i] == have[i] || strings.HasPrefix(want[i], "{") && have[i] != ""
		}
		if same {
			return path
		}
	}
	return ""
}

func escape(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(s)
}

func (d *description) valid(pointer string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.schemas[pointer]
	if s == nil {
		var err error
		if s, err = d.compiler.Compile("mem:///openapi.json#" + pointer); err != nil {
			return err
		}
		d.schemas[pointer] = s
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// The page shows every path of the description, and needs nothing from elsewhere.
func TestDocsPage(t *testing.T) {
	f, cluster := nodes(t, 1, "--brokers", embeddedBroker(t))
	d := readDescription(t, cluster)
	status, page := do(t, f.Nodes[0].REST, "GET", "/docs", "", "")
	if status != http.StatusOK {
		t.Fatal(status, page)
	}
	for path := range d.doc.Paths {
		if !strings.Contains(page, ">"+path+"<") {
			t.Errorf("the page does not show %s", path)
		}
	}
	if strings.Contains(page, "src=") || strings.Contains(page, "href=\"http") || strings.Contains(page, "@import") {
		t.Error("the page fetches something from elsewhere")
	}
}
