package state_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/testkit"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// stored is what one release has stored: the entries of a log, and the image after them, as the bytes that were on disk. A file of a release is
// never written anew. For a new release that stores more, add one: every kind of command, every field set.
type stored struct {
	Log   []string `json:"log"`   // base64 of command.v1.Command
	Image string   `json:"image"` // base64 of command.v1.Image
}

// newest is the release that this code stores like; its file is made of everyCommand.
const newest = "protocol-2.json"

// everyCommand has each kind of command, with each of its fields.
func everyCommand() []*commandv1.Command {
	at := func(ms int64, c *commandv1.Command) *commandv1.Command { c.ProposedUnixMs = ms; return c }
	node := &commandv1.Node{
		Id: "n1", ClusterAddr: "10.0.0.1:8084", RestAddr: "10.0.0.1:8083", Labels: map[string]string{"zone": "a"}, Coordinator: true, Worker: true,
		Version: "0.1.0", Capacity: 4, Protocol: 2,
	}
	gone := &commandv1.Node{Id: "n2", Worker: true}
	return []*commandv1.Command{
		at(1, &commandv1.Command{Kind: &commandv1.Command_SetCluster{SetCluster: &commandv1.SetCluster{ClusterId: "c1", Brokers: []string{"k1:9092", "k2:9092"}, EmbeddedBroker: true}}}),
		at(2, &commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: node}}}),
		at(3, &commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: gone}}}),
		at(4, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{
			Name: "a", Config: map[string]string{"connector.class": "mysql", "database.password": "${env:PW}"}, CreateOnly: true,
			InitialState: commandv1.TargetState_TARGET_STATE_RUNNING,
		}}}),
		at(5, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{
			Name: "a", Config: map[string]string{"connector.class": "mysql", "tasks.max": "2"}, ExpectedConfigIndex: 4,
		}}}),
		at(6, &commandv1.Command{Kind: &commandv1.Command_PutTaskConfigs{PutTaskConfigs: &commandv1.PutTaskConfigs{
			Connector: "a", ConfigIndex: 5, Configs: []*commandv1.TaskConfig{{Config: map[string]string{"t": "0"}}, {Config: map[string]string{"t": "1"}}},
		}}}),
		at(7, &commandv1.Command{Kind: &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: []*commandv1.Assignment{
			{Unit: &commandv1.Unit{Connector: "a", Task: -1}, Worker: "n1"}, {Unit: &commandv1.Unit{Connector: "a", Task: 1}, Worker: "n2"},
		}}}}),
		at(8, &commandv1.Command{Kind: &commandv1.Command_Assign{Assign: &commandv1.Assign{Assignments: []*commandv1.Assignment{
			{Unit: &commandv1.Unit{Connector: "a", Task: 1}, ExpectedEpoch: 7},
		}}}}),
		at(9, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: "b", Config: map[string]string{"connector.class": "file"}}}}),
		at(10, &commandv1.Command{Kind: &commandv1.Command_SetTargetState{SetTargetState: &commandv1.SetTargetState{Name: "b", State: commandv1.TargetState_TARGET_STATE_PAUSED}}}),
		at(11, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: "c", InitialState: commandv1.TargetState_TARGET_STATE_STOPPED}}}),
		at(12, &commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: "c"}}}),
		at(13, &commandv1.Command{Kind: &commandv1.Command_RemoveNode{RemoveNode: &commandv1.RemoveNode{Id: "n2"}}}),
		at(14, &commandv1.Command{Protocol: 2, Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: "n1", Drained: true}}}),
		at(15, &commandv1.Command{Protocol: 2, Kind: &commandv1.Command_ResetTopics{ResetTopics: &commandv1.ResetTopics{Connector: "a"}}}),
		at(16, &commandv1.Command{Protocol: 2, Kind: &commandv1.Command_AddTopics{AddTopics: &commandv1.AddTopics{Connector: "a", Since: 15, Topics: []string{"shop.orders", "shop.items"}}}}),
		at(17, &commandv1.Command{Protocol: 2, Kind: &commandv1.Command_VoidOffsets{VoidOffsets: &commandv1.VoidOffsets{
			Connector: "b", Partitions: []*commandv1.TopicPartition{{Topic: "shop.orders", Partition: 3}},
		}}}),
	}
}

