package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

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
	born    time.Time
	client  *clusterclient.Client
	lease   *runner.Lease
	status  *statuses
	watched watched

	assignments chan assigned             // newest only
	strays      chan []*clusterv1.Running // newest only
	lost        chan time.Time            // when the lease ran out
	lapsed      atomic.Pointer[time.Time]

	mu     sync.Mutex // guards: info, leader, held, signals
	info   *clusterv1.InfoResponse
	leader uint32 // the protocol of the leader
	held   map[unitKey]uint64
	// signals lead to the tasks that run here.
	signals map[unitKey]*runner.Signals
}

// assigned is a set of assignments, with when the hello was sent that it answers. Sets of sessions that began before the lease ran
// out are void (I1).
type assigned struct {
	set   *clusterv1.Assignments
	hello time.Time
}

type unitKey struct {
	connector string
	task      int32
}

func keyOf(u *clusterv1.Unit) unitKey { return unitKey{u.GetConnector(), u.GetTask()} }

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
		assignments: make(chan assigned, 1), strays: make(chan []*clusterv1.Running, 1), lost: make(chan time.Time, 1), held: map[unitKey]uint64{},
		signals: map[unitKey]*runner.Signals{}, offsets: &kafka.OffsetReader{},
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
	valid := false
	for {
		now := w.lease.Valid()
		if valid && !now {
			w.opts.Logger.Warn("lease ran out: stopping all tasks", "held", len(w.holding()))
			at := time.Now()
			w.lapsed.Store(&at)
			w.watched.lost.Add(1)
			select {
			case <-w.lost:
			default:
			}
			w.lost <- at
		}
		valid = now
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

func (w *Worker) setHeld(held map[unitKey]uint64) {
	w.mu.Lock()
	w.held = held
	w.mu.Unlock()
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
	done chan struct{}
	plan *planner
}

// manage makes the running units equal to the newest assignment until ctx ends; then it stops them all.
func (w *Worker) manage(ctx context.Context) {
	units := map[unitKey]*running{}
	ended := make(chan unitKey)
	var want assigned
	stopAll := func() {
		for _, r := range units {
			r.stop()
		}
	}
	apply := func() {
		if want.set == nil || ctx.Err() != nil {
			return
		}
		wanted := map[unitKey]*clusterv1.Assignment{}
		for _, a := range want.set.Assignments {
			wanted[keyOf(a.Unit)] = a
		}
		for k, r := range units {
			a := wanted[k]
			switch {
			case a == nil || a.Epoch != r.a.Epoch:
				r.stop()
			default:
				r.a = a
				r.unit.Pause(a.TargetState == clusterv1.TargetState_TARGET_STATE_PAUSED)
				r.unit.Progress.TopicsSince(a.TopicsSince)
				if r.plan != nil {
					r.plan.set(a)
				}
			}
		}
		for k, a := range wanted {
			// The same unit under an older epoch ends first.
			if units[k] == nil {
				units[k] = w.start(ctx, k, a, ended)
			}
		}
	}
	publish := func() {
		held := map[unitKey]uint64{}
		for k, r := range units {
			held[k] = r.a.Epoch
		}
		w.setHeld(held)
	}
	for {
		publish()
		select {
		case <-ctx.Done():
			stopAll()
			for len(units) > 0 {
				w.forget(units, <-ended)
			}
			publish()
			return
		case want = <-w.assignments:
			if at := w.lapsed.Load(); at != nil && want.hello.Before(*at) {
				want = assigned{} // I1: its units have been stopped meanwhile, and the leader may have heard so
			}
		case list := <-w.strays:
			for _, s := range list {
				if k := keyOf(s.Unit); units[k] == nil {
					w.status.set(&clusterv1.UnitStatus{Unit: s.Unit, Epoch: s.Epoch, State: clusterv1.State_STATE_UNASSIGNED})
				}
			}
			continue
		case at := <-w.lost:
			if want.hello.Before(at) {
				want = assigned{} // void; the next hello brings a new set
			}
			stopAll()
		case k := <-ended:
			w.forget(units, k)
		}
		apply()
	}
}

func (w *Worker) forget(units map[unitKey]*running, k unitKey) {
	if r := units[k]; r != nil {
		r.stop()
		w.status.set(&clusterv1.UnitStatus{Unit: k.unit(), Epoch: r.a.Epoch, State: clusterv1.State_STATE_UNASSIGNED})
		w.status.track(k, nil)
		delete(units, k)
		w.mu.Lock()
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
	r := &running{a: a, unit: u, stop: stop, done: make(chan struct{})}
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
		close(r.done)
		ended <- k
	}()
	return r
}

// statuses is what the next heartbeats have to say. Safe for concurrent use.
type statuses struct {
	left chan struct{}
	wake chan struct{}

	mu       sync.Mutex // guards: the rest
	version  uint64
	acked    uint64
	byUnit   map[unitKey]entry
	progress map[unitKey]*runner.Progress
	said     map[unitKey]*clusterv1.Progress // in this session, last
	planned  map[string]planned
	answers  []answer
	draining bool
	leaving  bool
	gone     bool
}

// answer to a signal, until the leader has it.
type answer struct {
	r       *clusterv1.SignalResult
	version uint64
}

type entry struct {
	s       *clusterv1.UnitStatus
	version uint64
}

// planned is what a planning half has answered.
type planned struct {
	p       *clusterv1.Planned
	version uint64
}

func newStatuses() *statuses {
	return &statuses{
		left: make(chan struct{}), wake: make(chan struct{}, 1), byUnit: map[unitKey]entry{}, progress: map[unitKey]*runner.Progress{},
		planned: map[string]planned{}, said: map[unitKey]*clusterv1.Progress{},
	}
}

func (s *statuses) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statuses) set(st *clusterv1.UnitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := keyOf(st.Unit)
	if old, ok := s.byUnit[k]; ok && old.s.Epoch > st.Epoch {
		return // a straggler of an epoch that is over
	} else if ok && old.s.Epoch == st.Epoch && st.Audit == nil {
		st.Audit = old.s.Audit
	}
	s.version++
	s.byUnit[k] = entry{st, s.version}
	s.poke()
}

