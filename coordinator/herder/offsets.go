package herder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/coordinator/offset"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Time limits of work on offsets: below the 90 s after which Kafka Connect's clients give up.
const (
	offsetsLimit = 60 * time.Second
	// stopLimit is how long tasks of a stopped connector may take to end.
	stopLimit = 15 * time.Second
)

// stored is where a connector has its offsets: exactly one of source and group is set.
type stored struct {
	plugin   *connectors.Plugin
	resolved map[string]string
	source   *offset.Source
	group    *offset.Group
}

// storedBy finds where a connector has its offsets.
func (h *Herder) storedBy(c *state.Connector) (*stored, error) {
	p, err := plugin(c.Config)
	if err != nil {
		return nil, err
	}
	v, resolved, problems := config.Parse(config.Full(p), c.Config)
	if len(problems) > 0 {
		return nil, fault.New(fault.Invalid, "The config of connector %s does not hold any more: %v", c.Name, configdef.AsError(problems))
	}
	k := h.kafka.Config
	info := h.c.Info()
	if len(k.Brokers) == 0 {
		k.Brokers = info.GetBrokers()
	}
	out := &stored{plugin: p, resolved: resolved}
	tasks := int(v.Int(config.TasksMax))
	if p.Kind == connectors.KindSource && p.Plan == nil {
		tasks = 1
	}
	var ids []string
	for i := range tasks {
		ids = append(ids, kafka.TransactionalID(info.GetClusterId(), c.Name, i))
	}
	if p.Kind == connectors.KindSource {
		topic := v.String(config.OffsetsTopic)
		if topic == "" {
			topic = h.kafka.OffsetsTopic
		}
		out.source = &offset.Source{Kafka: k, Topic: topic, Connector: c.Name, TransactionalIDs: ids}
		return out, nil
	}
	out.group = &offset.Group{Kafka: k, Name: v.String(config.GroupOverride)}
	if out.group.Name == "" {
		out.group.Name = "connect-" + c.Name
	}
	if p.Kind == connectors.KindTransform {
		out.group.TransactionalIDs = ids
	}
	return out, nil
}

// Offsets returns what a connector has stored of its progress.
func (h *Herder) Offsets(ctx context.Context, name string) (*api.Offsets, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	s, err := h.storedBy(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, offsetsLimit)
	defer cancel()
	out := &api.Offsets{Offsets: []api.Offset{}}
	if s.source != nil {
		list, err := s.source.Read(ctx)
		if err != nil {
			return nil, fault.New(fault.Internal, "Failed to retrieve offsets for source connector %s: %v", name, err)
		}
		for _, o := range list {
			out.Offsets = append(out.Offsets, api.Offset{Partition: o.Partition, Offset: o.Position})
		}
		return out, nil
	}
	list, err := s.group.Read(ctx)
	if err != nil {
		return nil, fault.New(fault.Internal, "Failed to retrieve consumer group offsets for sink connector %s: %v", name, err)
	}
	for _, p := range list {
		out.Offsets = append(out.Offsets, api.Offset{
			Partition: map[string]any{"kafka_topic": p.Topic, "kafka_partition": p.Partition}, Offset: map[string]any{"kafka_offset": p.Next},
		})
	}
	return out, nil
}

// free refuses what must not happen while a connector's offsets are being changed.
func (h *Herder) free(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.freeLocked(name)
}

func (h *Herder) freeLocked(name string) error {
	if h.altering[name] {
		return fault.New(fault.Conflict, "Cannot complete request because of a conflicting operation: the offsets of connector %s are being changed", name)
	}
	return nil
}

func (h *Herder) claim(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.freeLocked(name); err != nil {
		return err
	}
	h.altering[name] = true
	return nil
}

// stopped claims a connector for a change of its offsets: it is stopped, none of its tasks runs any more, and it stays so until release.
func (h *Herder) stopped(ctx context.Context, name string) (c *state.Connector, release func(), err error) {
	if err := h.claim(name); err != nil {
		return nil, nil, err
	}
	release = func() {
		h.mu.Lock()
		delete(h.altering, name)
		h.mu.Unlock()
	}
	if c, err = h.waitStopped(ctx, name); err != nil {
		release()
	}
	return c, release, err
}

