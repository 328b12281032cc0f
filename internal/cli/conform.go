package cli

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	spec "github.com/millrace/millrace/connectors/transform"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/worker/transform"
)

// conformFlags are what is known of the function.
type conformFlags struct {
	config, env, refuse map[string]string
	samples             string
	timeout             time.Duration
	verbose             bool
}

func functionTestCommand(c *client) *cobra.Command {
	f := &conformFlags{}
	cmd := &cobra.Command{
		Use: "test COMMAND|ADDRESS", Short: "Run the conformance kit against a function", Args: cobra.ExactArgs(1),
		Long: "Run the battery of the contract transform.v1 against a function in any language: a command line, which is launched as a worker would, or the address of one\n" +
			"that runs, host:port or unix:///path. It needs no cluster. A function may fail any record of the battery with a reason; --samples are values that it must not fail.\n" +
			"Exits with 0 when all rules are kept, and with 1 when one is broken.",
		Example: "  millrace function test ./mask --config columns=email --samples orders.jsonl\n  millrace function test 'python3 mask.py' --refuse columns=\n  millrace function test localhost:9000",
		RunE:    func(cmd *cobra.Command, args []string) error { return c.conform(cmd, f, args[0]) },
	}
	cmd.Flags().StringToStringVar(&f.config, "config", nil, "Settings of the function, NAME=VALUE.")
	cmd.Flags().StringToStringVar(&f.env, "env", nil, "Environment of the command, NAME=VALUE.")
	cmd.Flags().StringToStringVar(&f.refuse, "refuse", nil, "Settings that the function must refuse, each together with those of --config.")
	cmd.Flags().StringVar(&f.samples, "samples", "", "File of values that the function must not fail, one a line.")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "How long the start and each rule may take.")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "Show what the function prints.")
	return cmd
}

func (c *client) conform(cmd *cobra.Command, f *conformFlags, target string) error {
	log := slog.New(slog.DiscardHandler)
	if f.verbose {
		log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	}
	o := transform.Conformance{Options: transform.Options{Env: f.env, Config: f.config, StartTimeout: f.timeout, BatchTimeout: f.timeout, Logger: log}}
	command, err := spec.Split(target)
	if err != nil || len(command) == 0 {
		return fault.New(fault.Invalid, "the command line %q can't be split: %v", target, err)
	}
	if isAddress(command) {
		o.Address = target
	} else {
		o.Command = command
		if o.Dir, err = os.Getwd(); err != nil { // so that ./function and its files are found
			return err
		}
	}
	for k, v := range f.refuse {
		wrong := map[string]string{k: v}
		for name, value := range f.config {
			if name != k {
				wrong[name] = value
			}
		}
		o.Refused = append(o.Refused, wrong)
	}
	if f.samples != "" {
		text, err := os.ReadFile(f.samples)
		if err != nil {
			return fault.New(fault.Invalid, "--samples: %v", err)
		}
		for line := range bytes.Lines(text) {
			if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
				o.Samples = append(o.Samples, line)
			}
		}
	}
	var list []transform.Checked
	kept := transform.Conform(cmd.Context(), o, func(r transform.Checked) { list = append(list, r) })
	if err := c.show(cmd, list, func(w io.Writer) {
		for _, r := range list {
			switch {
			case r.Skipped != "":
				fmt.Fprintf(w, "skip\t%s\t%s\n", r.Rule, r.Skipped)
			case r.Problem == "":
				fmt.Fprintf(w, "ok\t%s\t%s\n", r.Rule, r.Says)
			default:
				fmt.Fprintf(w, "BROKEN\t%s\t%s\n\t\t%s\n", r.Rule, r.Says, firstLine(r.Problem))
			}
		}
	}); err != nil {
		return err
	}
	if !kept {
		return fmt.Errorf("the function %s breaks the contract", target)
	}
	return nil
}

// isAddress tells unix:///path and host:port from a command.
func isAddress(words []string) bool {
	if len(words) != 1 {
		return false
	}
	if strings.HasPrefix(words[0], "unix://") {
		return true
	}
	_, port, err := net.SplitHostPort(words[0])
	_, number := strconv.ParseUint(port, 10, 16)
	return err == nil && number == nil
}