func store(t *testing.T, log []*commandv1.Command) string {
	t.Helper()
	var out stored
	s := state.New()
	for i, c := range log {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		out.Log = append(out.Log, base64.StdEncoding.EncodeToString(b))
		if r := s.Apply(uint64(i+1), c); r.Err != nil {
			t.Fatalf("entry %d: %v", i+1, r.Err)
		}
	}
	out.Image = base64.StdEncoding.EncodeToString([]byte(bytesOf(t, s)))
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// The bytes of the newest file are what this code stores: a change here is a change of what is on people's disks.
func TestStoredBytes(t *testing.T) {
	t.Parallel()
	testkit.Golden(t, filepath.Join("testdata", newest), store(t, everyCommand()))
	kinds := map[string]bool{}
	for _, c := range everyCommand() {
		kinds[string(c.ProtoReflect().WhichOneof(c.ProtoReflect().Descriptor().Oneofs().ByName("kind")).Name())] = true
	}
	fields := (&commandv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !kinds[name] {
			t.Errorf("%s is in no stored log: add it to everyCommand, and a file for this release", name)
		}
	}
}

// What any release stored can be read, log or image, and comes to the same state that it came to then.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/protocol-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stored logs: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var in stored
			if err := json.Unmarshal(text, &in); err != nil {
				t.Fatal(err)
			}
			fromLog := state.New()
			for i, e := range in.Log {
				var c commandv1.Command
				unmarshal(t, e, &c)
				if r := fromLog.Apply(uint64(i+1), &c); r.Err != nil {
					t.Errorf("entry %d: %v", i+1, r.Err)
				}
			}
			var img commandv1.Image
			unmarshal(t, in.Image, &img)
			fromImage, err := state.FromImage(&img)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := protojson.Format(fromLog.Image()), protojson.Format(fromImage.Image()); a != b {
				t.Errorf("the log comes to\n%s\nand the image to\n%s", a, b)
			}
		})
	}
}

func unmarshal(t *testing.T, text string, m proto.Message) {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	if u := m.ProtoReflect().GetUnknown(); len(u) > 0 {
		t.Errorf("fields that nothing reads any more: %x", u)
	}
}

// A command of a later protocol changes nothing, and says so: the node must stop.
func TestCommandOfTheFuture(t *testing.T) {
	t.Parallel()
	s := state.New()
	put(s, 1, "a", nil)
	before := bytesOf(t, s)
	for _, c := range []*commandv1.Command{
		{Protocol: commandv1.Protocol + 1, Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: "a"}}},
		{},
	} {
		if r := s.Apply(2, c); !errors.Is(r.Err, state.ErrUnknownCommand) {
			t.Errorf("%v: %v", c, r.Err)
		}
	}
	img := s.Image()
	img.Index = 1
	if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(img); err != nil || string(b) != before {
		t.Errorf("the state changed: %v", img)
	}
}

// What is stored while coordinators of two versions are in the cluster is what all of them know.
func TestProtocolOfTheCluster(t *testing.T) {
	t.Parallel()
	s := state.New()
	node := func(index uint64, n *commandv1.Node) {
		s.Apply(index, &commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: n}}})
	}
	node(1, &commandv1.Node{Id: "new", Coordinator: true, Protocol: commandv1.Protocol})
	node(2, &commandv1.Node{Id: "old worker", Worker: true})
	if got := s.Protocol(); got != commandv1.Protocol {
		t.Errorf("protocol %d; workers do not read the log", got)
	}
	node(3, &commandv1.Node{Id: "old", Coordinator: true})
	drain := &commandv1.Command{Kind: &commandv1.Command_SetDrain{SetDrain: &commandv1.SetDrain{Node: "new", Drained: true}}}
	if s.Protocol() != 1 || state.Needs(drain) != 2 {
		t.Errorf("protocol %d, a drain needs %d", s.Protocol(), state.Needs(drain))
	}
	if f := s.Image().Format; f != 1 {
		t.Errorf("an image without drains is of format %d, which the old coordinator can't read", f)
	}
	s.Apply(4, drain)
	if f := s.Image().Format; f != 2 {
		t.Errorf("an image with drains is of format %d", f)
	}
}

// A restored state keeps the cluster's id and its epochs, takes nobody's word for who runs what, and leaves the nodes alone.
func TestTransplant(t *testing.T) {
	t.Parallel()
	from := state.New()
	for i, c := range everyCommand() {
		from.Apply(uint64(i+1), c)
	}
	into := state.New()
	into.Apply(3, &commandv1.Command{Kind: &commandv1.Command_SetCluster{SetCluster: &commandv1.SetCluster{ClusterId: "fresh", Brokers: []string{"new:9092"}}}})
	into.Apply(4, &commandv1.Command{Kind: &commandv1.Command_PutNode{PutNode: &commandv1.PutNode{Node: &commandv1.Node{Id: "m1", Worker: true}}}})
	img := state.Transplant(from.Image(), into.Image(), 9)
	s, err := state.FromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	if s.Index() != 17 || state.Transplant(from.Image(), into.Image(), 99).Index != 99 {
		t.Errorf("index %d is not above what was there on both sides", s.Index())
	}
	if k := s.Cluster(); k.ClusterId != "c1" || k.Brokers[0] != "new:9092" || k.EmbeddedBroker {
		t.Errorf("cluster %v", k)
	}
	if _, ok := s.Node("m1"); !ok || len(s.Nodes()) != 1 || s.Drained("n1") {
		t.Errorf("nodes %v", s.Nodes())
	}
	a, _ := s.Assignment(state.UnitID{Connector: "a", Task: -1})
	if a.Worker != "" || a.Epoch != 7 || len(s.Connectors()) != 2 {
		t.Errorf("assignment %+v, %d connectors", a, len(s.Connectors()))
	}
}
