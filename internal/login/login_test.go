package login

import (
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("# who\n\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWho(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	alice, err := UserLine("alice", "admin", "pa:ss")
	if err != nil {
		t.Fatal(err)
	}
	token, ci, err := TokenLine("ci", "read")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(alice+ci, "pa:ss") || strings.Contains(ci, token) {
		t.Errorf("the file would hold secrets: %s, %s", alice, ci)
	}
	write(t, path, alice, ci)
	l, err := Load(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	is := func(header, name string, role Role) {
		t.Helper()
		if n, r := l.Who(header); n != name || r != role {
			t.Errorf("%q is %q with role %d, want %q with %d", header, n, r, name, role)
		}
	}
	for range 2 { // the second time it is known
		is(basic("alice", "pa:ss"), "alice", Admin)
		is("bearer "+token, "ci", Read)
	}
	for _, bad := range []string{
		"", "Basic", "Basic !", "Bearer ", "Bearer x", "Digest x", basic("alice", "pa"), basic("bob", "pa:ss"),
		"Basic " + base64.StdEncoding.EncodeToString([]byte("alice")), "Bearer " + hashToken(token), "Basic " + token,
	} {
		is(bad, "", None)
	}
	// A changed file counts, what was known no more; a wrong one leaves the last good one.
	again, err := UserLine("alice", "read", "other")
	if err != nil {
		t.Fatal(err)
	}
	change := func(lines ...string) {
		write(t, path, lines...)
		l.looked = time.Time{}
		l.stamp = ""
	}
	change(again)
	is(basic("alice", "pa:ss"), "", None)
	is(basic("alice", "other"), "alice", Read)
	is("Bearer "+token, "", None)
	change("user alice")
	is(basic("alice", "other"), "alice", Read)
}

// What is wrong with the file is said with its line and the way out.
func TestLoad(t *testing.T) {
	for line, want := range map[string]string{
		"":                       "names nobody",
		"user bob admin":         "line 3: it has 3 fields, not 4",
		"user bob boss x":        `line 3: "boss" is no role: read or admin`,
		"user bob admin secret":  "line 3: the password of a user is kept as its bcrypt hash; millrace login user",
		"token ci read secret":   "line 3: a token is kept as sha256:HEX; millrace login token",
		"group x read sha256:00": `line 3: "group" is no kind of login`,
	} {
		path := filepath.Join(t.TempDir(), "logins")
		write(t, path, line)
		if _, err := Load(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want …%s…", line, err, want)
		}
	}
	if _, err := Load("/nope", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/nope") {
		t.Errorf("no file: %v", err)
	}
}
