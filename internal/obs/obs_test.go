package obs

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

var (
	testCounter = Counter("millrace_test_things_total", "Things.", "kind")
	testGauge   = Gauge("millrace_test_level", "Level.")
	testTime    = Histogram("millrace_test_seconds", "Time.", []float64{1}, "route")
)

func scrape(t *testing.T, r *Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	return w.Body.String()
}

// Two nodes in one process have the same metrics and different values; what is gone at the next scrape has no series.
func TestScrape(t *testing.T) {
	a, b := NewRegistry(), NewRegistry()
	things := map[string]float64{"x": 1, "y": 2}
	a.Add(func(emit Emit) {
		for k, n := range things {
			emit(testCounter, n, k)
		}
		emit(testGauge, Bool(true))
	})
	a.Histogram(testTime)(0.5, "/x")
	b.Add(func(emit Emit) { emit(testCounter, 7, "x") })
	got := scrape(t, a)
	for _, want := range []string{
		"# TYPE millrace_test_things_total counter", `millrace_test_things_total{kind="x"} 1`, `millrace_test_things_total{kind="y"} 2`,
		"# TYPE millrace_test_level gauge", "millrace_test_level 1", `millrace_test_seconds_bucket{route="/x",le="1"} 1`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	delete(things, "y")
	if again := scrape(t, a); strings.Contains(again, `kind="y"`) {
		t.Error("a thing that is gone still has a series")
	}
	if other := scrape(t, b); !strings.Contains(other, `millrace_test_things_total{kind="x"} 7`) || strings.Contains(other, "millrace_test_level") {
		t.Errorf("the other node shows\n%s", other)
	}
}

// One value that can't be shown is left out; the scrape is not lost.
func TestBadValueHurtsOnlyItself(t *testing.T) {
	r := NewRegistry()
	r.Add(func(emit Emit) {
		emit(testCounter, 1) // its label is missing
		emit(testGauge, 3)
	})
	if got := scrape(t, r); !strings.Contains(got, "millrace_test_level 3") {
		t.Errorf("got\n%s", got)
	}
}

func TestDeclarationsAreChecked(t *testing.T) {
	for name, declare := range map[string]func(){
		"twice":     func() { Gauge("millrace_test_level", "Again.") },
		"no prefix": func() { Gauge("level", "Level.") },
		"no help":   func() { Counter("millrace_test_other_total", "") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			declare()
		}()
	}
}
