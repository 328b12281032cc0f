package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/migrate"
)

// shadowFlags are those of a shadow run.
type shadowFlags struct {
	migrate.ShadowOptions
	shadow, remove bool
	brokers        []string
}

func (s *shadowFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&s.shadow, "shadow", false, "Run them here beside the old ones, into private topics, and compare what both write.")
	f.Int64Var(&s.Records, "records", 0, "With --shadow: end after so many records are compared.")
	f.DurationVar(&s.For, "for", 0, "With --shadow: end after this time, such as 10m.")
	f.BoolVar(&s.CaughtUp, "caught-up", false, "With --shadow: end when all is compared that was written when it began.")
	f.BoolVar(&s.Keep, "keep", false, "With --shadow: leave the shadow connectors and their topics.")
	f.BoolVar(&s.remove, "remove", false, "With --shadow: only delete what an earlier run has left.")
	f.StringSliceVar(&s.brokers, "brokers", nil, "With --shadow: the Kafka brokers. Empty: the cluster's.")
	addFlags(f, config.KafkaClient())
}

// limited says that flags were given that only a shadow run has.
func (s *shadowFlags) limited() bool {
	return s.Records != 0 || s.For != 0 || s.CaughtUp || s.Keep || s.remove
}

// runShadows compares connectors side by side, until a limit or Ctrl-C; what is to be deleted then is deleted. A second Ctrl-C ends at once.
func (c *client) runShadows(cmd *cobra.Command, m *migrate.Migration, names []string, s *shadowFlags) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	var err error
	if s.Kafka, s.Admin, err = c.kafka(cmd, s.brokers); err != nil {
		return err
	}
	defer s.Admin.Close()
	if s.remove {
		if len(names) == 0 {
			return fault.New(fault.Invalid, "--remove needs the names of the connectors whose shadows are to go")
		}
		for _, name := range names {
			if err := m.RemoveShadow(ctx, name, s.Admin); err != nil {
				return err
			}
		}
		return nil
	}
	if len(names) == 0 {
		reports, err := m.Look(ctx, nil)
		if err != nil {
			return err
		}
		for _, r := range reports {
			names = append(names, r.Name)
		}
	}
	var mu sync.Mutex // guards: the output
	s.Say = func(name, step string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", name, step)
	}
	found, errs := make([]*migrate.Equivalence, len(names)), make([]error, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() error {
			found[i], errs[i] = m.Shadow(ctx, name, s.ShadowOptions)
			return nil
		})
	}
	_ = g.Wait()
	return c.showEquivalence(cmd, names, found, errs)
}

// showEquivalence prints what was found, and returns an error unless all that was shadowed is equal.
func (c *client) showEquivalence(cmd *cobra.Command, names []string, found []*migrate.Equivalence, errs []error) error {
	var good []*migrate.Equivalence
	var failed, unequal []string
	shadowed := false
	for i, name := range names {
		e := found[i]
		if errs[i] != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", name, errs[i]))
			continue
		}
		good = append(good, e)
		shadowed = shadowed || e.Verdict != migrate.NotShadowed
		if e.Verdict == migrate.Different || e.Verdict == migrate.Unproven {
			unequal = append(unequal, name+" is "+e.Verdict)
		}
	}
	if err := c.show(cmd, good, func(io.Writer) {
		for _, e := range good {
			printEquivalence(cmd.OutOrStdout(), e)
		}
	}); err != nil {
		return err
	}
	switch {
	case len(failed) > 0:
		return fault.New(fault.Unavailable, "%s", strings.Join(failed, "\n"))
	case len(unequal) > 0:
		return fault.New(fault.Conflict, "%s", strings.Join(unequal, "; "))
	case !shadowed:
		return fault.New(fault.Conflict, "none of them can be shadowed")
	}
	return nil
}

func printEquivalence(w io.Writer, e *migrate.Equivalence) {
	fmt.Fprintf(w, "%s: %s%s\n", e.Name, e.Verdict, because(e.Reason))
	if e.Verdict == migrate.NotShadowed {
		return
	}
	fmt.Fprintf(w, "  %d records of %d topics compared, %d the same\n", e.Compared, len(e.Topics), e.Same)
	for _, d := range e.Differences {
		fmt.Fprintf(w, "  difference: %s: %s: %s: %d records, the first at %s, key %s\n", d.Topic, d.Path, d.What, d.Records, d.Sample.Place, d.Sample.Key)
		if d.Sample.There != "" {
			fmt.Fprintf(w, "    there: %s\n", d.Sample.There)
		}
		if d.Sample.Here != "" {
			fmt.Fprintf(w, "    here:  %s\n", d.Sample.Here)
		}
	}
	for _, t := range e.Tolerated {
		if t.Records > 0 {
			fmt.Fprintf(w, "  meant to differ: %s: %s (%d)\n", t.Path, t.Reason, t.Records)
		}
	}
	for _, n := range e.NotCompared {
		fmt.Fprintf(w, "  not compared: %s: %s (%d)\n", n.What, n.Why, n.Records)
	}
	if e.Repeated > 0 {
		fmt.Fprintf(w, "  %d records came more than once from Kafka Connect, as they do after a restart of it\n", e.Repeated)
	}
	if e.Undecided > 0 {
		fmt.Fprintf(w, "  %d records at the end are there on one side only, where the other had not come yet\n", e.Undecided)
	}
}
