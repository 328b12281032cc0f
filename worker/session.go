package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/clusterclient"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// sessions keeps a session with whoever leads until ctx ends.
func (w *Worker) sessions(ctx context.Context) {
	var last string
	for ctx.Err() == nil {
		err := w.client.Leader(ctx, w.session)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			if _, moved := clusterclient.NotLeader(err); moved {
				w.opts.Logger.Debug("looking for the leader", "err", err)
			} else {
				w.opts.Logger.Info("session with the leader ended", "err", err, "lease_left", w.lease.Left().Round(time.Millisecond))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var (
	errLeft   = errors.New("left the cluster")
	errLapsed = errors.New("the lease ran out: a new hello is due")
)

// session is one session with one coordinator. It returns when the stream ends, or nothing was answered for too long.
func (w *Worker) session(ctx context.Context, c clusterv1.ClusterClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Connecting must not hang on a host that is gone.
	connect := time.AfterFunc(2*time.Second, cancel)
	defer connect.Stop()
	stream, err := c.Session(ctx)
	if err != nil {
		return err
	}
	// I1: what runs under a lease that is over is stopped before another one is asked for.
	w.noticeLapse()
	term := w.lease.Term()
	hello := &clusterv1.Hello{
		Node: w.opts.Node, BootId: w.opts.BootID, UpMs: time.Since(w.born).Milliseconds(), OldestProtocol: clusterv1.OldestProtocol,
	}
	for k, epoch := range w.holding() {
		hello.Running = append(hello.Running, &clusterv1.Running{Unit: k.unit(), Epoch: epoch})
	}
	sent := time.Now()
	if err := stream.Send(&clusterv1.WorkerMessage{Kind: &clusterv1.WorkerMessage_Hello{Hello: hello}}); err != nil {
		return recvError(stream, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return errors.New("the coordinator did not answer the hello with a welcome")
	}
	connect.Stop()
	w.setLeader(welcome)
	w.client.Learn(welcome.Info)
	s := &live{
		w: w, stream: stream, hello: sent, term: term, lease: time.Duration(welcome.LeaseMs) * time.Millisecond,
		interval: time.Duration(welcome.HeartbeatIntervalMs) * time.Millisecond, beats: make(chan beat, 64), answered: make(chan struct{}, 1), cancel: cancel,
	}
	w.watched.sessions.Add(1)
	defer w.watched.synced.Store(false)
	// I1: the lease is counted from when the hello was sent, not from when it was answered.
	if !w.lease.Extend(term, sent, s.lease) {
		return errLapsed
	}
	w.opts.Logger.Info("session with the leader", "leader", welcome.Info.GetLeaderId(), "lease", s.lease)
	g, run := errgroup.WithContext(ctx)
	g.Go(func() error { defer cancel(); return s.receive(run) })
	g.Go(func() error { defer cancel(); return s.beat(run) })
	if err := g.Wait(); !errors.Is(err, errLeft) {
		return err
	}
	return nil
}

// recvError gets at the status behind a failed send.
func recvError(stream clusterv1.Cluster_SessionClient, err error) error {
	if _, rerr := stream.Recv(); rerr != nil {
		return rerr
	}
	return err
}

type beat struct {
	seq     uint64
	sent    time.Time
	version uint64
}

// live is an open session.
type live struct {
	w        *Worker
	stream   clusterv1.Cluster_SessionClient
	hello    time.Time
	term     int64 // of the lease
	lease    time.Duration
	interval time.Duration
	beats    chan beat     // sent and not yet answered
	answered chan struct{} // some were, since it was looked at
	cancel   context.CancelFunc
}

func (s *live) receive(ctx context.Context) error {
	var g errgroup.Group // signals that are being handed on; they end with ctx or by themselves
	g.SetLimit(16)
	defer func() { _ = g.Wait() }()
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *clusterv1.LeaderMessage_Ack:
			for k.Ack.Seq > 0 {
				b := <-s.beats
				if b.seq < k.Ack.Seq {
					continue // answered by a later one
				}
				if !s.w.lease.Extend(s.term, b.sent, s.lease) {
					return errLapsed
				}
				s.w.status.confirm(b.version)
				break
			}
			select {
			case s.answered <- struct{}{}:
			default:
			}
		case *clusterv1.LeaderMessage_Assignments:
			s.w.inbox.put(k.Assignments, s.hello)
			s.w.watched.synced.Store(true)
		case *clusterv1.LeaderMessage_Strays:
			select {
			case <-s.w.strays:
			default:
			}
			s.w.strays <- k.Strays.Units
		case *clusterv1.LeaderMessage_Signal:
			// Leases must not wait for a task: one signal too many is refused.
			if !g.TryGo(func() error { s.w.signal(ctx, k.Signal); return nil }) {
				s.w.status.answer(&clusterv1.SignalResult{Id: k.Signal.Id, Error: "too many signals at a time; try again"})
			}
		}
	}
}

// beat sends heartbeats: at each interval, and at once when there is news.
func (s *live) beat(ctx context.Context) error {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	var seq uint64
	s.w.status.resend()
	progress := true
	for {
		h, version := s.w.status.heartbeat(progress)
		seq++
		h.Seq = seq
		b := beat{seq: seq, sent: time.Now(), version: version}
		select {
		case s.beats <- b:
		default:
			return fmt.Errorf("the leader answered none of %d heartbeats", cap(s.beats))
		}
		if err := s.stream.Send(&clusterv1.WorkerMessage{Kind: &clusterv1.WorkerMessage_Heartbeat{Heartbeat: h}}); err != nil {
			return err
		}
		if h.Leaving {
			s.w.status.confirmLeft()
			_ = s.stream.CloseSend()
			return errLeft
		}
		if at := s.w.lapsed.Load(); at != nil && at.After(s.hello) {
			return errLapsed
		}
		// A leader that has not answered for most of a lease may be gone without its connection having noticed.
		if s.w.lease.Left() < s.lease/4 {
			return errors.New("the leader does not answer")
		}
		var err error
		if progress, err = s.wait(ctx, tick.C); err != nil {
			return err
		}
	}
}

// newsInFlight is how many heartbeats may be unanswered when one goes out before its time, with news: a leader that is short of processor time gets
// the news of many tasks in few heartbeats, and not more heartbeats than it can answer.
const newsInFlight = 2

// wait returns when the next heartbeat is due, and whether it is one of the regular ones.
func (s *live) wait(ctx context.Context, tick <-chan time.Time) (bool, error) {
	for {
		wake := s.w.status.wake
		if len(s.beats) > newsInFlight {
			wake = nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick:
			return true, nil
		case <-s.answered:
		case <-wake:
			// News come in bursts: a moment's wait sends them together.
			time.Sleep(5 * time.Millisecond)
			return false, nil
		}
	}
}
