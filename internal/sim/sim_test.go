package sim

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/worker/runner"
)

var (
	seeds   = flag.Int("sim.seeds", 0, "how many seeds TestSeeds runs; 0: a few")
	first   = flag.Uint64("sim.seed", 1, "the first of them")
	verbose = flag.Bool("sim.log", false, "show what the nodes log")
)

// battery is how many seeds an ordinary test run takes: some 20 s with the race detector.
const battery = 5

// one runs a seed in a bubble.
func one(t *testing.T, seed uint64, f runner.Faults) (r *Report) {
	t.Helper()
	var log slog.Handler = slog.DiscardHandler
	if *verbose {
		log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r = Run(t.Context(), Options{Seed: seed, Dir: dir, Faults: f, Log: log})
	})
	return r
}

func story(r *Report) string {
	return fmt.Sprintf("%s\n\n%s", strings.Join(r.Violations, "\n"), strings.Join(r.Notes, "\n"))
}

// Whatever fails in the network, on disks and of processes: the promises hold, and the cluster is well again when all is mended.
func TestSeeds(t *testing.T) {
	n := *seeds
	switch {
	case n > 0:
	case testing.Short():
		n = 1
	default:
		n = battery
	}
	began := time.Now()
	faults := map[string]int{}
	var slowest time.Duration
	records := 0
	for i := range n {
		seed := *first + uint64(i)
		r := one(t, seed, runner.Faults{})
		for k, n := range r.Faults {
			faults[k] += n
		}
		records += r.Records
		slowest = max(slowest, r.Recovery)
		if len(r.Violations) > 0 {
			t.Errorf("seed %d; run it again with: go test ./internal/sim -run TestSeeds -sim.seed %d -sim.seeds 20\n%s", seed, seed, story(r))
		}
	}
	t.Logf("%d seeds in %v, %d records, faults %v, slowest recovery %v", n, time.Since(began).Round(time.Millisecond), records, faults, slowest)
}

// The checks see what they are for: a worker that is broken on purpose is caught. Without this a check that looks at nothing would pass too.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: takes half a minute; make test runs it")
	}
	const within = 200
	for name, m := range map[string]struct {
		faults runner.Faults
		caught string
	}{
		"a worker goes on after its lease":           {runner.Faults{Lawless: true}, "I1:"},
		"a worker goes on under an older epoch":      {runner.Faults{StaleEpoch: true}, "not well again"},
		"the offset is committed before its records": {runner.Faults{OffsetFirst: true}, "I2:"},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= within; seed++ {
				r := one(t, seed, m.faults)
				for _, v := range r.Violations {
					if strings.Contains(v, m.caught) {
						t.Logf("caught by seed %d: %s", seed, v)
						return
					}
				}
			}
			t.Errorf("not caught by %d seeds", within)
		})
	}
}
