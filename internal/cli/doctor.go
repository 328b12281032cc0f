package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
)

// finding is something that is wrong, and what to do about it.
type finding struct {
	Severity string `json:"severity"` // error: it does not work; warning: it will hurt some day
	Part     string `json:"part"`
	Message  string `json:"message"`
	Fix      string `json:"fix"`
}

const (
	severe = "error"
	minor  = "warning"
)

const doctorExit = "Exits with 0 when nothing is wrong, 1 with warnings only, and 5 with an error among the findings."

func newDoctorCommand(c *client) *cobra.Command {
	var brokers []string
	var trial bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong with the cluster and its brokers, and say the fix", Args: cobra.NoArgs,
		Long: "Look at the cluster's quorum and workers, at each node's clock, disk and way to the others, and at the Kafka brokers, which are reached from here. " + doctorExit,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			cmd.SetContext(ctx)
			list, cluster := c.examineCluster(ctx)
			if cluster != nil {
				list = append(list, c.examineNodes(ctx, cluster)...)
			}
			if len(brokers) > 0 || cluster != nil && (!cluster.EmbeddedBroker || trial) {
				list = append(list, c.examineBrokers(cmd, brokers, trial)...)
			}
			return c.report(cmd, list)
		},
	}
	cmd.Flags().StringSliceVar(&brokers, "brokers", nil, "Kafka brokers. Empty: the cluster's.")
	cmd.Flags().BoolVar(&trial, "trial", false, "Also write a transaction, into a topic that is deleted afterwards.")
	addFlags(cmd.Flags(), config.KafkaClient())
	cmd.AddCommand(doctorSource(c))
	return cmd
}

func (c *client) examineCluster(ctx context.Context) (list []finding, k *api.Cluster) {
	k, err := c.api().Cluster(ctx)
	if err != nil {
		return []finding{{severe, "node", err.Error(), "Start the node, or name another with --url; its log says why it has no leader."}}, nil
	}
	if err := c.api().Ready(ctx); err != nil {
		list = append(list, finding{severe, "node", err.Error(), "The node's log says what it waits for."})
	}
	voters, alive, workers := 0, 0, 0
	for _, n := range k.Nodes {
		if n.Vote == "voter" {
			voters++
			if n.Alive {
				alive++
			}
		}
		if n.Worker && n.Alive && !n.Drained {
			workers++
		}
		if !n.Alive {
			list = append(list, finding{minor, "node " + n.ID, "It is away.", "Start it again, or take it out: millrace cluster remove " + n.ID})
		}
		if n.Alive && n.Version != k.Version {
			list = append(list, finding{minor, "node " + n.ID, fmt.Sprintf("It runs version %s, the node that was asked %s.", n.Version, k.Version), "Finish the upgrade."})
		}
	}
	if k.Leader == "" {
		list = append(list, finding{severe, "quorum", "No leader is known.", "Start coordinators until a majority runs."})
	}
	switch {
	case voters > 1 && alive == voters/2+1:
		list = append(list, finding{minor, "quorum", fmt.Sprintf("%d of %d coordinators are alive: one more lost, and nothing can be changed.", alive, voters), "Start the others, or add coordinators."})
	case voters == 2:
		list = append(list, finding{minor, "quorum", "2 coordinators have no majority without each other.", "Add a third."})
	}
	if workers == 0 {
		list = append(list, finding{severe, "workers", "No worker is alive and undrained: no task runs.", "Start one, or millrace worker undrain NODE."})
	}
	return list, k
}

func (c *client) examineBrokers(cmd *cobra.Command, brokers []string, trial bool) (list []finding) {
	k, a, err := c.kafka(cmd, brokers)
	if err != nil {
		return []finding{{severe, "brokers", err.Error(), "Check the addresses, their advertised.listeners, and the kafka-… settings of TLS and login."}}
	}
	defer a.Close()
	if trial {
		if err := tryTransaction(cmd.Context(), k, a); err != nil {
			list = append(list, finding{severe, "brokers", fmt.Sprintf("A transaction does not work: %v", err), "Allow the user to create and write topics and to use transactional ids; the brokers' log says the rest."})
		}
	}
	in, err := a.Inspect(cmd.Context())
	if err != nil {
		return append(list, finding{minor, "brokers", fmt.Sprintf("Their settings can't be read: %v", err), "Allow the user DescribeConfigs on the cluster."})
	}
	return append(list, judgeBrokers(in)...)
}

