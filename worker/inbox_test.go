package worker

import (
	"maps"
	"slices"
	"testing"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// What comes in many messages is what one message would have said, and a session's first one ends what earlier sessions said.
func TestInbox(t *testing.T) {
	t.Parallel()
	message := func(change bool, epoch uint64, tasks ...int32) *clusterv1.Assignments {
		m := &clusterv1.Assignments{Change: change}
		for _, n := range tasks {
			m.Assignments = append(m.Assignments, &clusterv1.Assignment{Unit: unitKey{"c", n}.unit(), Epoch: epoch})
		}
		return m
	}
	removes := func(m *clusterv1.Assignments, task int32) *clusterv1.Assignments {
		m.Removed = append(m.Removed, unitKey{"c", task}.unit())
		return m
	}
	b, set, first := newInbox(), map[unitKey]*clusterv1.Assignment{}, time.Now()
	check := func(what string, hello time.Time, changed []int32, want map[int32]uint64) {
		t.Helper()
		n := b.take()
		var got []int32
		for _, k := range n.into(set) {
			got = append(got, k.task)
		}
		slices.Sort(got)
		has := map[int32]uint64{}
		for k, a := range set {
			has[k.task] = a.Epoch
		}
		if !slices.Equal(got, changed) || !maps.Equal(has, want) || !n.hello.Equal(hello) {
			t.Errorf("%s: changed %v to %v, want %v to %v", what, got, has, changed, want)
		}
	}
	b.put(message(false, 1, 0, 1), first)
	check("the whole set", first, []int32{0, 1}, map[int32]uint64{0: 1, 1: 1})
	b.put(removes(message(true, 2, 1, 2), 0), first)
	b.put(message(true, 3, 2), first)
	check("two changes", first, []int32{0, 1, 2}, map[int32]uint64{1: 2, 2: 3})
	b.put(message(true, 4, 9), first)
	second := first.Add(time.Second)
	b.put(message(false, 5, 2, 3), second)
	b.put(removes(message(true, 6, 4), 3), second)
	check("another session", second, []int32{1, 2, 3, 4}, map[int32]uint64{2: 5, 4: 6})
	check("nothing more", second, nil, map[int32]uint64{2: 5, 4: 6})
}
