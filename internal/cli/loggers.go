package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/fault"
)

func newLoggersCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "loggers", Short: "Read and set log levels"}
	get := &cobra.Command{Use: "get [LOGGER]", Short: "Show the log levels of the node at --url", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		all, err := c.api().Loggers(cmd.Context())
		if err != nil {
			return err
		}
		if len(args) > 0 {
			l, ok := all[args[0]]
			if !ok {
				return fault.New(fault.NotFound, "logger %s is not known; `millrace loggers get` lists them", args[0])
			}
			clear(all)
			all[args[0]] = l
		}
		return c.show(cmd, all, func(w io.Writer) {
			for _, name := range slices.Sorted(maps.Keys(all)) {
				fmt.Fprintf(w, "%s\t%s\n", name, all[name].Level)
			}
		})
	}}
	var everywhere bool
	set := &cobra.Command{Use: "set LOGGER LEVEL", Short: "Set the level of a logger and all below it, until the node ends", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		return c.api().SetLogger(cmd.Context(), args[0], args[1], everywhere)
	}}
	set.Flags().BoolVar(&everywhere, "cluster", false, "On all nodes, not only on the one at --url.")
	cmd.AddCommand(get, set)
	return cmd
}
