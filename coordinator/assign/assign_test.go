package assign_test

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/coordinator/assign"
	"github.com/millrace/millrace/coordinator/state"
)

type placed = map[state.UnitID]string

// scene is a cluster that rapid makes up: workers with capacities, labels and zones, connectors with weights and wishes.
type scene struct {
	workers []assign.Worker
	units   []assign.Unit
}

var labels = []map[string]string{nil, nil, nil, {"disk": "ssd"}, {"disk": "hdd"}}

func drawWorkers(t *rapid.T, what string, zones int) []assign.Worker {
	var out []assign.Worker
	for _, id := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 8, rapid.ID[int]).Draw(t, what) {
		w := assign.Worker{ID: fmt.Sprintf("w%d", id), Capacity: rapid.SampledFrom([]int{0, 1, 1, 2, 4}).Draw(t, "capacity"), Labels: map[string]string{}}
		maps.Copy(w.Labels, rapid.SampledFrom(labels).Draw(t, "labels"))
		if zones > 1 {
			w.Labels[assign.ZoneLabel] = fmt.Sprint(id % zones)
		}
		out = append(out, w)
	}
	return out
}

func drawUnits(t *rapid.T) []assign.Unit {
	var out []assign.Unit
	for c := range rapid.IntRange(0, 8).Draw(t, "connectors") {
		weight, wish := rapid.SampledFrom([]int{0, 1, 1, 3, 10}).Draw(t, "weight"), rapid.SampledFrom(labels).Draw(t, "wish")
		for task := range rapid.IntRange(0, 8).Draw(t, "tasks") + 1 {
			out = append(out, assign.Unit{ID: state.UnitID{Connector: fmt.Sprintf("c%d", c), Task: int32(task) - 1}, Labels: wish, Weight: weight})
		}
	}
	return out
}

func weightOf(u assign.Unit) int { return max(u.Weight, 1) }

func mayRun(w assign.Worker, u assign.Unit) bool {
	for k, v := range u.Labels {
		if w.Labels[k] != v {
			return false
		}
	}
	return true
}

func loads(s scene, plan placed) map[string]int {
	out := map[string]int{}
	for _, u := range s.units {
		out[plan[u.ID]] += weightOf(u)
	}
	return out
}

// checkPlaced: a unit is placed if and only if somebody may run it, there, and on a drained worker only if nobody else may.
func checkPlaced(t *rapid.T, s scene, plan placed) {
	for _, u := range s.units {
		possible, open := false, false
		var on *assign.Worker
		for i, w := range s.workers {
			possible = possible || mayRun(w, u)
			open = open || mayRun(w, u) && !w.Drained
			if plan[u.ID] == w.ID {
				on = &s.workers[i]
			}
		}
		switch {
		case possible != (on != nil):
			t.Fatalf("%v: placed on %q, possible: %v", u, plan[u.ID], possible)
		case on != nil && !mayRun(*on, u):
			t.Fatalf("%v is on %v, whose labels it does not want", u, *on)
		case on != nil && on.Drained && open:
			t.Fatalf("%v is on %s, which is drained, though another may run it", u, on.ID)
		}
	}
	if len(plan) > len(s.units) {
		t.Fatalf("%d units are planned of %d", len(plan), len(s.units))
	}
}

// gains returns a unit that would be better off on a worker than where it is: lighter there with it than its own is now, by more than slack units.
func gains(s scene, plan placed, to func(assign.Worker) bool, slack int) string {
	load := loads(s, plan)
	byID := map[string]assign.Worker{}
	for _, w := range s.workers {
		byID[w.ID] = w
	}
	for _, u := range s.units {
		from, ok := byID[plan[u.ID]]
		if !ok || from.Drained {
			continue
		}
		for _, w := range s.workers {
			if w.ID != from.ID && to(w) && !w.Drained && mayRun(w, u) &&
				(load[w.ID]+(1+slack)*weightOf(u))*max(from.Capacity, 1) < load[from.ID]*max(w.Capacity, 1) {
				return fmt.Sprintf("%v on %s (load %d of %d) would do better on %s (%d of %d)", u, from.ID, load[from.ID], from.Capacity, w.ID, load[w.ID], w.Capacity)
			}
		}
	}
	return ""
}

