package sim

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// event is something that the injector does at a time.
type event struct {
	at time.Duration
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return cmp.Less(e[i].at, e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// injector breaks things as the seed says and mends them. It runs on one goroutine and owns the nodes' processes meanwhile.
type injector struct {
	run    *run
	rng    *rand.Rand
	queue  events
	busy   map[*node]bool // down or stopped: no further fault of the process
	counts map[string]int
}

// inject runs until all faults have begun and ended.
func (r *run) inject(ctx context.Context) map[string]int {
	i := &injector{run: r, rng: rand.New(rand.NewPCG(r.opts.Seed, 1)), busy: map[*node]bool{}, counts: map[string]int{}}
	for range 4 + i.rng.IntN(6) {
		at := settle + time.Duration(i.rng.Int64N(int64(chaos)))
		i.at(at, i.fault)
	}
	for len(i.queue) > 0 {
		e := heap.Pop(&i.queue).(event)
		select {
		case <-ctx.Done():
			return i.counts
		case <-time.After(e.at - r.history.since()):
			e.do()
		}
	}
	return i.counts
}

func (i *injector) at(t time.Duration, do func()) { heap.Push(&i.queue, event{t, do}) }

// later does something after a random time.
func (i *injector) later(least, most time.Duration, do func()) {
	i.at(i.run.history.since()+least+time.Duration(i.rng.Int64N(int64(most-least))), do)
}

func (i *injector) note(kind, format string, args ...any) {
	i.counts[kind]++
	i.run.history.note("fault: %s %s", kind, fmt.Sprintf(format, args...))
}

// fault begins one fault.
func (i *injector) fault() {
	n := i.run.nodes[i.rng.IntN(len(i.run.nodes))]
	switch k := i.rng.IntN(12); {
	case k < 3 && !i.busy[n]:
		i.kill(n)
	case k < 5 && !i.busy[n]:
		i.freeze(n)
	case k < 6 && !i.busy[n]:
		i.restart(n)
	case k < 9:
		i.partition(n)
	case k < 10:
		i.sluggish(n)
	case k < 11 && n.coord:
		i.badDisk(n)
	default:
		i.note("reset", "connections of %s", n.name)
		i.run.net.reset(n.name)
	}
}

func (i *injector) kill(n *node) {
	silent := i.rng.IntN(3) == 0
	i.note("kill", "%s, silent %v", n.name, silent)
	i.busy[n] = true
	n.kill(silent)
	i.later(200*time.Millisecond, 5*time.Second, func() {
		i.run.history.note("starts: %s", n.name)
		i.busy[n] = false
		n.start()
	})
}

func (i *injector) freeze(n *node) {
	i.note("freeze", "%s", n.name)
	i.busy[n] = true
	n.freeze()
	i.later(300*time.Millisecond, 6*time.Second, func() {
		i.run.history.note("thaws: %s", n.name)
		i.busy[n] = false
		n.thaw()
	})
}

// restart ends a node in good order, and starts it again.
func (i *injector) restart(n *node) {
	i.note("restart", "%s", n.name)
	i.busy[n] = true
	n.process.stopWorker()
	i.later(time.Second, 6*time.Second, func() {
		i.run.history.note("starts: %s", n.name)
		n.kill(false) // has ended, or takes too long
		i.busy[n] = false
		n.start()
	})
}

// partition cuts a machine off: from all, from the other nodes, from the broker or from one node; in one direction or in both.
func (i *injector) partition(n *node) {
	var others []string
	switch i.rng.IntN(4) {
	case 0:
		others = append(i.run.names(), brokerHost)
	case 1:
		others = i.run.names()
	case 2:
		others = []string{brokerHost}
	default:
		others = []string{i.run.nodes[i.rng.IntN(len(i.run.nodes))].name}
	}
	var links []link
	way := i.rng.IntN(3)
	for _, o := range others {
		if o == n.name {
			continue
		}
		if way != 1 {
			links = append(links, link{n.name, o})
		}
		if way != 2 {
			links = append(links, link{o, n.name})
		}
	}
	i.note("partition", "%v", links)
	i.run.net.change(func() {
		for _, l := range links {
			i.run.net.cut[l]++
		}
	})
	i.later(300*time.Millisecond, 6*time.Second, func() {
		i.run.history.note("heals: %v", links)
		i.run.net.change(func() {
			for _, l := range links {
				i.run.net.cut[l]--
			}
		})
	})
}

// sluggish makes a machine's network slow and lossy, in one direction or in both.
func (i *injector) sluggish(n *node) {
	delay, loss := time.Duration(i.rng.Int64N(int64(400*time.Millisecond))), i.rng.Float64()/2
	out, in := i.rng.IntN(3) != 1, i.rng.IntN(3) != 1
	i.note("sluggish", "%s by %v, loss %.2f, out %v, in %v", n.name, delay.Round(time.Millisecond), loss, out, in)
	set := func(delay time.Duration, loss float64) {
		i.run.net.change(func() {
			for _, o := range append(i.run.names(), brokerHost) {
				if out {
					i.run.net.slow[link{n.name, o}], i.run.net.lossy[link{n.name, o}] = delay, loss
				}
				if in {
					i.run.net.slow[link{o, n.name}], i.run.net.lossy[link{o, n.name}] = delay, loss
				}
			}
		})
	}
	set(delay, loss)
	i.later(500*time.Millisecond, 5*time.Second, func() { set(0, 0) })
}

// badDisk makes a disk slow or full.
func (i *injector) badDisk(n *node) {
	slow, full := time.Duration(i.rng.Int64N(int64(500*time.Millisecond))), i.rng.IntN(3) == 0
	i.note("disk", "%s slow by %v, full %v", n.name, slow.Round(time.Millisecond), full)
	n.disk.set(func(d *disk) { d.slow, d.full = slow, full })
	i.later(500*time.Millisecond, 4*time.Second, func() { n.disk.set(func(d *disk) { d.slow, d.full = 0, false }) })
}
