package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/clusterclient"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/tlsfile"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/runner"
)

// Options of a Worker.
type Options struct {
	// Node is this node as the others know it.
	Node *clusterv1.NodeInfo
	// BootID differs with each start of the process.
	BootID string
	// Coordinators are cluster addresses to begin with.
	Coordinators []string
	// TLS, if set, secures the traffic with them.
	TLS *tlsfile.Source
	// Kafka's brokers may be empty: then the cluster's are used, which the leader tells.
	Kafka kafka.Config
	// OffsetsTopic for source offsets; empty: kafka.OffsetsTopic.
	OffsetsTopic string
	// Grace is how long a task may take to stop. Default 5 s.
	Grace time.Duration
	// DrainTime is how long the worker waits at its end for its units to move to others; 0: it stops them at once.
	DrainTime time.Duration
	Logger    *slog.Logger
	// Dial, if set, reaches coordinators in place of the host's network.
	Dial clusterclient.Dialer
	// Faults are only set by the simulation.
	Faults runner.Faults
}

// Worker is one worker.
type Worker struct {
	opts    Options
	offsets *kafka.OffsetReader
	turns   *runner.Turns
	born    time.Time
	client  *clusterclient.Client
	lease   *runner.Lease
	status  *statuses
	watched watched

	inbox  *inbox
	strays chan []*clusterv1.Running // newest only
	lost   chan time.Time            // when the lease ran out
	lapsed atomic.Pointer[time.Time]

	mu     sync.Mutex // guards: info, leader, held, signals
	info   *clusterv1.InfoResponse
	leader uint32 // the protocol of the leader
	held   map[unitKey]uint64
	// signals lead to the tasks that run here.
	signals map[unitKey]*runner.Signals
}

type unitKey struct {
	connector string
	task      int32
}

func keyOf(u *clusterv1.Unit) unitKey { return unitKey{u.GetConnector(), u.GetTask()} }

func (k unitKey) compare(o unitKey) int {
	return cmp.Or(cmp.Compare(k.connector, o.connector), cmp.Compare(k.task, o.task))
}

func (k unitKey) unit() *clusterv1.Unit { return &clusterv1.Unit{Connector: k.connector, Task: k.task} }

