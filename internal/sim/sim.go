package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/worker/runner"
)

const (
	coordinators = 3
	brokerHost   = "kafka"
	brokerAddr   = brokerHost + ":9092"

	// settle is the time before the first fault, chaos that in which faults begin, and calm how long the cluster may take to be well again
	// when all is mended: the longest waits of its parts in a row.
	settle = 3 * time.Second
	chaos  = 12 * time.Second
	calm   = 90 * time.Second
)

// Options of a Run.
type Options struct {
	Seed uint64
	// Dir is an empty directory.
	Dir string
	// Faults break the workers on purpose.
	Faults runner.Faults
	// Log gets what the nodes log.
	Log slog.Handler
}

// Report is what a Run came to.
type Report struct {
	// Violations are the promises that were broken; a run is good without any.
	Violations []string
	// Notes tell what happened, for who looks into a violation.
	Notes []string
	// Faults counts them by kind.
	Faults map[string]int
	// Recovery is how long it took from the last fault's end until all was well.
	Recovery time.Duration
	Acts     int
	Records  int
}

// run is a cluster that runs.
type run struct {
	opts       Options
	net        *network
	history    *history
	upstream   *upstream
	nodes      []*node
	compaction raftnode.Compaction

	mu        sync.Mutex // guards: committed
	committed map[unit]int
}

// Run runs one seed.
func Run(ctx context.Context, o Options) *Report {
	rng := rand.New(rand.NewPCG(o.Seed, 4))
	r := &run{
		opts: o, net: newNetwork(o.Seed), history: newHistory(), upstream: &upstream{start: time.Now(), closed: make(chan struct{})}, committed: map[unit]int{},
		compaction: raftnode.Compaction{Entries: 20 + rng.Uint64N(60), Interval: 3 * time.Second, Trailing: 5 + rng.Uint64N(20)},
	}
	for i := range coordinators + 1 {
		r.nodes = append(r.nodes, &node{
			run: r, name: fmt.Sprintf("n%d", i+1), coord: i < coordinators, disk: newDisk(o.Seed + uint64(i)<<32),
			clockRate: 0.95 + rng.Float64()/10,
		})
	}
	report := &Report{}
	broker, err := embedded.Start(embedded.Options{Addr: brokerAddr, Listen: r.net.host(brokerHost).listen})
	if err != nil {
		report.Violations = append(report.Violations, err.Error())
		return report
	}
	r.live(ctx, report)
	for _, n := range r.nodes {
		p := n.process
		n.kill(false)
		select {
		case <-p.done:
		case <-time.After(calm):
			r.history.violate("%s has not ended %v after it was told to", n.name, calm)
		}
	}
	broker.Close()
	report.Violations, report.Notes, report.Acts = r.history.broken, r.history.notes, r.history.acts
	return report
}

// live starts the cluster, breaks it, mends it and looks at what it did.
func (r *run) live(ctx context.Context, report *Report) {
	for _, n := range r.nodes {
		n.start() //nolint:contextcheck // a process ends when it is stopped or killed, not with the run's context
	}
	observing, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { r.observe(observing) })
	watching.Go(func() { r.operate(observing) })
	report.Faults = r.inject(ctx)
	stop()
	watching.Wait()
	mended := time.Now()
	r.history.note("all is mended")
	r.upstream.close()
	if r.recover(ctx) {
		report.Recovery = time.Since(mended)
	}
	report.Records = r.checkTopics(ctx)
}

// names of the nodes.
func (r *run) names() []string {
	var out []string
	for _, n := range r.nodes {
		out = append(out, n.name)
	}
	return out
}

// others are the cluster addresses of the coordinators but one.
func (r *run) others(name string) []string {
	var out []string
	for _, n := range r.nodes {
		if n.coord && n.name != name {
			out = append(out, n.addr())
		}
	}
	return out
}

// observe compares the coordinators' states now and then.
func (r *run) observe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
			r.hashes()
		}
	}
}

// hashes notes the state of every coordinator and returns the highest and lowest index that they have.
func (r *run) hashes() (low, high uint64) {
	low = ^uint64(0)
	for _, c := range r.coordinators() {
		var index uint64
		var b []byte
		var err error
		c.View(func(s *state.State) {
			index = s.Index()
			b, err = proto.MarshalOptions{Deterministic: true}.Marshal(s.Image())
		})
		if err != nil {
			r.history.violate("encode the state: %v", err)
			continue
		}
		sum := sha256.Sum256(b)
		r.history.state(c.name, index, hex.EncodeToString(sum[:4]))
		low, high = min(low, index), max(high, index)
	}
	return low, high
}

// coordinators returns those that run.
func (r *run) coordinators() []named {
	var out []named
	for _, n := range r.nodes {
		if p := n.current(); p != nil && p.coord != nil {
			out = append(out, named{p.coord, n.name})
		}
	}
	return out
}

type named struct {
	*coordinator.Coordinator
	name string
}

// leader returns the coordinator that leads.
func (r *run) leader() *coordinator.Coordinator {
	for _, c := range r.coordinators() {
		if l, ok := c.Leader(); ok && l.Self {
			return c.Coordinator
		}
	}
	return nil
}
