package worker

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/millrace/millrace/internal/obs"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/runner"
)

var (
	metricSession   = obs.Gauge("millrace_worker_session_up", "1 while the worker has a session with the leader and its assignments.")
	metricSessions  = obs.Counter("millrace_worker_sessions_total", "Sessions with leaders that were opened.")
	metricLease     = obs.Gauge("millrace_worker_lease_seconds", "How long the worker may still act without hearing from the leader; 0 when it may not.")
	metricLeaseLost = obs.Counter("millrace_worker_leases_lost_total", "How often the lease ran out, so that all tasks stopped.")
	metricUnits     = obs.Gauge("millrace_worker_units", "Tasks and planning halves on this worker, by state.", "state")

	// Names and meanings are Kafka Connect's where it has the metric. All count since the task started on this worker.
	metricState     = obs.Gauge("millrace_task_state", "1 for the state that the task is in.", "connector", "task", "state")
	metricStalled   = obs.Gauge("millrace_task_stalled", "1 while the task has something to do and gets nothing done (task.stall.after.ms).", "connector", "task")
	metricIn        = obs.Counter("millrace_task_records_in_total", "Records read.", "connector", "task")
	metricOut       = obs.Counter("millrace_task_records_out_total", "Records written and committed.", "connector", "task")
	metricBytesIn   = obs.Counter("millrace_task_bytes_in_total", "Bytes of keys and values read from topics.", "connector", "task")
	metricBytesOut  = obs.Counter("millrace_task_bytes_out_total", "Bytes of keys and values written and committed.", "connector", "task")
	metricDropped   = obs.Counter("millrace_task_records_skipped_total", "Records left out as the config or the function says.", "connector", "task")
	metricErrors    = obs.Counter("millrace_task_record_errors_total", "Records that could not be handled, by the stage that failed.", "connector", "task", "stage")
	metricRetries   = obs.Counter("millrace_task_retries_total", "Times that the task tried again in place what failed but may pass (errors.retry.timeout).", "connector", "task")
	metricDead      = obs.Counter("millrace_task_dead_letters_total", "Records that went to the dead letter queue.", "connector", "task")
	metricFailures  = obs.Counter("millrace_task_failures_total", "Failures of the task: retriable ones, after which it starts again by itself, and final ones.", "connector", "task", "kind")
	metricRestarts  = obs.Counter("millrace_task_restarts_total", "Restarts after a failure.", "connector", "task")
	metricCommits   = obs.Counter("millrace_task_commits_total", "Batches that were committed.", "connector", "task")
	metricBatch     = obs.Gauge("millrace_task_batch_records", "Records in the last batch that was committed.", "connector", "task")
	metricCommitted = obs.Gauge("millrace_task_last_commit_timestamp_seconds", "When the task last committed.", "connector", "task")
	metricLag       = obs.Gauge("millrace_task_lag_records", "Input still to do, in records. None: not known.", "connector", "task")
	metricLagTime   = obs.Gauge("millrace_task_lag_seconds", "Age of the newest record done, while there is more to do. None: not known.", "connector", "task")

	// Of transforms; they count since the task started on this worker, too.
	metricInstances   = obs.Gauge("millrace_function_instances", "Instances of the function that run.", "connector", "task", "function")
	metricInvocations = obs.Counter("millrace_function_invocations_total", "Calls of the function, each with a batch of records.", "connector", "task", "function")
	metricFnIn        = obs.Counter("millrace_function_records_in_total", "Records that the function was given, again after a retry.", "connector", "task", "function")
	metricFnOut       = obs.Counter("millrace_function_records_out_total", "Records that the function gave.", "connector", "task", "function")
	metricFnBytesIn   = obs.Counter("millrace_function_bytes_in_total", "Bytes of keys and values that the function was given.", "connector", "task", "function")
	metricFnBytesOut  = obs.Counter("millrace_function_bytes_out_total", "Bytes of keys and values that the function gave.", "connector", "task", "function")
	metricBusy        = obs.Counter("millrace_function_busy_seconds_total", "Time in calls, summed over the instances.", "connector", "task", "function")
	metricFnErrors    = obs.Counter("millrace_function_errors_total", "Records that the function failed, and calls that ended with a crash, a hang or nonsense.", "connector", "task", "function", "kind")
	metricCold        = obs.Counter("millrace_function_cold_starts_total", "Starts for records that waited and had no instance.", "connector", "task", "function")
	metricFnRestarts  = obs.Counter("millrace_function_restarts_total", "Starts in place of an instance that broke.", "connector", "task", "function")
	metricHeld        = obs.Counter("millrace_function_memory_byte_seconds_total", "Resident memory of the function's processes, times time.", "connector", "task", "function")

	metricSnapshot  = obs.Gauge("millrace_task_snapshot_running", "1 while the task reads tables in full.", "connector", "task")
	metricRows      = obs.Gauge("millrace_task_snapshot_rows", "Rows that the initial snapshot has read.", "connector", "task")
	metricRowsAll   = obs.Gauge("millrace_task_snapshot_rows_estimated", "Rows that the initial snapshot will have read at its end, as the database estimates.", "connector", "task")
	metricChunks    = obs.Gauge("millrace_task_snapshot_chunks", "Chunks that the initial snapshot has read.", "connector", "task")
	metricTables    = obs.Gauge("millrace_task_snapshot_tables_done", "Tables that the running snapshot has read in full.", "connector", "task")
	metricTablesAll = obs.Gauge("millrace_task_snapshot_tables", "Tables of the running snapshot.", "connector", "task")
)

