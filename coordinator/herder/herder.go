// Package herder is the one door for management: it validates, proposes and reads. REST is a thin shell over it.
//
// It works on the leader; elsewhere its methods fail with ErrNotLeader and the caller goes to the leader. Safe for concurrent use.
package herder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Cluster is what the herder needs of the coordinator.
type Cluster interface {
	Propose(ctx context.Context, c *commandv1.Command) (state.Result, error)
	View(f func(*state.State))
	Statuses(connector string) map[int32]*clusterv1.UnitStatus
	Events(connector string) []session.Event
	WorkerAlive(id string) bool
	Restart(ctx context.Context, units []state.UnitID) error
	Signal(ctx context.Context, u state.UnitID, kind, data string) error
	// Running reports whether a worker may still run a task of the connector.
	Running(connector string) bool
	Group
}

// Kafka is where connectors have their offsets.
type Kafka struct {
	// Config says how to talk to the brokers. No brokers: the cluster's.
	kafka.Config
	// OffsetsTopic is the cluster's topic for source offsets.
	OffsetsTopic string
}

// Herder manages connectors.
type Herder struct {
	c     Cluster
	kafka Kafka

	mu sync.Mutex // guards: altering
	// altering are the connectors whose offsets are being changed: nothing else may happen to them meanwhile.
	altering map[string]bool
}

// New makes a herder.
func New(c Cluster, k Kafka) *Herder { return &Herder{c: c, kafka: k, altering: map[string]bool{}} }

func notFound(name string) error { return fault.New(fault.NotFound, "Connector %s not found", name) }

// plugin finds the class that a config names.
func plugin(given map[string]string) (*connectors.Plugin, error) {
	class, ok := given[config.ConnectorClass]
	if !ok || strings.TrimSpace(class) == "" {
		return nil, fault.New(fault.Invalid, "Connector config %s contains no connector type: set connector.class", javaMap(given))
	}
	p, ok := connectors.Lookup(class)
	if !ok {
		var known []string
		for _, p := range connectors.All() {
			known = append(known, p.Class)
			known = append(known, p.Aliases...)
		}
		return nil, fault.New(fault.Invalid, "Failed to find any class that implements Connector and which name matches %s, available connectors are: %s", class, strings.Join(known, ", "))
	}
	return p, nil
}

