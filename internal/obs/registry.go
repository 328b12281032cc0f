package obs

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Emit gives a value of a metric, with one value for each of its labels.
type Emit func(m *Metric, value float64, labels ...string)

// Collect gives the values of this moment. It is called at each scrape and must not block for long.
type Collect func(Emit)

// Registry gathers the metrics of one node.
type Registry struct{ reg *prometheus.Registry }

// NewRegistry has the Go runtime's and the process's metrics.
func NewRegistry() *Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{r}
}

// Add adds what c collects.
func (r *Registry) Add(c Collect) { r.reg.MustRegister(collector{c}) }

// collector describes nothing: what a node has depends on its roles and on what runs.
type collector struct{ collect Collect }

// Describe implements prometheus.Collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c.collect(func(m *Metric, value float64, labels ...string) {
		kind := prometheus.GaugeValue
		if m.Kind == KindCounter {
			kind = prometheus.CounterValue
		}
		v, err := prometheus.NewConstMetric(m.desc, kind, value, labels...)
		if err != nil {
			v = prometheus.NewInvalidMetric(m.desc, err)
		}
		out <- v
	})
}

// Observe counts one observation of a histogram.
type Observe func(value float64, labels ...string)

// Histogram makes the node's instance of a declared histogram.
func (r *Registry) Histogram(m *Metric) Observe {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.Buckets}, m.Labels)
	r.reg.MustRegister(v)
	return func(value float64, labels ...string) { v.WithLabelValues(labels...).Observe(value) }
}

// Handler answers a scrape, in the format that the scraper asks for. A value that can't be had leaves the others untouched.
func (r *Registry) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true,
	})
}
