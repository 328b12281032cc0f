package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/deadletter"
)

// Settings are the framework's keys of a connector's config, parsed.
type Settings struct {
	// Linger is how long a transaction waits for more once it has something; 0: it takes what is there.
	Linger time.Duration
	// MaxRecords and MaxBytes bound a transaction (I8).
	MaxRecords, MaxBytes int
	// AtLeastOnce has a source write without transactions.
	AtLeastOnce bool
	// Topics or TopicsRegex are the input of sinks and transforms.
	Topics      []string
	TopicsRegex *regexp.Regexp
	Group       string
	// FromLatest begins a group without offsets at the end rather than at the start.
	FromLatest  bool
	Creation    Creation
	Dead        deadletter.Policy
	DeadTopic   kafka.TopicConfig
	Retry       deadletter.Retry
	Compression string
	// Ledger is the topic of the ledger; empty: the task keeps none.
	Ledger string
	// Transform changes a record in place before it is written or put; false: it is dropped. nil: there is none.
	Transform func(*record.Record) (bool, error)
}

// Cut returns how many of msgs go on together: at least one, and no more than the bounds allow (I8).
func (s Settings) Cut(msgs []kafka.Fetched) int {
	n, bytes := 0, 0
	for n < len(msgs) && n < s.MaxRecords {
		bytes += len(msgs[n].Key) + len(msgs[n].Value)
		if n > 0 && bytes > s.MaxBytes {
			break
		}
		n++
	}
	return n
}

// FetchBytes is how much a consumer may ask for at a time, where most is what suits when nothing bounds it. Twice that can be held: one
// answer that is worked on, one that waits.
func (s Settings) FetchBytes(most int32) int32 { return int32(min(int64(most), int64(s.MaxBytes)/2)) }

// Creation is topic.creation.*: what topics are made with.
type Creation struct {
	Default kafka.TopicConfig
	Groups  []CreationGroup
}

// CreationGroup applies to the topics that it includes and does not exclude.
type CreationGroup struct {
	Include, Exclude []*regexp.Regexp
	Config           kafka.TopicConfig
}

// For returns what a topic is to be made with.
func (c Creation) For(topic string) kafka.TopicConfig {
	match := func(list []*regexp.Regexp) bool {
		return slices.ContainsFunc(list, func(r *regexp.Regexp) bool { return r.MatchString(topic) })
	}
	for _, g := range c.Groups {
		if match(g.Include) && !match(g.Exclude) {
			return g.Config
		}
	}
	return c.Default
}

// Deps is what a task's loop works with.
type Deps struct {
	Kafka        kafka.Config
	ClusterID    string
	OffsetsTopic string
	// Offsets reads source offsets, Admins are what asks the brokers and makes topics, and Turns says who may connect: for all tasks of the worker.
	Offsets  *kafka.OffsetReader
	Admins   *kafka.Admins
	Turns    *Turns
	Lease    *Held
	Gate     *Gate
	Progress *Progress
	Signals  *Signals
	Logger   *slog.Logger

	Connector   string
	Task, Tasks int
	Epoch       uint64
	// Voids say which of a sink's own offsets count no more.
	Voids []*clusterv1.VoidOffset
	// Config has its secrets resolved.
	Config   map[string]string
	Settings Settings
	// Live is the attempt that the loop is.
	Live *Live
	// Throttle keeps the task to max.records.per.second.
	Throttle *Throttle
	Faults   Faults
}

// TransactionalID is the task's own.
func (d Deps) TransactionalID() string {
	return kafka.TransactionalID(d.ClusterID, d.Connector, d.Task)
}

// VoidBelow is the epoch from which on a sink's own offset of a partition counts; see connectors.TaskContext.
func (d Deps) VoidBelow(tp connectors.TopicPartition) uint64 {
	var all uint64
	for _, v := range d.Voids {
		switch {
		case v.Topic == tp.Topic && v.Partition == tp.Partition:
			return v.Below
		case v.Topic == "":
			all = v.Below
		}
	}
	return all
}

// Topics makes sure that topics exist before they are written to, and remembers which do.
type Topics struct {
	admin    *kafka.Admin
	creation Creation
	known    map[string]bool
}

// NewTopics returns a Topics; it belongs to one goroutine.
func NewTopics(a *kafka.Admin, c Creation) *Topics {
	return &Topics{admin: a, creation: c, known: map[string]bool{}}
}

// Ensure makes the topic unless it is known or there.
func (t *Topics) Ensure(ctx context.Context, topic string) error {
	if t.known[topic] {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := t.admin.EnsureTopic(ctx, topic, t.creation.For(topic)); err != nil {
		return err
	}
	t.known[topic] = true
	return nil
}

// Input returns the partitions that a task of a sink or transform reads: those of all input topics in order, dealt out in turn to the tasks.
// Topics that do not exist yet are left out.
func (d Deps) Input(ctx context.Context, a *kafka.Admin) ([]kafka.TopicPartition, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	topics := slices.Clone(d.Settings.Topics)
	if d.Settings.TopicsRegex != nil {
		all, err := a.Topics(ctx)
		if err != nil {
			return nil, fmt.Errorf("list topics: %w", err)
		}
		for _, t := range all {
			if d.Settings.TopicsRegex.MatchString(t) && !strings.HasPrefix(t, "__") {
				topics = append(topics, t)
			}
		}
	}
	slices.Sort(topics)
	var all []kafka.TopicPartition
	for _, t := range slices.Compact(topics) {
		n, err := a.Partitions(ctx, t)
		if errors.Is(err, kafka.ErrUnknownTopic) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("partitions of topic %s: %w", t, err)
		}
		for i := range n {
			all = append(all, kafka.TopicPartition{Topic: t, Partition: i})
		}
	}
	var mine []kafka.TopicPartition
	for i, tp := range all {
		if i%max(d.Tasks, 1) == d.Task {
			mine = append(mine, tp)
		}
	}
	return mine, nil
}

// StartOffsets returns where to begin: at the stored offsets, and where there is none at the topic's start or end.
func (d Deps) StartOffsets(ctx context.Context, a *kafka.Admin, mine []kafka.TopicPartition, stored map[kafka.TopicPartition]int64) (map[kafka.TopicPartition]int64, error) {
	at := kafka.Earliest
	if d.Settings.FromLatest {
		at = kafka.Latest
	}
	out := map[kafka.TopicPartition]int64{}
	for _, tp := range mine {
		if o, ok := stored[tp]; ok {
			out[tp] = o
			continue
		}
		first, err := a.ListOffsets(ctx, tp.Topic, at)
		if err != nil {
			return nil, fmt.Errorf("first offset of %v: %w", tp, err)
		}
		out[tp] = first[tp]
	}
	return out, nil
}

// WatchInput returns ErrAgain when the task's input partitions are no longer mine, and ctx's error when it ends.
func (d Deps) WatchInput(ctx context.Context, a *kafka.Admin, mine []kafka.TopicPartition) error {
	wait := 500 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		now, err := d.Input(ctx, a)
		if err == nil && !slices.Equal(now, mine) {
			return ErrAgain
		}
		if len(mine) > 0 {
			wait = 5 * time.Second
		}
	}
}

// Lag sums what the consumer has still to read; -1 when a partition has not been asked yet.
func Lag(positions map[kafka.TopicPartition]kafka.Position) int64 {
	var sum int64
	for _, p := range positions {
		if p.Lag < 0 {
			return -1
		}
		sum += p.Lag
	}
	return sum
}
