package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/migrate"
)

func newMigrateCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Take over connectors from another system"}
	cmd.AddCommand(fromKafkaConnect(c))
	return cmd
}

// moved is the outcome of one connector's move.
type moved struct {
	Name  string   `json:"name"`
	Steps []string `json:"steps"`
	Error string   `json:"error,omitempty"`
}

func fromKafkaConnect(c *client) *cobra.Command {
	var apply, back, dry bool
	m, s := &migrate.Migration{}, &shadowFlags{}
	cmd := &cobra.Command{
		Use: "kafka-connect URL [NAME…]", Short: "Move connectors from a running Kafka Connect to here, and back",
		Long: "Without --apply or --back it says of each connector, or of those that are named, what maps, what differs and what can't move, and changes nothing;\n" +
			"it fails if one of them can't move. With --shadow it runs them here beside the old ones, into topics of their own, compares record by record until a limit\n" +
			"or Ctrl-C, deletes the shadows and says what differs: it exits with 0 when nothing does, and with 4 when something does or nothing could be compared.\n" +
			"With --apply it stops each one there and starts it here where it was; with --back the other way round.",
		Example: "  millrace migrate kafka-connect http://connect:8083\n  millrace migrate kafka-connect http://connect:8083 shop --shadow --for 10m\n  millrace migrate kafka-connect http://connect:8083 shop --apply\n  millrace migrate kafka-connect http://connect:8083 shop --back",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			url := args[0]
			if !strings.Contains(url, "://") {
				url = "http://" + url
			}
			m.There, m.Here = api.NewClient(url), c.api()
			switch {
			case s.shadow:
				return c.runShadows(cmd, m, args[1:], s)
			case s.limited():
				return fault.New(fault.Invalid, "--records, --for, --caught-up, --keep and --remove go with --shadow")
			case apply && dry || !apply && !back:
				return showReports(cmd, c, m, args[1:])
			case dry:
				return fault.New(fault.Invalid, "--dry-run goes with --apply")
			case back && len(args) == 1:
				return fault.New(fault.Invalid, "--back needs the names of the connectors to hand back")
			case back:
				return c.moveAll(cmd, args[1:], m.Back)
			}
			names := args[1:]
			if len(names) == 0 {
				reports, err := m.Look(cmd.Context(), nil)
				if err != nil {
					return err
				}
				for _, r := range reports {
					names = append(names, r.Name)
				}
			}
			return c.moveAll(cmd, names, m.Apply)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&apply, "apply", false, "Move them here.")
	f.BoolVar(&back, "back", false, "Hand them back.")
	f.BoolVar(&dry, "dry-run", false, "With --apply: only show what would be moved, and with which keys.")
	f.StringToStringVar(&m.Set, "set", nil, "Key of the configs to add or replace, as KEY=VALUE; repeatable.")
	f.StringSliceVar(&m.Drop, "drop", nil, "Key of the configs to leave out; repeatable.")
	s.add(f)
	cmd.MarkFlagsMutuallyExclusive("apply", "back", "shadow")
	return cmd
}

func showReports(cmd *cobra.Command, c *client, m *migrate.Migration, names []string) error {
	reports, err := m.Look(cmd.Context(), names)
	if err != nil {
		return err
	}
	blocked := 0
	err = c.show(cmd, reports, func(w io.Writer) {
		fmt.Fprintln(w, "CONNECTOR\tTYPE\tSTATE\tOFFSETS\tCAN MOVE\tCLASS")
		for _, r := range reports {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", r.Name, r.Type, r.State, r.Offsets, yesNo(len(r.Blockers) == 0), r.Class)
		}
	})
	for _, r := range reports {
		if len(r.Blockers) > 0 {
			blocked++
		}
		if !c.json {
			printReport(cmd.OutOrStdout(), r)
		}
	}
	if err == nil && blocked > 0 {
		return fault.New(fault.Conflict, "%d of %d connectors can't move as they are", blocked, len(reports))
	}
	return err
}

func printReport(w io.Writer, r *migrate.Report) {
	fmt.Fprintf(w, "\n%s\n", r.Name)
	for _, b := range r.Blockers {
		fmt.Fprintf(w, "  can't move: %s\n", b)
	}
	same := 0
	for _, k := range r.Keys {
		switch k.Result {
		case migrate.Same:
			same++
		case migrate.Unsupported: // said among the blockers
		default:
			fmt.Fprintf(w, "  %s %s%s\n", k.Name, k.Result, because(k.Reason))
		}
	}
	if same > 0 {
		fmt.Fprintf(w, "  %d keys mean the same here\n", same)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
}

func because(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// moveAll moves one connector after the other. One that fails does not keep the others.
func (c *client) moveAll(cmd *cobra.Command, names []string, move migrate.Mover) error {
	var done []moved
	var failed []string
	for _, name := range names {
		r := moved{Name: name, Steps: []string{}}
		err := move(cmd.Context(), name, func(step string) {
			r.Steps = append(r.Steps, step)
			if !c.json {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", name, step)
			}
		})
		if err != nil {
			r.Error = err.Error()
			failed = append(failed, fmt.Sprintf("%s: %v", name, err))
		}
		done = append(done, r)
	}
	if c.json {
		if err := c.show(cmd, done, nil); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fault.New(fault.Conflict, "%s", strings.Join(failed, "\n"))
	}
	return nil
}
