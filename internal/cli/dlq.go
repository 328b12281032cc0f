package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
)

// Headers of dead letters: Kafka Connect's, and what a replayed record says of itself.
const (
	deadPrefix     = "__connect.errors."
	replayedHeader = "millrace.replayed"
)

func newDLQCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "dlq", Short: "Look at records that could not be handled, and replay them"}
	q := &dlq{client: c}
	cmd.PersistentFlags().StringSliceVar(&q.brokers, "brokers", nil, "Kafka brokers. Empty: the cluster's.")
	addFlags(cmd.PersistentFlags(), config.KafkaClient())
	cmd.AddCommand(q.listCommand(), q.showCommand(), q.replayCommand())
	return cmd
}

type dlq struct {
	*client
	brokers []string
}

// selection is which dead letters a command is about.
type selection struct {
	topic     string
	connector string
	partition int32
	from, to  int64
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.connector, "connector", "", "Only what this connector could not handle.")
	cmd.Flags().Int32Var(&s.partition, "partition", -1, "Only this partition of the dead letter topic.")
	cmd.Flags().Int64Var(&s.from, "from", 0, "First offset of that partition.")
	cmd.Flags().Int64Var(&s.to, "to", -1, "Last offset of that partition, inclusive.")
}

func (s *selection) check(cmd *cobra.Command) error {
	if s.partition < 0 && (cmd.Flags().Changed("from") || cmd.Flags().Changed("to")) {
		return fault.New(fault.Invalid, "--from and --to are offsets of one partition: say which with --partition")
	}
	if s.to >= 0 && s.to < s.from {
		return fault.New(fault.Invalid, "--to %d comes before --from %d", s.to, s.from)
	}
	return nil
}

// letter is a dead letter.
type letter struct {
	kafka.Fetched
	// Origin is the topic that the record was in, or was meant for when a source could not write it: then OriginOffset is -1.
	Origin          string
	OriginPartition int32
	OriginOffset    int64
	Connector       string
	Task            string
	Stage           string
	Reason          string
}

func letterOf(m kafka.Fetched) letter {
	l := letter{Fetched: m, OriginPartition: -1, OriginOffset: -1}
	for _, h := range m.Headers {
		key, ours := strings.CutPrefix(h.Key, deadPrefix)
		if !ours {
			continue
		}
		v := string(h.Value)
		switch key {
		case "topic":
			l.Origin = v
		case "partition":
			if n, err := strconv.ParseInt(v, 10, 32); err == nil {
				l.OriginPartition = int32(n)
			}
		case "offset":
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				l.OriginOffset = n
			}
		case "connector.name":
			l.Connector = v
		case "task.id":
			l.Task = v
		case "stage":
			l.Stage = v
		case "exception.message":
			l.Reason = v
		}
	}
	return l
}

func (l *letter) origin() string {
	switch {
	case l.Origin == "":
		return "-"
	case l.OriginOffset < 0:
		return "→ " + l.Origin
	}
	return fmt.Sprintf("%s-%d@%d", l.Origin, l.OriginPartition, l.OriginOffset)
}

// topics returns the dead letter topics that connectors name, with the connectors.
func (q *dlq) topics(ctx context.Context) (map[string][]string, error) {
	all, err := q.api().Expanded(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if i := all[name].Info; i != nil && i.Config[config.DeadTopic] != "" {
			out[i.Config[config.DeadTopic]] = append(out[i.Config[config.DeadTopic]], name)
		}
	}
	return out, nil
}

// resolve takes a connector's name for its dead letter topic; anything else is a topic.
func (q *dlq) resolve(ctx context.Context, s *selection) error {
	if len(q.brokers) > 0 {
		return nil // there may be no cluster to ask
	}
	i, err := q.api().Get(ctx, s.topic)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return nil
	case err != nil:
		return err
	case i.Config[config.DeadTopic] == "":
		return fault.New(fault.NotFound, "connector %s has no dead letter queue: set %s, and errors.tolerance=all", s.topic, config.DeadTopic)
	}
	s.connector, s.topic = cmp.Or(s.connector, s.topic), i.Config[config.DeadTopic]
	return nil
}