// watched is what metrics and readiness need to know of the session.
type watched struct {
	sessions, lost atomic.Uint64
	// synced: the session is up and has brought the assignments.
	synced atomic.Bool
}

// Ready says whether the worker does its part, and if not, why.
func (w *Worker) Ready() (why string, ok bool) {
	switch {
	case !w.lease.Valid():
		return "The worker has no session with the leader.", false
	case !w.watched.synced.Load():
		return "The worker has no assignments from the leader yet.", false
	}
	return "", true
}

// Collect gives the metrics of this worker and of the tasks that run on it.
func (w *Worker) Collect(emit obs.Emit) {
	emit(metricSession, obs.Bool(w.watched.synced.Load()))
	emit(metricSessions, float64(w.watched.sessions.Load()))
	emit(metricLease, max(0, w.lease.Left().Seconds()))
	emit(metricLeaseLost, float64(w.watched.lost.Load()))
	units, tasks := w.status.units()
	for state, n := range units {
		emit(metricUnits, float64(n), state)
	}
	for _, t := range tasks {
		t.collect(emit)
	}
}

// taskNow is one task that runs here, for its metrics.
type taskNow struct {
	key      unitKey
	state    string
	progress *runner.Progress
}

// units counts what runs here by state, and lists the tasks.
func (s *statuses) units() (map[string]int, []taskNow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	units := map[string]int{"running": 0, "failed": 0, "restarting": 0, "paused": 0}
	var tasks []taskNow
	for k, e := range s.byUnit {
		if e.s.State == clusterv1.State_STATE_UNASSIGNED {
			continue
		}
		state := strings.ToLower(strings.TrimPrefix(e.s.State.String(), "STATE_"))
		units[state]++
		if p := s.progress[k]; p != nil {
			tasks = append(tasks, taskNow{k, state, p})
		}
	}
	return units, tasks
}

func (t taskNow) collect(emit obs.Emit) {
	number := strconv.Itoa(int(t.key.task))
	put := func(m *obs.Metric, v float64, more ...string) {
		emit(m, v, append([]string{t.key.connector, number}, more...)...)
	}
	p, c := t.progress.Message(), t.progress.Counted()
	put(metricState, 1, t.state)
	put(metricStalled, obs.Bool(p.Stall != nil))
	put(metricIn, float64(p.RecordsIn))
	put(metricOut, float64(p.RecordsOut))
	put(metricBytesIn, float64(c.BytesIn))
	put(metricBytesOut, float64(p.BytesOut))
	put(metricDropped, float64(p.RecordsDropped))
	for _, stage := range slices.Sorted(maps.Keys(c.Errors)) {
		put(metricErrors, float64(c.Errors[stage]), strings.ToLower(stage))
	}
	put(metricRetries, float64(c.Retries))
	put(metricDead, float64(c.DeadLetters))
	put(metricFailures, float64(c.Failures[true]), "retriable")
	put(metricFailures, float64(c.Failures[false]), "final")
	put(metricRestarts, float64(c.Restarts))
	put(metricCommits, float64(c.Commits))
	put(metricBatch, float64(c.BatchRecords))
	if p.LastCommitUnixMs > 0 {
		put(metricCommitted, float64(p.LastCommitUnixMs)/1000)
	}
	if p.LagRecords >= 0 {
		put(metricLag, float64(p.LagRecords))
	}
	if p.LagMs >= 0 {
		put(metricLagTime, float64(p.LagMs)/1000)
	}
	snapshot(p.Detail, put)
	usage(p.Function, put)
}

// usage reads what a transform's function has used.
func usage(u *clusterv1.FunctionUsage, put func(m *obs.Metric, v float64, more ...string)) {
	if u == nil {
		return
	}
	put(metricInstances, float64(u.Instances), u.Name)
	put(metricInvocations, float64(u.Invocations), u.Name)
	put(metricFnIn, float64(u.RecordsIn), u.Name)
	put(metricFnOut, float64(u.RecordsOut), u.Name)
	put(metricFnBytesIn, float64(u.BytesIn), u.Name)
	put(metricFnBytesOut, float64(u.BytesOut), u.Name)
	put(metricBusy, u.BusySeconds, u.Name)
	put(metricFnErrors, float64(u.RecordErrors), u.Name, "record")
	put(metricFnErrors, float64(u.Crashes), u.Name, "crash")
	put(metricCold, float64(u.ColdStarts), u.Name)
	put(metricFnRestarts, float64(u.Restarts), u.Name)
	put(metricHeld, u.GigabyteSeconds*1e9, u.Name)
}

// snapshot reads what a source says of its snapshot.
func snapshot(detail map[string]string, put func(m *obs.Metric, v float64, more ...string)) {
	if detail["phase"] == "" {
		return // not a source that has snapshots
	}
	put(metricSnapshot, obs.Bool(detail["phase"] == "snapshot"))
	number := func(m *obs.Metric, text string) {
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			put(m, v)
		}
	}
	number(metricRows, detail["snapshot_rows"])
	number(metricRowsAll, detail["snapshot_rows_estimated"])
	number(metricChunks, detail["snapshot_chunks"])
	done, all, _ := strings.Cut(detail["snapshot_tables"], "/")
	number(metricTables, done)
	number(metricTablesAll, all)
}
