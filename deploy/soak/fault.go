package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// kind is a sort of fault.
type kind struct {
	name string
	// root: it can be done by root only.
	root bool
	// do begins it on something and says on what. heal ends it; hold is how long it lasts.
	do func(ctx context.Context, s *soak) (on string, hold time.Duration, heal func() error, err error)
	// fromHeal: records can flow again only when it is over, and recovery counts from there.
	fromHeal bool
}

// kinds of faults. Each comes as often as the others, in an order that the seed gives.
var kinds = []kind{
	{name: "kill-worker", do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n, err := s.worker(ctx)
		if err != nil {
			return "", 0, nil, err
		}
		n.Kill()
		return n.ID, between(s.rng, 3, 6), n.Start, nil
	}},
	{name: "kill-leader", do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n, err := s.leader(ctx)
		if err != nil {
			return "", 0, nil, err
		}
		n.Kill()
		return n.ID, between(s.rng, 3, 6), n.Start, nil
	}},
	{name: "stop-process", do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n, err := s.worker(ctx)
		if err != nil {
			return "", 0, nil, err
		}
		// Always longer than the lease.
		return n.ID, between(s.rng, 4, 8), func() error { return n.Signal(syscall.SIGCONT) }, n.Signal(syscall.SIGSTOP)
	}},
	{name: "cut-network", root: true, do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n := s.any()
		heal, err := s.lab.cut(n.ID)
		return n.ID, between(s.rng, 4, 8), heal, err
	}},
	{name: "cut-peers", root: true, do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n, err := s.worker(ctx)
		if err != nil {
			return "", 0, nil, err
		}
		heal, err := s.lab.cutPeers(n.ID)
		return n.ID, between(s.rng, 4, 8), heal, err
	}},
	{name: "disk-full", root: true, do: func(ctx context.Context, s *soak) (string, time.Duration, func() error, error) {
		n := s.any()
		heal, err := s.lab.fill(n.ID)
		return n.ID, between(s.rng, 3, 6), heal, err
	}},
	{name: "kill-broker", fromHeal: true, do: func(_ context.Context, s *soak) (string, time.Duration, func() error, error) {
		return "kafka", between(s.rng, 0, 3), s.broker.up, s.broker.kill()
	}},
	{name: "restart-broker", fromHeal: true, do: func(_ context.Context, s *soak) (string, time.Duration, func() error, error) {
		return "kafka", between(s.rng, 0, 3), s.broker.up, s.broker.down()
	}},
	{name: "kill-database", fromHeal: true, do: func(_ context.Context, s *soak) (string, time.Duration, func() error, error) {
		return s.db.kind, between(s.rng, 0, 3), s.db.up, s.db.kill()
	}},
	{name: "restart-database", fromHeal: true, do: func(_ context.Context, s *soak) (string, time.Duration, func() error, error) {
		return s.db.kind, between(s.rng, 0, 3), s.db.up, s.db.down()
	}},
	{name: "kill-function", do: func(_ context.Context, s *soak) (string, time.Duration, func() error, error) {
		pids, err := s.functions()
		if err != nil {
			return "", 0, nil, err
		}
		pid := pids[s.rng.IntN(len(pids))]
		return "process " + strconv.Itoa(pid), 0, func() error { return nil }, syscall.Kill(pid, syscall.SIGKILL)
	}},
}

func between(rng *rand.Rand, from, to int) time.Duration {
	return time.Duration(from*1000+rng.IntN((to-from)*1000)) * time.Millisecond
}

// choose takes the faults that names names, all if it names none, and says loudly which this user can't do.
func choose(names string, root bool) (out []kind, err error) {
	want := map[string]bool{}
	for n := range strings.SplitSeq(names, ",") {
		if n != "" {
			want[n] = true
		}
	}
	all := len(want) == 0
	for _, k := range kinds {
		if !all && !want[k.name] {
			continue
		}
		delete(want, k.name)
		if k.root && !root {
			fmt.Printf("SKIP: %s needs root (network namespaces, a small disk for each node)\n", k.name)
			continue
		}
		out = append(out, k)
	}
	for n := range want {
		return nil, fmt.Errorf("there is no fault %q", n)
	}
	if len(out) == 0 {
		return nil, errors.New("no fault is left to inject")
	}
	return out, nil
}

// any returns a node.
func (s *soak) any() *fleet.Node { return s.fleet.Nodes[s.rng.IntN(len(s.fleet.Nodes))] }

// ask calls f with the first node that answers it.
func (s *soak) ask(ctx context.Context, f func(ctx context.Context, c fleet.Cluster) error) (err error) {
	for range 40 {
		for _, n := range s.fleet.Nodes {
			one, cancel := context.WithTimeout(ctx, 2*time.Second)
			err = f(one, fleet.Cluster{Client: api.NewClient(n.REST)})
			cancel()
			if err == nil || ctx.Err() != nil {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func (s *soak) node(id string) (*fleet.Node, error) {
	for _, n := range s.fleet.Nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node is called %q", id)
}

func (s *soak) leader(ctx context.Context) (n *fleet.Node, err error) {
	err = s.ask(ctx, func(ctx context.Context, c fleet.Cluster) error {
		k, err := c.Cluster(ctx)
		if err == nil {
			n, err = s.node(k.Leader)
		}
		return err
	})
	return n, err
}

// worker returns a node that does not lead and runs a task that the last topic's records go through; where only the leader does, another node.
func (s *soak) worker(ctx context.Context) (n *fleet.Node, err error) {
	err = s.ask(ctx, func(ctx context.Context, c fleet.Cluster) error {
		k, err := c.Cluster(ctx)
		if err != nil {
			return err
		}
		place, err := c.TasksByWorker(ctx)
		if err != nil {
			return err
		}
		var busy, idle []*fleet.Node
		for _, x := range s.fleet.Nodes {
			switch {
			case x.ID == k.Leader:
			case slices.ContainsFunc(place[x.ID], func(task string) bool { return !strings.HasPrefix(task, "soak-sink") }):
				busy = append(busy, x)
			default:
				idle = append(idle, x)
			}
		}
		if len(busy) == 0 {
			busy = idle
		}
		n = busy[s.rng.IntN(len(busy))]
		return nil
	})
	return n, err
}

// functions lists the function processes that the nodes have started.
func (s *soak) functions() ([]int, error) {
	ours := map[int]bool{}
	for _, n := range s.fleet.Nodes {
		ours[n.PID()] = true
	}
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return nil, err
		}
		var out []int
		for _, d := range dirs {
			b, err := os.ReadFile(filepath.Join(d, "stat"))
			if err != nil {
				continue // ended meanwhile
			}
			// pid (name) state parent …
			_, rest, _ := strings.Cut(string(b), ") ")
			f := strings.Fields(rest)
			pid, _ := strconv.Atoi(filepath.Base(d))
			if parent, err := strconv.Atoi(f[1]); err == nil && ours[parent] {
				out = append(out, pid)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, errors.New("no function process runs")
}
