package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

// followEvery is how often --follow asks for new lines.
const followEvery = time.Second

func logsCommand(c *client) *cobra.Command {
	var follow bool
	var task int32
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show the last log lines of a connector, of all nodes", Args: cobra.ExactArgs(1),
		Long: "Show the last log lines of a connector, of all nodes. Each node keeps some hundred in memory, since it was started; how much is said\n" +
			"depends on the level: millrace loggers set worker.NAME DEBUG --cluster.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p := logPrinter{c: c, cmd: cmd, seen: map[string]int64{}}
			if cmd.Flags().Changed("task") {
				p.task = &task
			}
			if err := p.print(cmd.Context(), args[0]); err != nil || !follow {
				return err
			}
			for {
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(followEvery):
				}
				// While the cluster elects a leader there is no answer; a connector that is gone has no more lines.
				if err := p.print(cmd.Context(), args[0]); err != nil && fault.KindOf(err) == fault.NotFound {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "F", false, "Go on with new lines until interrupted.")
	cmd.Flags().Int32Var(&task, "task", 0, "Only lines of this task.")
	return cmd
}

// logPrinter prints each line once.
type logPrinter struct {
	c    *client
	cmd  *cobra.Command
	task *int32
	// seen is the last line that was printed of each node.
	seen map[string]int64
	// away are nodes that the user knows to be missing.
	away string
}

func (p *logPrinter) print(ctx context.Context, name string) error {
	logs, err := p.c.api().Logs(ctx, name)
	if err != nil {
		return err
	}
	if away := fmt.Sprint(logs.Unreachable); away != p.away && len(logs.Unreachable) > 0 {
		fmt.Fprintf(p.cmd.ErrOrStderr(), "these nodes can't be asked, their lines are missing: %v\n", logs.Unreachable)
		p.away = away
	}
	for _, l := range logs.Lines {
		if l.Seq <= p.seen[l.Node] || p.task != nil && (l.Task == nil || *l.Task != *p.task) {
			continue
		}
		p.seen[l.Node] = l.Seq
		if err := p.line(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *logPrinter) line(l api.LogLine) error {
	if p.c.json {
		return json.NewEncoder(p.cmd.OutOrStdout()).Encode(l)
	}
	task := "-"
	if l.Task != nil {
		task = strconv.Itoa(int(*l.Task))
	}
	_, err := fmt.Fprintf(p.cmd.OutOrStdout(), "%s %-5s %s %s %s\n", time.UnixMilli(l.AtUnixMS).Format("15:04:05.000"), l.Level, l.Node, task, l.Text)
	return err
}
