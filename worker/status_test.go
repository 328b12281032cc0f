package worker

import (
	"testing"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/runner"
)

// A heartbeat of a worker with a thousand idle tasks must not have a thousand statuses.
func TestHeartbeatSaysWhatIsNew(t *testing.T) {
	s := newStatuses()
	k, p := unitKey{"c", 0}, runner.NewProgress()
	s.set(&clusterv1.UnitStatus{Unit: k.unit(), Epoch: 7, State: clusterv1.State_STATE_RUNNING})
	s.track(k, p)
	s.plan("c", &clusterv1.Planned{Connector: "c"})
	says := func(what string, progress bool, statuses, planned int) {
		t.Helper()
		h, version := s.heartbeat(progress)
		if len(h.Statuses) != statuses || len(h.Planned) != planned {
			t.Errorf("%s: %d statuses and %d plans, want %d and %d", what, len(h.Statuses), len(h.Planned), statuses, planned)
		}
		s.confirm(version)
	}
	says("first", true, 1, 1)
	says("nothing new", true, 0, 0)
	p.Report(map[string]string{"phase": "streaming"})
	says("progress, not asked for", false, 0, 0)
	says("progress", true, 1, 0)
	s.resend()
	says("a new leader", true, 1, 1)
}