// judgeBrokers looks for settings that exactly-once does not go with.
func judgeBrokers(in kafka.Inspection) (list []finding) {
	number := func(key string) (int, bool) {
		n, err := strconv.Atoi(in.Settings[key])
		return n, err == nil
	}
	const factor, isr = "transaction.state.log.replication.factor", "transaction.state.log.min.isr"
	if n, ok := number(factor); ok && n > in.Brokers {
		list = append(list, finding{
			severe, "brokers", fmt.Sprintf("%s=%d with %d broker(s): no transaction can begin unless __transaction_state is there already.", factor, n, in.Brokers),
			fmt.Sprintf("Set %s=%d, or add brokers.", factor, in.Brokers),
		})
	} else if ok && n < 3 && in.Brokers >= 3 {
		list = append(list, finding{minor, "brokers", fmt.Sprintf("%s=%d: transactions stop when one broker does.", factor, n), "Set it to 3, and add replicas to __transaction_state."})
	}
	if n, ok := number(isr); ok && n > in.Brokers {
		list = append(list, finding{severe, "brokers", fmt.Sprintf("%s=%d with %d broker(s): no transaction can commit.", isr, n, in.Brokers), fmt.Sprintf("Set %s to at most %d.", isr, in.Brokers)})
	}
	if n, ok := number("message.max.bytes"); ok && n < 1<<20 {
		list = append(list, finding{minor, "brokers", fmt.Sprintf("message.max.bytes=%d: a larger row fails its task.", n), "Raise message.max.bytes to 1048588, Kafka's default, or more."})
	}
	if in.Settings["auto.create.topics.enable"] == "true" {
		list = append(list, finding{minor, "brokers", "auto.create.topics.enable=true: a mistyped topic is made instead of refused.", "Set auto.create.topics.enable=false; Millrace creates its topics itself."})
	}
	return list
}

func doctorSource(c *client) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "source -f FILE [key=value…]", Short: "Find what is wrong with the system that a connector connects to, and say the fix",
		Long: "Look at a connector's config and at what it connects to, from here: references to secrets are resolved on this machine, and no node is needed. " + doctorExit,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := readDefinition(cmd.InOrStdin(), file, args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			list, err := examineSource(ctx, withName(d.config, d.name))
			if err != nil {
				return err
			}
			return c.report(cmd, list)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", fileHelp)
	return cmd
}

func examineSource(ctx context.Context, given map[string]string) (list []finding, err error) {
	p, ok := connectors.Lookup(given[config.ConnectorClass])
	if !ok {
		return nil, fault.New(fault.Invalid, "connector.class %q is not known; `millrace connector plugins` lists the classes", given[config.ConnectorClass])
	}
	for _, x := range config.Check(ctx, p, given) {
		list = append(list, finding{severe, x.Key, x.Message, ""}) // a problem's message says the way out
	}
	if len(list) > 0 || p.Diagnose == nil {
		return list, nil
	}
	_, resolved, _ := config.Parse(config.Full(p), given)
	found, err := p.Diagnose(ctx, resolved)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "%v", config.NewRedactor(given).Error(err))
	}
	for _, d := range found {
		list = append(list, finding{minor, p.Class, d.Message, d.Fix})
	}
	return list, nil
}

// report shows findings and returns the error that sets the exit code.
func (c *client) report(cmd *cobra.Command, list []finding) error {
	if list == nil {
		list = []finding{}
	}
	errs := 0
	err := c.show(cmd, list, func(w io.Writer) {
		for _, f := range list {
			fmt.Fprintf(w, "%s: %s: %s\n", f.Severity, f.Part, f.Message)
			if f.Fix != "" {
				fmt.Fprintf(w, "  fix: %s\n", f.Fix)
			}
		}
		if len(list) == 0 {
			fmt.Fprintln(w, "nothing is wrong")
		}
	})
	for _, f := range list {
		if f.Severity == severe {
			errs++
		}
	}
	switch {
	case err != nil || len(list) == 0:
		return err
	case errs > 0:
		return fault.New(fault.Unavailable, "%d error(s), %d warning(s)", errs, len(list)-errs)
	}
	return errors.New(strconv.Itoa(len(list)) + " warning(s)")
}