// moved lists the units that run and are to run elsewhere.
func moved(before, after placed) []state.UnitID {
	var out []state.UnitID
	for u, w := range before {
		if to, ok := after[u]; ok && to != w {
			out = append(out, u)
		}
	}
	return out
}

func drain(s scene, t *rapid.T) scene {
	out := scene{units: s.units}
	for _, w := range s.workers {
		w.Drained = rapid.IntRange(0, 4).Draw(t, "drained") == 0
		out.workers = append(out.workers, w)
	}
	return out
}

func TestFromNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := scene{drawWorkers(t, "workers", 1), drawUnits(t)}
		plan := assign.Plan(s.workers, s.units, nil)
		checkPlaced(t, s, plan)
		// Level by weight and capacity: to the weight of one unit, for every unit that is heavy enough to matter. Those that came last and light
		// have the choice of all.
		uniform := true
		for _, u := range s.units {
			uniform = uniform && weightOf(u) == weightOf(s.units[0]) && len(u.Labels) == 0
		}
		if bad := gains(s, plan, func(assign.Worker) bool { return true }, 0); uniform && bad != "" {
			t.Fatal(bad)
		}
		if again := assign.Plan(s.workers, s.units, plan); !maps.Equal(again, plan) {
			t.Fatal("a second look at the same facts moves something")
		}
	})
}

// Adding, changing and deleting connectors stops no unit of another.
func TestConnectorsDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drain(scene{drawWorkers(t, "workers", rapid.IntRange(1, 3).Draw(t, "zones")), drawUnits(t)}, t)
		before := assign.Plan(s.workers, s.units, nil)
		after := assign.Plan(s.workers, drawUnits(t), nil)
		keep := rapid.SampledFrom([]string{"c0", "c1", "c2"}).Draw(t, "connector that stays as it is")
		var changed []assign.Unit
		for _, u := range s.units {
			if u.ID.Connector == keep {
				changed = append(changed, u)
			}
		}
		for u := range after {
			if u.Connector != keep {
				changed = append(changed, assign.Unit{ID: u, Weight: rapid.IntRange(1, 10).Draw(t, "new weight")})
			}
		}
		after = assign.Plan(s.workers, changed, before)
		checkPlaced(t, scene{s.workers, changed}, after)
		for _, u := range moved(before, after) {
			if u.Connector == keep {
				t.Fatalf("%v moves from %s to %s", u, before[u], after[u])
			}
		}
	})
}

// When workers go, only what they ran moves; when workers are drained, only what they run; when workers come, only what they take.
func TestMovesTheFewest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(1, 3).Draw(t, "zones")
		s := scene{drawWorkers(t, "before", zones), drawUnits(t)}
		old := assign.Plan(s.workers, s.units, nil)
		was := map[string]bool{}
		for _, w := range s.workers {
			was[w.ID] = true
		}
		now := drain(scene{drawWorkers(t, "after", zones), s.units}, t)
		byID, joins := map[string]assign.Worker{}, false
		for i := range now.workers {
			w := &now.workers[i]
			w.Joining = !was[w.ID]
			joins = joins || w.Joining
			byID[w.ID] = *w
		}
		plan := assign.Plan(now.workers, s.units, old)
		checkPlaced(t, now, plan)
		for _, u := range moved(old, plan) {
			from, there := byID[old[u]]
			if there && !from.Drained && mayRun(from, unitOf(s, u)) && !byID[plan[u]].Joining {
				t.Fatalf("%v moves from %s, which is there, to %s, which is not new", u, old[u], plan[u])
			}
		}
		joining := func(w assign.Worker) bool { return w.Joining }
		if bad := gains(now, plan, joining, 0); bad != "" {
			t.Fatalf("a new worker has less than its share: %s", bad)
		}
		// A move that was not needed would show here: were it undone, the worker that it came from would not be heavier than the other is now.
		load := loads(now, plan)
		for _, u := range moved(old, plan) {
			from, there := byID[old[u]]
			to, unit := byID[plan[u]], unitOf(s, u)
			if there && !from.Drained && mayRun(from, unit) && (load[from.ID]+weightOf(unit))*max(to.Capacity, 1) < (load[to.ID]-weightOf(unit))*max(from.Capacity, 1) {
				t.Fatalf("%v moved to %s, which is heavier for it than %s was", u, to.ID, from.ID)
			}
		}
		if again := assign.Plan(now.workers, s.units, plan); !maps.Equal(again, plan) {
			t.Fatalf("a second look at the same facts moves %v", moved(plan, again))
		}
	})
}

