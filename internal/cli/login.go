package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/login"
)

func newLoginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "login", Short: "Make lines for the nodes' file of logins (rest-logins)",
		Long: "Make lines for the file that the nodes' setting rest-logins names: who may use REST. They hold hashes only.\n\n" +
			"  printf %s \"$PASSWORD\" | millrace login user alice --role admin >> logins\n" +
			"  millrace login token ci --role read >> logins    # the token itself goes to standard error",
	}
	var role string
	user := &cobra.Command{
		Use: "user NAME", Short: "Read a password from standard input, print the user's line", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := io.ReadAll(cmd.InOrStdin())
			if err != nil {
				return err
			}
			line, err := login.UserLine(args[0], role, strings.TrimRight(string(b), "\r\n"))
			return printLine(cmd, line, err)
		},
	}
	token := &cobra.Command{
		Use: "token NAME", Short: "Make a token, print it to standard error, and its line", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, line, err := login.TokenLine(args[0], role)
			if err == nil {
				fmt.Fprintln(cmd.ErrOrStderr(), token)
			}
			return printLine(cmd, line, err)
		},
	}
	for _, sub := range []*cobra.Command{user, token} {
		sub.Flags().StringVar(&role, "role", "read", "What the login may do: read or admin.")
		cmd.AddCommand(sub)
	}
	return cmd
}

func printLine(cmd *cobra.Command, line string, err error) error {
	if err != nil {
		return fault.New(fault.Invalid, "%v", err)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}
