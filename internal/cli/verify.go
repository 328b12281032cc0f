package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/ledger"
)

func newVerifyCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "verify", Short: "Compare what was written with the ledger"}
	var brokers []string
	var book string
	topic := &cobra.Command{
		Use: "topic NAME", Short: "Read a topic and compare it with the ledger",
		Long: "Read a topic's committed records and compare them with what sources and functions have written down in the ledger (ledger=true): each record\n" +
			"there once, none missing, none from elsewhere. Exits with 1 when there are differences, and names them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, a, err := c.kafka(cmd, brokers)
			if err != nil {
				return err
			}
			_ = a.Close() // the auditor has its own
			audit := ledger.NewAuditor(ledger.AuditOptions{Kafka: k, Ledger: book, Topic: args[0]})
			r, err := settledAudit(cmd.Context(), audit)
			if err != nil {
				return err
			}
			if why := r.Skipped[args[0]]; why != "" {
				return fault.New(fault.Invalid, "topic %s can't be compared: %s", args[0], why)
			}
			r.Ledger = true
			r.Summarize()
			return c.showAudit(cmd, r)
		},
	}
	addFlags(topic.Flags(), config.KafkaClient())
	topic.Flags().StringSliceVar(&brokers, "brokers", nil, "Kafka brokers. Empty: the cluster's.")
	topic.Flags().StringVar(&book, "ledger", ledger.Topic, "Topic of the ledger.")
	cmd.AddCommand(topic)
	return cmd
}

// settledAudit compares, and a few times more while transactions are on their way: each time only what is new.
func settledAudit(ctx context.Context, audit *ledger.Auditor) (*api.Audit, error) {
	for try := 0; ; try++ {
		if err := audit.Round(ctx); err != nil {
			return nil, err
		}
		if r := audit.Report(); r.Pending == 0 || try == 4 {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func auditCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "audit NAME", Short: "Show how a connector's topics compare with its ledger, as the cluster's auditor last found them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.api().Audit(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.showAudit(cmd, r)
		},
	}
}

// showAudit prints an audit; differences make it fail.
func (c *client) showAudit(cmd *cobra.Command, r *api.Audit) error {
	err := c.show(cmd, r, func(w io.Writer) {
		fmt.Fprintln(w, r.Summary)
		if r.Pending+r.Expired+r.Uncovered > 0 {
			fmt.Fprintf(w, "not compared: %d batches still to do, %d records expired before, %d records older than the ledger\n", r.Pending, r.Expired, r.Uncovered)
		}
		for _, t := range slices.Sorted(maps.Keys(r.Skipped)) {
			fmt.Fprintf(w, "not compared: %s: %s\n", t, r.Skipped[t])
		}
		if r.AtUnixMS > 0 {
			fmt.Fprintf(w, "at %s\n", time.UnixMilli(r.AtUnixMS).Format(time.DateTime))
		}
		if len(r.Differences) > 0 {
			fmt.Fprintln(w, "\nTOPIC PARTITION\tOFFSETS\tRECORDS\tWHAT\tDETAIL")
		}
		for _, d := range r.Differences {
			fmt.Fprintf(w, "%s-%d\t%d–%d\t%d\t%s\t%s\n", d.Topic, d.Partition, d.FromOffset, d.ToOffset, d.Records, d.Kind, d.Detail)
		}
	})
	if n := r.Missing + r.Extra + r.Changed; err == nil && n > 0 {
		return fmt.Errorf("%d records are not as the ledger says", n)
	}
	return err
}
