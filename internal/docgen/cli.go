package docgen

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace/millrace/internal/cli"
	"github.com/millrace/millrace/internal/config"
)

// commands is the page of the command line: each command with its flags.
func commands() string {
	root := cli.Command()
	root.InitDefaultCompletionCmd()
	b := &strings.Builder{}
	b.WriteString("# Commands\n" + generated + "\nFlags that every command takes; the environment variable in brackets stands for a flag that is not given.\n")
	flagTable(b, root.PersistentFlags())
	b.WriteString("\n[The guide](../guides/cli.md) has exit codes and examples.\n")
	for _, c := range root.Commands() {
		command(b, c)
	}
	return b.String()
}

func command(b *strings.Builder, c *cobra.Command) {
	if c.Hidden || c.Name() == "help" || c.Parent().Name() == "completion" {
		return
	}
	level := strings.Count(c.CommandPath(), " ") + 1
	fmt.Fprintf(b, "\n%s %s\n", strings.Repeat("#", level), c.CommandPath())
	if c.Runnable() {
		fmt.Fprintf(b, "`%s`\n\n", c.UseLine())
	}
	fmt.Fprintf(b, "%s.\n", strings.TrimSuffix(c.Short, "."))
	switch {
	case c.Name() == "completion": // cobra's own words, with indented code of four shells
		b.WriteString("`millrace completion bash|zsh|fish|powershell` prints a script for the shell to read.\n")
	case c.Name() == "node":
		b.WriteString("Each [setting](node-config.md) is a flag; `--config` names a YAML file with settings (MILLRACE_CONFIG).\n")
	default:
		if more := strings.TrimSpace(c.Long + "\n\n" + c.Example); more != "" {
			fmt.Fprintf(b, "\n```text\n%s\n```\n", more)
		}
		flagTable(b, c.LocalFlags())
	}
	for _, sub := range c.Commands() {
		command(b, sub)
	}
}

// flagTable lists flags. Those that say how to reach the brokers are the same for all commands that have them, and on the page of the nodes.
func flagTable(b *strings.Builder, flags *pflag.FlagSet) {
	var rows []string
	brokers := false
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if _, ok := config.KafkaClient().Lookup(f.Name); ok {
			brokers = true
			return
		}
		name, def := "`--"+f.Name+"`", ""
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" {
			def = "`" + d + "`"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", name, def, cell(f.Usage)))
	})
	if len(rows) > 0 {
		b.WriteString("\n| flag | default | |\n|---|---|---|\n" + strings.Join(rows, ""))
	}
	if brokers {
		b.WriteString("\nAnd `--kafka-…`, as of a [node](node-config.md#kafka), where the brokers want TLS or a login.\n")
	}
}
