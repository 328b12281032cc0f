package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Admin asks for and changes what the brokers hold besides records: topics and offsets. Safe for concurrent use.
type Admin struct {
	client sarama.Client
	admin  sarama.ClusterAdmin
	// turn is whose call it is. sarama's calls wait for each other on a mutex, which knows no context.
	turn chan struct{}
}

// NewAdmin connects.
func NewAdmin(ctx context.Context, c Config) (*Admin, error) {
	c.full = true
	client, err := c.client(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("connect to Kafka at %v: %w", c.Brokers, classify(err))
	}
	return &Admin{client, admin, make(chan struct{}, 1)}, nil
}

// Close ends the connections.
func (a *Admin) Close() error { return a.admin.Close() }

// within runs a call of sarama's, which takes no context, when it is its turn, and gives up waiting when ctx ends.
func within[T any](ctx context.Context, a *Admin, call func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-a.turn }()
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, classify(r.err)
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// settling is how long a read puts up with partitions that have no leader yet: right after a topic was made, a broker that the
// metadata names as leader may not know it for some 100 ms, and an election takes seconds. What lasts longer is the caller's to see.
const settling = 10 * time.Second

// settled repeats a call that only reads for as long as it fails for a passing reason.
func settled[T any](ctx context.Context, a *Admin, call func() (T, error)) (T, error) {
	deadline := time.Now().Add(settling)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		v, err := within(ctx, a, call)
		if err == nil || !errors.Is(err, ErrUnavailable) || time.Now().Add(wait).After(deadline) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(wait):
		}
	}
}

// TopicConfig is what a topic is made with. Zero partitions or replication: the broker's default.
type TopicConfig struct {
	Partitions  int32
	Replication int16
	Configs     map[string]string
}

