package obs

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Kind is Prometheus' type of a metric.
type Kind string

// The kinds.
const (
	KindCounter   Kind = "counter"
	KindGauge     Kind = "gauge"
	KindHistogram Kind = "histogram"
)

// Metric is one declared metric.
type Metric struct {
	Name, Help string
	Kind       Kind
	Labels     []string
	// Buckets of a histogram.
	Buckets []float64
	desc    *prometheus.Desc
}

// declared is filled while packages initialise and only read afterwards.
var declared = map[string]*Metric{}

// Declared returns all metrics of the process, by name.
func Declared() []*Metric {
	out := make([]*Metric, 0, len(declared))
	for _, m := range declared {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *Metric) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Counter declares a counter. It panics on a name that is taken, as all declarations do.
func Counter(name, help string, labels ...string) *Metric {
	return declare(&Metric{Name: name, Help: help, Kind: KindCounter, Labels: labels})
}

// Gauge declares a gauge.
func Gauge(name, help string, labels ...string) *Metric {
	return declare(&Metric{Name: name, Help: help, Kind: KindGauge, Labels: labels})
}

// Histogram declares a histogram.
func Histogram(name, help string, buckets []float64, labels ...string) *Metric {
	return declare(&Metric{Name: name, Help: help, Kind: KindHistogram, Labels: labels, Buckets: buckets})
}

func declare(m *Metric) *Metric {
	if declared[m.Name] != nil {
		panic("metric " + m.Name + " is declared twice")
	}
	if !strings.HasPrefix(m.Name, "millrace_") || m.Help == "" {
		panic("metric " + m.Name + " needs the prefix millrace_ and a help text")
	}
	m.desc = prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
	declared[m.Name] = m
	return m
}

// Bool is how a gauge says yes or no.
func Bool(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