var errEnough = errors.New("enough")

// read calls each for the selected letters, in order within a partition; errEnough from it ends the reading.
func (s *selection) read(ctx context.Context, k kafka.Config, a *kafka.Admin, each func(letter) error) error {
	var only []int32
	if s.partition >= 0 {
		only = []int32{s.partition}
	}
	err := kafka.ReadToEnd(ctx, k, a, s.topic, only, func(m kafka.Fetched) error {
		if s.to >= 0 && m.Offset > s.to {
			return errEnough
		}
		l := letterOf(m)
		if m.Offset < s.from || s.connector != "" && l.Connector != "" && l.Connector != s.connector {
			return nil
		}
		return each(l)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	if errors.Is(err, kafka.ErrUnknownTopic) {
		return fault.New(fault.NotFound, "there is no topic %s (a dead letter queue is made with its first record)", s.topic)
	}
	return err
}

// reason is what dead letters of one cause have in common.
type reason struct {
	Connector string `json:"connector"`
	Stage     string `json:"stage"`
	Reason    string `json:"reason"`
	Records   int    `json:"records"`
	NewestMS  int64  `json:"newest_unix_ms"`
}

// maxReasons bounds what list keeps of one topic; what comes after is counted together.
const maxReasons = 100

type deadTopic struct {
	Topic      string    `json:"topic"`
	Connectors []string  `json:"connectors"`
	Records    int       `json:"records"`
	Reasons    []*reason `json:"reasons"`
}

func (d *deadTopic) add(l letter) {
	d.Records++
	r := &reason{Connector: l.Connector, Stage: l.Stage, Reason: general(l.Reason)}
	at := slices.IndexFunc(d.Reasons, func(x *reason) bool {
		return x.Connector == r.Connector && x.Stage == r.Stage && x.Reason == r.Reason
	})
	switch {
	case at >= 0:
		r = d.Reasons[at]
	case len(d.Reasons) > maxReasons:
		r = d.Reasons[maxReasons]
	case len(d.Reasons) == maxReasons:
		r.Connector, r.Stage, r.Reason = "", "", "(other reasons)"
		fallthrough
	default:
		d.Reasons = append(d.Reasons, r)
	}
	r.Records++
	r.NewestMS = max(r.NewestMS, l.TimestampMS)
}

// general makes reasons that differ in their numbers only the same.
func general(text string) string {
	if text == "" {
		return "(no reason: " + config.DeadContext + " was off)"
	}
	first, _, _ := strings.Cut(text, "\n")
	var b strings.Builder
	digits := false
	for _, r := range first {
		if r >= '0' && r <= '9' {
			if !digits {
				b.WriteByte('#')
			}
			digits = true
			continue
		}
		digits = false
		b.WriteRune(r)
	}
	return b.String()
}

func (q *dlq) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List dead letter queues with their records, by reason", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			topics, err := q.topics(ctx)
			if err != nil {
				return err
			}
			k, a, err := q.kafka(cmd, q.brokers)
			if err != nil {
				return err
			}
			defer a.Close()
			out := []*deadTopic{}
			for _, topic := range slices.Sorted(maps.Keys(topics)) {
				d := &deadTopic{Topic: topic, Connectors: topics[topic], Reasons: []*reason{}}
				all := selection{topic: topic, partition: -1, to: -1}
				err := all.read(ctx, k, a, func(l letter) error { d.add(l); return nil })
				if err != nil && fault.KindOf(err) != fault.NotFound {
					return err
				}
				slices.SortStableFunc(d.Reasons, func(x, y *reason) int { return cmp.Compare(y.Records, x.Records) })
				out = append(out, d)
			}
			return q.show(cmd, out, func(w io.Writer) {
				fmt.Fprintln(w, "TOPIC\tCONNECTOR\tRECORDS\tSTAGE\tNEWEST\tREASON")
				for _, d := range out {
					fmt.Fprintf(w, "%s\t%s\t%d\t\t\t\n", d.Topic, strings.Join(d.Connectors, ","), d.Records)
					for _, r := range d.Reasons {
						fmt.Fprintf(w, "\t%s\t%d\t%s\t%s\t%s\n", orDash(r.Connector), r.Records, orDash(r.Stage), stamp(r.NewestMS), r.Reason)
					}
				}
			})
		},
	}
}

