package state

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// The refusals of Apply. They are results, the same on every node; the proposer turns them into answers.
var (
	ErrConnectorExists   = errors.New("connector already exists")
	ErrConnectorNotFound = errors.New("connector not found")
	ErrNodeNotFound      = errors.New("node not found")
	// ErrStalePlan: the connector's config changed while its tasks were planned. The next plan replaces this one.
	ErrStalePlan = errors.New("task configs were planned from an older config")
	// ErrStaleConfig: the config changed since the change was made of it. The proposer looks again.
	ErrStaleConfig = errors.New("the connector's config changed meanwhile")
	// ErrStaleTopics: the list of topics was reset after they were used. Those that are used again are reported again.
	ErrStaleTopics = errors.New("the connector's topics were reset meanwhile")
	// ErrUnknownCommand: the command is of a newer version. The node must stop: nodes that know it have another state from here on (I6).
	ErrUnknownCommand = errors.New("the log holds a command of a newer version")
	// ErrFormat: the image is of a newer version.
	ErrFormat = errors.New("image format is newer than this version")
)

// PlanningHalf is the task number of a connector's planning half.
const PlanningHalf int32 = -1

// UnitID names what a worker can run: a connector's planning half, or one of its tasks.
type UnitID struct {
	Connector string
	Task      int32
}

// String returns the connector's name, or connector-task.
func (u UnitID) String() string {
	if u.Task == PlanningHalf {
		return u.Connector
	}
	return fmt.Sprintf("%s-%d", u.Connector, u.Task)
}

// Compare orders units by connector, planning half first.
func (u UnitID) Compare(o UnitID) int {
	return cmp.Or(cmp.Compare(u.Connector, o.Connector), cmp.Compare(u.Task, o.Task))
}

// Connector is one connector. Instances are immutable: a change makes a new one.
type Connector struct {
	Name   string
	Config map[string]string
	Target commandv1.TargetState
	// ConfigIndex is the log index of the last config write; PlannedIndex the one that the task configs were made from, 0
	// when there are none.
	ConfigIndex, PlannedIndex uint64
	// Generation is the version of the task configs: the log index that changed them. A task whose epoch is older runs
	// with an older config.
	Generation  uint64
	TaskConfigs []map[string]string
	// Topics are those that its tasks have used since TopicsSince (the log index of the last reset), sorted.
	Topics      []string
	TopicsSince uint64
	// For display, in ms since the Unix epoch.
	CreatedMS, ChangedMS int64
}

// Assignment says that a unit belongs to a worker. Epoch is the log index that made it so (I1).
type Assignment struct {
	Unit   UnitID
	Worker string
	Epoch  uint64
}

// Result is what a command came to.
type Result struct {
	Index uint64
	Err   error
	// Connector after the command, for commands on one.
	Connector *Connector
}

// State is the whole of it.
type State struct {
	index       uint64
	cluster     *commandv1.SetCluster
	nodes       map[string]*commandv1.Node
	connectors  map[string]*Connector
	assignments map[UnitID]Assignment
	// owned has the units of each worker, so that a session need not look at those of all.
	owned map[string]map[UnitID]struct{}
	// voided by connector; it outlives the connector (see voids.go).
	voided  map[string][]Void
	drained map[string]bool
}

// New returns the empty state.
func New() *State {
	return &State{
		nodes: map[string]*commandv1.Node{}, connectors: map[string]*Connector{}, assignments: map[UnitID]Assignment{}, owned: map[string]map[UnitID]struct{}{},
		voided: map[string][]Void{}, drained: map[string]bool{},
	}
}

// Index is the log index of the last command applied.
func (s *State) Index() uint64 { return s.index }

// Cluster returns the cluster's settings, nil before the first node wrote them.
func (s *State) Cluster() *commandv1.SetCluster { return s.cluster }

// Node returns a node.
func (s *State) Node(id string) (*commandv1.Node, bool) {
	n, ok := s.nodes[id]
	return n, ok
}

// Nodes returns all nodes, sorted by id.
func (s *State) Nodes() []*commandv1.Node {
	return slices.SortedFunc(maps.Values(s.nodes), func(a, b *commandv1.Node) int { return cmp.Compare(a.Id, b.Id) })
}

