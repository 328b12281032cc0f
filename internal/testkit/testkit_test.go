package testkit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recorder takes what a helper says about a test, so that the helper's failures can be looked at.
type recorder struct {
	testing.TB
	failed, skipped bool
	message         string
	cleanups        []func()
}

type stopped struct{}

func (r *recorder) Helper()                      {}
func (r *recorder) Failed() bool                 { return r.failed }
func (r *recorder) Cleanup(f func())             { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(f string, args ...any) { r.failed, r.message = true, fmt.Sprintf(f, args...) }
func (r *recorder) Fatalf(f string, args ...any) { r.Errorf(f, args...); panic(stopped{}) }
func (r *recorder) Skipf(f string, args ...any) {
	r.skipped, r.message = true, fmt.Sprintf(f, args...)
	panic(stopped{})
}

func (r *recorder) run(f func(tb testing.TB)) *recorder {
	defer func() {
		if e := recover(); e != nil && e != any(stopped{}) {
			panic(e)
		}
	}()
	f(r)
	return r
}

func TestGolden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.txt")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	Golden(t, path, "a\nb\n")
	r := &recorder{TB: t}
	r.run(func(tb testing.TB) { Golden(tb, path, "a\nc\n") })
	if !r.failed || !strings.Contains(r.message, "-rewrite") {
		t.Errorf("a difference went through, or the message does not say what to do: %q", r.message)
	}
	r = &recorder{TB: t}
	r.run(func(tb testing.TB) { Golden(tb, path+".missing", "") })
	if !r.failed {
		t.Error("a missing golden file went through")
	}
}

func TestEventually(t *testing.T) {
	n := 0
	Eventually(t, time.Second, "third try", func() error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	r := &recorder{TB: t}
	r.run(func(tb testing.TB) {
		Eventually(tb, time.Millisecond, "the moon", func() error { return errors.New("still up") })
	})
	if !r.failed || !strings.Contains(r.message, "the moon") || !strings.Contains(r.message, "still up") {
		t.Errorf("message does not name what and why: %q", r.message)
	}
}

func TestLeakCheckSeesALeak(t *testing.T) {
	r := &recorder{TB: t}
	LeakCheck(r)
	stop := make(chan struct{})
	go func() { <-stop }()
	r.cleanups[0]()
	close(stop)
	if !r.failed {
		t.Error("a goroutine that still runs was not reported")
	}
}

func TestLoggerAfterTheTest(t *testing.T) {
	r := &recorder{TB: t}
	log := Logger(r)
	r.cleanups[0]()
	log.Info("nobody hears this, and nothing panics")
}

func TestMissingServerFailsWhereServersArePromised(t *testing.T) {
	for _, c := range []struct {
		ci, require string
		fails       bool
	}{{"", "", false}, {"false", "0", false}, {"true", "", true}, {"", "1", true}} {
		t.Setenv("CI", c.ci)
		t.Setenv("MILLRACE_REQUIRE_SERVERS", c.require)
		r := &recorder{TB: t}
		r.run(func(tb testing.TB) { missing(tb, "kafka", errors.New("no java")) })
		if r.failed != c.fails || r.skipped == c.fails || !strings.Contains(r.message, "no java") {
			t.Errorf("CI=%q MILLRACE_REQUIRE_SERVERS=%q: failed %t, skipped %t, %q", c.ci, c.require, r.failed, r.skipped, r.message)
		}
	}
}

func TestDatabase(t *testing.T) {
	for name, server := range map[string]func(tb testing.TB) Server{"mariadb": MariaDB, "mysql": MySQL} {
		t.Run(name, func(t *testing.T) {
			LeakCheck(t)
			s := server(t)
			var inside string
			t.Run("use", func(t *testing.T) {
				db, database := Database(t, s)
				inside = database
				var format, metadata, current string
				if err := db.QueryRowContext(t.Context(), "select @@binlog_format, @@binlog_row_metadata, database()").Scan(&format, &metadata, &current); err != nil {
					t.Fatal(err)
				}
				if format != "ROW" || metadata != "FULL" || current != database {
					t.Errorf("got binlog_format %s, binlog_row_metadata %s, database %s", format, metadata, current)
				}
			})
			db, _ := Database(t, s)
			var n int
			if err := db.QueryRowContext(t.Context(), "select count(*) from information_schema.schemata where schema_name = ?", inside).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 0 {
				t.Errorf("database %s is still there after its test", inside)
			}
		})
	}
}

func TestInstance(t *testing.T) {
	if os.Getenv("MARIADB_DSN") == "" {
		MariaDB(t) // skips where there is no MariaDB at all
	}
	var addr string
	t.Run("up", func(t *testing.T) {
		s := Instance(t, "mariadb", "binlog_format=STATEMENT")
		addr = s.Addr
		db, _ := Database(t, s)
		var format string
		if err := db.QueryRowContext(t.Context(), "select @@binlog_format").Scan(&format); err != nil {
			t.Fatal(err)
		}
		if format != "STATEMENT" {
			t.Errorf("binlog_format is %s", format)
		}
	})
	if listening(addr) {
		t.Errorf("the instance at %s still runs after its test", addr)
	}
}

func TestKafka(t *testing.T) {
	if addr := Kafka(t); !listening(addr) {
		t.Errorf("nobody listens at %s", addr)
	}
}

func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
