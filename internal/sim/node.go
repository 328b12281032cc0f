package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker"
)

// node is a machine: its name, its disk, and the process that runs on it, if any.
type node struct {
	run       *run
	name      string
	coord     bool
	disk      *disk
	clockRate float64
	boots     int

	mu      sync.Mutex // guards: process
	process *process   // changed by the injector only; nil: it is down
}

func (n *node) addr() string { return n.name + ":8084" }

// process is one process of a node.
type process struct {
	run  *run
	node *node
	host *host
	file *files
	log  *slog.Logger

	stopWorker, stopAll context.CancelFunc
	done                chan struct{}
	killed              chan struct{}

	coord *coordinator.Coordinator // nil on nodes that only work

	mu     sync.Mutex // guards: frozen
	frozen chan struct{}
}

// start starts the node's process.
func (n *node) start() {
	n.boots++
	n.run.net.reset(n.name) // what a power cut left open
	p := &process{run: n.run, node: n, host: n.run.net.host(n.name), done: make(chan struct{}), killed: make(chan struct{})}
	p.log = slog.New(logger{n.run.opts.Log.WithAttrs([]slog.Attr{slog.String("node", n.name)}), p})
	all, stopAll := context.WithCancel(context.Background())
	work, stopWorker := context.WithCancel(all)
	p.stopAll, p.stopWorker = stopAll, stopWorker
	var g errgroup.Group
	if n.coord {
		var storage *raftnode.Storage
		p.file, storage = n.disk.open()
		c, err := coordinator.New(coordinator.Options{
			NodeID: n.name, DataDir: n.run.opts.Dir + "/" + n.name, ListenAddr: n.addr(), RESTAddr: n.name + ":8083", Worker: true, Join: n.run.others(n.name),
			BootstrapExpect: coordinators, Brokers: []string{brokerAddr}, Compaction: n.run.compaction, Logger: p.log,
			Listen: p.host.listen, Dial: p.host.dial, Storage: storage,
		})
		if err != nil {
			panic(err) // the options are wrong
		}
		p.coord = c
		g.Go(func() error {
			// A killed process ends as it can; what it says then is of no interest.
			if err := c.Run(all); err != nil && !p.dead() {
				n.run.history.violate("coordinator %s ended: %v", n.name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer stopAll()
		return p.work(work)
	})
	n.set(p)
	go func() {
		defer close(p.done)
		_ = g.Wait() // they report for themselves
	}()
}

// work runs the worker half.
func (p *process) work(ctx context.Context) error {
	n := p.node
	info := &clusterv1.NodeInfo{Id: n.name, RestAddr: n.name + ":8083", Worker: true, Coordinator: n.coord, Capacity: 1, Protocol: clusterv1.Protocol}
	if n.coord {
		info.ClusterAddr = n.addr()
		select {
		case <-p.coord.Ready():
		case <-ctx.Done():
			return nil
		}
	}
	faults := p.run.opts.Faults
	faults.ClockRate = n.clockRate
	w, err := worker.New(worker.Options{
		Node: info, BootID: n.name + "-" + strconv.Itoa(n.boots), Coordinators: p.run.others(""), Kafka: kafka.Config{Dial: p.host.dialKafka},
		Grace: 2 * time.Second, DrainTime: time.Second, Logger: p.log, Dial: p.host.dial, Faults: faults,
	})
	if err == nil {
		err = w.Run(ctx)
	}
	if err != nil && !p.dead() {
		p.run.history.violate("worker %s ended: %v", n.name, err)
	}
	return nil
}

func (p *process) dead() bool {
	select {
	case <-p.killed:
		return true
	default:
		return false
	}
}

// kill ends the process as kill -9 does, or, when silent, as a power cut does: nobody hears of it.
func (n *node) kill(silent bool) {
	p := n.process
	n.set(nil)
	close(p.killed)
	if p.file != nil {
		p.file.kill()
	}
	p.host.kill(silent)
	p.stopAll()
}

// current is the process that runs now.
func (n *node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

func (n *node) set(p *process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process = p
}

// freeze stops the process as SIGSTOP does; thaw lets it go on. Fake time can't stop for some goroutines only: what is stopped is what the process
// does to others and hears of them. Its clock and its timers run, as a stopped process's clock does.
func (n *node) freeze() {
	n.run.net.change(func() { n.run.net.paused[n.name]++ })
	n.process.mu.Lock()
	defer n.process.mu.Unlock()
	n.process.frozen = make(chan struct{})
}

func (n *node) thaw() {
	n.run.net.change(func() { n.run.net.paused[n.name]-- })
	if n.process == nil {
		return
	}
	n.process.mu.Lock()
	defer n.process.mu.Unlock()
	if n.process.frozen != nil {
		close(n.process.frozen)
		n.process.frozen = nil
	}
}

// running returns when the process runs; an error when ctx ends first or it is dead.
func (p *process) running(ctx context.Context) error {
	for {
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if p.dead() {
			return fmt.Errorf("%s: %w", p.node.name, errKilled)
		}
		if frozen == nil {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.killed:
		case <-frozen:
		}
	}
}