func stamp(ms int64) string { return time.UnixMilli(ms).Format("2006-01-02 15:04:05") }

func (q *dlq) showCommand() *cobra.Command {
	var s selection
	var limit int
	cmd := &cobra.Command{
		Use: "show TOPIC|CONNECTOR", Short: "Show dead letters: where they came from, why they failed, and what is in them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.topic = args[0]
			if err := errors.Join(s.check(cmd), q.resolve(cmd.Context(), &s)); err != nil {
				return err
			}
			k, a, err := q.kafka(cmd, q.brokers)
			if err != nil {
				return err
			}
			defer a.Close()
			out := []map[string]any{}
			var letters []letter
			err = s.read(cmd.Context(), k, a, func(l letter) error {
				letters = append(letters, l)
				out = append(out, map[string]any{
					"partition": l.Partition, "offset": l.Offset, "timestamp_ms": l.TimestampMS, "origin_topic": l.Origin, "origin_partition": l.OriginPartition,
					"origin_offset": l.OriginOffset, "connector": l.Connector, "task": l.Task, "stage": l.Stage, "reason": l.Reason,
					"key": textOrNil(l.Key), "value": rawOrText(l.Value),
				})
				if len(letters) == limit {
					return errEnough
				}
				return nil
			})
			if err != nil {
				return err
			}
			return q.show(cmd, out, func(w io.Writer) {
				for _, l := range letters {
					fmt.Fprintf(w, "%d@%d  %s  %s  %s-%s  %s\n  %s\n  key   %s\n  value %s\n", l.Partition, l.Offset, stamp(l.TimestampMS), l.origin(), orDash(l.Connector), orDash(l.Task),
						orDash(l.Stage), cmp.Or(l.Reason, general("")), shown(l.Key), shown(l.Value))
				}
				if len(letters) == limit {
					fmt.Fprintf(w, "(the first %d; --limit shows more)\n", limit)
				}
			})
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "Largest number of records to show; 0: all.")
	return cmd
}

func (q *dlq) replayCommand() *cobra.Command {
	var s selection
	var all, dry bool
	var target string
	cmd := &cobra.Command{
		Use: "replay TOPIC|CONNECTOR", Short: "Write dead letters back to the topics that they came from",
		Long: "Write dead letters back to the topics that they came from, or to another, without the headers that say why they failed.\n\n" +
			"They stay in the dead letter queue, and a second replay writes them a second time. Everybody who reads the topic gets them. They come after what\n" +
			"was written since: where a newer change of the same key went through, an older one that is replayed replaces it.",
		Example: "  millrace dlq replay orders-dead --all --dry-run\n  millrace dlq replay orders-dead --partition 0 --from 17 --to 20\n  millrace dlq replay orders-dead --all --to-topic orders.retry",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.topic = args[0]
			if err := s.check(cmd); err != nil {
				return err
			}
			if all == (s.partition >= 0) {
				return fault.New(fault.Invalid, "say what to replay: --all, or --partition with --from and --to")
			}
			if err := q.resolve(cmd.Context(), &s); err != nil {
				return err
			}
			k, a, err := q.kafka(cmd, q.brokers)
			if err != nil {
				return err
			}
			defer a.Close()
			r := &replay{target: target, dry: dry, counts: map[string]int{}}
			if err := r.run(cmd.Context(), k, a, &s); err != nil {
				return err
			}
			return q.show(cmd, map[string]any{"dry_run": dry, "records": r.counts}, func(w io.Writer) {
				verb := "replayed"
				if dry {
					verb = "would replay"
				}
				if len(r.counts) == 0 {
					fmt.Fprintln(w, "nothing to replay")
				}
				for _, t := range slices.Sorted(maps.Keys(r.counts)) {
					fmt.Fprintf(w, "%s %d to %s\n", verb, r.counts[t], t)
				}
			})
		},
	}
	s.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "All dead letters of the topic.")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "Only say what would be written.")
	cmd.Flags().StringVar(&target, "to-topic", "", "Topic to write to. Empty: that which each record came from.")
	return cmd
}

