package state_test

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/coordinator/state"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

func bytesOf(t interface{ Fatal(...any) }, s *state.State) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Image())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// command draws any command, also senseless ones.
func command(t *rapid.T) *commandv1.Command {
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "connector")
	config := map[string]string{"k": rapid.StringN(0, 3, -1).Draw(t, "value")}
	c := &commandv1.Command{ProposedUnixMs: rapid.Int64Range(0, 1000).Draw(t, "time")}
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0, 1:
		c.Kind = &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name, Config: config, CreateOnly: rapid.Bool().Draw(t, "create")}}
	case 2:
		c.Kind = &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: name}}
	case 3:
		c.Kind = &commandv1.Command_SetTargetState{SetTargetState: &commandv1.SetTargetState{Name: name, State: commandv1.TargetState(rapid.IntRange(1, 3).Draw(t, "target"))}}
	case 4:
		c.Kind = &commandv1.Command_PutTaskConfigs{PutTaskConfigs: &commandv1.PutTaskConfigs{
			Connector: name, ConfigIndex: rapid.Uint64Range(0, 60).Draw(t, "index"), Configs: []*commandv1.TaskConfig{{Config: config}},
		}}
	case 5, 6:
		c.Kind = &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: []*commandv1.Assignment{{
			Unit: &commandv1.Unit{Connector: name, Task: int32(rapid.IntRange(-1, 2).Draw(t, "task"))}, Worker: rapid.SampledFrom([]string{"", "w1", "w2"}).Draw(t, "worker"),
			ExpectedEpoch: rapid.SampledFrom([]uint64{0, 0, 1, 5}).Draw(t, "expected"),
		}}}}
	case 7:
		c.Kind = &commandv1.Command_AddTopics{AddTopics: &commandv1.AddTopics{Connector: name, Since: rapid.SampledFrom([]uint64{0, 0, 3}).Draw(t, "since"), Topics: []string{"t2", rapid.StringN(0, 2, -1).Draw(t, "topic")}}}
	case 8:
		c.Kind = &commandv1.Command_ResetTopics{ResetTopics: &commandv1.ResetTopics{Connector: name}}
	case 9:
		v := &commandv1.VoidOffsets{Connector: name}
		for range rapid.IntRange(0, 2).Draw(t, "partitions") {
			v.Partitions = append(v.Partitions, &commandv1.TopicPartition{Topic: "t", Partition: rapid.Int32Range(0, 3).Draw(t, "partition")})
		}
		c.Kind = &commandv1.Command_VoidOffsets{VoidOffsets: v}
	case 10:
		c.Kind = &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: name, Drained: rapid.Bool().Draw(t, "drained")}}
	case 11:
		c.Kind = &commandv1.Command_RemoveNode{RemoveNode: &commandv1.RemoveNode{Id: name}}
	default:
		c.Kind = &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: &commandv1.Node{Id: name}}}
	}
	return c
}

// I6: the same log gives the same bytes, with a restore at any place; I1: epochs only grow.
func TestApplyIsAFunctionOfTheLog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		log := rapid.SliceOfN(rapid.Custom(command), 1, 60).Draw(t, "log")
		cut := rapid.IntRange(0, len(log)-1).Draw(t, "restore after")
		a, b := state.New(), state.New()
		epochs := map[state.UnitID]uint64{}
		for i, c := range log {
			index := uint64(i + 1)
			ra, rb := a.Apply(index, c), b.Apply(index, c)
			if fmt.Sprint(ra.Err) != fmt.Sprint(rb.Err) {
				t.Fatalf("results differ: %v, %v", ra.Err, rb.Err)
			}
			if i == cut {
				var img commandv1.Image
				if err := proto.Unmarshal([]byte(bytesOf(t, b)), &img); err != nil {
					t.Fatal(err)
				}
				restored, err := state.FromImage(&img)
				if err != nil {
					t.Fatal(err)
				}
				b = restored
			}
			for _, x := range a.Assignments() {
				if x.Epoch < epochs[x.Unit] {
					t.Fatalf("epoch of %v fell from %d to %d", x.Unit, epochs[x.Unit], x.Epoch)
				}
				epochs[x.Unit] = x.Epoch
				if _, ok := a.Connector(x.Unit.Connector); !ok {
					t.Fatalf("%v is assigned, but its connector is gone", x.Unit)
				}
			}
		}
		if bytesOf(t, a) != bytesOf(t, b) {
			t.Fatal("the same log gave different states")
		}
	})
}

func put(s *state.State, index uint64, name string, config map[string]string) state.Result {
	return s.Apply(index, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name, Config: config, CreateOnly: index == 1}}})
}

