package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	a, err := NewAdmin(ctx, c)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return new(OffsetReader).Read(ctx, c, a, topic, connector, partition)
}

// OffsetReader reads source offsets for many tasks. Those that ask while their partition is being read share its next read, so that a thousand tasks
// that start together read each partition a few times and not a thousand times. It keeps nothing: a read begins after all of its askers have asked, and so
// after each of them has fenced the older owner (I3). The zero value is ready; safe for concurrent use.
type OffsetReader struct {
	// Admins are what it asks the brokers with, and others may.
	Admins Admins

	mu    sync.Mutex // guards: all below
	reads map[offsetSource]*offsetReads
}

// offsetSource is a partition of certain brokers.
type offsetSource struct {
	brokers, user string
	TopicPartition
}

// offsetReads are the reads of a partition: one that runs, if any, and the one after it.
type offsetReads struct {
	running bool
	next    *offsetRead
}

// offsetRead is one read. Values and err are set when done is closed.
type offsetRead struct {
	keys   map[string]bool
	values map[string][]byte
	err    error
	done   chan struct{}
}

// readLimit is how long a shared read may take: longer than a transaction that nobody ends stays open.
const readLimit = 2 * time.Minute

// Read returns the stored offset of one source partition, as ReadOffset.
func (r *OffsetReader) Read(ctx context.Context, c Config, a *Admin, topic, connector string, partition map[string]any) (map[string]any, error) {
	key, err := OffsetKey(connector, partition)
	if err != nil {
		return nil, err
	}
	n, err := a.Partitions(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("read source offset from %s: %w", topic, err)
	}
	read := r.join(c, TopicPartition{topic, PartitionOf(key, n)}, key) //nolint:contextcheck // a read that is shared outlives the one who asked first
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-read.done:
	}
	found := read.values[string(key)]
	if read.err != nil || found == nil {
		return nil, read.err
	}
	var position map[string]any
	if err := decodeNumbers(found, &position); err != nil {
		return nil, fmt.Errorf("source offset of %s in topic %s: %w", connector, topic, err)
	}
	return position, nil
}

// join adds a key to the next read, and sees to it that there will be one.
func (r *OffsetReader) join(c Config, tp TopicPartition, key []byte) *offsetRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := offsetSource{strings.Join(c.Brokers, ","), c.Login.User, tp}
	if r.reads == nil {
		r.reads = map[offsetSource]*offsetReads{}
	}
	reads := r.reads[at]
	if reads == nil {
		reads = &offsetReads{}
		r.reads[at] = reads
	}
	if reads.next == nil {
		reads.next = &offsetRead{keys: map[string]bool{}, done: make(chan struct{})}
	}
	reads.next.keys[string(key)] = true
	if !reads.running {
		reads.running = true
		go r.serve(c, at)
	}
	return reads.next // set before serve can take it: it needs the lock
}

// serve reads until nobody asks any more.
func (r *OffsetReader) serve(c Config, at offsetSource) {
	for {
		r.mu.Lock()
		read := r.reads[at].next
		r.reads[at].next = nil
		if read == nil {
			delete(r.reads, at)
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), readLimit)
		read.values, read.err = r.readKeys(ctx, c, at.TopicPartition, read.keys)
		cancel()
		close(read.done)
	}
}

// readKeys returns the last values of keys in a partition, without those that have none.
func (r *OffsetReader) readKeys(ctx context.Context, c Config, tp TopicPartition, keys map[string]bool) (found map[string][]byte, err error) {
	a, done, err := r.Admins.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { done(err) }()
	found = map[string][]byte{}
	err = ReadToEnd(ctx, c, a, tp.Topic, []int32{tp.Partition}, func(m Fetched) error {
		if key, ok := canonical(m.Key, keys); ok {
			found[key] = bytes.Clone(m.Value)
		}
		return nil
	})
	return found, err
}

// canonical is a stored key as this package writes it, if it is wanted. Keys are compared as JSON: another writer may order members otherwise.
func canonical(stored []byte, wanted map[string]bool) (string, bool) {
	if wanted[string(stored)] {
		return string(stored), true
	}
	var x any
	if json.Unmarshal(stored, &x) != nil {
		return "", false
	}
	c, err := compactJSON(x)
	return string(c), err == nil && wanted[string(c)]
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
