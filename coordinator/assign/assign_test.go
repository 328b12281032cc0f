package assign_test

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/state"
)

func units(n, connectors int) []assign.Unit {
	out := make([]assign.Unit, n)
	for i := range out {
		out[i].ID = state.UnitID{Connector: fmt.Sprintf("c%d", i%connectors), Task: int32(i/connectors) - 1}
	}
	return out
}

func workers(ids ...int) []assign.Worker {
	var out []assign.Worker
	for _, id := range ids {
		out = append(out, assign.Worker{ID: fmt.Sprintf("w%d", id)})
	}
	return out
}

func moved(before, after map[state.UnitID]string) int {
	n := 0
	for u, w := range before {
		if after[u] != w {
			n++
		}
	}
	return n
}

func spread(ws []assign.Worker, plan map[state.UnitID]string) (low, high int) {
	load := map[string]int{}
	for _, w := range plan {
		load[w]++
	}
	low = len(plan)
	for _, w := range ws {
		low, high = min(low, load[w.ID]), max(high, load[w.ID])
	}
	return low, high
}

func TestPlanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		us := units(rapid.IntRange(0, 60).Draw(t, "units"), rapid.IntRange(1, 7).Draw(t, "connectors"))
		before := rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 8, rapid.ID[int]).Draw(t, "workers before")
		after := rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 8, rapid.ID[int]).Draw(t, "workers after")
		ws := workers(after...)
		old := assign.Plan(workers(before...), us, nil)
		plan := assign.Plan(ws, us, old)
		live := map[string]bool{}
		for _, w := range ws {
			live[w.ID] = true
		}
		if len(plan) != len(us) {
			t.Fatalf("%d of %d units are placed", len(plan), len(us))
		}
		for u, w := range plan {
			if !live[w] {
				t.Fatalf("%v is on %s, which is not there", u, w)
			}
		}
		if low, high := spread(ws, plan); high-low > 1 {
			t.Fatalf("load between %d and %d", low, high)
		}
		if again := assign.Plan(ws, us, plan); !maps.Equal(again, plan) {
			t.Fatal("a second look at the same facts moves something")
		}
		// Fewest moves: what was homeless must move, and beyond that only what lies above the new ceiling.
		must := 0
		kept := map[string]int{}
		for _, w := range old {
			if live[w] {
				kept[w]++
			} else {
				must++
			}
		}
		ceil := (len(us) + len(ws) - 1) / len(ws)
		above := 0
		for _, n := range kept {
			above += max(0, n-ceil)
		}
		limit := must + above + len(ws) // one more each for the workers at the ceiling when the floor lacks some
		if got := moved(old, plan); got > limit {
			t.Fatalf("%d moves, at most %d are needed", got, limit)
		}
	})
}

func TestPlanHonoursLabels(t *testing.T) {
	t.Parallel()
	ws := []assign.Worker{{ID: "a", Labels: map[string]string{"zone": "1"}}, {ID: "b", Labels: map[string]string{"zone": "2"}}}
	u := state.UnitID{Connector: "c", Task: 0}
	lost := state.UnitID{Connector: "d", Task: 0}
	plan := assign.Plan(ws, []assign.Unit{
		{ID: u, Labels: map[string]string{"zone": "2"}}, {ID: lost, Labels: map[string]string{"zone": "3"}},
	}, map[state.UnitID]string{u: "a"})
	if plan[u] != "b" {
		t.Errorf("%v is on %q, wants zone 2", u, plan[u])
	}
	if w, ok := plan[lost]; ok {
		t.Errorf("%v is on %q, though no worker is in zone 3", lost, w)
	}
}

func TestPlanSpreadsAConnector(t *testing.T) {
	t.Parallel()
	plan := assign.Plan(workers(1, 2), units(4, 2), nil)
	per := map[string]int{}
	for u, w := range plan {
		per[w+u.Connector]++
	}
	for k, n := range per {
		if n > 1 {
			t.Errorf("%s: %d units of one connector on one worker: %v", k, n, plan)
		}
	}
}