func plan(s *state.State, index, of uint64, configs ...string) state.Result {
	p := &commandv1.PutTaskConfigs{Connector: "a", ConfigIndex: of}
	for _, c := range configs {
		p.Configs = append(p.Configs, &commandv1.TaskConfig{Config: map[string]string{"x": c}})
	}
	return s.Apply(index, &commandv1.Command{Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: p}})
}

func TestConnectorLife(t *testing.T) {
	t.Parallel()
	s := state.New()
	put(s, 1, "a", map[string]string{"v": "1"})
	if r := s.Apply(2, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: "a", CreateOnly: true}}}); !errors.Is(r.Err, state.ErrConnectorExists) {
		t.Errorf("second create: %v", r.Err)
	}
	if r := plan(s, 3, 1, "t"); r.Err != nil || r.Connector.Generation != 3 {
		t.Errorf("plan: %+v", r)
	}
	put(s, 4, "a", map[string]string{"v": "2"})
	if c, _ := s.Connector("a"); c.ConfigIndex != 4 || c.PlannedIndex != 1 || len(c.TaskConfigs) != 1 {
		t.Errorf("a new config leaves the tasks until they are planned anew: %+v", c)
	}
	if r := plan(s, 5, 1, "t"); !errors.Is(r.Err, state.ErrStalePlan) {
		t.Errorf("plan of an older config: %v", r.Err)
	}
	if r := plan(s, 6, 4, "t"); r.Connector.Generation != 3 || r.Connector.PlannedIndex != 4 {
		t.Errorf("an equal plan restarts nothing: %+v", r.Connector)
	}
	if r := plan(s, 7, 4, "t", "u"); r.Connector.Generation != 7 {
		t.Errorf("another plan does: %+v", r.Connector)
	}
	r := s.Apply(8, &commandv1.Command{Kind: &commandv1.Command_SetTargetState{SetTargetState: &commandv1.SetTargetState{Name: "a", State: commandv1.TargetState_TARGET_STATE_STOPPED}}})
	if len(r.Connector.TaskConfigs) != 0 || r.Connector.PlannedIndex != 0 {
		t.Errorf("stopped: %+v", r.Connector)
	}
	if r := s.Apply(9, &commandv1.Command{}); !errors.Is(r.Err, state.ErrUnknownCommand) {
		t.Errorf("empty command: %v", r.Err)
	}
	if _, err := state.FromImage(&commandv1.Image{Format: 99}); err == nil {
		t.Error("an image of the future was taken")
	}
}

func TestTopicsSinceTheirReset(t *testing.T) {
	t.Parallel()
	s := state.New()
	put(s, 1, "a", nil)
	add := func(index, since uint64, topics ...string) state.Result {
		return s.Apply(index, &commandv1.Command{Kind: &commandv1.Command_AddTopics{AddTopics: &commandv1.AddTopics{Connector: "a", Since: since, Topics: topics}}})
	}
	if r := add(2, 0, "y", "x", "y"); fmt.Sprint(r.Connector.Topics) != "[x y]" {
		t.Errorf("topics: %v", r.Connector.Topics)
	}
	put(s, 3, "a", map[string]string{"v": "2"})
	s.Apply(4, &commandv1.Command{Kind: &commandv1.Command_ResetTopics{ResetTopics: &commandv1.ResetTopics{Connector: "a"}}})
	if r := add(5, 0, "x"); !errors.Is(r.Err, state.ErrStaleTopics) {
		t.Errorf("a report from before the reset: %v", r.Err)
	}
	if r := add(6, 4, "z"); fmt.Sprint(r.Connector.Topics) != "[z]" {
		t.Errorf("topics after the reset: %v", r.Connector.Topics)
	}
}

func TestVoidsOutliveTheirConnector(t *testing.T) {
	t.Parallel()
	s := state.New()
	put(s, 1, "a", nil)
	void := func(index uint64, tps ...*commandv1.TopicPartition) {
		s.Apply(index, &commandv1.Command{Kind: &commandv1.Command_VoidOffsets{VoidOffsets: &commandv1.VoidOffsets{Connector: "a", Partitions: tps}}})
	}
	void(2, &commandv1.TopicPartition{Topic: "t", Partition: 1})
	void(3, &commandv1.TopicPartition{Topic: "t"}, &commandv1.TopicPartition{Topic: "t", Partition: 1})
	if got := fmt.Sprint(s.Voids("a")); got != "[{t 0 3} {t 1 3}]" {
		t.Errorf("voids: %v", got)
	}
	s.Apply(4, &commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: "a"}}})
	void(5)
	void(6, &commandv1.TopicPartition{Topic: "t"})
	if got := fmt.Sprint(s.Voids("a")); got != "[{ 0 5} {t 0 6}]" {
		t.Errorf("voids after a reset: %v", got)
	}
}