// javaMap shows the keys of a config as Connect does, without values that may be secret.
func javaMap(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if low := strings.ToLower(k); strings.Contains(low, "password") || strings.Contains(low, "secret") || strings.Contains(low, "url") {
			v = "[hidden]"
		}
		parts = append(parts, k+"="+v)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// check validates a config whole; nothing is changed when it fails (I7).
func check(ctx context.Context, given map[string]string) error {
	p, err := plugin(given)
	if err != nil {
		return err
	}
	problems := problemsOf(ctx, p, given)
	if len(problems) == 0 {
		return nil
	}
	msgs := make([]string, len(problems))
	for i, x := range problems {
		msgs[i] = x.Message
	}
	return invalid(msgs)
}

func invalid(msgs []string) error {
	return fault.New(fault.Invalid, "Connector configuration is invalid and contains the following %d error(s):\n%s\nYou can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`",
		len(msgs), strings.Join(msgs, "\n"))
}

// NoNulls refuses a config that has no value for these keys.
func NoNulls(keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	msgs := make([]string, len(keys))
	for i, k := range keys {
		msgs[i] = noNull(k)
	}
	return invalid(msgs)
}

func noNull(key string) string {
	return fmt.Sprintf("Invalid value null for configuration %s: Null value can not be supplied as the configuration value.", key)
}

func problemsOf(ctx context.Context, p *connectors.Plugin, given map[string]string) []configdef.Problem {
	ctx, cancel := context.WithTimeout(ctx, config.ValidateLimit)
	defer cancel()
	var problems []configdef.Problem
	v, _ := config.Full(p).Parse(given)
	problems = convert.Check(convert.Config{
		Key: v.String(config.KeyConverter), Value: v.String(config.ValueConverter), DefaultKey: p.KeyConverter, DefaultValue: p.ValueConverter,
		JSONConverter: p.JSONConverter,
		KeyOptions:    v.Prefixed("key.converter."), ValueOptions: v.Prefixed("value.converter."),
	})
	type result struct{ problems []configdef.Problem }
	done := make(chan result, 1)
	go func() {
		defer func() {
			if x := recover(); x != nil { // I9: a connector's check must not take the node along
				done <- result{[]configdef.Problem{{Key: config.ConnectorClass, Value: p.Class, Message: fmt.Sprintf("The connector's own check panicked: %v", x)}}}
			}
		}()
		done <- result{config.Check(ctx, p, given)}
	}()
	select {
	case r := <-done:
		for i, x := range r.problems {
			// Whoever reads the message must see which key it is about.
			if !strings.Contains(x.Message, x.Key) {
				r.problems[i].Message = fmt.Sprintf("Invalid value for configuration %s: %s", x.Key, x.Message)
			}
		}
		return append(problems, r.problems...)
	case <-time.After(config.ValidateLimit + 500*time.Millisecond):
		return append(problems, configdef.Problem{Key: config.ConnectorClass, Value: p.Class, Message: fmt.Sprintf(
			"The connector's own check took longer than %v: the system that it connects to does not answer.", config.ValidateLimit)})
	}
}

// states of REST's initial_state.
var states = map[string]commandv1.TargetState{
	"": commandv1.TargetState_TARGET_STATE_RUNNING, "RUNNING": commandv1.TargetState_TARGET_STATE_RUNNING,
	"PAUSED": commandv1.TargetState_TARGET_STATE_PAUSED, "STOPPED": commandv1.TargetState_TARGET_STATE_STOPPED,
}

// Create makes a connector.
func (h *Herder) Create(ctx context.Context, name string, given map[string]string, initial string) (*api.ConnectorInfo, error) {
	name = strings.TrimSpace(name)
	target, ok := states[strings.ToUpper(initial)]
	if !ok {
		return nil, fault.New(fault.Invalid, "initial_state %q: RUNNING, PAUSED or STOPPED", initial)
	}
	given, err := named(name, given)
	if err != nil {
		return nil, err
	}
	if err := check(ctx, given); err != nil {
		return nil, err
	}
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{
		Name: name, Config: given, CreateOnly: true, InitialState: target,
	}}})
	switch {
	case err != nil:
		return nil, err
	case errors.Is(r.Err, state.ErrConnectorExists):
		return nil, fault.New(fault.Conflict, "Connector %s already exists", name)
	case r.Err != nil:
		return nil, r.Err
	}
	return info(r.Connector), nil
}

// named adds the name to a config, or refuses a config that says another.
func named(name string, given map[string]string) (map[string]string, error) {
	out := maps.Clone(given)
	if out == nil {
		out = map[string]string{}
	}
	if have, ok := out[config.Name]; ok && have != name {
		return nil, fault.New(fault.Invalid, "Connector name configuration (%s) doesn't match connector name in the URL (%s)", have, name)
	}
	out[config.Name] = name
	return out, nil
}

// Put creates a connector or replaces its config. created tells which.
func (h *Herder) Put(ctx context.Context, name string, given map[string]string) (i *api.ConnectorInfo, created bool, err error) {
	if given, err = named(name, given); err != nil {
		return nil, false, err
	}
	if err := check(ctx, given); err != nil {
		return nil, false, err
	}
	if err := h.free(name); err != nil {
		return nil, false, err
	}
	_, getErr := h.Get(name)
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{Name: name, Config: given}}})
	if err != nil {
		return nil, false, err
	}
	return info(r.Connector), getErr != nil, r.Err
}