// Connector returns a connector.
func (s *State) Connector(name string) (*Connector, bool) {
	c, ok := s.connectors[name]
	return c, ok
}

// Connectors returns all connectors, sorted by name.
func (s *State) Connectors() []*Connector {
	return slices.SortedFunc(maps.Values(s.connectors), func(a, b *Connector) int { return cmp.Compare(a.Name, b.Name) })
}

// Assignment returns a unit's assignment. A unit that was taken back keeps its last epoch, with no worker.
func (s *State) Assignment(u UnitID) (Assignment, bool) {
	a, ok := s.assignments[u]
	return a, ok
}

// Assignments returns all assignments, sorted by unit.
func (s *State) Assignments() []Assignment {
	return slices.SortedFunc(maps.Values(s.assignments), func(a, b Assignment) int { return a.Unit.Compare(b.Unit) })
}

// Owned calls f with each assignment of a worker, in no particular order.
func (s *State) Owned(worker string, f func(Assignment)) {
	for u := range s.owned[worker] {
		f(s.assignments[u])
	}
}

// Owners returns the workers that have units, sorted.
func (s *State) Owners() []string { return slices.Sorted(maps.Keys(s.owned)) }

// place makes an assignment the unit's.
func (s *State) place(a Assignment) {
	s.unplace(a.Unit)
	s.assignments[a.Unit] = a
	if a.Worker == "" {
		return
	}
	if s.owned[a.Worker] == nil {
		s.owned[a.Worker] = map[UnitID]struct{}{}
	}
	s.owned[a.Worker][a.Unit] = struct{}{}
}

// unplace forgets a unit's assignment.
func (s *State) unplace(u UnitID) {
	worker := s.assignments[u].Worker
	delete(s.assignments, u)
	delete(s.owned[worker], u)
	if len(s.owned[worker]) == 0 {
		delete(s.owned, worker)
	}
}

// Drained reports whether a worker is to run nothing that another can run.
func (s *State) Drained(worker string) bool { return s.drained[worker] }

// Protocol is the newest protocol that all coordinators speak: what may be stored.
func (s *State) Protocol() uint32 {
	low := uint32(commandv1.Protocol)
	for _, n := range s.nodes {
		if n.Coordinator {
			low = min(low, max(n.Protocol, 1))
		}
	}
	return low
}

// Needs is the protocol that a command needs.
func Needs(c *commandv1.Command) uint32 {
	switch c.GetKind().(type) {
	case *commandv1.Command_SetDrain, *commandv1.Command_AddTopics, *commandv1.Command_ResetTopics, *commandv1.Command_VoidOffsets:
		return 2
	}
	return 1
}

// Apply takes the command at a log index.
func (s *State) Apply(index uint64, c *commandv1.Command) Result {
	if c.Protocol > commandv1.Protocol {
		return Result{Index: index, Err: fmt.Errorf("%w: it needs protocol %d, this version speaks %d", ErrUnknownCommand, c.Protocol, commandv1.Protocol)}
	}
	s.index = index
	r := Result{Index: index}
	switch k := c.GetKind().(type) {
	case *commandv1.Command_PutConnector:
		r.Connector, r.Err = s.putConnector(index, c.ProposedUnixMs, k.PutConnector)
	case *commandv1.Command_DeleteConnector:
		r.Err = s.deleteConnector(k.DeleteConnector.Name)
	case *commandv1.Command_SetTargetState:
		r.Connector, r.Err = s.setTargetState(c.ProposedUnixMs, k.SetTargetState)
	case *commandv1.Command_PutTaskConfigs:
		r.Connector, r.Err = s.putTaskConfigs(index, k.PutTaskConfigs)
	case *commandv1.Command_Assign:
		s.assign(index, k.Assign)
	case *commandv1.Command_PutNode:
		s.nodes[k.PutNode.GetNode().GetId()] = k.PutNode.GetNode()
	case *commandv1.Command_RemoveNode:
		delete(s.nodes, k.RemoveNode.Id)
		delete(s.drained, k.RemoveNode.Id)
	case *commandv1.Command_SetCluster:
		s.cluster = k.SetCluster
	case *commandv1.Command_AddTopics:
		r.Connector, r.Err = s.addTopics(k.AddTopics)
	case *commandv1.Command_ResetTopics:
		r.Connector, r.Err = s.resetTopics(index, k.ResetTopics.Connector)
	case *commandv1.Command_VoidOffsets:
		s.voidOffsets(index, k.VoidOffsets)
	case *commandv1.Command_SetDrain:
		r.Err = s.setDrain(k.SetDrain)
	default:
		r.Err = ErrUnknownCommand
	}
	return r
}

