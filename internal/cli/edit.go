package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/internal/fault"
)

func validateCommand(c *client) *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "validate [NAME] [key=value…]", Short: "Look at a config without creating anything", RunE: func(cmd *cobra.Command, args []string) error {
		d, err := readDefinition(cmd.InOrStdin(), file, args)
		if err != nil {
			return err
		}
		list, err := c.problems(cmd.Context(), d.name, d.config)
		if err != nil {
			return err
		}
		err = c.show(cmd, list, func(w io.Writer) {
			for _, p := range list {
				fmt.Fprintf(w, "%s\t%s\n", p.Key, p.Message)
			}
			if len(list) == 0 {
				fmt.Fprintln(w, "the config is good")
			}
		})
		if err == nil && len(list) > 0 {
			return fault.New(fault.Invalid, "%d problem(s)", len(list))
		}
		return err
	}}
	cmd.Flags().StringVarP(&file, "file", "f", "", fileHelp)
	return cmd
}

func diffCommand(c *client) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "diff NAME [key=value…]", Short: "Show what a file would change in a connector's config; secrets are not shown", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := readDefinition(cmd.InOrStdin(), file, args)
			if err != nil {
				return err
			}
			i, err := c.api().Get(cmd.Context(), d.name)
			if err != nil {
				return err
			}
			list := changes(withName(i.Config, d.name), withName(d.config, d.name))
			return c.show(cmd, list, func(w io.Writer) {
				showChanges(w, list)
				if len(list) == 0 {
					fmt.Fprintln(w, "no difference")
				}
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", fileHelp)
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

func editCommand(c *client) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "edit NAME", Short: "Change a connector's config in $EDITOR; only the keys that were changed are sent", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := c.api().Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			before := withName(i.Config, args[0])
			file, after, err := edited(cmd, before)
			if err != nil {
				return err
			}
			if err := c.patch(cmd, args[0], before, after, dry); err != nil {
				return fmt.Errorf("%w; your text is kept in %s", err, file)
			}
			return os.Remove(file)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "Only check the config and show what would change.")
	return cmd
}

// edited lets the user edit a config and returns what it became, and the file that it is in: for its owner only, as it may hold secrets.
func edited(cmd *cobra.Command, before map[string]string) (file string, after map[string]string, err error) {
	text, err := yaml.Marshal(before)
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp("", "millrace-*.yaml")
	if err != nil {
		return "", nil, err
	}
	_, err = fmt.Fprintf(f, "# Config of connector %s. A key that you delete is removed. Save and quit to apply.\n%s", before["name"], text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", nil, err
	}
	editor := envOr("VISUAL", envOr("EDITOR", "vi"))
	run := exec.CommandContext(cmd.Context(), "sh", "-c", editor+` "$1"`, "sh", f.Name()) //nolint:gosec // the user's own command
	run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := run.Run(); err != nil {
		return "", nil, fault.New(fault.Invalid, "the editor %q ended with %v; nothing was changed, and the text is in %s. Set EDITOR to another", editor, err, f.Name())
	}
	d, err := readDefinition(nil, f.Name(), nil)
	if err != nil {
		return "", nil, err
	}
	return f.Name(), d.config, nil
}

// patch checks a config, shows what it changes, and sends only that: keys that others change meanwhile stay theirs.
func (c *client) patch(cmd *cobra.Command, name string, before, after map[string]string, dry bool) error {
	list := changes(before, after)
	if len(list) == 0 {
		return c.show(cmd, list, func(w io.Writer) { fmt.Fprintln(w, "nothing was changed") })
	}
	bad, err := c.problems(cmd.Context(), name, after)
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return c.refuse(cmd.ErrOrStderr(), bad)
	}
	if !dry {
		patch := map[string]*string{}
		for _, x := range list {
			patch[x.Key] = nil
			if v, ok := after[x.Key]; ok {
				patch[x.Key] = &v
			}
		}
		if _, err := c.api().PatchConfig(cmd.Context(), name, patch); err != nil {
			return err
		}
	}
	return c.show(cmd, list, func(w io.Writer) { showChanges(w, list) })
}

func offsetsCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "offsets", Short: "Read, set or forget a connector's offsets"}
	get := &cobra.Command{Use: "get NAME", Short: "Print a connector's offsets as JSON, in the form that set takes", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		raw, err := c.api().OffsetsJSON(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), b.String())
		return nil
	}}
	var file string
	set := &cobra.Command{
		Use: "set NAME -f FILE", Short: "Change offsets of a stopped connector", Args: cobra.ExactArgs(1),
		Long: "Change offsets of a stopped connector (millrace connector stop NAME). Partitions that the file does not name keep theirs; an offset\nthat is null is forgotten.",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(file)
			if err != nil {
				return fault.New(fault.Invalid, "read offsets: %v", err)
			}
			if !json.Valid(b) {
				return fault.New(fault.Invalid, "%s is no JSON; `millrace connector offsets get %s` shows the form", file, args[0])
			}
			m, err := c.api().AlterOffsetsJSON(cmd.Context(), args[0], b)
			if err != nil {
				return err
			}
			return c.show(cmd, m, func(w io.Writer) { fmt.Fprintln(w, m.Message) })
		},
	}
	set.Flags().StringVarP(&file, "file", "f", "", "JSON file with the offsets.")
	_ = set.MarkFlagRequired("file")
	reset := &cobra.Command{Use: "reset NAME", Short: "Forget all offsets of a stopped connector: a source begins anew", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		m, err := c.api().ResetOffsets(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return c.show(cmd, m, func(w io.Writer) { fmt.Fprintln(w, m.Message) })
	}}
	cmd.AddCommand(get, set, reset)
	completeNames(c, cmd)
	return cmd
}

// completeNames lets the shell complete the connector's name of all commands below cmd that take one.
func completeNames(c *client, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if _, rest, ok := strings.Cut(sub.Use, " "); !ok || !strings.HasPrefix(rest, "NAME") {
			continue
		}
		sub.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			// Only here are the flags known: cobra's own command for completion takes none.
			if err := c.connect(); err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			names, err := c.api().Connectors(ctx)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			slices.Sort(names)
			return names, cobra.ShellCompDirectiveNoFileComp
		}
	}
}
