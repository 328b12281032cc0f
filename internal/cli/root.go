package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/tlsfile"
)

// Version and Commit are set by the build.
var (
	Version = "dev"
	Commit  = "unknown"
)

// Main runs the command line and returns the exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	if err := root.ExecuteContext(context.Background()); err != nil {
		if !errors.Is(err, context.Canceled) {
			fmt.Fprintf(errOut, "millrace: %v\n", err)
		}
		if _, ok := errors.AsType[*fault.Error](err); !ok {
			return 1
		}
		return fault.Exit(err)
	}
	return 0
}

// Command is the command line as a whole, for the reference that is made of it.
func Command() *cobra.Command { return newRoot() }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "millrace",
		Short: "Change data capture, Kafka Connect's API and functions between topics, in one binary",
		Long: "Millrace moves changes from databases through Kafka topics and functions of yours into other systems, exactly once.\n\n" +
			"  millrace node                        run a node; with no flag at all a whole system\n" +
			"  millrace connector create -f x.json  create a connector\n" +
			"  millrace cluster status              look at the cluster",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.New(fault.Invalid, "%v; see %s --help", err, cmd.CommandPath())
	})
	c := &client{}
	c.flags(root.PersistentFlags())
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return c.connect() }
	root.PersistentFlags().BoolVar(&c.json, "json", false, "Print JSON instead of tables.")
	root.AddCommand(newNodeCommand(), newConnectorCommand(c), newClusterCommand(c), newWorkerCommand(c), newTopicCommand(c), newDLQCommand(c), newFunctionCommand(c), newVerifyCommand(c), newApplyCommand(c), newLoggersCommand(c), newLoginCommand(), newDoctorCommand(c), newMigrateCommand(c), newHealthCommand(c), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "millrace %s (%s)\n", Version, Commit)
		},
	})
	return root
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// client is what the commands share.
type client struct {
	url       string
	files     tlsfile.Files
	transport http.RoundTripper // nil: the default
	user      string            // name:password
	token     string
	json      bool
}

func (c *client) api() *api.Client {
	u := c.url
	if !strings.Contains(u, "://") {
		u = "http://" + u
	}
	a := api.NewClient(u)
	a.HTTP.Transport = c.transport
	if a.Token = c.token; c.user != "" {
		a.User, a.Password, _ = strings.Cut(c.user, ":")
	}
	return a
}

// show prints v as JSON, or the table.
func (c *client) show(cmd *cobra.Command, v any, table func(w io.Writer)) error {
	if c.json {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	table(w)
	return w.Flush()
}
