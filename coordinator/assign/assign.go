// Package assign decides which worker runs what. It is a pure function: sticky, balanced, and it moves as little as it can.
package assign

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace/millrace/coordinator/state"
)

// ZoneLabel is the label that says which zone a worker is in: what may fail as a whole. Workers without it are in one zone of their own.
const ZoneLabel = "zone"

// Worker is a live worker.
type Worker struct {
	ID     string
	Labels map[string]string
	// Capacity is what it takes in proportion to others; 0 means 1.
	Capacity int
	// Joining: it is new, and takes its share of what runs on others.
	Joining bool
	// Drained: it keeps only what nobody else may run.
	Drained bool
}

// Unit is something to run.
type Unit struct {
	ID state.UnitID
	// Labels that a worker must have to run it; empty: any worker will do.
	Labels map[string]string
	// Weight is what it costs in proportion to others; 0 means 1.
	Weight int
}

// Plan places every unit on a worker; units that no worker may run are left out. current is where units are now.
//
// A unit stays where it is while its worker lives, may run it and is not drained; so adding, changing or deleting a connector moves no unit of
// another. The exception are workers that are joining: they take units from the heaviest until their share is level to one unit. A unit
// without a place goes to the worker that is lightest for its capacity; among workers that are level to one unit, to the zone
// and then the worker with the fewest units of its connector. The same input gives the same plan.
func Plan(workers []Worker, units []Unit, current map[state.UnitID]string) map[state.UnitID]string {
	p := planner{plan: map[state.UnitID]string{}, workers: map[string]*worker{}, zones: map[share]int{}}
	for _, w := range workers {
		w.Capacity = max(w.Capacity, 1)
		p.workers[w.ID] = &worker{Worker: w, units: map[class][]Unit{}, share: map[string]int{}}
	}
	for _, id := range slices.Sorted(maps.Keys(p.workers)) {
		p.order = append(p.order, p.workers[id])
	}
	units = slices.SortedFunc(slices.Values(units), func(a, b Unit) int { return a.ID.Compare(b.ID) })
	var homeless []Unit
	for _, u := range units {
		u.Weight = max(u.Weight, 1)
		w := p.workers[current[u.ID]]
		if w != nil && allowed(w.Labels, u.Labels) && (!w.Drained || p.best(u).Drained) {
			p.put(u, w)
			continue
		}
		homeless = append(homeless, u)
	}
	// The heavy ones first: the light ones then fill the gaps.
	slices.SortStableFunc(homeless, func(a, b Unit) int { return cmp.Compare(b.Weight, a.Weight) })
	for _, u := range homeless {
		if w := p.best(u); w != nil {
			p.put(u, w)
		}
	}
	for p.fill() {
	}
	return p.plan
}

// class is what units have in common that may be moved to the same places.
type class struct {
	labels string
	weight int
}

func classOf(u Unit) class { return class{fmt.Sprint(u.Labels), u.Weight} } // a map prints sorted by key

type worker struct {
	Worker
	load  int
	units map[class][]Unit
	// share counts units by connector.
	share map[string]int
}

type share struct{ zone, connector string }

type planner struct {
	plan    map[state.UnitID]string
	workers map[string]*worker
	order   []*worker
	zones   map[share]int
}

func (p *planner) put(u Unit, w *worker) {
	p.plan[u.ID] = w.ID
	w.load += u.Weight
	w.units[classOf(u)] = append(w.units[classOf(u)], u)
	w.share[u.ID.Connector]++
	p.zones[share{w.Labels[ZoneLabel], u.ID.Connector}]++
}

func (p *planner) take(u Unit, w *worker) {
	w.load -= u.Weight
	c := classOf(u)
	w.units[c] = slices.DeleteFunc(w.units[c], func(o Unit) bool { return o.ID == u.ID })
	w.share[u.ID.Connector]--
	p.zones[share{w.Labels[ZoneLabel], u.ID.Connector}]--
}

// before compares loads in proportion to capacities: a with more put on it, against b with its own more.
func before(a *worker, more int, b *worker, moreB int) int {
	return cmp.Compare((a.load+more)*b.Capacity, (b.load+moreB)*a.Capacity)
}

// best is the worker for a unit that has none; nil: nobody may run it. A drained worker only if there is no other.
func (p *planner) best(u Unit) *worker {
	var light *worker
	for _, w := range p.order {
		if !allowed(w.Labels, u.Labels) {
			continue
		}
		switch {
		case light == nil, light.Drained && !w.Drained:
			light = w
		case w.Drained == light.Drained && before(w, u.Weight, light, u.Weight) < 0:
			light = w
		}
	}
	if light == nil || light.Drained {
		return light
	}
	pick := light
	for _, w := range p.order {
		if w.Drained || !allowed(w.Labels, u.Labels) || !p.level(w, light, u.Weight) {
			continue
		}
		if cmp.Or(cmp.Compare(p.zones[share{w.Labels[ZoneLabel], u.ID.Connector}], p.zones[share{pick.Labels[ZoneLabel], u.ID.Connector}]),
			before(w, u.Weight, pick, u.Weight), cmp.Compare(w.share[u.ID.Connector], pick.share[u.ID.Connector])) < 0 {
			pick = w
		}
	}
	return pick
}

// level reports whether w is not heavier than the lightest by more than what zones are worth: one unit of this weight. In one zone they are worth
// nothing.
func (p *planner) level(w, light *worker, weight int) bool {
	if w.Labels[ZoneLabel] == light.Labels[ZoneLabel] {
		return before(w, weight, light, weight) == 0
	}
	return before(w, 0, light, weight) <= 0
}

// fill moves one unit to a worker that is joining, from the heaviest that gains by it, and reports whether it did. Each move lowers the higher
// of the two loads, so there is an end.
func (p *planner) fill() bool {
	heavyFirst := slices.SortedStableFunc(slices.Values(p.order), func(a, b *worker) int { return before(b, 0, a, 0) })
	for _, from := range heavyFirst {
		if from.Drained {
			continue // what is left there has no other place
		}
		// The heaviest that gains, so that few move.
		for _, c := range slices.SortedFunc(maps.Keys(from.units), compareClasses) {
			if len(from.units[c]) == 0 {
				continue
			}
			if to := p.joining(from.units[c][0], from); to != nil {
				u := p.leaver(from, to, c)
				p.take(u, from)
				p.put(u, to)
				return true
			}
		}
	}
	return false
}

func compareClasses(a, b class) int {
	return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.labels, b.labels))
}

// joining is the lightest joining worker that may run u and would still be lighter with it than from is now.
func (p *planner) joining(u Unit, from *worker) *worker {
	var to *worker
	for _, w := range p.order {
		if w.Joining && !w.Drained && w != from && allowed(w.Labels, u.Labels) && before(w, u.Weight, from, 0) < 0 &&
			(to == nil || before(w, u.Weight, to, u.Weight) < 0) {
			to = w
		}
	}
	return to
}

// leaver is the unit of a class to move: one whose move spreads its connector best over zones, then over workers.
func (p *planner) leaver(from, to *worker, c class) Unit {
	gain := func(u Unit) int {
		k := u.ID.Connector
		return p.zones[share{from.Labels[ZoneLabel], k}] - p.zones[share{to.Labels[ZoneLabel], k}]
	}
	best := from.units[c][0]
	for _, u := range from.units[c] {
		if cmp.Or(cmp.Compare(gain(u), gain(best)),
			cmp.Compare(from.share[u.ID.Connector]-to.share[u.ID.Connector], from.share[best.ID.Connector]-to.share[best.ID.Connector])) > 0 {
			best = u
		}
	}
	return best
}

func allowed(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}