// Patch merges changes into a connector's config; a nil value removes its key. A change that somebody else made meanwhile is kept: the
// merge is done anew on top of it.
func (h *Herder) Patch(ctx context.Context, name string, changes map[string]*string) (*api.ConnectorInfo, error) {
	for {
		c, err := h.connector(name)
		if err != nil {
			return nil, err
		}
		merged := maps.Clone(c.Config)
		for k, v := range changes {
			if v == nil {
				delete(merged, k)
			} else {
				merged[k] = *v
			}
		}
		if merged, err = named(name, merged); err != nil {
			return nil, err
		}
		if err := check(ctx, merged); err != nil {
			return nil, err
		}
		r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_PutConnector{PutConnector: &commandv1.PutConnector{
			Name: name, Config: merged, ExpectedConfigIndex: c.ConfigIndex,
		}}})
		switch {
		case err != nil:
			return nil, err
		case errors.Is(r.Err, state.ErrConnectorNotFound):
			return nil, notFound(name)
		case errors.Is(r.Err, state.ErrStaleConfig) && ctx.Err() == nil:
			continue
		case r.Err != nil:
			return nil, r.Err
		}
		return info(r.Connector), nil
	}
}

func (h *Herder) connector(name string) (c *state.Connector, err error) {
	h.c.View(func(s *state.State) { c, _ = s.Connector(name) })
	if c == nil {
		return nil, notFound(name)
	}
	return c, nil
}

// Names lists the connectors, sorted.
func (h *Herder) Names() []string {
	out := []string{}
	h.c.View(func(s *state.State) {
		for _, c := range s.Connectors() {
			out = append(out, c.Name)
		}
	})
	return out
}

// Get describes a connector.
func (h *Herder) Get(name string) (*api.ConnectorInfo, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	return info(c), nil
}

func info(c *state.Connector) *api.ConnectorInfo {
	i := &api.ConnectorInfo{Name: c.Name, Config: c.Config, Tasks: []api.TaskID{}, Type: typeOf(c)}
	for n := range c.TaskConfigs {
		i.Tasks = append(i.Tasks, api.TaskID{Connector: c.Name, Task: int32(n)})
	}
	return i
}

// typeOf is Connect's type: source or sink. A transform reads topics, so to Connect's clients it is a sink.
func typeOf(c *state.Connector) string {
	p, ok := connectors.Lookup(c.Config[config.ConnectorClass])
	switch {
	case !ok:
		return "unknown"
	case p.Kind == connectors.KindSource:
		return "source"
	}
	return "sink"
}

// Tasks returns a connector's tasks with their configs.
func (h *Herder) Tasks(name string) ([]api.TaskInfo, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	out := []api.TaskInfo{}
	for n, t := range c.TaskConfigs {
		out = append(out, api.TaskInfo{ID: api.TaskID{Connector: name, Task: int32(n)}, Config: t})
	}
	return out, nil
}

// unit is what is known of one unit: its assignment and its last status, if that is of the assignment's epoch.
type unit struct {
	state  string
	worker string
	rest   string
	epoch  uint64
	s      *clusterv1.UnitStatus
}

func (h *Herder) units(c *state.Connector) map[int32]unit {
	statuses := h.c.Statuses(c.Name)
	out := map[int32]unit{}
	h.c.View(func(s *state.State) {
		look := func(task int32) {
			a, _ := s.Assignment(state.UnitID{Connector: c.Name, Task: task})
			u := unit{state: "UNASSIGNED", worker: a.Worker, epoch: a.Epoch}
			if n, ok := s.Node(a.Worker); ok {
				u.rest = n.RestAddr
			}
			st := statuses[task]
			if a.Worker != "" && st != nil && st.Epoch == a.Epoch && h.c.WorkerAlive(a.Worker) {
				u.s = st
				u.state = strings.TrimPrefix(st.State.String(), "STATE_")
			}
			if task == state.PlanningHalf && u.s != nil && u.state == "RUNNING" {
				// A planning half follows its target state.
				u.state = strings.TrimPrefix(c.Target.String(), "TARGET_STATE_")
			}
			out[task] = u
		}
		look(state.PlanningHalf)
		for i := range c.TaskConfigs {
			look(int32(i))
		}
	})
	return out
}

// Status returns the state of a connector and its tasks.
func (h *Herder) Status(name string) (*api.ConnectorStatus, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "No status found for connector %s", name)
	}
	version := ""
	if p, ok := connectors.Lookup(c.Config[config.ConnectorClass]); ok {
		version = p.Version
	}
	units := h.units(c)
	head := units[state.PlanningHalf]
	out := &api.ConnectorStatus{
		Name: name, Type: typeOf(c), Tasks: []api.TaskState{},
		Connector: api.ConnectorState{State: head.state, WorkerID: head.rest, Version: version, Trace: head.s.GetTrace()},
	}
	for i := range c.TaskConfigs {
		u := units[int32(i)]
		out.Tasks = append(out.Tasks, api.TaskState{ID: int32(i), State: u.state, WorkerID: u.rest, Version: version, Trace: u.s.GetTrace()})
	}
	return out, nil
}