// EnsureTopic makes the topic unless it is there, and waits until its partitions have leaders.
func (a *Admin) EnsureTopic(ctx context.Context, topic string, c TopicConfig) error {
	if n, err := a.Partitions(ctx, topic); err == nil && n > 0 {
		return nil
	}
	d := &sarama.TopicDetail{NumPartitions: c.Partitions, ReplicationFactor: c.Replication, ConfigEntries: map[string]*string{}}
	if d.NumPartitions == 0 {
		d.NumPartitions = -1
	}
	if d.ReplicationFactor == 0 {
		d.ReplicationFactor = -1
	}
	for k, v := range c.Configs {
		d.ConfigEntries[k] = &v
	}
	_, err := within(ctx, a, func() (struct{}, error) {
		err := a.admin.CreateTopic(topic, d, false)
		if te, ok := errors.AsType[*sarama.TopicError](err); ok {
			if te.Err == sarama.ErrTopicAlreadyExists {
				return struct{}{}, nil
			}
			if te.ErrMsg != nil {
				return struct{}{}, fmt.Errorf("%w: %s", te.Err, *te.ErrMsg)
			}
		}
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	for {
		n, err := a.Partitions(ctx, topic)
		if err == nil && n > 0 {
			// The metadata names leaders before they know it themselves: only what a leader alone answers shows that it serves.
			if _, err = a.ListOffsets(ctx, topic, Latest); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for topic %s: %w", topic, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Partitions returns how many partitions a topic has, ErrUnknownTopic when it does not exist. It asks the brokers each time.
func (a *Admin) Partitions(ctx context.Context, topic string) (int32, error) {
	return within(ctx, a, func() (int32, error) {
		if err := a.client.RefreshMetadata(topic); err != nil {
			return 0, err
		}
		list, err := a.client.Partitions(topic)
		if err != nil {
			return 0, err
		}
		for _, n := range list {
			if _, err := a.client.Leader(topic, n); err != nil {
				return 0, err
			}
		}
		return int32(len(list)), nil
	})
}

// Topics returns the names of all topics, sorted.
func (a *Admin) Topics(ctx context.Context) ([]string, error) {
	topics, err := within(ctx, a, a.admin.ListTopics)
	return slices.Sorted(maps.Keys(topics)), err
}

// DeleteTopic deletes a topic; one that is not there is no error.
func (a *Admin) DeleteTopic(ctx context.Context, topic string) error {
	_, err := within(ctx, a, func() (struct{}, error) { return struct{}{}, a.admin.DeleteTopic(topic) })
	if errors.Is(err, ErrUnknownTopic) {
		return nil
	}
	return err
}

// Where to ask ListOffsets for.
const (
	Earliest = sarama.OffsetOldest
	Latest   = sarama.OffsetNewest
)

// ListOffsets returns, for each partition of a topic, its first offset (Earliest) or the one that the next record will have
// (Latest; open transactions included).
func (a *Admin) ListOffsets(ctx context.Context, topic string, at int64) (map[TopicPartition]int64, error) {
	return a.offsets(ctx, topic, at, sarama.ReadUncommitted)
}

// CommittedEnds returns, for each partition of a topic, the offset before which every transaction is decided.
func (a *Admin) CommittedEnds(ctx context.Context, topic string) (map[TopicPartition]int64, error) {
	return a.offsets(ctx, topic, Latest, sarama.ReadCommitted)
}

// offsets asks each leader once for all that it leads.
func (a *Admin) offsets(ctx context.Context, topic string, at int64, level sarama.IsolationLevel) (map[TopicPartition]int64, error) {
	return settled(ctx, a, func() (map[TopicPartition]int64, error) {
		list, err := a.client.Partitions(topic)
		if err != nil {
			return nil, err
		}
		led := map[*sarama.Broker][]int32{}
		for _, n := range list {
			b, err := a.client.Leader(topic, n)
			if err != nil {
				return nil, fmt.Errorf("offset of %s-%d: %w", topic, n, err)
			}
			led[b] = append(led[b], n)
		}
		out := make(map[TopicPartition]int64, len(list))
		for b, parts := range led {
			if err := offsetsOf(b, topic, parts, at, level, out); err != nil {
				_ = a.client.RefreshMetadata(topic) // another one may lead by now
				return nil, err
			}
		}
		return out, nil
	})
}

// offsetsOf asks the leader of partitions.
func offsetsOf(b *sarama.Broker, topic string, parts []int32, at int64, level sarama.IsolationLevel, out map[TopicPartition]int64) error {
	req := sarama.NewOffsetRequest(sarama.V2_8_0_0)
	req.IsolationLevel = level
	for _, n := range parts {
		req.AddBlock(topic, n, at, 1)
	}
	resp, err := b.GetAvailableOffsets(req)
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", topic, err)
	}
	for _, n := range parts {
		block := resp.GetBlock(topic, n)
		if block == nil {
			return sarama.ErrIncompleteResponse
		}
		if block.Err != sarama.ErrNoError {
			return fmt.Errorf("offset of %s-%d: %w", topic, n, block.Err)
		}
		out[TopicPartition{topic, n}] = block.Offset
	}
	return nil
}

// TopicSettings returns a topic's configuration, defaults included.
func (a *Admin) TopicSettings(ctx context.Context, topic string) (map[string]string, error) {
	found, err := within(ctx, a, func() ([]*sarama.ConfigResourceResult, error) {
		return a.admin.DescribeConfigs([]*sarama.ConfigResource{{Type: sarama.TopicResource, Name: topic}}, sarama.DescribeConfigsOptions{})
	})
	out := map[string]string{}
	for _, r := range found {
		if r.ErrorCode != sarama.ErrNoError {
			return nil, fmt.Errorf("settings of topic %s: %w", topic, kerror(r.ErrorCode))
		}
		for _, e := range r.Configs {
			out[e.Name] = e.Value
		}
	}
	return out, err
}

// DeleteRecords deletes what partitions hold before an offset each.
func (a *Admin) DeleteRecords(ctx context.Context, topic string, before map[int32]int64) error {
	_, err := within(ctx, a, func() (struct{}, error) { return struct{}{}, a.admin.DeleteRecords(topic, before) })
	if err != nil {
		return fmt.Errorf("delete records of topic %s: %w", topic, err)
	}
	return nil
}

// GroupOffsets returns the committed offsets of a group, for the partitions that have one. It waits for open transactions that
// hold offsets of the group.
func (a *Admin) GroupOffsets(ctx context.Context, group string) (map[TopicPartition]int64, error) {
	for {
		out, unstable, err := a.groupOffsets(ctx, group)
		if err != nil {
			return nil, fmt.Errorf("read offsets of group %s: %w", group, err)
		}
		if !unstable {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read offsets of group %s: an open transaction holds some: %w", group, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *Admin) groupOffsets(ctx context.Context, group string) (map[TopicPartition]int64, bool, error) {
	resp, err := within(ctx, a, func() (*sarama.OffsetFetchResponse, error) {
		b, err := a.client.Coordinator(group)
		if err != nil {
			return nil, err
		}
		req := sarama.NewOffsetFetchRequest(sarama.V2_8_0_0, group, nil)
		req.RequireStable = true
		resp, err := b.FetchOffset(req)
		if err == nil && resp.Err == sarama.ErrGroupIDNotFound {
			// A group that nobody has committed to: Kafka says nothing, the embedded broker says so.
			return &sarama.OffsetFetchResponse{}, nil
		}
		if err == nil && resp.Err != sarama.ErrNoError {
			_ = a.client.RefreshCoordinator(group)
			return nil, resp.Err
		}
		return resp, err
	})
	if err != nil {
		return nil, false, err
	}
	out := map[TopicPartition]int64{}
	for topic, parts := range resp.Blocks {
		for n, b := range parts {
			switch {
			case b.Err == unstableOffsetCommit:
				return nil, true, nil
			case b.Err != sarama.ErrNoError:
				return nil, false, kerror(b.Err)
			case b.Offset >= 0:
				out[TopicPartition{topic, n}] = b.Offset
			}
		}
	}
	return out, false, nil
}

// unstableOffsetCommit is code 88: a transaction that commits this offset is not decided yet.
const unstableOffsetCommit sarama.KError = 88

// CommitGroupOffsets stores a group's offsets without being a member of it. For each partition: the next offset to read.
func (a *Admin) CommitGroupOffsets(ctx context.Context, group string, offsets map[TopicPartition]int64) error {
	byTopic := map[string]map[int32]sarama.OffsetAndMetadata{}
	for tp, o := range offsets {
		if byTopic[tp.Topic] == nil {
			byTopic[tp.Topic] = map[int32]sarama.OffsetAndMetadata{}
		}
		byTopic[tp.Topic][tp.Partition] = sarama.OffsetAndMetadata{Offset: o, LeaderEpoch: -1}
	}
	resp, err := within(ctx, a, func() (*sarama.OffsetCommitResponse, error) {
		return a.admin.AlterConsumerGroupOffsets(group, byTopic, nil)
	})
	if err != nil {
		return fmt.Errorf("commit offsets of group %s: %w", group, err)
	}
	for topic, parts := range resp.Errors {
		for n, code := range parts {
			if code != sarama.ErrNoError {
				return fmt.Errorf("commit offset of %s-%d in group %s: %w", topic, n, group, kerror(code))
			}
		}
	}
	return nil
}

// DeleteGroupOffset forgets a group's offset of one partition; one that is not there is no error.
func (a *Admin) DeleteGroupOffset(ctx context.Context, group string, tp TopicPartition) error {
	_, err := within(ctx, a, func() (struct{}, error) {
		return struct{}{}, a.admin.DeleteConsumerGroupOffset(group, tp.Topic, tp.Partition)
	})
	if err != nil && !strings.Contains(err.Error(), sarama.ErrGroupIDNotFound.Error()) {
		return fmt.Errorf("forget the offset of %s-%d in group %s: %w", tp.Topic, tp.Partition, group, err)
	}
	return nil
}

// DeleteGroup deletes a group with its offsets; one that is not there is no error.
func (a *Admin) DeleteGroup(ctx context.Context, group string) error {
	_, err := within(ctx, a, func() (struct{}, error) { return struct{}{}, a.admin.DeleteConsumerGroup(group) })
	if err != nil && strings.Contains(err.Error(), sarama.ErrGroupIDNotFound.Error()) {
		return nil
	}
	return err
}

// ClusterID returns the id that the brokers give their cluster; empty when they have none.
func (a *Admin) ClusterID(ctx context.Context) (string, error) {
	return within(ctx, a, func() (string, error) {
		b := a.client.LeastLoadedBroker()
		if b == nil {
			return "", sarama.ErrOutOfBrokers
		}
		_ = b.Open(a.client.Config())
		resp, err := b.GetMetadata(sarama.NewMetadataRequest(sarama.V2_8_0_0, []string{}))
		if err != nil || resp.ClusterID == nil {
			return "", err
		}
		return *resp.ClusterID, nil
	})
}
