package coordinator

import (
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/internal/obs"
)

var (
	metricRounds    = obs.Counter("millrace_reconcile_rounds_total", "Rounds of the leader's reconcile loop, by what they came to: idle, changed something, or error.", "result")
	metricRoundTime = obs.Counter("millrace_reconcile_seconds_total", "Time spent in rounds of the reconcile loop.")
	metricRoundLast = obs.Gauge("millrace_reconcile_last_round_timestamp_seconds", "When the last round of the reconcile loop ended well. Only on the coordinator that leads.")
)

// rounds counts what the reconcile loop does.
type rounds struct{ idle, changed, failed, nanos, last atomic.Uint64 }

func (r *rounds) observe(took time.Duration, changed bool, err error) {
	r.nanos.Add(uint64(took))
	switch {
	case err != nil:
		r.failed.Add(1)
		return
	case changed:
		r.changed.Add(1)
	default:
		r.idle.Add(1)
	}
	r.last.Store(uint64(time.Now().UnixMilli()))
}

// Collect gives this coordinator's metrics.
func (c *Coordinator) Collect(emit obs.Emit) {
	select {
	case <-c.ready:
	default:
		return
	}
	c.raft.Collect(emit)
	emit(metricRounds, float64(c.rounds.idle.Load()), "idle")
	emit(metricRounds, float64(c.rounds.changed.Load()), "changed")
	emit(metricRounds, float64(c.rounds.failed.Load()), "error")
	emit(metricRoundTime, time.Duration(c.rounds.nanos.Load()).Seconds())
	if c.leading.Load() {
		emit(metricRoundLast, float64(c.rounds.last.Load())/1000)
	}
}
