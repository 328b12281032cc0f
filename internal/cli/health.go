package cli

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/obs"
	"github.com/millrace/millrace/internal/tlsfile"
)

var (
	metricBuild      = obs.Gauge("millrace_build_info", "1, with what runs as labels.", "version", "commit", "go")
	metricReady      = obs.Gauge("millrace_node_ready", "1 while the node does its part in the cluster: what /millrace/v1/ready says.")
	metricDraining   = obs.Gauge("millrace_node_draining", "1 once the node was told to end.")
	metricCertEnd    = obs.Gauge("millrace_tls_certificate_expiry_timestamp_seconds", "When the certificate ends that this node shows, by what it is for.", "use")
	metricReloads    = obs.Counter("millrace_tls_reloads_total", "Changed certificate files that were taken up (ok), or could not be (error).", "use", "result")
	metricBroker     = obs.Gauge("millrace_embedded_broker_up", "1 on the node that has the embedded broker.")
	metricBrokerSize = obs.Gauge("millrace_embedded_broker_data_bytes", "Size of all files of the embedded broker.")
)

// collect gives the metrics of all that the node has.
func (n *node) collect(emit obs.Emit) {
	emit(metricBuild, 1, Version, Commit, runtime.Version())
	_, ok := n.ready()
	emit(metricReady, obs.Bool(ok))
	emit(metricDraining, obs.Bool(n.draining.Load()))
	for use, s := range map[string]*tlsfile.Source{"cluster": n.tls.cluster, "rest": n.tls.rest, "kafka": n.tls.kafka} {
		if s == nil {
			continue
		}
		if end := s.Expires(); !end.IsZero() {
			emit(metricCertEnd, float64(end.Unix()), use)
		}
		good, bad := s.Reloads()
		emit(metricReloads, float64(good), use, "ok")
		emit(metricReloads, float64(bad), use, "error")
	}
	if n.embedded != nil {
		emit(metricBroker, 1)
		emit(metricBrokerSize, float64(n.embedded.DataBytes()))
	}
	if n.coord != nil {
		n.coord.Collect(emit)
		if l, ok := n.coord.Leader(); ok && l.Self {
			n.herder.Collect(emit)
		}
	}
	if w := n.worker.Load(); w != nil {
		w.Collect(emit)
	}
}

// ready says whether the node does its part in the cluster, and if not, why.
func (n *node) ready() (why string, ok bool) {
	if n.draining.Load() {
		return "The node was told to end.", false
	}
	if n.coord != nil {
		if why := n.coord.Fault(); why != "" {
			return "This node can't store the cluster's state: " + why, false
		}
		if _, ok := n.coord.Leader(); !ok {
			return "No leader is known.", false
		}
	}
	if !slices.Contains(n.v.List(config.NodeRoles), "worker") {
		return "", true
	}
	w := n.worker.Load()
	if w == nil {
		return "The worker is starting.", false
	}
	return w.Ready()
}

func newHealthCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Say whether a node is ready, for orchestrators that run a command", Args: cobra.NoArgs,
		Long: "Exits with 0 when the node at --url does its part in the cluster: GET /millrace/v1/ready answers 200. Otherwise it says why not.\n" +
			"For images that have no shell: HEALTHCHECK CMD [\"/millrace\", \"health\"].",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.api().Ready(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ready")
			return nil
		},
	}
}
