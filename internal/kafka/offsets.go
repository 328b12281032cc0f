package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// OffsetsTopic is the default name of the compacted topic with the source offsets.
const OffsetsTopic = "millrace-offsets"

// OffsetsTopicConfig is what that topic is made with: Kafka Connect's own settings.
func OffsetsTopicConfig() TopicConfig {
	return TopicConfig{Partitions: 25, Configs: map[string]string{"cleanup.policy": "compact"}}
}

// OffsetKey is the key of a source offset, in Kafka Connect's format: ["connector",{partition}].
func OffsetKey(connector string, partition map[string]any) ([]byte, error) {
	return compactJSON([]any{connector, partition})
}

// OffsetValue is the value of a source offset. A nil position is a tombstone.
func OffsetValue(position map[string]any) ([]byte, error) {
	if position == nil {
		return nil, nil
	}
	return compactJSON(position)
}

// compactJSON writes JSON as Kafka Connect does: no spaces, nothing escaped for HTML. Map keys come sorted.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// ReadOffset returns the stored offset of one source partition, nil when there is none. It reads the one partition of
// the topic that holds the key, to its end, committed records only: when a transaction of another task is open there it
// waits until that is decided. Numbers come as json.Number.
func ReadOffset(ctx context.Context, c Config, topic, connector string, partition map[string]any) (map[string]any, error) {
	key, err := OffsetKey(connector, partition)
	if err != nil {
		return nil, err
	}
	a, err := NewAdmin(ctx, c)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	n, err := a.Partitions(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read source offset from %s: %w", topic, err)
	}
	tp := TopicPartition{topic, PartitionOf(key, n)}
	var found []byte
	err = ReadToEnd(ctx, c, a, topic, []int32{tp.Partition}, func(m Fetched) error {
		if sameKey(m.Key, key) {
			found = m.Value
		}
		return nil
	})
	if err != nil || found == nil {
		return nil, err
	}
	var position map[string]any
	if err := decodeNumbers(found, &position); err != nil {
		return nil, fmt.Errorf("source offset of %s in topic %s: %w", connector, topic, err)
	}
	return position, nil
}

// sameKey compares keys as JSON, so that another writer's order of members does not matter.
func sameKey(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x any
	if json.Unmarshal(a, &x) != nil {
		return false
	}
	c, err := compactJSON(x)
	return err == nil && bytes.Equal(c, b)
}

// ReadToEnd calls each for the committed records of the given partitions (nil: all), from their start to where they ended at the call.
func ReadToEnd(ctx context.Context, c Config, a *Admin, topic string, only []int32, each func(Fetched) error) error {
	first, err := a.ListOffsets(ctx, topic, Earliest)
	if err != nil {
		return fmt.Errorf("read topic %s: %w", topic, err)
	}
	end, err := a.ListOffsets(ctx, topic, Latest)
	if err != nil {
		return fmt.Errorf("read topic %s: %w", topic, err)
	}
	from := map[TopicPartition]int64{}
	for tp, o := range first {
		if wanted(only, tp.Partition) && end[tp] > o {
			from[tp] = o
		}
	}
	return ReadRange(ctx, c, ConsumerOptions{}, from, end, each)
}

// ReadRange calls each for the records of partitions, from an offset to before another. It waits until the transactions in there are decided.
func ReadRange(ctx context.Context, c Config, o ConsumerOptions, from, end map[TopicPartition]int64, each func(Fetched) error) error {
	todo := map[TopicPartition]int64{}
	for tp, at := range from {
		if at < end[tp] {
			todo[tp] = at
		}
	}
	if len(todo) == 0 {
		return nil
	}
	k, err := NewConsumer(ctx, c, o)
	if err != nil {
		return err
	}
	defer k.Close()
	k.Assign(todo)
	deadline := time.Now().Add(settling)
	for {
		msgs, err := k.Poll(ctx)
		if errors.Is(err, ErrUnavailable) && time.Now().Before(deadline) {
			continue // the consumer waits between its own tries
		}
		if err != nil {
			return fmt.Errorf("read topics: %w", err)
		}
		deadline = time.Now().Add(settling)
		for _, m := range msgs {
			if m.Offset < end[TopicPartition{m.Topic, m.Partition}] {
				if err := each(m); err != nil {
					return err
				}
			}
		}
		done := true
		for tp, pos := range k.Positions() {
			done = done && pos.Next >= end[tp]
		}
		if done {
			return nil
		}
	}
}

func wanted(only []int32, n int32) bool {
	if slices.Contains(only, n) {
		return true
	}
	return only == nil
}

// StoredOffset is a source offset as it lies in the topic.
type StoredOffset struct {
	// Key as it was written, and where: another writer may order the members of the partition in another way.
	Key       []byte
	At        int32
	Partition map[string]any
	Position  map[string]any
}

// ReadOffsets returns all stored offsets of a connector, in the order in which their partitions were first seen. As ReadOffset, it reads
// committed records only; a topic that is not there holds none.
func ReadOffsets(ctx context.Context, c Config, topic, connector string) ([]StoredOffset, error) {
	a, err := NewAdmin(ctx, c)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if _, err := a.Partitions(ctx, topic); errors.Is(err, ErrUnknownTopic) {
		return nil, nil
	}
	type place struct {
		at  int32
		key string
	}
	found := map[place]StoredOffset{}
	var order []place
	err = ReadToEnd(ctx, c, a, topic, nil, func(m Fetched) error {
		owner, partition, ok := parseOffsetKey(m.Key)
		if !ok || owner != connector {
			return nil
		}
		at := place{m.Partition, string(m.Key)}
		if m.Value == nil {
			delete(found, at)
			return nil
		}
		s := StoredOffset{Key: bytes.Clone(m.Key), At: m.Partition, Partition: partition}
		if err := decodeNumbers(m.Value, &s.Position); err != nil {
			return fmt.Errorf("source offset of %s in topic %s: %w", connector, topic, err)
		}
		if _, known := found[at]; !known {
			order = append(order, at)
		}
		found[at] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []StoredOffset
	for _, at := range order {
		if s, ok := found[at]; ok {
			out = append(out, s)
			delete(found, at)
		}
	}
	return out, nil
}

// parseOffsetKey reads ["connector",{partition}].
func parseOffsetKey(key []byte) (connector string, partition map[string]any, ok bool) {
	var parts []json.RawMessage
	if json.Unmarshal(key, &parts) != nil || len(parts) != 2 || json.Unmarshal(parts[0], &connector) != nil {
		return "", nil, false
	}
	return connector, partition, decodeNumbers(parts[1], &partition) == nil
}

// decodeNumbers reads JSON whose numbers must not lose digits.
func decodeNumbers(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}
