package herder

import (
	"fmt"
	"strings"
)

// Metrics is the state of all tasks in Prometheus' text form.
func (h *Herder) Metrics() string {
	type metric struct{ name, help, kind string }
	list := []metric{
		{"millrace_task_state", "1 for the state that the task is in.", "gauge"},
		{"millrace_task_records_in_total", "Records read since the task started.", "counter"},
		{"millrace_task_records_out_total", "Records written and committed since the task started.", "counter"},
		{"millrace_task_bytes_out_total", "Bytes written and committed since the task started.", "counter"},
		{"millrace_task_records_dropped_total", "Records left out as the config or the function says.", "counter"},
		{"millrace_task_lag_records", "Input still to do, in records.", "gauge"},
		{"millrace_task_last_commit_timestamp_seconds", "When the task last committed.", "gauge"},
	}
	lines := make([]strings.Builder, len(list))
	for _, name := range h.Names() {
		p, err := h.Progress(name)
		if err != nil {
			continue // deleted meanwhile
		}
		for _, t := range p.Tasks {
			l := fmt.Sprintf("connector=%q,task=\"%d\"", name, t.ID)
			fmt.Fprintf(&lines[0], "%s{%s,state=%q} 1\n", list[0].name, l, strings.ToLower(t.State))
			for i, v := range []float64{float64(t.RecordsIn), float64(t.RecordsOut), float64(t.BytesOut), float64(t.RecordsDropped)} {
				fmt.Fprintf(&lines[i+1], "%s{%s} %g\n", list[i+1].name, l, v)
			}
			if t.LagRecords >= 0 {
				fmt.Fprintf(&lines[5], "%s{%s} %d\n", list[5].name, l, t.LagRecords)
			}
			if t.LastCommitUnixMS > 0 {
				fmt.Fprintf(&lines[6], "%s{%s} %.3f\n", list[6].name, l, float64(t.LastCommitUnixMS)/1000)
			}
		}
	}
	var b strings.Builder
	for i, m := range list {
		if lines[i].Len() > 0 {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s", m.name, m.help, m.name, m.kind, lines[i].String())
		}
	}
	return b.String()
}
