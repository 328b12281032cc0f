package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

func newConnectorCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "connector", Short: "Manage connectors", Aliases: []string{"connectors"}}
	simple := func(use, short string, do func(context.Context, *api.Client, string) error, done string) *cobra.Command {
		return &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			if err := do(cmd.Context(), c.api(), args[0]); err != nil {
				return err
			}
			return c.show(cmd, map[string]string{"connector": args[0], "result": done}, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", args[0], done) })
		}}
	}
	cmd.AddCommand(
		createCommand(c), listCommand(c), statusCommand(c), validateCommand(c), pluginsCommand(c), restartCommand(c), eventsCommand(c), logsCommand(c), auditCommand(c), signalCommand(c), snapshotCommand(c), editCommand(c), diffCommand(c), offsetsCommand(c),
		&cobra.Command{Use: "get NAME", Short: "Print a connector's config as JSON", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			i, err := c.api().Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			b, err := json.MarshalIndent(i.Config, "", "  ")
			fmt.Fprintln(cmd.OutOrStdout(), string(b))
			return err
		}},
		simple("pause", "Pause a connector; its tasks stay where they are", func(ctx context.Context, a *api.Client, n string) error { return a.Pause(ctx, n) }, "pausing"),
		simple("resume", "Resume a paused or stopped connector", func(ctx context.Context, a *api.Client, n string) error { return a.Resume(ctx, n) }, "resuming"),
		simple("stop", "Stop a connector; its tasks end", func(ctx context.Context, a *api.Client, n string) error { return a.Stop(ctx, n) }, "stopped"),
		simple("delete", "Delete a connector; its topics and offsets stay", func(ctx context.Context, a *api.Client, n string) error { return a.Delete(ctx, n) }, "deleted"),
	)
	completeNames(c, cmd)
	return cmd
}

func createCommand(c *client) *cobra.Command {
	var file string
	var update bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "create [NAME] [key=value…]", Short: "Create a connector and wait until its tasks run",
		Example: "  millrace connector create -f shop.json\n  millrace connector create archive connector.class=file topics=orders file.path=/srv/archive",
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := readDefinition(cmd.InOrStdin(), file, args)
			if err != nil {
				return err
			}
			if d.name == "" {
				return fault.New(fault.Invalid, "the connector needs a name: as first argument, or in the file")
			}
			if update {
				_, err = c.api().PutConfig(cmd.Context(), d.name, d.config)
			} else {
				_, err = c.api().CreateIn(cmd.Context(), d.state, d.name, d.config)
			}
			if err != nil {
				return err
			}
			return c.awaitRunning(cmd, d.name, wait)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", fileHelp)
	cmd.Flags().BoolVar(&update, "update", false, "Replace the config of a connector that exists.")
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Second, "How long to wait for its tasks to run; 0: not at all.")
	return cmd
}

// awaitRunning waits until all tasks run, and shows why one does not.
func (c *client) awaitRunning(cmd *cobra.Command, name string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	var s *api.ConnectorStatus
	for {
		var err error
		if s, err = c.api().Status(cmd.Context(), name); err != nil {
			return err
		}
		up := s.Connector.State == "RUNNING" && len(s.Tasks) > 0
		for _, t := range s.Tasks {
			up = up && t.State == "RUNNING"
			if t.State == "FAILED" {
				return fault.New(fault.Unavailable, "connector %s was created, but its task %d fails: %s", name, t.ID, firstLine(t.Trace))
			}
		}
		if s.Connector.State == "FAILED" {
			return fault.New(fault.Unavailable, "connector %s was created, but it fails: %s", name, firstLine(s.Connector.Trace))
		}
		if up || s.Connector.State == "PAUSED" || s.Connector.State == "STOPPED" || time.Now().After(deadline) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return c.showStatus(cmd, s)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func listCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List connectors", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		all, err := c.api().Expanded(cmd.Context())
		if err != nil {
			return err
		}
		return c.show(cmd, all, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tTYPE\tCLASS\tSTATE\tTASKS")
			for _, name := range slices.Sorted(maps.Keys(all)) {
				e := all[name]
				if e.Status == nil || e.Info == nil {
					continue
				}
				running := 0
				for _, t := range e.Status.Tasks {
					if t.State == "RUNNING" {
						running++
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d/%d running\n", name, e.Info.Type, e.Info.Config["connector.class"], e.Status.Connector.State, running, len(e.Status.Tasks))
			}
		})
	}}
}

func statusCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "status NAME", Short: "Show a connector's state, progress and errors", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		s, err := c.api().Status(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if c.json {
			return c.showStatus(cmd, s)
		}
		p, err := c.api().Progress(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return c.show(cmd, p, func(w io.Writer) {
			fmt.Fprintf(w, "%s\t%s\t%s on %s\n", p.Name, p.Type, s.Connector.State, orDash(s.Connector.WorkerID))
			if s.Connector.Trace != "" {
				fmt.Fprintf(w, "  %s\n", firstLine(s.Connector.Trace))
			}
			fmt.Fprintln(w, "TASK\tSTATE\tWORKER\tRECORDS\tRATE/S\tLAG\tDETAIL")
			for _, t := range p.Tasks {
				fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%.0f\t%s\t%s\n", t.ID, shownState(t), orDash(t.Worker), t.RecordsOut, t.RecordsPerSecond, lag(t.LagRecords), details(t.Detail))
			}
			for _, t := range p.Tasks {
				if t.Stalled != nil {
					fmt.Fprintf(w, "task %d: stalled for %v: it waits for %s; last record %s\n", t.ID, since(t.Stalled.SinceUnixMS), t.Stalled.WaitsFor, ago(t.Stalled.LastRecordUnixMS))
				}
				if t.Retrying != "" {
					fmt.Fprintf(w, "task %d: tries again in place: %s\n", t.ID, firstLine(t.Retrying))
				}
				if t.Error != "" {
					fmt.Fprintf(w, "task %d: %s\n", t.ID, t.Error)
					switch {
					case t.State != "FAILED":
					case t.RetryAtUnixMS > 0:
						fmt.Fprintf(w, "  tries again in %v (failed %s)\n", max(0, time.Until(time.UnixMilli(t.RetryAtUnixMS))).Round(100*time.Millisecond), times(t.Attempts, t.MaxAttempts))
					default:
						fmt.Fprintf(w, "  does not try again by itself: mend the cause, then millrace connector restart %s\n", p.Name)
					}
				}
			}
		})
	}}
}