// replay writes dead letters back.
type replay struct {
	target string
	dry    bool
	counts map[string]int // records by topic

	producer *kafka.Producer
	pending  []kafka.Message
}

// replayBatch is how many records one transaction holds.
const replayBatch = 500

func (r *replay) run(ctx context.Context, k kafka.Config, a *kafka.Admin, s *selection) error {
	// First without a write: one letter that can't be placed stops it before anything has happened.
	plan := map[string]int{}
	if err := s.read(ctx, k, a, func(l letter) error {
		m, err := r.message(l)
		plan[m.Topic]++
		return err
	}); err != nil {
		return err
	}
	for topic := range plan {
		if _, err := a.Partitions(ctx, topic); err != nil {
			return fmt.Errorf("topic %s, to replay to: %w", topic, err)
		}
	}
	if r.dry || len(plan) == 0 {
		r.counts = plan
		return nil
	}
	// One replay of a queue at a time: a second fences the first.
	p, err := kafka.NewProducer(ctx, k, "millrace-replay-"+s.topic, kafka.ProducerOptions{})
	if err != nil {
		return err
	}
	defer p.End(ctx)
	r.producer = p
	if err := s.read(ctx, k, a, func(l letter) error {
		m, err := r.message(l)
		if err != nil {
			return err
		}
		r.pending = append(r.pending, m)
		if len(r.pending) < replayBatch {
			return nil
		}
		return r.flush(ctx)
	}); err != nil {
		return err
	}
	return r.flush(ctx)
}

func (r *replay) flush(ctx context.Context) error {
	err := r.producer.Send(ctx, r.pending)
	if err == nil {
		err = r.producer.Commit(ctx)
	}
	if err != nil {
		return fmt.Errorf("replay, after %v were written: %w", r.counts, err)
	}
	for _, m := range r.pending {
		r.counts[m.Topic]++
	}
	r.pending = r.pending[:0]
	return nil
}

// message is the record as it was, for where it came from.
func (r *replay) message(l letter) (kafka.Message, error) {
	m := kafka.Message{Topic: r.target, Partition: -1, Key: l.Key, Value: l.Value, TimestampMS: l.TimestampMS}
	if r.target == "" {
		switch {
		case l.Origin == "":
			return m, fault.New(fault.Invalid, "dead letter %d@%d does not say where it came from (%s was off): name a topic with --to-topic", l.Partition, l.Offset, config.DeadContext)
		case l.OriginOffset < 0:
			return m, fault.New(fault.Invalid, "dead letter %d@%d was refused by the source connector %s, before it was in topic %s, and is not in that topic's form: read the row anew, or name a topic with --to-topic",
				l.Partition, l.Offset, l.Connector, l.Origin)
		}
		m.Topic, m.Partition = l.Origin, l.OriginPartition
	}
	for _, h := range l.Headers {
		if !strings.HasPrefix(h.Key, deadPrefix) && h.Key != replayedHeader {
			m.Headers = append(m.Headers, h)
		}
	}
	m.Headers = append(m.Headers, kafka.Header{Key: replayedHeader, Value: fmt.Appendf(nil, "%s-%d@%d", l.Topic, l.Partition, l.Offset)})
	return m, nil
}
