package testkit

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Canal is a running Alibaba Canal that follows a server's binlog.
type Canal struct {
	mu       sync.Mutex // guards: messages, ended
	messages []string
	ended    bool
}

// FollowCanal starts Alibaba Canal at the end of a server's binlog, for the tables that filter, Canal's regular expression on db\\.table,
// names. It stops when the test ends. Like Connect it may be missing: nil where there is no Java.
//
// Canal asks the server for a table's columns when it meets the first row, so whoever changes tables must wait until it has come that far.
func FollowCanal(t testing.TB, s Server, filter string) *Canal {
	t.Helper()
	if _, err := exec.LookPath("java"); err != nil {
		return nil
	}
	short(t, "canal")
	if _, err := script("install", "canal"); err != nil {
		missing(t, "canal", err)
	}
	path, err := scriptPath()
	if err != nil {
		t.Fatal(err)
	}
	file, pos := logEnd(t, s)
	cmd := exec.Command(path, "canal", s.Host(), s.Port(), s.User, s.Password, file, pos, filter)
	log, err := os.Create(filepath.Join(t.TempDir(), "canal.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatalf("start Canal: %v", err)
	}
	c := &Canal{}
	read := make(chan struct{})
	go func() { // ends with the process
		defer close(read)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			c.mu.Lock()
			c.messages = append(c.messages, lines.Text())
			c.mu.Unlock()
		}
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		<-read
		_ = cmd.Wait()
		kill.Stop()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the end of Canal's log:\n%s", b[max(0, len(b)-4000):])
		}
		_ = log.Close()
	})
	return c
}

// Messages returns the flat messages so far.
func (c *Canal) Messages() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages)
}

// WaitFor waits until a message has text in it.
func (c *Canal) WaitFor(t testing.TB, text string) {
	t.Helper()
	Eventually(t, time.Minute, "Canal's message with "+text, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case slices.ContainsFunc(c.messages, func(m string) bool { return strings.Contains(m, text) }):
			return nil
		case c.ended:
			return errors.New("it has ended")
		}
		return errors.New("not there")
	})
}

// logEnd returns the file and the position where the server's binlog ends.
func logEnd(t testing.TB, s Server) (file, pos string) {
	t.Helper()
	db := open(t, s)
	defer db.Close()
	statement := "SHOW BINARY LOG STATUS"
	if s.Kind == "mariadb" {
		statement = "SHOW MASTER STATUS"
	}
	rows, err := db.QueryContext(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil || !rows.Next() {
		t.Fatalf("%s: %v, %v", statement, err, rows.Err())
	}
	values := make([]any, len(columns))
	for i := range values {
		values[i] = new([]byte)
	}
	values[0], values[1] = &file, &pos
	if err := rows.Scan(values...); err != nil {
		t.Fatal(err)
	}
	return file, pos
}