func (h *Herder) waitStopped(ctx context.Context, name string) (*state.Connector, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	if c.Target != commandv1.TargetState_TARGET_STATE_STOPPED {
		return nil, fault.New(fault.Invalid, "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified connector by issuing a 'PUT' request to the '/connectors/%s/stop' endpoint", name)
	}
	for deadline := time.Now().Add(stopLimit); h.c.Running(name); {
		if time.Now().After(deadline) {
			return nil, fault.New(fault.Unavailable, "The tasks of connector %s haven't stopped completely yet; nothing was changed. This operation can be safely retried.", name)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return c, nil
}

// AlterOffsets changes offsets of a stopped connector. Those of partitions that are not named stay.
func (h *Herder) AlterOffsets(ctx context.Context, name string, in api.Offsets) error {
	if len(in.Offsets) == 0 {
		return fault.New(fault.Invalid, "Partitions / offsets need to be provided for an alter offsets request")
	}
	ctx, cancel := context.WithTimeout(ctx, offsetsLimit)
	defer cancel()
	c, release, err := h.stopped(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	s, err := h.storedBy(c)
	if err != nil {
		return err
	}
	if s.source != nil {
		list := make([]offset.Offset, len(in.Offsets))
		for i, o := range in.Offsets {
			if o.Partition == nil {
				return fault.New(fault.Invalid, "The partition for a source connector offset cannot be null or missing")
			}
			list[i] = offset.Offset{Partition: o.Partition, Position: o.Offset}
			if s.plugin.CheckOffset == nil {
				continue
			}
			if err := s.plugin.CheckOffset(s.resolved, connectors.Offset{Partition: o.Partition, Position: o.Offset}); err != nil {
				return fault.New(fault.Invalid, "The offset of partition %s can't be stored: %v", text(o.Partition), config.NewRedactor(c.Config).Error(err))
			}
		}
		if err := s.source.Alter(ctx, list); err != nil {
			return fault.New(fault.Internal, "Failed to alter offsets for source connector %s: %v", name, err)
		}
		return nil
	}
	wanted, err := sinkOffsets(in)
	if err != nil {
		return err
	}
	switch err := s.group.Alter(ctx, wanted); {
	case errors.Is(err, offset.ErrNoPartition):
		return fault.New(fault.Invalid, "Failed to alter consumer group offsets for connector %s: %v", name, err)
	case err != nil:
		return fault.New(fault.Internal, "Failed to alter consumer group offsets for connector %s: %v", name, err)
	}
	void := &commandv1.VoidOffsets{Connector: name}
	for tp := range wanted {
		void.Partitions = append(void.Partitions, &commandv1.TopicPartition{Topic: tp.Topic, Partition: tp.Partition})
	}
	return h.void(ctx, s.plugin, void)
}

// ResetOffsets forgets all offsets of a stopped connector.
func (h *Herder) ResetOffsets(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, offsetsLimit)
	defer cancel()
	c, release, err := h.stopped(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	s, err := h.storedBy(c)
	if err != nil {
		return err
	}
	if s.source != nil {
		if err := s.source.Reset(ctx); err != nil {
			return fault.New(fault.Internal, "Failed to reset offsets for source connector %s: %v", name, err)
		}
		return nil
	}
	if err := s.group.Reset(ctx); err != nil {
		return fault.New(fault.Internal, "Failed to reset consumer group offsets for connector %s: %v", name, err)
	}
	return h.void(ctx, s.plugin, &commandv1.VoidOffsets{Connector: name})
}

// void makes what a sink keeps of its own offsets count no more. The group's are changed before: when this fails the sink goes on from
// where it was, and the request can be repeated.
func (h *Herder) void(ctx context.Context, p *connectors.Plugin, v *commandv1.VoidOffsets) error {
	if p.NewSink == nil {
		return nil
	}
	if _, durable := p.NewSink().(connectors.Durable); !durable {
		return nil
	}
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_VoidOffsets{VoidOffsets: v}})
	return errors.Join(err, r.Err)
}

// sinkOffsets reads Kafka offsets as Connect does: numbers may be text.
func sinkOffsets(in api.Offsets) (map[kafka.TopicPartition]*int64, error) {
	bad := func(format string, args ...any) (map[kafka.TopicPartition]*int64, error) {
		return nil, fault.New(fault.Invalid, format, args...)
	}
	out := map[kafka.TopicPartition]*int64{}
	for _, o := range in.Offsets {
		if o.Partition == nil {
			return bad("The partition for a sink connector offset cannot be null or missing")
		}
		topic, hasTopic := o.Partition["kafka_topic"]
		partition, hasPartition := o.Partition["kafka_partition"]
		switch {
		case !hasTopic || !hasPartition:
			return bad("The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'")
		case topic == nil:
			return bad("Kafka topic names must be valid strings and may not be null")
		case partition == nil:
			return bad("Kafka partitions must be valid numbers and may not be null")
		}
		n, err := strconv.ParseInt(text(partition), 10, 32)
		if err != nil {
			return bad("Failed to parse the following Kafka partition value in the provided offsets: '%s'. Partition values for sink connectors need to be integers.", text(partition))
		}
		tp := kafka.TopicPartition{Topic: text(topic), Partition: int32(n)}
		if o.Offset == nil {
			out[tp] = nil
			continue
		}
		next, ok := o.Offset["kafka_offset"]
		if !ok {
			return bad("The offset for a sink connector should either be null or contain the key 'kafka_offset'")
		}
		at, err := strconv.ParseInt(text(next), 10, 64)
		if err != nil || at < 0 {
			return bad("Failed to parse the following Kafka offset value in the provided offsets: '%s'. Offset values for sink connectors need to be integers.", text(next))
		}
		out[tp] = &at
	}
	return out, nil
}

// text is a JSON value as people write it: a string without its quotes.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
