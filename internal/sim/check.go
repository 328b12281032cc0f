package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// confirm notes what a task was told is durable.
func (r *run) confirm(u unit, next int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed[u] = max(r.committed[u], next)
}

func (r *run) confirmed(u unit) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed[u]
}

// recover waits until the cluster is well, which it must be within calm.
func (r *run) recover(ctx context.Context) bool {
	deadline := time.Now().Add(calm)
	for {
		why := r.unwell(ctx)
		if why == "" {
			return true
		}
		if time.Now().After(deadline) {
			r.history.violate("not well again %v after all was mended: %s", calm, why)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// unwell says what is still to come; empty: every task runs where it is assigned and has committed all that there is, all states are equal, and no
// worker has much more to do than another.
func (r *run) unwell(ctx context.Context) string {
	l := r.leader()
	if l == nil {
		return "nobody leads"
	}
	if why := r.reinstate(ctx, l); why != "" {
		return why
	}
	var list []*state.Connector
	assigned := map[state.UnitID]state.Assignment{}
	l.View(func(s *state.State) {
		list = s.Connectors()
		for _, a := range s.Assignments() {
			assigned[a.Unit] = a
		}
	})
	for _, c := range list {
		if c.PlannedIndex != c.ConfigIndex {
			return c.Name + " has no tasks for its config"
		}
		status := l.Statuses(c.Name)
		for t := int32(-1); int(t) < len(c.TaskConfigs); t++ {
			a := assigned[state.UnitID{Connector: c.Name, Task: t}]
			switch s := status[t]; {
			case !l.WorkerAlive(a.Worker):
				return fmt.Sprintf("%s-%d is on %q, which is not alive", c.Name, t, a.Worker)
			case s.GetState() != clusterv1.State_STATE_RUNNING || s.GetEpoch() != a.Epoch:
				return fmt.Sprintf("%s-%d is %v, epoch %d of %d: %s", c.Name, t, s.GetState(), s.GetEpoch(), a.Epoch, s.GetTrace())
			case t >= 0 && r.confirmed(unit{c.Name, int(t)}) < r.upstream.length():
				return fmt.Sprintf("%s-%d has committed %d of %d", c.Name, t, r.confirmed(unit{c.Name, int(t)}), r.upstream.length())
			}
		}
	}
	if low, high := r.hashes(); low != high {
		return fmt.Sprintf("coordinators are at indexes %d to %d", low, high)
	}
	if r.relocates() {
		return ""
	}
	return r.unbalanced(l)
}

// reinstate puts back what operate may have left: connectors that are deleted or paused, workers that are drained.
func (r *run) reinstate(ctx context.Context, l *coordinator.Coordinator) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u := user{r: r, rng: nil}
	for _, name := range connectorNames {
		var c *state.Connector
		l.View(func(s *state.State) { c, _ = s.Connector(name) })
		var err error
		switch {
		case c == nil:
			err = u.create(ctx, l, name)
		case c.Target != commandv1.TargetState_TARGET_STATE_RUNNING:
			err = u.target(ctx, l, name, commandv1.TargetState_TARGET_STATE_RUNNING)
		default:
			continue
		}
		return fmt.Sprintf("%s is put back: %v", name, err)
	}
	for _, n := range r.nodes {
		drained := false
		l.View(func(s *state.State) { drained = s.Drained(n.name) })
		if drained {
			return fmt.Sprintf("%s is taken back: %v", n.name, l.SetDrain(ctx, n.name, false))
		}
	}
	return ""
}

// unbalanced says so when a worker has much more than another. Planning halves do next to nothing and fill gaps between tasks: they don't count.
func (r *run) unbalanced(l *coordinator.Coordinator) string {
	load := map[string]int{}
	for _, n := range r.nodes {
		load[n.name] = 0
	}
	l.View(func(s *state.State) {
		for _, a := range s.Assignments() {
			if a.Unit.Task != state.PlanningHalf {
				load[a.Worker]++
			}
		}
	})
	loads := slices.Collect(maps.Values(load))
	if slices.Max(loads)-slices.Min(loads) > 1 {
		return fmt.Sprintf("not balanced: %v", load)
	}
	return ""
}

// checkTopics reads what was committed. I2, I3, I4: each change of each log is there once, and those of a key are in order.
func (r *run) checkTopics(ctx context.Context) int {
	kc := kafka.Config{Brokers: []string{brokerAddr}, Dial: r.net.host("reader").dialKafka}
	a, err := kafka.NewAdmin(ctx, kc)
	if err != nil {
		r.history.violate("read the topics: %v", err)
		return 0
	}
	defer a.Close()
	total := 0
	for _, name := range connectorNames {
		counts := make([]map[int]int, tasksOf(name))
		for i := range counts {
			counts[i] = map[int]int{}
		}
		last := map[string]int{} // by key
		err := kafka.ReadToEnd(ctx, kc, a, topicOf(name), nil, func(m kafka.Fetched) error {
			task, n, ok := parse(string(m.Value))
			if !ok || task >= len(counts) {
				return fmt.Errorf("a record that nobody wrote: %s", m.Value)
			}
			if before, ok := last[string(m.Key)]; ok && n < before {
				r.history.violate("I4: %s: key %s has %d after %d", name, m.Key, n, before)
			}
			last[string(m.Key)] = n
			counts[task][n]++
			total++
			return nil
		})
		if err != nil {
			r.history.violate("read %s: %v", topicOf(name), err)
			continue
		}
		for t, seen := range counts {
			r.once(name, t, seen)
		}
	}
	return total
}

// once checks that each change of a log was seen once.
func (r *run) once(name string, task int, seen map[int]int) {
	var missing, twice []int
	for i := range r.upstream.length() {
		switch {
		case seen[i] == 0:
			missing = append(missing, i)
		case seen[i] > 1:
			twice = append(twice, i)
		}
	}
	if len(missing) > 0 && len(seen) > 0 {
		r.history.violate("I2: %s-%d lacks %d of %d changes, the first is %d", name, task, len(missing), r.upstream.length(), missing[0])
	}
	if len(twice) > 0 {
		r.history.violate("I3: %s-%d has %d changes more than once, the first is %d", name, task, len(twice), slices.Min(twice))
	}
}

func parse(v string) (task, n int, ok bool) {
	a, b, found := strings.Cut(v, ":")
	task, err := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	return task, n, found && err == nil && err2 == nil && task >= 0
}

// relocates reports whether tasks that keep failing go to another worker in this run. Such moves are for the task's good and not for even loads.
func (r *run) relocates() bool { return r.opts.Seed%2 == 0 }

// configOf is the config of a connector.
func (r *run) configOf(name, note string) map[string]string {
	moveAfter := "3"
	if !r.relocates() {
		moveAfter = "0"
	}
	return map[string]string{
		config.RestartMoveAfter: moveAfter,
		config.Name:             name, config.ConnectorClass: class, config.TasksMax: strconv.Itoa(tasksOf(name)), config.CreationPartitions: "2",
		config.RestartBackoff: "200", config.RestartBackoffMax: "2000", "sim.note": note,
	}
}
