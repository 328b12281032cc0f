package systest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Statuses, bodies and messages are Kafka Connect's.
func TestREST(t *testing.T) {
	f, _ := nodes(t, 1, "--brokers", embeddedBroker(t))
	dir := t.TempDir()
	for _, x := range []struct {
		method, path, body string
		status             int
		want               string // part of the answer
	}{
		{"GET", "/", "", 200, `"version":"4.`},
		{"GET", "/health", "", 200, `"status":"healthy"`},
		{"GET", "/connectors", "", 200, `[]`},
		{"GET", "/connectors/", "", 200, `[]`},
		{"GET", "/nope", "", 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`},
		{"DELETE", "/connectors", "", 405, `{"error_code":405,"message":"HTTP 405 Method Not Allowed"}`},
		{"GET", "/connectors/x", "", 404, `"Connector x not found"`},
		{"GET", "/connectors/x/status", "", 404, `"No status found for connector x"`},
		{"PUT", "/connectors/x/pause", "", 404, `"Unknown connector x"`},
		{"DELETE", "/connectors/x", "", 404, `"Connector x not found"`},
		{"POST", "/connectors/x/restart", "", 404, `"Unknown connector: x"`},
		{"POST", "/connectors", `{"name":`, 400, `"error_code":400`},
		{"POST", "/connectors", `{"name":"x","bogus":1,"config":{}}`, 400, `bogus`},
		{"POST", "/connectors", `{"name":"x"}`, 400, `config`},
		{"POST", "/connectors", `{"name":"x","config":{"name":"y","connector.class":"file"}}`, 400, `Connector name configuration (y) doesn't match connector name in the URL (x)`},
		{"POST", "/connectors", `{"name":"x","config":{"connector.class":"file","topics":["a"]}}`, 400, `topics`},
		{"POST", "/connectors", `{"name":"x","config":{"connector.class":"file","topics":"a","file.path":"` + dir + `","tasks.max":2}}`, 201, `"tasks.max":"2"`},
		{"POST", "/connectors", `{"name":"x","config":{"connector.class":"file","topics":"a","file.path":"` + dir + `"}}`, 409, `"Connector x already exists"`},
		{"GET", "/connectors/x", "", 200, `"type":"sink"`},
		{"GET", "/connectors?expand=status&expand=info", "", 200, `"x":{"status":`},
		{"PUT", "/connectors/x/config", `{"connector.class":"file","topics":"b","file.path":"` + dir + `"}`, 200, `"topics":"b"`},
		{"PATCH", "/connectors/x/config", `{"topics":"c","rotate.bytes":"1000"}`, 200, `"rotate.bytes":"1000"`},
		{"PATCH", "/connectors/x/config", `{"rotate.bytes":null}`, 200, `"topics":"c"`},
		{"GET", "/connectors/x/config", "", 200, `"topics":"c"`},
		{"GET", "/connectors/x/tasks/7/status", "", 404, `"No status found for task x-7"`},
		{"POST", "/connectors/x/tasks/7/restart", "", 404, `"Unknown task: x-7"`},
		{"PUT", "/connectors/x/pause", "", 202, ``},
		{"PUT", "/connectors/x/resume", "", 202, ``},
		{"PUT", "/connectors/x/stop", "", 204, ``},
		{"GET", "/connectors/x/tasks", "", 200, `[]`},
		{"GET", "/connector-plugins", "", 200, `{"class":"io.debezium.connector.mysql.MySqlConnector","type":"source"`},
		{"GET", "/connector-plugins/file/config", "", 200, `"name":"file.path","type":"STRING","required":true`},
		{"GET", "/connector-plugins/nope/config", "", 404, `"Unknown plugin nope."`},
		{"PUT", "/connector-plugins/file/config/validate", `{"connector.class":"file","name":"v","topics":"a","file.pth":"x"}`, 200, `"error_count":2`},
		{"PUT", "/connector-plugins/sql/config/validate", `{"connector.class":"file"}`, 400, `Included connector type file does not match request type sql`},
		{"GET", "/connectors/x/offsets", "", 200, `{"offsets":[]}`},
		{"GET", "/openapi.json", "", 200, `"openapi":"3.1.0"`},
		{"GET", "/millrace/v1/cluster", "", 200, `"leader":"node1"`},
		{"GET", "/millrace/v1/cluster", "", 200, `"vote":"voter","drained":false,"capacity":1,`},
		{"GET", "/millrace/v1/cluster/backup", "", 200, `"connectors":["x"]`},
		{"POST", "/millrace/v1/cluster/restore", `{"format":1}`, 400, `This is no backup`},
		{"POST", "/millrace/v1/cluster/transfer", `{"node":"nobody"}`, 404, `nobody is no coordinator that can lead`},
		{"POST", "/millrace/v1/cluster/transfer", "", 409, `no other coordinator`},
		{"DELETE", "/millrace/v1/cluster/nodes/nobody", "", 404, `Node nobody is not in the cluster`},
		{"DELETE", "/millrace/v1/cluster/nodes/node1", "", 409, `hand leadership over first`},
		{"PUT", "/millrace/v1/cluster/nodes/nobody/drain", "", 404, `nobody is no worker of the cluster`},
		{"PUT", "/millrace/v1/cluster/nodes/node1/drain", "", 202, ``},
		{"GET", "/millrace/v1/cluster", "", 200, `"drained":true`},
		{"PUT", "/millrace/v1/cluster/nodes/node1/undrain", "", 202, ``},
		{"DELETE", "/connectors/x", "", 204, ``},
		{"POST", "/connectors", strings.Repeat(" ", 2<<20), 413, `larger`},
	} {
		status, body := do(t, f.Nodes[0].REST, x.method, x.path, x.body, "application/json")
		if status != x.status || !strings.Contains(body, x.want) {
			t.Errorf("%s %s %s\n  got  %d %s\n  want %d …%s…", x.method, x.path, x.body[:min(80, len(x.body))], status, body[:min(600, len(body))], x.status, x.want)
		}
	}
	if status, _ := do(t, f.Nodes[0].REST, "POST", "/connectors", "a=b", "application/x-www-form-urlencoded"); status != http.StatusUnsupportedMediaType {
		t.Errorf("a form: %d, want 415", status)
	}
}

func do(t *testing.T, base, method, path, body, contentType string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Changes of one connector at the same moment all stay.
func TestConcurrentPatches(t *testing.T) {
	f, _ := nodes(t, 1, "--brokers", embeddedBroker(t))
	base := f.Nodes[0].REST
	if status, body := do(t, base, "PUT", "/connectors/x/config", `{"connector.class":"transform","topics":"a","transform.output.topic":"b","function.address":"127.0.0.1:1"}`, "application/json"); status != http.StatusCreated {
		t.Fatal(status, body)
	}
	done := make(chan string)
	for i := range 8 {
		go func() {
			status, body := do(t, base, "PATCH", "/connectors/x/config", fmt.Sprintf(`{"function.config.k%d":"v"}`, i), "application/json")
			if status == http.StatusOK {
				body = ""
			}
			done <- body
		}()
	}
	for range 8 {
		if bad := <-done; bad != "" {
			t.Error(bad)
		}
	}
	_, body := do(t, base, "GET", "/connectors/x/config", "", "")
	for i := range 8 {
		if !strings.Contains(body, fmt.Sprintf(`"function.config.k%d":"v"`, i)) {
			t.Errorf("change %d is lost: %s", i, body)
		}
	}
}