// audit adds what the auditor has found to the status of the planning half. The next heartbeat takes it along.
func (s *statuses) audit(k unitKey, epoch uint64, a *clusterv1.Audit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.byUnit[k]
	if !ok || old.s.Epoch != epoch {
		return
	}
	st := proto.CloneOf(old.s)
	st.Audit = a
	s.version++
	s.byUnit[k] = entry{st, s.version}
}

func (s *statuses) track(k unitKey, p *runner.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.progress, k)
		delete(s.said, k)
		return
	}
	s.progress[k] = p
}

func (s *statuses) plan(connector string, p *clusterv1.Planned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.planned, connector)
		return
	}
	s.version++
	s.planned[connector] = planned{p, s.version}
	s.poke()
}

func (s *statuses) answer(r *clusterv1.SignalResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.answers = append(s.answers, answer{r, s.version})
	s.poke()
}

func (s *statuses) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.poke()
}

func (s *statuses) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.poke()
}

// resend makes the next heartbeat say everything: a new leader knows nothing.
func (s *statuses) resend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = 0
	clear(s.said)
}

// confirm notes that the leader has all up to version.
func (s *statuses) confirm(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, version)
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.version <= version })
}

// heartbeat builds one that says what the leader has not confirmed yet, and returns the version that its answer will confirm. One with progress
// also says how far tasks are, those that have got further since it was last said.
func (s *statuses) heartbeat(progress bool) (*clusterv1.Heartbeat, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &clusterv1.Heartbeat{Draining: s.draining, Leaving: s.leaving}
	keys := slices.SortedFunc(maps.Keys(s.byUnit), func(a, b unitKey) int {
		return cmp.Or(cmp.Compare(a.connector, b.connector), cmp.Compare(a.task, b.task))
	})
	for _, k := range keys {
		e, p := s.byUnit[k], s.progress[k]
		news := e.version > s.acked
		if !news && p == nil && e.s.State == clusterv1.State_STATE_UNASSIGNED {
			delete(s.byUnit, k) // confirmed, and over
		}
		if !news && (p == nil || !progress) {
			continue
		}
		var now *clusterv1.Progress
		if p != nil {
			now = p.Message()
			if !news && proto.Equal(now, s.said[k]) {
				continue
			}
			s.said[k] = now
		}
		st := proto.CloneOf(e.s)
		st.Progress = now
		h.Statuses = append(h.Statuses, st)
	}
	for _, c := range slices.Sorted(maps.Keys(s.planned)) {
		if p := s.planned[c]; p.version > s.acked {
			h.Planned = append(h.Planned, p.p)
		}
	}
	for _, a := range s.answers {
		h.Signals = append(h.Signals, a.r)
	}
	return h, s.version
}

func (s *statuses) confirmLeft() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving && !s.gone {
		s.gone = true
		close(s.left)
	}
}