func unitOf(s scene, id state.UnitID) assign.Unit {
	for _, u := range s.units {
		if u.ID == id {
			return u
		}
	}
	return assign.Unit{}
}

// A plan that is carried out a few moves at a time comes to an end, and to a level one.
func TestGradually(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := scene{drawWorkers(t, "workers", 1), drawUnits(t)}
		old := s.workers[:max(1, len(s.workers)/2)]
		at := assign.Plan(old, s.units, nil)
		for i := range s.workers {
			s.workers[i].Joining = i >= len(old)
		}
		limit := rapid.IntRange(1, 3).Draw(t, "at a time")
		for round := 0; ; round++ {
			plan := assign.Plan(s.workers, s.units, at)
			todo := moved(at, plan)
			for _, u := range todo[:min(limit, len(todo))] {
				at[u] = plan[u]
			}
			for u, w := range plan {
				if at[u] == "" {
					at[u] = w // had no place
				}
			}
			if len(todo) == 0 {
				break
			}
			if round > len(s.units) {
				t.Fatalf("no end after %d rounds", round)
			}
		}
		if bad := gains(s, at, func(w assign.Worker) bool { return w.Joining }, 0); bad != "" {
			t.Fatal(bad)
		}
	})
}

// The tasks of a connector are spread over zones as evenly as the zones allow.
func TestZones(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		zones, perZone := rapid.IntRange(1, 4).Draw(t, "zones"), rapid.IntRange(1, 4).Draw(t, "workers in each")
		var s scene
		for z := range zones {
			for w := range perZone {
				s.workers = append(s.workers, assign.Worker{ID: fmt.Sprintf("z%d-%d", z, w), Labels: map[string]string{assign.ZoneLabel: fmt.Sprint(z)}})
			}
		}
		// What else runs is up to one unit uneven.
		for i := range rapid.IntRange(0, 20).Draw(t, "others") {
			s.units = append(s.units, assign.Unit{ID: state.UnitID{Connector: fmt.Sprintf("other%d", i)}})
		}
		before := assign.Plan(s.workers, s.units, nil)
		n := rapid.IntRange(1, 12).Draw(t, "tasks")
		for i := range n {
			s.units = append(s.units, assign.Unit{ID: state.UnitID{Connector: "c", Task: int32(i)}})
		}
		plan := assign.Plan(s.workers, s.units, before)
		per := map[byte]int{}
		for i := range n {
			w := plan[state.UnitID{Connector: "c", Task: int32(i)}]
			per[w[1]]++
		}
		for z := range zones {
			if got := per["0123"[z]]; got < n/zones || got > (n+zones-1)/zones {
				t.Fatalf("zone %d has %d of %d tasks over %d zones: %v", z, got, n, zones, per)
			}
		}
		// Zones are worth one unit of unevenness, not more.
		if bad := gains(s, plan, func(assign.Worker) bool { return true }, 1); bad != "" {
			t.Fatal(bad)
		}
	})
}

// The cost of a look at a big cluster at rest, which the leader has at each change.
func BenchmarkPlan(b *testing.B) {
	var s scene
	for i := range 50 {
		s.workers = append(s.workers, assign.Worker{ID: fmt.Sprintf("w%d", i), Labels: map[string]string{assign.ZoneLabel: fmt.Sprint(i % 3)}, Joining: true})
	}
	for i := range 6000 {
		s.units = append(s.units, assign.Unit{ID: state.UnitID{Connector: fmt.Sprintf("c%d", i/6), Task: int32(i%6) - 1}, Weight: 1 + 9*min(i%6, 1)})
	}
	plan := assign.Plan(s.workers, s.units, nil)
	b.ReportAllocs()
	for b.Loop() {
		assign.Plan(s.workers, s.units, plan)
	}
}
