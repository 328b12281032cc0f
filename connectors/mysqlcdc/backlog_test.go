package mysqlcdc

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
)

// freezer passes connections on to a server until they are frozen: then they stay open and carry nothing, as behind a firewall that forgot them.
// New connections pass.
type freezer struct {
	l      net.Listener
	mu     sync.Mutex // guards: frozen
	frozen chan struct{}
}

func newFreezer(t *testing.T, to string) *freezer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &freezer{l: l, frozen: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			f.mu.Lock()
			frozen := f.frozen
			f.mu.Unlock()
			go carry(in, out, frozen)
			go carry(out, in, frozen)
		}
	}()
	return f
}

func carry(from, to net.Conn, frozen <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			_, _ = io.Copy(io.Discard, from) // until an end is closed
			_ = to.Close()
			return
		default:
		}
		if err != nil {
			_ = to.Close()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
	f.frozen = make(chan struct{})
}

// A source that gives nothing because nothing is there has no backlog; one whose connection is dead has one as soon as the log goes on.
func TestBacklog(t *testing.T) {
	srv := testkit.Instance(t, "mariadb") // nobody else writes to its log
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	run("CREATE TABLE a (id INT PRIMARY KEY)")
	f := newFreezer(t, srv.Addr)
	through := srv
	through.Addr = f.l.Addr().String()
	task := open(t, config(through, name, "snapshot.mode", "no_data"), nil)
	run("INSERT INTO a VALUES (1)")
	until(t, task, func(s step) bool { return len(s.events) > 0 })
	ask := func() bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		more, err := task.Backlog(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return more
	}
	if ask() {
		t.Error("a quiet source has a backlog")
	}
	f.freeze()
	run("INSERT INTO a VALUES (2)")
	if !ask() {
		t.Error("a dead connection has no backlog")
	}
	// The stream finds out by itself, connects anew and reads on.
	until(t, task, func(s step) bool { return len(s.events) > 0 })
	if ask() {
		t.Error("there still is a backlog")
	}
}
