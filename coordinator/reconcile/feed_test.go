package reconcile

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/state"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// I1: whatever happens, and whenever the session looks, a worker that takes in the changes has the set that the log says, and hears of nothing twice.
func TestFeed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		s, feed := state.New(), Feed{Worker: "a"}
		has := map[string]*clusterv1.Assignment{}
		for index := uint64(1); index < 300; index++ {
			s.Apply(index, anything(r, s))
			if r.IntN(3) > 0 {
				continue // many commands, one look
			}
			m := feed.Next(s)
			if again := feed.Next(s); again != nil {
				t.Fatalf("seed %d, index %d: looked twice, and got %v", seed, index, again)
			}
			for _, x := range m.GetAssignments() {
				has[x.Unit.String()] = x
			}
			for _, u := range m.GetRemoved() {
				if has[u.String()] == nil {
					t.Fatalf("seed %d, index %d: %v is removed, and was not there", seed, index, u)
				}
				delete(has, u.String())
			}
			want := AssignmentsOf(s, "a").Assignments
			for _, x := range want {
				if !proto.Equal(x, has[x.Unit.String()]) {
					t.Fatalf("seed %d, index %d:\nwant %v\nhas  %v", seed, index, x, has[x.Unit.String()])
				}
			}
			if len(want) != len(has) {
				t.Fatalf("seed %d, index %d: %d units, want %d", seed, index, len(has), len(want))
			}
		}
	}
}

// anything is a command that may come next.
func anything(r *rand.Rand, s *state.State) *commandv1.Command {
	name := fmt.Sprint("c", r.IntN(4))
	switch c, ok := s.Connector(name); {
	case !ok || r.IntN(12) == 0:
		return &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name, Config: map[string]string{"x": fmt.Sprint(r.IntN(3))}}}}
	case r.IntN(20) == 0:
		return &commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: name}}}
	case r.IntN(15) == 0:
		return &commandv1.Command{Kind: &commandv1.Command_SetTargetState{SetTargetState: &commandv1.SetTargetState{Name: name, State: commandv1.TargetState(1 + r.IntN(3))}}}
	case r.IntN(15) == 0:
		return &commandv1.Command{Kind: &commandv1.Command_VoidOffsets{VoidOffsets: &commandv1.VoidOffsets{
			Connector: name, Partitions: []*commandv1.TopicPartition{{Topic: "t", Partition: int32(r.IntN(2))}},
		}}}
	case r.IntN(15) == 0:
		return &commandv1.Command{Kind: &commandv1.Command_ResetTopics{ResetTopics: &commandv1.ResetTopics{Connector: name}}}
	case c.PlannedIndex != c.ConfigIndex && r.IntN(2) == 0:
		p := &commandv1.PutTaskConfigs{Connector: name, ConfigIndex: c.ConfigIndex}
		for range 1 + r.IntN(4) {
			p.Configs = append(p.Configs, &commandv1.TaskConfig{Config: c.Config})
		}
		return &commandv1.Command{Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: p}}
	}
	a := &commandv1.Assign{}
	for range 1 + r.IntN(3) {
		a.Assignments = append(a.Assignments, &commandv1.Assignment{
			Unit: &commandv1.Unit{Connector: name, Task: int32(r.IntN(5) - 1)}, Worker: []string{"", "a", "a", "b"}[r.IntN(4)],
		})
	}
	return &commandv1.Command{Kind: &commandv1.Command_Assign{Assign: a}}
}
