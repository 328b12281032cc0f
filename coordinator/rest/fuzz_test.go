package rest_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/coordinator/rest"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/loglevel"
	"github.com/millrace/millrace/internal/logring"
	"github.com/millrace/millrace/internal/obs"
)

func init() {
	connectors.Register(connectors.Plugin{
		Class: "fuzzed", Kind: connectors.KindSink, Version: "1.0.0", NewSink: func() connectors.SinkTask { return nil },
		Spec: configdef.New(configdef.Key{Name: "n", Type: configdef.Int, Default: "1", Doc: "A number."}),
	})
}

// handler is REST over a real coordinator that leads. There is no worker and no broker.
func handler(f testing.TB) http.Handler {
	f.Helper()
	log := slog.New(slog.DiscardHandler)
	c, err := coordinator.New(coordinator.Options{NodeID: "n", DataDir: f.TempDir(), ListenAddr: "127.0.0.1:0", RESTAddr: "127.0.0.1:1", Logger: log, Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		f.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
		_ = l.Close()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if leader, ok := c.Leader(); ok && leader.Self {
			break
		}
		if time.Now().After(deadline) {
			f.Fatal("the coordinator does not lead")
		}
	}
	return rest.New(l, rest.Options{
		Herder: herder.New(c, herder.Kafka{Config: kafka.Config{Brokers: []string{"127.0.0.1:1"}}, OffsetsTopic: "offsets"}),
		Leader: func(context.Context) (string, bool) { return "127.0.0.1:1", true }, KafkaClusterID: func() string { return "" },
		Nodes: func(context.Context) ([]string, error) { return nil, nil }, Levels: loglevel.New(slog.LevelInfo), Logs: logring.New(), Logger: log, Metrics: obs.NewRegistry(), Ready: func() (string, bool) { return "", true },
	}).Handler()
}

// Whatever is asked: an answer that says what it is, no panic, and nothing that is stored breaks the next answer.
func FuzzRequests(f *testing.F) {
	for _, seed := range []struct{ method, path, body string }{
		{"POST", "/connectors", `{"name":"a","config":{"connector.class":"fuzzed","topics":"t","n":2},"initial_state":"stopped"}`},
		{"PUT", "/connectors/a%2fb/config", `{"connector.class":"fuzzed","topics.regex":"x.*","n":null}`},
		{"PATCH", "/connectors/a/config", `{"n":1e3,"name":"b","topics":null}`},
		{"PATCH", "/connectors/a/offsets", `{"offsets":[{"partition":{"kafka_topic":"t","kafka_partition":"0"},"offset":{"kafka_offset":9223372036854775807}}]}`},
		{"PUT", "/connector-plugins/fuzzed/config/validate", `{"connector.class":"fuzzed","tasks.max":"-1","transforms":"x"}`},
		{"GET", "/connector-plugins/fuzzed/config?version=[1,2)", ""},
		{"PUT", "/admin/loggers/a.b?scope=cluster", `{"level":"off"}`},
		{"GET", "/connectors?expand=status&expand=info&expand=%ff", ""},
		{"POST", "/connectors/a/restart?includeTasks=true&onlyFailed=%00", "\x00"},
		{"POST", "/millrace/v1/connectors/a/signals", `{"type":"x","data":[{}]}`},
		{"DELETE", "//connectors/./a/../%2e%2e", ""},
		{"OPTIONS", "/docs/", ""},
	} {
		f.Add(seed.method, seed.path, seed.body)
	}
	h := handler(f)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.ContainsAny(method, " \t\r\n") || method == "" {
			return // no HTTP server hands this on
		}
		ask := func(method string, u *url.URL, body string) (int, http.Header, []byte) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", strings.NewReader(body))
			r.Method, r.URL = method, u
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code, w.Header(), w.Body.Bytes()
		}
		began := time.Now()
		status, header, answer := ask(method, u, body)
		switch {
		case status < 200 || status > 599, strings.Contains(string(answer), "Internal error"):
			t.Errorf("%d %s", status, answer)
		case status >= 400 && !json.Valid(answer), header.Get("Content-Type") == "application/json" && !json.Valid(answer):
			t.Errorf("%d, and the body is no JSON: %s", status, answer)
		case time.Since(began) > 10*time.Second && !strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/offsets"): // that waits for brokers
			t.Errorf("took %v", time.Since(began))
		}
		if status, _, answer := ask(http.MethodGet, &url.URL{Path: "/connectors", RawQuery: "expand=status&expand=info"}, ""); status != http.StatusOK || !json.Valid(answer) {
			t.Errorf("the list is broken: %d %s", status, answer)
		}
	})
}
