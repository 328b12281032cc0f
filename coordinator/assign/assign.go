// Package assign decides which worker runs what. It is a pure function: sticky, balanced, and it moves as little as it can.
package assign

import (
	"cmp"
	"maps"
	"slices"

	"github.com/millrace/millrace/coordinator/state"
)

// Worker is a live worker.
type Worker struct {
	ID     string
	Labels map[string]string
}

// Unit is something to run.
type Unit struct {
	ID state.UnitID
	// Labels that a worker must have to run it; empty: any worker will do.
	Labels map[string]string
}

// Plan places every unit on a worker; units that no worker may run are left out. current is where units are now. A unit stays
// where it is while that worker lives and may run it, unless the load is uneven: then the fewest units that level it to a
// difference of one move. Without label wishes the result is level to one. The same input gives the same plan.
func Plan(workers []Worker, units []Unit, current map[state.UnitID]string) map[state.UnitID]string {
	p := planner{plan: map[state.UnitID]string{}, load: map[string]int{}, share: map[share]int{}, byID: map[string]Worker{}}
	for _, w := range workers {
		p.byID[w.ID] = w
		p.load[w.ID] = 0
	}
	p.ids = slices.Sorted(maps.Keys(p.byID))
	units = slices.SortedFunc(slices.Values(units), func(a, b Unit) int { return a.ID.Compare(b.ID) })
	var homeless []Unit
	for _, u := range units {
		if w, ok := p.byID[current[u.ID]]; ok && allowed(w, u) {
			p.put(u, w.ID)
		} else {
			homeless = append(homeless, u)
		}
	}
	for _, u := range homeless {
		if to := p.lightest(u); to != "" {
			p.put(u, to)
		}
	}
	p.level(units)
	return p.plan
}

type share struct{ worker, connector string }

type planner struct {
	plan  map[state.UnitID]string
	load  map[string]int
	share map[share]int
	byID  map[string]Worker
	ids   []string
}

func (p *planner) put(u Unit, w string) {
	if old, ok := p.plan[u.ID]; ok {
		p.load[old]--
		p.share[share{old, u.ID.Connector}]--
	}
	p.plan[u.ID] = w
	p.load[w]++
	p.share[share{w, u.ID.Connector}]++
}

// lightest is the allowed worker with the least load; among equals the one with the fewest units of the same connector.
func (p *planner) lightest(u Unit) string {
	best := ""
	for _, id := range p.ids {
		if !allowed(p.byID[id], u) {
			continue
		}
		if best == "" || cmp.Or(cmp.Compare(p.load[id], p.load[best]),
			cmp.Compare(p.share[share{id, u.ID.Connector}], p.share[share{best, u.ID.Connector}])) < 0 {
			best = id
		}
	}
	return best
}

// level moves units from the heaviest worker to the lightest until no move makes it more even.
func (p *planner) level(units []Unit) {
	for range units {
		if !p.moveOne(units) {
			return
		}
	}
}

func (p *planner) moveOne(units []Unit) bool {
	heavyFirst := slices.SortedStableFunc(slices.Values(p.ids), func(a, b string) int { return cmp.Compare(p.load[b], p.load[a]) })
	for _, from := range heavyFirst {
		var best Unit
		to := ""
		for _, u := range units {
			if p.plan[u.ID] != from {
				continue
			}
			t := p.lightest(u)
			if p.load[from]-p.load[t] <= 1 {
				continue
			}
			// The connector with the most units here gives one away first.
			if to == "" || p.share[share{from, u.ID.Connector}] > p.share[share{from, best.ID.Connector}] {
				best, to = u, t
			}
		}
		if to != "" {
			p.put(best, to)
			return true
		}
	}
	return false
}

func allowed(w Worker, u Unit) bool {
	for k, v := range u.Labels {
		if w.Labels[k] != v {
			return false
		}
	}
	return true
}
