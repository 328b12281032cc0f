package session

import (
	"slices"
	"strings"
	"testing"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// The log tells what became of a unit, each thing once however often it is reported, and is bounded (I8).
func TestEvents(t *testing.T) {
	t.Parallel()
	r := New(DefaultTiming(), func() {})
	r.Lead()
	r.Hello(hello("w1", "b1"))
	say := func(s *clusterv1.UnitStatus) {
		t.Helper()
		s.Unit = unit0
		for range 3 { // as heartbeats do
			if !r.Heartbeat("w1", "b1", &clusterv1.Heartbeat{Statuses: []*clusterv1.UnitStatus{s}}) {
				t.Fatal("heartbeat refused")
			}
		}
	}
	soon := time.Now().Add(time.Second).UnixMilli()
	stalled := &clusterv1.Progress{Stall: &clusterv1.Stall{WaitsFor: "sink put"}}
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RESTARTING})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RUNNING})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RUNNING, Progress: stalled})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RUNNING, Progress: &clusterv1.Progress{}})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RUNNING, Progress: &clusterv1.Progress{Retrying: "away"}})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_FAILED, Trace: "away\n", Attempts: 1, RetryAtUnixMs: soon})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_FAILED, Trace: "away\n", Attempts: 2, RetryAtUnixMs: soon})
	say(&clusterv1.UnitStatus{Epoch: 2, State: clusterv1.State_STATE_FAILED, Failure: "hang", Trace: "hangs\n", Attempts: 1, MaxAttempts: 2, RetryAtUnixMs: soon})
	say(&clusterv1.UnitStatus{Epoch: 2, State: clusterv1.State_STATE_FAILED, Failure: "hang", Trace: "hangs\n", Attempts: 2, MaxAttempts: 2})
	say(&clusterv1.UnitStatus{Epoch: 1, State: clusterv1.State_STATE_RUNNING}) // a straggler
	want := []EventKind{EventStarting, EventRunning, EventStalled, EventMoving, EventRetrying, EventFailed, EventFailed, EventHung, EventQuarantined}
	var got []EventKind
	for _, e := range r.Events("c") {
		got = append(got, e.Kind)
		if e.Worker != "w1" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	last := r.Events("c")[len(got)-1]
	if !strings.Contains(last.Detail, "2 times in a row") || last.Limit != 2 {
		t.Errorf("quarantine: %+v", last)
	}
	for epoch := range uint64(500) {
		say(&clusterv1.UnitStatus{Epoch: 10 + epoch, State: clusterv1.State_STATE_RUNNING})
	}
	if n := len(r.Events("c")); n != maxEvents {
		t.Errorf("%d events are kept", n)
	}
	r.Forget(func(string) bool { return false })
	if n := len(r.Events("c")); n != 0 {
		t.Errorf("%d events of a connector that is gone", n)
	}
}