func (s *State) putConnector(index uint64, nowMS int64, p *commandv1.PutConnector) (*Connector, error) {
	old, exists := s.connectors[p.Name]
	if exists && p.CreateOnly {
		return old, ErrConnectorExists
	}
	if p.ExpectedConfigIndex != 0 {
		switch {
		case !exists:
			return nil, ErrConnectorNotFound
		case old.ConfigIndex != p.ExpectedConfigIndex:
			return old, ErrStaleConfig
		}
	}
	c := &Connector{Name: p.Name, Config: p.Config, ConfigIndex: index, CreatedMS: nowMS, ChangedMS: nowMS, Target: p.InitialState}
	if c.Config == nil {
		c.Config = map[string]string{}
	}
	if c.Target == commandv1.TargetState_TARGET_STATE_UNSPECIFIED {
		c.Target = commandv1.TargetState_TARGET_STATE_RUNNING
	}
	if exists {
		// The tasks go on with their configs until new ones are planned.
		c.Target, c.CreatedMS = old.Target, old.CreatedMS
		c.PlannedIndex, c.Generation, c.TaskConfigs = old.PlannedIndex, old.Generation, old.TaskConfigs
		c.Topics, c.TopicsSince = old.Topics, old.TopicsSince
	}
	s.connectors[p.Name] = c
	return c, nil
}

func (s *State) deleteConnector(name string) error {
	if s.connectors[name] == nil {
		return ErrConnectorNotFound
	}
	delete(s.connectors, name)
	for u := range s.assignments {
		if u.Connector == name {
			s.unplace(u)
		}
	}
	return nil
}

func (s *State) setTargetState(nowMS int64, t *commandv1.SetTargetState) (*Connector, error) {
	old := s.connectors[t.Name]
	if old == nil {
		return nil, ErrConnectorNotFound
	}
	c := *old
	c.Target, c.ChangedMS = t.State, nowMS
	if t.State == commandv1.TargetState_TARGET_STATE_STOPPED {
		c.TaskConfigs, c.PlannedIndex = nil, 0
	}
	s.connectors[t.Name] = &c
	return &c, nil
}

func (s *State) putTaskConfigs(index uint64, p *commandv1.PutTaskConfigs) (*Connector, error) {
	old := s.connectors[p.Connector]
	switch {
	case old == nil:
		return nil, ErrConnectorNotFound
	case old.ConfigIndex != p.ConfigIndex || old.Target == commandv1.TargetState_TARGET_STATE_STOPPED:
		return old, ErrStalePlan
	}
	c := *old
	c.PlannedIndex = p.ConfigIndex
	configs := make([]map[string]string, len(p.Configs))
	for i, t := range p.Configs {
		configs[i] = t.Config
	}
	if !slices.EqualFunc(configs, c.TaskConfigs, maps.Equal) || c.Generation == 0 {
		c.TaskConfigs, c.Generation = configs, index
	}
	s.connectors[p.Connector] = &c
	return &c, nil
}

func (s *State) assign(index uint64, p *commandv1.Assign) {
	for _, a := range p.Assignments {
		u := UnitID{a.GetUnit().GetConnector(), a.GetUnit().GetTask()}
		// I1: a plan made of stale facts changes nothing.
		if s.connectors[u.Connector] == nil || a.ExpectedEpoch != 0 && s.assignments[u].Epoch != a.ExpectedEpoch {
			continue
		}
		s.place(Assignment{Unit: u, Worker: a.Worker, Epoch: index})
	}
}

func (s *State) setDrain(d *commandv1.SetDrain) error {
	if s.nodes[d.Node] == nil {
		return ErrNodeNotFound
	}
	if d.Drained {
		s.drained[d.Node] = true
	} else {
		delete(s.drained, d.Node)
	}
	return nil
}