// New makes a worker without touching anything.
func New(o Options) (*Worker, error) {
	switch {
	case o.Node.GetId() == "" || o.BootID == "":
		return nil, errors.New("a worker needs a node id and a boot id")
	case len(o.Coordinators) == 0:
		return nil, errors.New("a worker needs the cluster address of a coordinator (--join)")
	case o.Logger == nil:
		return nil, errors.New("a worker needs a logger")
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	if o.OffsetsTopic == "" {
		o.OffsetsTopic = kafka.OffsetsTopic
	}
	if o.Dial == nil && o.TLS != nil {
		o.Dial = o.TLS.DialContext
	}
	return &Worker{
		opts: o, born: time.Now(), client: clusterclient.New(o.Coordinators, o.Dial), lease: runner.NewLease(o.Faults), status: newStatuses(),
		inbox: newInbox(), strays: make(chan []*clusterv1.Running, 1), lost: make(chan time.Time, 1), held: map[unitKey]uint64{},
		signals: map[unitKey]*runner.Signals{}, offsets: &kafka.OffsetReader{}, turns: runner.NewTurns(),
	}, nil
}

// Leader asks where the leader answers REST; empty when nobody knows.
func (w *Worker) Leader(ctx context.Context) (string, error) {
	info, err := w.client.Info(ctx)
	return info.GetLeaderRestAddr(), err
}

// Info asks a coordinator about the cluster.
func (w *Worker) Info(ctx context.Context) (*clusterv1.InfoResponse, error) {
	return w.client.Info(ctx)
}

// Run runs the worker until ctx ends; then its units move to others or stop, it tells the leader that it leaves, and returns.
func (w *Worker) Run(ctx context.Context) error {
	defer w.client.Close()
	// The session outlives ctx by as long as the units need to stop, so that the leader learns at once that they have.
	session, endSession := context.WithCancel(context.WithoutCancel(ctx))
	defer endSession()
	var g errgroup.Group
	g.Go(func() error { w.sessions(session); return nil })
	g.Go(func() error { w.watchLease(session); return nil })
	work, endWork := context.WithCancel(session)
	g.Go(func() error {
		defer endWork()
		<-ctx.Done()
		w.drain(session)
		return nil
	})
	w.manage(work)
	w.leave(session)
	endSession()
	return g.Wait()
}

// drain asks the leader to move all units to others, and returns when they are gone, or nothing can be hoped for any more.
func (w *Worker) drain(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, w.opts.DrainTime)
	defer cancel()
	w.status.drain()
	began, had := time.Now(), len(w.holding())
	for len(w.holding()) > 0 && w.lease.Valid() && w.leaderSpeaks() >= 2 {
		select {
		case <-wait.Done():
			w.opts.Logger.Warn("not all units have moved in time; the rest stops", "left", len(w.holding()), "waited", w.opts.DrainTime)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	w.opts.Logger.Info("drained", "units", had, "left", len(w.holding()), "elapsed", time.Since(began).Round(time.Millisecond))
}

// leave waits until the leader has heard that all has stopped, or a little while.
func (w *Worker) leave(ctx context.Context) {
	w.status.leave()
	wait, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	select {
	case <-w.status.left:
	case <-wait.Done():
	}
}

// watchLease stops everything when the lease runs out.
func (w *Worker) watchLease(ctx context.Context) {
	for {
		w.noticeLapse()
		wait := 20 * time.Millisecond
		if left := w.lease.Left(); left > 0 {
			wait = min(left+time.Millisecond, 100*time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// noticeLapse stops everything if the lease has run out since it was last called.
func (w *Worker) noticeLapse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lease.Lapsed() {
		return
	}
	w.opts.Logger.Warn("lease ran out: stopping all tasks", "held", len(w.held))
	at := time.Now()
	w.lapsed.Store(&at)
	w.watched.lost.Add(1)
	select {
	case <-w.lost:
	default:
	}
	w.lost <- at // has room for it: only this sends, and mu is held
}

// signal hands a signal to a task that runs here and reports the answer with the next heartbeat.
func (w *Worker) signal(ctx context.Context, sig *clusterv1.Signal) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w.mu.Lock()
	s := w.signals[keyOf(sig.Unit)]
	w.mu.Unlock()
	err := errors.New("the task is not on this worker any more")
	if s != nil {
		err = s.Send(ctx, sig.Type, sig.Data)
	}
	r := &clusterv1.SignalResult{Id: sig.Id}
	if err != nil {
		r.Error = err.Error()
	}
	w.status.answer(r)
}

func (w *Worker) holding() map[unitKey]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.held)
}

func (w *Worker) setLeader(m *clusterv1.Welcome) {
	w.mu.Lock()
	w.info, w.leader = m.Info, m.Protocol
	w.mu.Unlock()
}

func (w *Worker) leaderSpeaks() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leader
}

func (w *Worker) cluster() *clusterv1.InfoResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.info
}

// running is one unit that runs here, owned by manage.
type running struct {
	a    *clusterv1.Assignment
	unit *runner.Unit
	stop context.CancelFunc
	plan *planner
}

// update gives a unit that runs on the newest word on it.
func (r *running) update(a *clusterv1.Assignment) {
	r.a = a
	r.unit.Pause(a.TargetState == clusterv1.TargetState_TARGET_STATE_PAUSED)
	r.unit.Progress.TopicsSince(a.TopicsSince)
	if r.plan != nil {
		r.plan.set(a)
	}
}

