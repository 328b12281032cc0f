package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

// step is what apply does with one connector.
type step struct {
	Connector string   `json:"connector"`
	File      string   `json:"file,omitempty"`
	Action    string   `json:"action"` // create, change, unchanged, delete
	Changes   []change `json:"changes"`
	want      definition
}

func newApplyCommand(c *client) *cobra.Command {
	var path string
	var dry, prune bool
	cmd := &cobra.Command{
		Use: "apply -f DIR|FILE", Short: "Make the cluster's connectors equal files", Args: cobra.NoArgs,
		Long: "Make the cluster's connectors equal files: *.json as Kafka Connect takes them for create, *.yaml, and *.properties, one connector each.\n" +
			"Shows what it does key by key, without secrets. Every config is checked before the first is changed. initial_state counts when a connector\n" +
			"is created, and is not enforced later.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			defs, files, bad, err := readAll(path, prune)
			if err != nil {
				return err
			}
			have, err := c.api().Expanded(cmd.Context())
			if err != nil {
				return err
			}
			steps := plan(defs, files, have, prune)
			more, err := c.check(cmd.Context(), steps)
			if err != nil {
				return err
			}
			if bad = append(bad, more...); len(bad) > 0 {
				return c.refuse(cmd.ErrOrStderr(), bad)
			}
			if err := c.show(cmd, steps, func(w io.Writer) { showPlan(w, steps) }); err != nil || dry {
				return err
			}
			return c.carryOut(cmd, steps)
		},
	}
	cmd.Flags().StringVarP(&path, "file", "f", "", "Directory with connectors' files, or one file.")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "Only check and show what would be done.")
	cmd.Flags().BoolVar(&prune, "prune", false, "Delete connectors that no file of the directory has.")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

// readAll reads the files. What is wrong with them is returned as problems, all at once.
func readAll(path string, prune bool) (defs []definition, files []string, bad []problem, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, nil, fault.New(fault.Invalid, "--file: %v", err)
	}
	list := []string{path}
	if st.IsDir() {
		list = nil
		for _, ext := range []string{"json", "yaml", "yml", "properties"} {
			more, err := filepath.Glob(filepath.Join(escapeGlob(path), "*."+ext))
			if err != nil {
				return nil, nil, nil, err
			}
			list = append(list, more...)
		}
		slices.Sort(list)
	} else if prune {
		return nil, nil, nil, fault.New(fault.Invalid, "--prune needs a directory: with one file it would delete every other connector")
	}
	if len(list) == 0 {
		return nil, nil, nil, fault.New(fault.Invalid, "%s has no .json, .yaml or .properties file", path)
	}
	owner := map[string]string{}
	for _, file := range list {
		d, err := readDefinition(nil, file, nil)
		switch {
		case err != nil:
			bad = append(bad, problem{File: file, Key: "file", Message: err.Error()})
		case d.name == "":
			bad = append(bad, problem{File: file, Key: "name", Message: "It is missing."})
		case d.config["name"] != "" && d.config["name"] != d.name:
			bad = append(bad, problem{File: file, Key: "name", Message: fmt.Sprintf("%s and the config's %s differ.", d.name, d.config["name"])})
		case owner[d.name] != "":
			bad = append(bad, problem{File: file, Key: "name", Message: fmt.Sprintf("%s has connector %s already.", owner[d.name], d.name)})
		case d.state != "" && !slices.Contains([]string{"RUNNING", "PAUSED", "STOPPED"}, d.state):
			bad = append(bad, problem{File: file, Key: "initial_state", Message: fmt.Sprintf("%q is none of RUNNING, PAUSED and STOPPED.", d.state)})
		default:
			owner[d.name] = file
			defs, files = append(defs, d), append(files, file)
		}
	}
	return defs, files, bad, nil
}

// escapeGlob has a directory's name taken as it is.
func escapeGlob(dir string) string {
	var out []rune
	for _, r := range dir {
		switch r {
		case '*', '?', '[', '\\':
			out = append(out, '\\')
		}
		out = append(out, r)
	}
	return string(out)
}

// plan compares files with the cluster. Deletes come last.
func plan(defs []definition, files []string, have map[string]api.Expanded, prune bool) []step {
	steps := []step{}
	named := map[string]bool{}
	for i, d := range defs {
		named[d.name] = true
		s := step{Connector: d.name, File: files[i], Action: "create", want: d}
		after := withName(d.config, d.name)
		if e, ok := have[d.name]; ok && e.Info != nil {
			s.Changes = changes(withName(e.Info.Config, d.name), after)
			s.Action = "change"
			if len(s.Changes) == 0 {
				s.Action = "unchanged"
			}
		} else {
			s.Changes = changes(nil, after)
		}
		steps = append(steps, s)
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.Connector, b.Connector) })
	if prune {
		for _, name := range slices.Sorted(maps.Keys(have)) {
			if !named[name] {
				steps = append(steps, step{Connector: name, Action: "delete", Changes: []change{}})
			}
		}
	}
	return steps
}

// check asks the cluster what is wrong with the configs that are new. Each may wait for its database, so several are asked at a time.
func (c *client) check(ctx context.Context, steps []step) ([]problem, error) {
	lists := make([][]problem, len(steps))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, s := range steps {
		if s.Action != "create" && s.Action != "change" {
			continue
		}
		g.Go(func() (err error) {
			lists[i], err = c.problems(ctx, s.Connector, s.want.config)
			for j := range lists[i] {
				lists[i][j].File = s.File
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(lists...), nil
}

func showPlan(w io.Writer, steps []step) {
	count := map[string]int{}
	for _, s := range steps {
		count[s.Action]++
		fmt.Fprintf(w, "%s %s\n", s.Action, s.Connector)
		showChanges(w, s.Changes)
	}
	fmt.Fprintf(w, "%d to create, %d to change, %d to delete, %d unchanged\n", count["create"], count["change"], count["delete"], count["unchanged"])
}

// carryOut does what the plan says and tells each step on the error output. It goes on after a failure: the others do not depend on it,
// and a second run does what is left.
func (c *client) carryOut(cmd *cobra.Command, steps []step) error {
	var failed []error
	for _, s := range steps {
		var err error
		switch s.Action {
		case "unchanged":
			continue
		case "create":
			_, err = c.api().CreateIn(cmd.Context(), s.want.state, s.Connector, s.want.config)
		case "change":
			_, err = c.api().PutConfig(cmd.Context(), s.Connector, s.want.config)
		case "delete":
			err = c.api().Delete(cmd.Context(), s.Connector)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", s.Action, s.Connector, err))
			continue
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s done\n", s.Connector, s.Action)
	}
	return errors.Join(failed...)
}