// shownState is Connect's state, or that the task does not move.
func shownState(t api.TaskProgress) string {
	if t.Stalled != nil {
		return "STALLED"
	}
	return t.State
}

func since(ms int64) time.Duration { return max(0, time.Since(time.UnixMilli(ms))).Round(time.Second) }

func ago(ms int64) string {
	if ms == 0 {
		return "none yet"
	}
	return since(ms).String() + " ago"
}

// times is "2 of 5 times", or "2 times" without a limit.
func times(n, limit int32) string {
	if limit == 0 {
		return fmt.Sprintf("%d times", n)
	}
	return fmt.Sprintf("%d of %d times", n, limit)
}

func eventsCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "events NAME", Short: "Show what has happened to a connector's tasks: failures, stalls, moves", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		e, err := c.api().Events(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return c.show(cmd, e, func(w io.Writer) {
			fmt.Fprintln(w, "TIME\tTASK\tWORKER\tEVENT\tDETAIL")
			for _, x := range e.Events {
				task := "-"
				if x.Task != nil {
					task = strconv.Itoa(int(*x.Task))
				}
				detail := x.Detail
				if x.Attempt > 0 {
					detail = strings.TrimSpace("failed " + times(x.Attempt, x.MaxAttempts) + "; " + detail)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", time.UnixMilli(x.AtUnixMS).Format("15:04:05.000"), task, orDash(x.Worker), x.Event, strings.TrimSuffix(detail, "; "))
			}
		})
	}}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func lag(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

func details(d map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(d)) {
		parts = append(parts, k+"="+d[k])
	}
	return strings.Join(parts, " ")
}

func (c *client) showStatus(cmd *cobra.Command, s *api.ConnectorStatus) error {
	return c.show(cmd, s, func(w io.Writer) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.Type, s.Connector.State)
		for _, t := range s.Tasks {
			fmt.Fprintf(w, "  task %d\t%s\t%s\t%s\n", t.ID, t.State, t.WorkerID, firstLine(t.Trace))
		}
	})
}

func pluginsCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "plugins", Short: "List connector classes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		list, err := c.api().Plugins(cmd.Context())
		if err != nil {
			return err
		}
		return c.show(cmd, list, func(w io.Writer) {
			fmt.Fprintln(w, "CLASS\tTYPE\tVERSION")
			for _, p := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", p.Class, p.Type, p.Version)
			}
		})
	}}
}

func signalCommand(c *client) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "signal NAME TYPE", Short: "Send a signal to a connector's tasks",
		Long: "Send a signal to a connector's tasks. The mysql connector takes execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and log,\nwith the data that Debezium's signals have.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if data != "" && !json.Valid([]byte(data)) {
				return fault.New(fault.Invalid, "--data is no JSON: %s", data)
			}
			return sendSignal(cmd, c, args[0], args[1], []byte(data))
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "The signal's data, a JSON object.")
	return cmd
}

// snapshotCommand is the signal that people send most, without JSON.
func snapshotCommand(c *client) *cobra.Command {
	var where string
	cmd := &cobra.Command{
		Use: "snapshot NAME TABLE...", Short: "Read captured tables anew, while their changes are streamed on",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := map[string]any{"data-collections": args[1:]}
			if where != "" {
				var conditions []map[string]string
				for _, table := range args[1:] {
					conditions = append(conditions, map[string]string{"data-collection": table, "filter": where})
				}
				in["additional-conditions"] = conditions
			}
			b, err := json.Marshal(in)
			if err != nil {
				return err
			}
			return sendSignal(cmd, c, args[0], "execute-snapshot", b)
		},
	}
	cmd.Flags().StringVar(&where, "where", "", "SQL condition that the rows must meet.")
	return cmd
}

func sendSignal(cmd *cobra.Command, c *client, name, kind string, data []byte) error {
	if err := c.api().Signal(cmd.Context(), name, api.Signal{Type: kind, Data: data}); err != nil {
		return err
	}
	return c.show(cmd, map[string]string{"connector": name, "result": "accepted"}, func(w io.Writer) { fmt.Fprintf(w, "%s has taken the signal %s\n", name, kind) })
}

func restartCommand(c *client) *cobra.Command {
	var failed bool
	cmd := &cobra.Command{Use: "restart NAME", Short: "Restart a connector and its tasks", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if err := c.api().Restart(cmd.Context(), args[0], true, failed); err != nil {
			return err
		}
		return c.show(cmd, map[string]string{"connector": args[0], "result": "restarting"}, func(w io.Writer) { fmt.Fprintf(w, "%s restarting\n", args[0]) })
	}}
	cmd.Flags().BoolVar(&failed, "only-failed", false, "Restart only what has failed.")
	return cmd
}
