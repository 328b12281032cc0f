package systest

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/login"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// Who may use REST is the same at each node: a request that is passed on, or for which other nodes are asked, has its login with it.
func TestLogins(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, err := login.UserLine("alice", "admin", "wonder")
	if err != nil {
		t.Fatal(err)
	}
	made := exec.CommandContext(ctx, bin, "login", "token", "ci", "--role", "read")
	var token strings.Builder
	made.Stderr = &token
	ci, err := made.Output()
	if err != nil {
		t.Fatal(err)
	}
	reader := "Bearer " + strings.TrimSpace(token.String())
	path := filepath.Join(t.TempDir(), "logins")
	if err := os.WriteFile(path, []byte(alice+"\n"+string(ci)), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:wonder"))
	f, _ := begin(t, 2, &fleet.Fleet{Bin: bin, Dir: t.TempDir(), Login: admin, Args: []string{
		"--brokers", embeddedBroker(t), "--rest-logins", path, "--access-control-allow-origin", "https://console.example.com", "--access-control-allow-methods", "GET,PUT",
	}})
	sink := `{"connector.class":"file","topics":"none","file.path":"` + t.TempDir() + `"}`
	for _, n := range f.Nodes {
		for _, x := range []struct {
			login, method, path, body string
			status                    int
			want                      string
		}{
			{"", "GET", "/connectors", "", 401, "User cannot access the resource."},
			{"", "GET", "/openapi.json", "", 401, "User cannot access the resource."},
			{"", "POST", "/connectors", "{}", 401, "User cannot access the resource."},
			{"Bearer mr_x", "GET", "/", "", 401, "User cannot access the resource."},
			{"", "GET", "/millrace/v1/live", "", 200, `"status":"live"`},
			{reader, "GET", "/connectors", "", 200, "["},
			{reader, "PUT", "/connectors/" + n.ID + "/config", sink, 403, `{"error_code":403,"message":"ci may only read; PUT needs the role admin"}`},
			{admin, "PUT", "/connectors/" + n.ID + "/config", sink, 201, `"topics":"none"`},
			{admin, "PUT", "/admin/loggers/of." + n.ID + "?scope=cluster", `{"level":"debug"}`, 204, ""},
			{reader, "GET", "/millrace/v1/connectors/" + n.ID + "/logs", "", 200, `"lines":`},
			{admin, "DELETE", "/connectors/" + n.ID, "", 204, ""},
		} {
			status, header, body := ask(t, n.REST, x.method, x.path, x.body, "Authorization", x.login)
			if status != x.status || !strings.Contains(body, x.want) || strings.Contains(body, "unreachable") {
				t.Errorf("%s of %s: %s %s with %.10q: %d %s, want %d …%s…", n.ID, f.Nodes[0].ID, x.method, x.path, x.login, status, body, x.status, x.want)
			}
			if status == 401 && (header.Get("Content-Type") != "text/plain" || !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ")) {
				t.Errorf("%s %s: headers %v", x.method, x.path, header)
			}
		}
	}
	if status, _, body := ask(t, f.Nodes[0].REST, "GET", "/millrace/v1/ready", ""); status == http.StatusUnauthorized {
		t.Errorf("orchestrators are asked for a login: %s", body)
	}
	for _, name := range []string{f.Nodes[0].ID, f.Nodes[1].ID} { // set through either node, at the other
		for _, n := range f.Nodes {
			if status, _, body := ask(t, n.REST, "GET", "/admin/loggers/of."+name, "", "Authorization", reader); status != 200 || !strings.Contains(body, "DEBUG") {
				t.Errorf("logger of.%s at %s: %d %s", name, n.ID, status, body)
			}
		}
	}
	crossOrigin(t, f, reader)
	commandLogin(ctx, t, f.Nodes[1].REST)
}

// crossOrigin: browsers are told which pages may use REST, once, also where the leader answers.
func crossOrigin(t *testing.T, f *fleet.Fleet, reader string) {
	t.Helper()
	const origin = "https://console.example.com"
	for _, n := range f.Nodes {
		for _, x := range []struct{ origin, want string }{{origin, origin}, {"https://evil.example.com", ""}, {"", ""}} {
			_, header, _ := ask(t, n.REST, "GET", "/connectors", "", "Authorization", reader, "Origin", x.origin)
			if got := strings.Join(header.Values("Access-Control-Allow-Origin"), " "); got != x.want {
				t.Errorf("%s lets %q: %q, want %q", n.ID, x.origin, got, x.want)
			}
			status, header, _ := ask(t, n.REST, "OPTIONS", "/connectors", "", "Origin", x.origin, "Access-Control-Request-Method", "PUT")
			switch methods := header.Get("Access-Control-Allow-Methods"); {
			case x.origin == "": // no browser asks
			case status != 200 || (methods == "GET,PUT") != (x.want != "") || header.Get("Access-Control-Allow-Origin") != x.want:
				t.Errorf("%s, asked beforehand by %s: %d %v", n.ID, x.origin, status, header)
			}
		}
	}
}

// commandLogin: the command line logs in by flag and by environment, and says how where it has not.
func commandLogin(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	for _, x := range []struct {
		args []string
		env  string
		want string
	}{
		{want: "log in with --user NAME:PASSWORD (MILLRACE_USER)"},
		{env: "MILLRACE_USER=alice:wonder", want: "NAME"},
		{args: []string{"--user", "alice:wonder"}, want: "NAME"},
		{args: []string{"--user", "alice"}, want: "--user is NAME:PASSWORD"},
	} {
		cmd := exec.CommandContext(ctx, bin, append([]string{"--url", url, "connector", "list"}, x.args...)...)
		cmd.Env = append(os.Environ(), x.env)
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), x.want) {
			t.Errorf("%v %s: %s, want …%s…", x.args, x.env, out, x.want)
		}
	}
	c := api.NewClient(url)
	c.User, c.Password = "alice", "wonder"
	if _, err := c.Cluster(ctx); err != nil {
		t.Error(err)
	}
}

// ask sends a request with headers, name and value in turn.
func ask(t *testing.T, base, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
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
	return resp.StatusCode, resp.Header, string(b)
}