// Progress returns how far a connector's tasks are.
func (h *Herder) Progress(name string) (*api.Progress, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	units := h.units(c)
	out := &api.Progress{Name: name, Type: typeOf(c), State: units[state.PlanningHalf].state, Tasks: []api.TaskProgress{}}
	if p, ok := connectors.Lookup(c.Config[config.ConnectorClass]); ok {
		out.Type = string(p.Kind)
	}
	for i := range c.TaskConfigs {
		u := units[int32(i)]
		p := u.s.GetProgress()
		t := api.TaskProgress{
			ID: int32(i), State: u.state, Worker: u.worker, Epoch: u.epoch, Error: strings.TrimSpace(u.s.GetTrace()), Attempts: u.s.GetAttempts(),
			MaxAttempts: u.s.GetMaxAttempts(), RetryAtUnixMS: u.s.GetRetryAtUnixMs(), Stalled: stalled(p.GetStall()), Retrying: p.GetRetrying(), RecordsIn: p.GetRecordsIn(), RecordsOut: p.GetRecordsOut(), RecordsDropped: p.GetRecordsDropped(),
			BytesOut: p.GetBytesOut(), RecordsPerSecond: p.GetRecordsPerSecond(), LagRecords: -1, LagMS: -1, LastCommitUnixMS: p.GetLastCommitUnixMs(),
			TransactionProtocol: protocolOf(p.GetTransactionProtocol()), Detail: p.GetDetail(),
			Function: usageOf(p.GetFunction()),
		}
		if p != nil {
			t.LagRecords, t.LagMS = p.LagRecords, p.LagMs
		}
		out.Tasks = append(out.Tasks, t)
	}
	return out, nil
}

func usageOf(u *clusterv1.FunctionUsage) *api.FunctionUsage {
	if u == nil {
		return nil
	}
	return &api.FunctionUsage{
		Name: u.Name, Version: u.Version, Instances: u.Instances, Invocations: u.Invocations, RecordsIn: u.RecordsIn, RecordsOut: u.RecordsOut, BytesIn: u.BytesIn,
		BytesOut: u.BytesOut, BusySeconds: u.BusySeconds, RecordErrors: u.RecordErrors, Crashes: u.Crashes, ColdStarts: u.ColdStarts, Restarts: u.Restarts,
		GigabyteSeconds: u.GigabyteSeconds,
	}
}

func stalled(s *clusterv1.Stall) *api.Stalled {
	if s == nil {
		return nil
	}
	return &api.Stalled{WaitsFor: s.WaitsFor, SinceUnixMS: s.SinceUnixMs, LastRecordUnixMS: s.LastRecordUnixMs}
}

// Events returns what has happened to a connector's tasks since the leader began to lead, oldest first.
func (h *Herder) Events(name string) (*api.Events, error) {
	if _, err := h.connector(name); err != nil {
		return nil, err
	}
	out := &api.Events{Name: name, Events: []api.Event{}}
	for _, e := range h.c.Events(name) {
		x := api.Event{
			AtUnixMS: e.At.UnixMilli(), Worker: e.Worker, Epoch: e.Epoch, Event: string(e.Kind), Attempt: e.Attempt, MaxAttempts: e.Limit, Detail: e.Detail,
		}
		if e.Task != state.PlanningHalf {
			x.Task = &e.Task
		}
		out.Events = append(out.Events, x)
	}
	return out, nil
}

// Expand describes all connectors, with what is asked for.
func (h *Herder) Expand(withStatus, withInfo bool) map[string]api.Expanded {
	out := map[string]api.Expanded{}
	for _, name := range h.Names() {
		var e api.Expanded
		if withStatus {
			e.Status, _ = h.Status(name)
		}
		if withInfo {
			e.Info, _ = h.Get(name)
		}
		out[name] = e
	}
	return out
}

