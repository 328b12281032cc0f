package worker

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/obs"
	"github.com/millrace/millrace/worker/runner"
)

// What a node test meets for a moment only: a running snapshot, failures with their restarts, retries.
func TestTaskMetrics(t *testing.T) {
	p := runner.NewProgress()
	p.Starting() // the first start is no restart
	p.Failed(true)
	p.Failed(true) // reported again, still the same failure
	p.Starting()
	p.Failed(false)
	p.Retried()
	p.RecordError("TASK_PUT")
	p.Committed(7, 70)
	p.Lag(3)
	p.Report(map[string]string{
		"phase": "snapshot", "snapshot_rows": "40", "snapshot_rows_estimated": "100", "snapshot_chunks": "2", "snapshot_tables": "1/3",
	})
	r := obs.NewRegistry()
	r.Add(taskNow{unitKey{"c", 4}, "running", p}.collect)
	w := httptest.NewRecorder()
	r.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`task_state{connector="c",state="running",task="4"} 1`, `task_failures_total{connector="c",kind="retriable",task="4"} 1`,
		`task_failures_total{connector="c",kind="final",task="4"} 1`, `task_restarts_total{connector="c",task="4"} 1`,
		`task_retries_total{connector="c",task="4"} 1`, `task_record_errors_total{connector="c",stage="task_put",task="4"} 1`,
		`task_commits_total{connector="c",task="4"} 1`, `task_batch_records{connector="c",task="4"} 7`, `task_bytes_out_total{connector="c",task="4"} 70`,
		`task_lag_records{connector="c",task="4"} 3`, `task_snapshot_running{connector="c",task="4"} 1`, `task_snapshot_rows{connector="c",task="4"} 40`,
		`task_snapshot_rows_estimated{connector="c",task="4"} 100`, `task_snapshot_chunks{connector="c",task="4"} 2`,
		`task_snapshot_tables_done{connector="c",task="4"} 1`, `task_snapshot_tables{connector="c",task="4"} 3`,
	} {
		if !strings.Contains(w.Body.String(), "\nmillrace_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), "millrace_task_lag_seconds") {
		t.Error("a lag that is not known is shown")
	}
}
