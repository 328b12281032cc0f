package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

func newFunctionCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "function", Short: "Test functions, and look at what they use"}
	cmd.AddCommand(functionUsageCommand(c), functionTestCommand(c))
	return cmd
}

// functionUsage is what the function of a connector has used, over its tasks.
type functionUsage struct {
	Connector string `json:"connector"`
	api.FunctionUsage
}

func functionUsageCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "usage [NAME...]", Short: "Show what functions have used since their tasks started",
		Long: "Show what functions have used since their tasks started on their workers: calls, records, bytes, time in calls, memory times time, errors and starts.\n" +
			"A task that moves or restarts on another worker counts anew; the metrics millrace_function_* keep the history.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				all, err := c.api().Expanded(cmd.Context())
				if err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(all)) {
					if i := all[name].Info; i != nil && i.Config["connector.class"] == "transform" {
						args = append(args, name)
					}
				}
			}
			list := []functionUsage{}
			for _, name := range args {
				p, err := c.api().Progress(cmd.Context(), name)
				if err != nil {
					return err
				}
				if p.Type != "transform" {
					return fault.New(fault.Invalid, "connector %s is a %s: only transforms have a function", name, p.Type)
				}
				if u, used := sumUsage(p); used {
					list = append(list, u)
				}
			}
			return c.show(cmd, list, func(w io.Writer) {
				fmt.Fprintln(w, "CONNECTOR\tFUNCTION\tVERSION\tINSTANCES\tCALLS\tRECORDS IN\tOUT\tMB IN\tOUT\tBUSY S\tGB S\tERRORS\tCRASHES\tCOLD STARTS\tRESTARTS")
				for _, u := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t%d\t%d\t%d\t%d\n", u.Connector, u.Name, orDash(u.Version), u.Instances, u.Invocations, u.RecordsIn,
						u.RecordsOut, float64(u.BytesIn)/1e6, float64(u.BytesOut)/1e6, u.BusySeconds, u.GigabyteSeconds, u.RecordErrors, u.Crashes, u.ColdStarts, u.Restarts)
				}
			})
		},
	}
}

// sumUsage adds the tasks up; false: no function has run.
func sumUsage(p *api.Progress) (functionUsage, bool) {
	sum := functionUsage{Connector: p.Name}
	used := false
	for _, t := range p.Tasks {
		u := t.Function
		if u == nil {
			continue
		}
		used = true
		sum.Name, sum.Version = u.Name, u.Version
		sum.Instances += u.Instances
		sum.Invocations += u.Invocations
		sum.RecordsIn += u.RecordsIn
		sum.RecordsOut += u.RecordsOut
		sum.BytesIn += u.BytesIn
		sum.BytesOut += u.BytesOut
		sum.BusySeconds += u.BusySeconds
		sum.RecordErrors += u.RecordErrors
		sum.Crashes += u.Crashes
		sum.ColdStarts += u.ColdStarts
		sum.Restarts += u.Restarts
		sum.GigabyteSeconds += u.GigabyteSeconds
	}
	return sum, used
}