// manage makes the running units equal to the newest assignments until ctx ends; then it stops them all.
func (w *Worker) manage(ctx context.Context) {
	units, want := map[unitKey]*running{}, map[unitKey]*clusterv1.Assignment{}
	var hello time.Time // of the session that want is of
	ended := make(chan unitKey)
	apply := func(k unitKey) {
		r, a := units[k], want[k]
		switch {
		case r == nil && a != nil && ctx.Err() == nil:
			units[k] = w.start(ctx, k, a, ended)
		case r != nil && (a == nil || a.Epoch != r.a.Epoch && !w.opts.Faults.StaleEpoch):
			r.stop() // the same unit under a newer epoch starts when this one has ended
		case r != nil:
			r.update(a)
		}
	}
	for {
		select {
		case <-ctx.Done():
			for _, r := range units {
				r.stop()
			}
			for len(units) > 0 {
				w.forget(units, <-ended)
			}
			return
		case <-w.inbox.wake:
			n := w.inbox.take()
			// I1: what a session says that began before the lease ran out is void: its units have been stopped, and the leader may have heard so.
			if at := w.lapsed.Load(); at != nil && n.hello.Before(*at) {
				continue
			}
			hello = n.hello
			for _, k := range n.into(want) {
				apply(k)
			}
		case list := <-w.strays:
			for _, s := range list {
				if k := keyOf(s.Unit); units[k] == nil {
					w.status.set(&clusterv1.UnitStatus{Unit: s.Unit, Epoch: s.Epoch, State: clusterv1.State_STATE_UNASSIGNED})
				}
			}
		case at := <-w.lost:
			if hello.Before(at) {
				clear(want) // void; the next hello brings a new set
			}
			for _, r := range units {
				r.stop()
			}
		case k := <-ended:
			w.forget(units, k)
			apply(k)
		}
	}
}

func (w *Worker) forget(units map[unitKey]*running, k unitKey) {
	if r := units[k]; r != nil {
		r.stop()
		w.status.set(&clusterv1.UnitStatus{Unit: k.unit(), Epoch: r.a.Epoch, State: clusterv1.State_STATE_UNASSIGNED})
		w.status.track(k, nil)
		delete(units, k)
		w.mu.Lock()
		delete(w.held, k)
		delete(w.signals, k)
		w.mu.Unlock()
	}
}

// start runs a unit on its own goroutine. ended gets its key when it is over, whatever way.
func (w *Worker) start(ctx context.Context, k unitKey, a *clusterv1.Assignment, ended chan<- unitKey) *running {
	run, stop := context.WithCancel(ctx)
	log := w.opts.Logger.With("connector", k.connector, "epoch", a.Epoch)
	if k.task >= 0 {
		log = log.With("task", k.task)
	}
	u := &runner.Unit{
		Connector: k.connector, Task: k.task, Epoch: a.Epoch, Gate: &runner.Gate{}, Progress: runner.NewProgress(), Logger: log,
	}
	u.Report = func(s *clusterv1.UnitStatus) {
		switch s.State {
		case clusterv1.State_STATE_FAILED:
			u.Progress.Failed(s.RetryAtUnixMs > 0)
		case clusterv1.State_STATE_RESTARTING:
			u.Progress.Starting()
		default:
		}
		w.status.set(s)
	}
	u.Gate.Set(a.TargetState == clusterv1.TargetState_TARGET_STATE_PAUSED)
	u.Progress.TopicsSince(a.TopicsSince)
	u.Policy = policyOf(a.Config, w.opts.Grace)
	r := &running{a: a, unit: u, stop: stop}
	w.mu.Lock()
	w.held[k] = a.Epoch
	w.mu.Unlock()
	var attempt runner.Attempt
	if k.task < 0 {
		r.plan = w.newPlanner(a, log)
		attempt = r.plan.run
	} else {
		signals := &runner.Signals{Logger: log}
		w.mu.Lock()
		w.signals[k] = signals
		w.mu.Unlock()
		attempt = w.task(k, a, u, signals)
		w.status.track(k, u.Progress)
	}
	log.Info("unit starts")
	go func() {
		u.Run(run, attempt)
		log.Info("unit ended")
		ended <- k
	}()
	return r
}
