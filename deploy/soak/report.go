package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// fault is one that was injected.
type fault struct {
	Kind       string  `json:"kind"`
	On         string  `json:"on"`
	AtS        float64 `json:"at_s"`
	HeldS      float64 `json:"held_s"`
	RecoveredS float64 `json:"recovered_s"`
}

// report is what a run came to.
type report struct {
	Seed    uint64  `json:"seed"`
	Nodes   int     `json:"nodes"`
	Minutes float64 `json:"minutes"`
	// Load1 is the machine's load when the faults began: figures of a busy machine are worth less.
	Load1   string        `json:"load1"`
	Skipped []string      `json:"skipped,omitempty"`
	Kinds   []kindSummary `json:"kinds"`
	Faults  []fault       `json:"faults"`
	Changes int           `json:"changes"`
	// Verdict is "equal", or what is not.
	Verdict string `json:"verdict"`
}

// kindSummary has the recoveries of one kind, in seconds.
type kindSummary struct {
	Kind  string  `json:"kind"`
	Count int     `json:"count"`
	P50   float64 `json:"p50_s"`
	P99   float64 `json:"p99_s"`
	Max   float64 `json:"max_s"`
}

func (r *report) summarize() {
	by := map[string][]float64{}
	for _, f := range r.Faults {
		by[f.Kind] = append(by[f.Kind], f.RecoveredS)
	}
	r.Kinds = nil
	for _, k := range kinds {
		d := by[k.name]
		if len(d) == 0 {
			continue
		}
		slices.Sort(d)
		r.Kinds = append(r.Kinds, kindSummary{k.name, len(d), rank(d, 50), rank(d, 99), d[len(d)-1]})
	}
}

// rank returns the percentile by nearest rank.
func rank(sorted []float64, percent int) float64 {
	return sorted[(len(sorted)*percent+99)/100-1]
}

func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "fault\tinjected\trecovered p50\tp99\tmax")
	for _, k := range r.Kinds {
		fmt.Fprintf(t, "%s\t%d\t%.2f s\t%.2f s\t%.2f s\n", k.Kind, k.Count, k.P50, k.P99, k.Max)
	}
	_ = t.Flush()
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func load1() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
