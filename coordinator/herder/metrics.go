package herder

import (
	"strings"

	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/obs"
)

var (
	metricConnectors = obs.Gauge("millrace_cluster_connectors", "Connectors by target state. Only on the coordinator that leads, as all that begins with millrace_cluster.", "target")
	metricTasks      = obs.Gauge("millrace_cluster_tasks", "Tasks of all connectors by state; unassigned are those that no live worker runs.", "state")
	metricHalves     = obs.Gauge("millrace_cluster_connectors_failed", "Connectors whose planning half has failed, so that no tasks come out of their config.")
	metricWorkers    = obs.Gauge("millrace_cluster_workers", "Workers by what the leader knows of them: live ones have a lease, away ones do not.", "state")
	metricAssigned   = obs.Gauge("millrace_cluster_assigned_units", "Tasks and planning halves that are assigned to a worker.", "worker")
)

// Collect gives the metrics of the whole cluster. It makes sense on the leader.
func (h *Herder) Collect(emit obs.Emit) {
	targets := map[string]int{"running": 0, "paused": 0, "stopped": 0}
	tasks := map[string]int{"running": 0, "failed": 0, "unassigned": 0, "restarting": 0, "paused": 0}
	failed := 0
	var all []*state.Connector
	assigned := map[string]int{}
	h.c.View(func(s *state.State) {
		all = s.Connectors()
		for _, a := range s.Assignments() {
			if a.Worker != "" {
				assigned[a.Worker]++
			}
		}
	})
	for _, c := range all {
		targets[strings.ToLower(strings.TrimPrefix(c.Target.String(), "TARGET_STATE_"))]++
		for task, u := range h.units(c) {
			switch {
			case task != state.PlanningHalf:
				tasks[strings.ToLower(u.state)]++
			case u.state == "FAILED":
				failed++
			}
		}
	}
	for k, n := range targets {
		emit(metricConnectors, float64(n), k)
	}
	for k, n := range tasks {
		emit(metricTasks, float64(n), k)
	}
	emit(metricHalves, float64(failed))
	h.collectWorkers(emit, assigned)
}

func (h *Herder) collectWorkers(emit obs.Emit, assigned map[string]int) {
	workers := map[string]int{"live": 0, "away": 0}
	for _, n := range h.c.Info().Nodes {
		switch {
		case !n.Worker:
			continue
		case h.c.WorkerAlive(n.Id):
			workers["live"]++
			emit(metricAssigned, float64(assigned[n.Id]), n.Id)
		default:
			workers["away"]++
		}
	}
	for k, n := range workers {
		emit(metricWorkers, float64(n), k)
	}
}