// SetTarget pauses, resumes or stops.
func (h *Herder) SetTarget(ctx context.Context, name string, t commandv1.TargetState) error {
	if err := h.free(name); err != nil {
		return err
	}
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_SetTargetState{SetTargetState: &commandv1.SetTargetState{Name: name, State: t}}})
	if err == nil && errors.Is(r.Err, state.ErrConnectorNotFound) {
		return fault.New(fault.NotFound, "Unknown connector %s", name)
	}
	return errors.Join(err, r.Err)
}

// Delete deletes a connector. Its topics, offsets and consumer group stay.
func (h *Herder) Delete(ctx context.Context, name string) error {
	if err := h.free(name); err != nil {
		return err
	}
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_DeleteConnector{DeleteConnector: &commandv1.DeleteConnector{Name: name}}})
	if err == nil && errors.Is(r.Err, state.ErrConnectorNotFound) {
		return notFound(name)
	}
	return errors.Join(err, r.Err)
}

// Restart restarts the connector, its tasks, or what of them has failed. It returns the status as it will be next.
func (h *Herder) Restart(ctx context.Context, name string, includeTasks, onlyFailed bool) (*api.ConnectorStatus, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "Unknown connector: %s", name)
	}
	status, err := h.Status(name)
	if err != nil {
		return nil, err
	}
	var units []state.UnitID
	if !onlyFailed || status.Connector.State == "FAILED" {
		units = append(units, state.UnitID{Connector: name, Task: state.PlanningHalf})
		status.Connector.State = "RESTARTING"
	}
	if includeTasks {
		for i := range c.TaskConfigs {
			if !onlyFailed || status.Tasks[i].State == "FAILED" {
				units = append(units, state.UnitID{Connector: name, Task: int32(i)})
				status.Tasks[i].State = "RESTARTING"
			}
		}
	}
	if err := h.c.Restart(ctx, units); err != nil {
		return nil, err
	}
	if !includeTasks && !onlyFailed {
		h.restarted(ctx, name, state.PlanningHalf)
	}
	return status, nil
}

// restarted waits a moment until a unit that was restarted has reported: Kafka Connect's clients look at the status next.
func (h *Herder) restarted(ctx context.Context, name string, task int32) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		c, err := h.connector(name)
		if err != nil || h.units(c)[task].s != nil || h.units(c)[task].worker == "" {
			return
		}
	}
}

// RestartTask restarts one task.
func (h *Herder) RestartTask(ctx context.Context, name string, task int32) error {
	c, err := h.connector(name)
	if err != nil {
		return fault.New(fault.NotFound, "Unknown connector: %s", name)
	}
	if task < 0 || int(task) >= len(c.TaskConfigs) {
		return fault.New(fault.NotFound, "Unknown task: %s-%d", name, task)
	}
	if err := h.c.Restart(ctx, []state.UnitID{{Connector: name, Task: task}}); err != nil {
		return err
	}
	h.restarted(ctx, name, task)
	return nil
}

// Signal hands a signal to all tasks of a connector: {"type":"execute-snapshot","data":{…}}. It returns when they have taken it.
func (h *Herder) Signal(ctx context.Context, name string, in api.Signal) error {
	c, err := h.connector(name)
	if err != nil {
		return err
	}
	if in.Type == "" {
		return fault.New(fault.Invalid, "A signal needs a type, such as execute-snapshot")
	}
	data := ""
	if len(in.Data) > 0 {
		data = string(in.Data)
	}
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	if len(c.TaskConfigs) == 0 {
		return fault.New(fault.Conflict, "Connector %s has no tasks yet; try again when it runs", name)
	}
	for i := range c.TaskConfigs {
		err := h.c.Signal(ctx, state.UnitID{Connector: name, Task: int32(i)}, in.Type, data)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fault.New(fault.Unavailable, "Task %s-%d has not answered the signal; it may have taken it all the same", name, i)
		case err != nil:
			return fault.New(fault.Conflict, "Task %s-%d does not take the signal %s: %v", name, i, in.Type, err)
		}
	}
	return nil
}
