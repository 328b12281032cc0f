package systest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/migrate"
	"github.com/millrace/millrace/internal/testkit"
)

// proxy stands before a REST API and cuts the connection of requests that it is told.
type proxy struct {
	*httptest.Server
	cut atomic.Pointer[func(*http.Request) bool]
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	to := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	p := &proxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cut := p.cut.Load(); cut != nil && (*cut)(r) {
			panic(http.ErrAbortHandler)
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) mend() { p.cut.Store(nil) }

// only cuts requests of a method whose path ends so.
func (p *proxy) only(method, suffix string) {
	cut := func(r *http.Request) bool { return r.Method == method && strings.HasSuffix(r.URL.Path, suffix) }
	p.cut.Store(&cut)
}

// after cuts all requests that come after one of a method whose path ends so.
func (p *proxy) after(method, suffix string) {
	var gone atomic.Bool
	cut := func(r *http.Request) bool {
		if gone.Load() {
			return true
		}
		if r.Method == method && strings.HasSuffix(r.URL.Path, suffix) {
			gone.Store(true)
		}
		return false
	}
	p.cut.Store(&cut)
}

// A move breaks off at each of its steps, there and back, while the database is written to. Each failure says what state things are in, the
// next run goes on from there, and in the end each change is there once.
func TestMigrateBreaksOff(t *testing.T) {
	connectURL := testkit.NeedConnect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	fillMigrated(ctx, t, db)
	_, c := nodes(t, 1, "--brokers", testkit.Kafka(t), "--offsets-topic", testkit.UniqueName("offsets"))
	theirs := connect(t, connectURL, name, "mysql")
	config := map[string]string{
		"connector.class": "io.debezium.connector.mysql.MySqlConnector", "topic.prefix": theirs.prefix, "database.hostname": srv.Host(), "database.port": srv.Port(),
		"database.user": srv.User, "database.password": srv.Password, "database.include.list": name, "include.schema.changes": "false", "poll.interval.ms": "50",
		"key.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter": "org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
	}
	theirs.post(config)
	connector := "diff-" + name
	w := writeOn(200*time.Millisecond, func(n int) error { return writeAll(ctx, db, n) })
	testkit.Eventually(t, time.Minute, "the snapshot and a change by Debezium", func() error {
		if last := lastOf(theirs.read(ctx, t, name)); last == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	there, here := newProxy(t, connectURL), newProxy(t, c.URL)
	m := &migrate.Migration{There: api.NewClient(there.URL), Here: api.NewClient(here.URL), Patience: time.Second}
	run := func(what string, move migrate.Mover, wantThere, wantHere string, words ...string) {
		t.Helper()
		err := move(ctx, connector, func(string) {})
		there.mend()
		here.mend()
		if (err != nil) != (len(words) > 0) {
			t.Fatalf("%s: %v", what, err)
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q is not in: %v", what, word, err)
			}
		}
		if a, b := stateAt(ctx, m.There, connector), stateAt(ctx, m.Here, connector); a != wantThere || b != wantHere {
			t.Fatalf("%s: %s at Kafka Connect and %s here, want %s and %s; the error: %v", what, a, b, wantThere, wantHere, err)
		}
	}

	if _, err := c.CreateIn(ctx, "STOPPED", connector, config); err != nil {
		t.Fatal(err)
	}
	run("the names clash", m.Apply, "RUNNING", "STOPPED", "was left alone", "has a connector of that name already")
	if err := c.Delete(ctx, connector); err != nil {
		t.Fatal(err)
	}
	here.only(http.MethodPost, "/connectors")
	run("it can't be created here", m.Apply, "RUNNING", "none", "create "+connector+" here", "nothing was changed at Kafka Connect")
	there.after(http.MethodPut, "/stop")
	here.only(http.MethodDelete, "/"+connector)
	run("Kafka Connect goes away once it is stopped", m.Apply, "STOPPED", "STOPPED", "putting it back failed", "STOPPED here", "run --apply again")
	here.only(http.MethodPatch, "/offsets")
	run("offsets can't be written here", m.Apply, "RUNNING", "none", "write the offsets", "it goes on at Kafka Connect")
	here.after(http.MethodPatch, "/offsets")
	run("this cluster goes away before it is started", m.Apply, "RUNNING", "STOPPED", "putting it back failed", "run --apply again")
	run("again", m.Apply, "STOPPED", "RUNNING")
	testkit.Eventually(t, time.Minute, "changes by Millrace", func() error {
		p, err := c.Progress(ctx, connector)
		if err == nil && (len(p.Tasks) == 0 || p.Tasks[0].RecordsOut == 0) {
			err = fmt.Errorf("%+v", p.Tasks)
		}
		return err
	})

	there.after(http.MethodPatch, "/offsets")
	run("Kafka Connect goes away once it has the offsets", m.Back, "STOPPED", "STOPPED", "putting it back failed", "run --back again")
	run("no way forward before it is back", m.Apply, "STOPPED", "STOPPED", "an earlier --back did not end: run --back again")
	here.only(http.MethodDelete, "/"+connector)
	there.after(http.MethodPut, "/resume")
	run("it starts there and can't be deleted here", m.Back, "RUNNING", "STOPPED", "putting it back failed")
	run("back again", m.Back, "RUNNING", "none")

	total := w.stop(t)
	testkit.Eventually(t, time.Minute, "the last change", func() error {
		if last := lastOf(theirs.read(ctx, t, name)); last != total {
			return fmt.Errorf("the topic is at %d of %d", last, total)
		}
		return nil
	})
	eachOnce(t, theirs.read(ctx, t, name), name, total)
}

// stateAt is a connector's state, or none.
func stateAt(ctx context.Context, c *api.Client, name string) string {
	s, err := c.Status(ctx, name)
	if fault.KindOf(err) == fault.NotFound {
		return "none"
	}
	if err != nil {
		return err.Error()
	}
	return s.Connector.State
}