// The versions of Image's layout. An image is of the oldest that can hold it, so that an older node of a cluster that is being upgraded
// can take it.
const (
	formatFirst  = 1
	formatSecond = 2 // drained workers, voided offsets, topics
	formatNewest = formatSecond
)

// Image returns the state as a message, in a fixed order.
func (s *State) Image() *commandv1.Image {
	img := &commandv1.Image{
		Format: formatFirst, Index: s.index, Cluster: s.cluster, Nodes: s.Nodes(), Drained: slices.Sorted(maps.Keys(s.drained)), Voided: s.voidedImage(),
	}
	if len(img.Drained) > 0 || len(img.Voided) > 0 {
		img.Format = formatSecond
	}
	for _, c := range s.Connectors() {
		ci := &commandv1.ConnectorImage{
			Name: c.Name, Config: c.Config, TargetState: c.Target, ConfigIndex: c.ConfigIndex, PlannedIndex: c.PlannedIndex,
			Generation: c.Generation, CreatedUnixMs: c.CreatedMS, ChangedUnixMs: c.ChangedMS,
			Topics: c.Topics, TopicsSince: c.TopicsSince,
		}
		if len(c.Topics) > 0 || c.TopicsSince > 0 {
			img.Format = formatSecond
		}
		for _, t := range c.TaskConfigs {
			ci.TaskConfigs = append(ci.TaskConfigs, &commandv1.TaskConfig{Config: t})
		}
		img.Connectors = append(img.Connectors, ci)
	}
	for _, a := range s.Assignments() {
		img.Assignments = append(img.Assignments, &commandv1.AssignmentImage{
			Unit: &commandv1.Unit{Connector: a.Unit.Connector, Task: a.Unit.Task}, Worker: a.Worker, Epoch: a.Epoch,
		})
	}
	return img
}

// Transplant puts the connectors of one image into another: what is restored of a backup. The cluster's id comes with them, for it is in the names that
// Kafka fences by (I1); nodes, brokers and drains stay, for they say what is there. Units belong to nobody and
// keep their epochs: whoever gets them gets a higher one. The result is newer than both and than lastIndex.
func Transplant(from, into *commandv1.Image, lastIndex uint64) *commandv1.Image {
	out := proto.CloneOf(from)
	out.Index = max(from.Index, into.Index, lastIndex)
	out.Nodes, out.Drained = into.Nodes, into.Drained
	out.Format = max(from.Format, into.Format)
	if into.Cluster != nil {
		id := from.GetCluster().GetClusterId()
		out.Cluster = proto.CloneOf(into.Cluster)
		if id != "" {
			out.Cluster.ClusterId = id
		}
	}
	for _, a := range out.Assignments {
		a.Worker = ""
	}
	return out
}

// FromImage makes a state of an image, or refuses it whole.
func FromImage(img *commandv1.Image) (*State, error) {
	if img.Format > formatNewest {
		return nil, fmt.Errorf("%w: %d, known is %d", ErrFormat, img.Format, formatNewest)
	}
	s := New()
	s.index, s.cluster = img.Index, img.Cluster
	for _, n := range img.Nodes {
		s.nodes[n.Id] = n
	}
	for _, id := range img.Drained {
		s.drained[id] = true
	}
	for _, ci := range img.Connectors {
		c := &Connector{
			Name: ci.Name, Config: ci.Config, Target: ci.TargetState, ConfigIndex: ci.ConfigIndex, PlannedIndex: ci.PlannedIndex,
			Generation: ci.Generation, CreatedMS: ci.CreatedUnixMs, ChangedMS: ci.ChangedUnixMs,
			Topics: ci.Topics, TopicsSince: ci.TopicsSince,
		}
		if c.Config == nil {
			c.Config = map[string]string{}
		}
		for _, t := range ci.TaskConfigs {
			c.TaskConfigs = append(c.TaskConfigs, t.Config)
		}
		s.connectors[c.Name] = c
	}
	for _, v := range img.Voided {
		s.voided[v.Connector] = append(s.voided[v.Connector], Void{v.GetPartition().GetTopic(), v.GetPartition().GetPartition(), v.Index})
	}
	for _, a := range img.Assignments {
		s.place(Assignment{Unit: UnitID{a.GetUnit().GetConnector(), a.GetUnit().GetTask()}, Worker: a.Worker, Epoch: a.Epoch})
	}
	return s, nil
}
