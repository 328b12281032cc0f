package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/kafka"
)

func newClusterCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Look at the cluster and run it"}
	cmd.AddCommand(c.members(), c.remove(), c.transfer(), c.backup(), c.restore(), &cobra.Command{Use: "status", Short: "Show nodes, leader, tasks and lag", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		k, err := c.api().Cluster(cmd.Context())
		if err != nil {
			return err
		}
		names, err := c.api().Connectors(cmd.Context())
		if err != nil {
			return err
		}
		out := struct {
			*api.Cluster
			Connectors []*api.Progress `json:"connectors"`
		}{k, []*api.Progress{}}
		for _, n := range names {
			if p, err := c.api().Progress(cmd.Context(), n); err == nil {
				out.Connectors = append(out.Connectors, p)
			}
		}
		return c.show(cmd, out, func(w io.Writer) {
			broker := strings.Join(k.Brokers, ",")
			if k.EmbeddedBroker {
				broker += " (embedded)"
			}
			fmt.Fprintf(w, "cluster %s, term %d, brokers %s\n\n", k.ClusterID, k.Term, broker)
			fmt.Fprintln(w, "NODE\tROLES\tSTATE\tREST\tCLUSTER\tRUNS")
			for _, n := range k.Nodes {
				var roles []string
				if n.Coordinator {
					roles = append(roles, "coordinator")
				}
				if n.Worker {
					roles = append(roles, "worker")
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, strings.Join(roles, ","), nodeState(n), n.REST, n.Cluster, strings.Join(n.Units, " "))
			}
			fmt.Fprintln(w, "\nCONNECTOR\tTYPE\tSTATE\tTASKS\tRECORDS\tRATE/S\tLAG")
			for _, p := range out.Connectors {
				running, records, rate, behind := 0, uint64(0), 0.0, int64(0)
				for _, t := range p.Tasks {
					if t.State == "RUNNING" {
						running++
					}
					records += t.RecordsOut
					rate += t.RecordsPerSecond
					if behind >= 0 && t.LagRecords >= 0 {
						behind += t.LagRecords
					} else {
						behind = -1
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d\t%d\t%.0f\t%s\n", p.Name, p.Type, p.State, running, len(p.Tasks), records, rate, lag(behind))
			}
		})
	}})
	return cmd
}

// nodeState says how a node is in one word or two.
func nodeState(n api.Node) string {
	state := "away"
	switch {
	case n.Leader:
		state = "leader"
	case n.Alive:
		state = "alive"
	}
	if n.Drained {
		state += ", drained"
	}
	return state
}

func newTopicCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "topic", Short: "Look into topics"}
	var brokers []string
	cmd.PersistentFlags().StringSliceVar(&brokers, "brokers", nil, "Kafka brokers. Empty: the cluster's.")
	addFlags(cmd.PersistentFlags(), config.KafkaClient())
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List topics", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		_, a, err := c.kafka(cmd, brokers)
		if err != nil {
			return err
		}
		defer a.Close()
		topics, err := a.Topics(cmd.Context())
		if err != nil {
			return err
		}
		return c.show(cmd, topics, func(w io.Writer) {
			for _, t := range topics {
				fmt.Fprintln(w, t)
			}
		})
	}})
	var beginning, follow bool
	tail := &cobra.Command{Use: "tail TOPIC", Short: "Show what is in a topic and follow it", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		k, a, err := c.kafka(cmd, brokers)
		if err != nil {
			return err
		}
		defer a.Close()
		return c.tail(cmd, k, a, args[0], beginning, follow)
	}}
	tail.Flags().BoolVar(&beginning, "from-beginning", false, "Begin with the oldest record.")
	tail.Flags().BoolVar(&follow, "follow", true, "Go on when the end is reached.")
	cmd.AddCommand(tail)
	return cmd
}

