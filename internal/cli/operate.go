package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

func (c *client) members() *cobra.Command {
	return &cobra.Command{Use: "members", Short: "Show the coordinators: who votes, who leads, who is away", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		k, err := c.api().Cluster(cmd.Context())
		if err != nil {
			return err
		}
		members := []api.Node{}
		for _, n := range k.Nodes {
			if n.Coordinator {
				members = append(members, n)
			}
		}
		return c.show(cmd, members, func(w io.Writer) {
			fmt.Fprintln(w, "NODE\tVOTE\tSTATE\tCLUSTER\tVERSION\tPROTOCOL")
			for _, n := range members {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", n.ID, n.Vote, nodeState(n), n.Cluster, n.Version, n.Protocol)
			}
		})
	}}
}

func (c *client) remove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NODE", Short: "Take a node out of the cluster: a dead one, or a live coordinator, which ends", Args: cobra.ExactArgs(1),
		Long: "Take a node out of the cluster for good. A coordinator no longer counts for the quorum; if it is alive its tasks move and it ends.\n" +
			"If it leads, leadership is handed over first. To let the node join again, start it with an empty --data directory.",
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := c.api().Cluster(cmd.Context())
			if err != nil {
				return err
			}
			id := args[0]
			if k.Leader == id {
				if _, err := c.api().TransferLeadership(cmd.Context(), ""); err != nil {
					return err
				}
			}
			if err := c.onceLed(cmd.Context(), func() error { return c.api().RemoveNode(cmd.Context(), id) }); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", id)
			return nil
		},
	}
}

// onceLed calls f again while leadership is on its way from one node to another.
func (c *client) onceLed(ctx context.Context, f func() error) error {
	for until := time.Now().Add(5 * time.Second); ; {
		err := f()
		if err == nil || fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "no known leader") || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *client) transfer() *cobra.Command {
	return &cobra.Command{Use: "transfer [NODE]", Short: "Hand leadership to another coordinator", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		to := strings.Join(args, "")
		leader, err := c.api().TransferLeadership(cmd.Context(), to)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s leads\n", leader)
		return nil
	}}
}

func (c *client) backup() *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Write the cluster's state into a file; - for standard output", Args: cobra.ExactArgs(1),
		Long: "Write connectors, their target states and task configs into a file. Offsets are in Kafka and not in it. Secrets are in it as the\n" +
			"references that they are in the configs; what a config says in clear is in it in clear, so only its owner may read the file.",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := c.api().Backup(cmd.Context())
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(b, "", "  ")
			if err != nil {
				return err
			}
			text = append(text, '\n')
			if args[0] == "-" {
				_, err := cmd.OutOrStdout().Write(text)
				return err
			}
			if err := writeWhole(args[0], text); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d connectors of cluster %s\n", args[0], len(b.Connectors), b.ClusterID)
			return nil
		},
	}
}

// writeWhole writes a file that is there whole or not at all, for its owner only.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return fault.New(fault.Invalid, "write %s: %v", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func (c *client) restore() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Put a backup's connectors into a fresh cluster", Args: cobra.ExactArgs(1),
		Long: "Put a backup's connectors into a fresh cluster. Their tasks go on where their offsets in Kafka are. The cluster that the backup is of\n" +
			"must not run any more: both would run the same tasks.",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fault.New(fault.Invalid, "read backup: %v", err)
			}
			var b api.Backup
			if err := json.Unmarshal(text, &b); err != nil {
				return fault.New(fault.Invalid, "%s is no backup: %v", args[0], err)
			}
			out, err := c.api().Restore(cmd.Context(), &b, force)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d connectors are restored\n", len(out.Connectors))
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "Replace the connectors that the cluster has.")
	return cmd
}

func newWorkerCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "worker", Short: "Run workers"}
	var timeout time.Duration
	drain := &cobra.Command{
		Use: "drain NODE", Short: "Move all tasks off a worker, and keep them off until undrain", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.api().Drain(cmd.Context(), args[0], true); err != nil {
				return err
			}
			return c.untilEmpty(cmd, args[0], timeout)
		},
	}
	drain.Flags().DurationVar(&timeout, "timeout", time.Minute, "How long to wait until the tasks have moved; 0: not at all.")
	cmd.AddCommand(drain, &cobra.Command{
		Use: "undrain NODE", Short: "Let a drained worker take its share of the tasks again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.api().Drain(cmd.Context(), args[0], false) },
	})
	return cmd
}

// untilEmpty waits until a worker that is being drained has nothing left.
func (c *client) untilEmpty(cmd *cobra.Command, id string, timeout time.Duration) error {
	if timeout == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	var left []string
	for {
		if k, err := c.api().Cluster(ctx); err == nil {
			left = nil
			for _, n := range k.Nodes {
				if n.ID == id {
					left = n.Units
				}
			}
			if len(left) == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is drained\n", id)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "%s still runs %s: no other worker may run them (placement.labels), or they are still on the move", id, strings.Join(left, ", "))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
