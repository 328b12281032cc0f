package docgen

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/internal/obs"
	"github.com/millrace/millrace/internal/testkit"
)

const (
	dashboard  = "../../deploy/grafana/millrace.json"
	alerts     = "../../deploy/prometheus/alerts.yml"
	prometheus = "../../deploy/prometheus/prometheus.yml"
	alertTests = "../../deploy/prometheus/alerts_test.yml"
)

// A metric that was renamed must not leave a panel empty or an alert silent.
func TestDashboardShowsWhatIsDeclared(t *testing.T) {
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	read(t, dashboard, json.Unmarshal, &d)
	shown := map[string]bool{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, name := range check(t, "panel "+p.Title, target.Expr) {
				shown[name] = true
			}
		}
	}
	for _, m := range obs.Declared() {
		if !shown[m.Name] {
			t.Errorf("%s is on no panel of the dashboard", m.Name)
		}
	}
}

func TestAlertsWatchWhatIsDeclared(t *testing.T) {
	var f struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	read(t, alerts, yaml.Unmarshal, &f)
	seen := map[string]bool{}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if names := check(t, r.Alert, r.Expr); len(names) == 0 && !strings.HasPrefix(r.Expr, "up{") {
				t.Errorf("%s watches no metric: %s", r.Alert, r.Expr)
			}
			if seen[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s needs a name of its own, a severity and a summary", r.Alert)
			}
			seen[r.Alert] = true
		}
	}
	if len(seen) == 0 {
		t.Error("no rules")
	}
}

// Prometheus' own checker reads the expressions as Prometheus will.
func TestPromtool(t *testing.T) {
	promtool := testkit.Program(t, "promtool")
	for _, args := range [][]string{{"check", "rules", alerts}, {"check", "config", prometheus}, {"test", "rules", alertTests}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

var (
	selector = regexp.MustCompile(`\b(millrace_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// check reads an expression's selectors: each metric is declared, each label is one of its own. It returns the metrics.
func check(t *testing.T, where, expr string) []string {
	t.Helper()
	labels := []string{"instance", "job", "le"} // of Prometheus itself
	var names []string
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		m := declaredAs(s[1])
		if m == nil {
			t.Errorf("%s: no metric %s is declared: %s", where, s[1], expr)
			continue
		}
		names = append(names, m.Name)
		for _, l := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(m.Labels, l[1]) {
				t.Errorf("%s: %s has no label %s: %s", where, m.Name, l[1], expr)
			}
		}
		labels = append(labels, m.Labels...)
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if len(names) > 0 && !slices.Contains(labels, strings.TrimSpace(l)) {
				t.Errorf("%s: nothing has the label %s: %s", where, l, expr)
			}
		}
	}
	return names
}

// declaredAs finds the metric of a series; a histogram has several.
func declaredAs(series string) *obs.Metric {
	for _, m := range obs.Declared() {
		switch {
		case m.Kind == obs.KindHistogram && (series == m.Name+"_bucket" || series == m.Name+"_sum" || series == m.Name+"_count"),
			m.Kind != obs.KindHistogram && series == m.Name:
			return m
		}
	}
	return nil
}

func read(t *testing.T, path string, unmarshal func([]byte, any) error, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
