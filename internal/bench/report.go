package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is what the JSON file holds.
type report struct {
	When    string   `json:"when"`
	Commit  string   `json:"commit"`
	Go      string   `json:"go"`
	Cores   int      `json:"cores"`
	Results []result `json:"results"`
}

func write(ctx context.Context, o options, results []result) error {
	commit, _ := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	r := report{time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(commit)), runtime.Version(), runtime.NumCPU(), results}
	table := tableOf(r)
	fmt.Fprintln(os.Stdout, table)
	if o.out != "" {
		b, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.out, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if o.doc == "" {
		return nil
	}
	b, err := os.ReadFile(o.doc)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, finish)
	if !ok || !ok2 {
		return errors.New(o.doc + " has no place for the table")
	}
	return os.WriteFile(o.doc, []byte(head+begin+"\n"+table+finish+tail), 0o644)
}

const (
	begin  = "<!-- bench -->"
	finish = "<!-- /bench -->"
)

// tableOf shows medians with the smallest and the largest of the rounds, and what Millrace's median is to Debezium's.
func tableOf(r report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, commit %s, %s, %d cores.\n\n| table | figure | Debezium | Millrace | ratio | Millrace again |\n|---|---|---|---|---|---|\n", r.When, r.Commit, r.Go, r.Cores)
	figures := []struct {
		name string
		of   func(result) float64
		unit float64
	}{
		{"snapshot, rows/s", func(x result) float64 { return x.Snapshot }, 1},
		{"catch-up, rows/s", func(x result) float64 { return x.CatchUp }, 1},
		{"peak memory after the snapshot, MB", func(x result) float64 { return float64(x.SnapshotPeak) }, 1e-6},
		{"peak memory after both, MB", func(x result) float64 { return float64(x.CatchUpPeak) }, 1e-6},
		{"processor time a row, µs", func(x result) float64 { return x.CPUPerRow }, 1},
		{"latency p50, ms", func(x result) float64 { return x.P50 }, 1},
		{"latency p99, ms", func(x result) float64 { return x.P99 }, 1},
	}
	for _, sh := range shapes {
		for _, f := range figures {
			get := func(system string) []float64 {
				var v []float64
				for _, x := range r.Results {
					if x.System == system && x.Table == sh.name && f.of(x) > 0 {
						v = append(v, f.of(x)*f.unit)
					}
				}
				slices.Sort(v)
				return v
			}
			ours, theirs, again := get("Millrace"), get("Debezium"), get("Millrace again")
			if len(ours) == 0 {
				continue
			}
			ratio := ""
			if len(theirs) > 0 {
				ratio = fmt.Sprintf("%.2g ×", median(ours)/median(theirs))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", sh.name, f.name, spread(theirs), spread(ours), ratio, spread(again))
			if loose := get("Millrace at least once"); len(loose) > 0 {
				fmt.Fprintf(&b, "| %s | %s, at least once | | %s | | |\n", sh.name, f.name, spread(loose))
			}
		}
	}
	return b.String()
}

func median(v []float64) float64 { return v[len(v)/2] }

// spread is a median with its range.
func spread(v []float64) string {
	if len(v) == 0 {
		return ""
	}
	form := "%.0f"
	if median(v) < 100 {
		form = "%.1f"
	}
	return fmt.Sprintf(form+" ("+form+" – "+form+")", median(v), v[0], v[len(v)-1])
}