// kafka connects to the brokers that are given, or else to the cluster's.
func (c *client) kafka(cmd *cobra.Command, brokers []string) (kafka.Config, *kafka.Admin, error) {
	k, err := clientBrokers(flagsGiven(cmd.Flags(), config.KafkaClient()), brokers)
	if err != nil {
		return k, nil, err
	}
	if len(k.Brokers) == 0 {
		info, err := c.api().Cluster(cmd.Context())
		if err != nil {
			return k, nil, err
		}
		k.Brokers = info.Brokers
	}
	a, err := kafka.NewAdmin(cmd.Context(), k)
	return k, a, err
}

func (c *client) tail(cmd *cobra.Command, k kafka.Config, a *kafka.Admin, topic string, beginning, follow bool) error {
	ctx := cmd.Context()
	where := kafka.Latest
	if beginning {
		where = kafka.Earliest
	}
	from, err := a.ListOffsets(ctx, topic, where)
	if err != nil {
		return fmt.Errorf("topic %s: %w", topic, err)
	}
	if !follow {
		return kafka.ReadToEnd(ctx, k, a, topic, nil, func(m kafka.Fetched) error { return c.print(cmd.OutOrStdout(), m) })
	}
	consumer, err := kafka.NewConsumer(ctx, k, kafka.ConsumerOptions{})
	if err != nil {
		return err
	}
	defer consumer.Close()
	consumer.Assign(from)
	for {
		msgs, err := consumer.Poll(ctx)
		if err != nil {
			return fmt.Errorf("topic %s: %w", topic, err)
		}
		for _, m := range msgs {
			if err := c.print(cmd.OutOrStdout(), m); err != nil {
				return err
			}
		}
	}
}

// print shows one record: Canal JSON in a line that people read, anything else as it is.
func (c *client) print(w io.Writer, m kafka.Fetched) error {
	if c.json {
		line := map[string]any{"partition": m.Partition, "offset": m.Offset, "timestamp_ms": m.TimestampMS, "key": textOrNil(m.Key), "value": rawOrText(m.Value)}
		return json.NewEncoder(w).Encode(line)
	}
	at := time.UnixMilli(m.TimestampMS).Format("15:04:05.000")
	var ev struct {
		Type     string               `json:"type"`
		Database string               `json:"database"`
		Table    string               `json:"table"`
		SQL      string               `json:"sql"`
		Data     []map[string]*string `json:"data"`
		Old      []map[string]*string `json:"old"`
	}
	if json.Unmarshal(m.Value, &ev) != nil || ev.Type == "" {
		_, err := fmt.Fprintf(w, "%s %d@%d  %s  %s\n", at, m.Partition, m.Offset, shown(m.Key), shown(m.Value))
		return err
	}
	if len(ev.Data) == 0 {
		_, err := fmt.Fprintf(w, "%s %d@%d  %s %s.%s  %s\n", at, m.Partition, m.Offset, ev.Type, ev.Database, ev.Table, ev.SQL)
		return err
	}
	for i, row := range ev.Data {
		var parts []string
		for _, col := range slices.Sorted(maps.Keys(row)) {
			part := col + "=" + value(row[col])
			if i < len(ev.Old) {
				old, changed := ev.Old[i][col]
				if !changed {
					continue
				}
				part = col + ": " + value(old) + " → " + value(row[col])
			}
			parts = append(parts, part)
		}
		if _, err := fmt.Fprintf(w, "%s %d@%d  %-6s %s.%s %s  %s\n", at, m.Partition, m.Offset, ev.Type, ev.Database, ev.Table, shown(m.Key), strings.Join(parts, "  ")); err != nil {
			return err
		}
	}
	return nil
}

func value(s *string) string {
	if s == nil {
		return "NULL"
	}
	return *s
}

func shown(b []byte) string {
	if b == nil {
		return "null"
	}
	return string(b)
}

func textOrNil(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}

func rawOrText(b []byte) any {
	if b == nil {
		return nil
	}
	if json.Valid(b) {
		return json.RawMessage(b)
	}
	return string(b)
}
