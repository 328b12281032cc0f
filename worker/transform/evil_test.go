package transform

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	spec "github.com/millrace/millrace/connectors/transform"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// evils are functions that do harm, each with what is to become of n records, one of which may be special.
var evils = map[string]struct {
	evil string
	// special is the value of one record; it goes to the dead letters with this reason.
	special, reason string
	// fails is in the error that the task ends with.
	fails string
	more  map[string]string
}{
	"floods":               {evil: "flood"},
	"starts slowly":        {evil: "slow start"},
	"dies at each 1,000th": {evil: "thousandth", more: map[string]string{spec.BatchMax: "5000"}},
	"dies of a record":     {evil: "none", special: "die", reason: "exit status 7"},
	"hangs on a record":    {evil: "none", special: "hang", reason: "function.batch.timeout.ms", more: map[string]string{spec.BatchTimeout: "500"}},
	"takes all memory":     {evil: "none", special: "leak", reason: "function.memory.max.mb", more: map[string]string{spec.MemoryMax: "200"}},
	"panics":               {evil: "none", special: "panic", reason: "panic: oops"},
	"exits":                {evil: "exits", fails: "no licence found"},
	"never answers":        {evil: "silent", fails: "function.start.timeout.ms", more: map[string]string{spec.StartTimeout: "700"}},
	"writes garbage":       {evil: "garbage", fails: "function.start.timeout.ms", more: map[string]string{spec.StartTimeout: "700"}},
}

// I9: each of them hurts only its own records or its own task, and a pipeline beside them all goes on, with nothing lost, doubled or failed.
func TestEvilNeighbours(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	good := y.run("good", "none", map[string]string{spec.InstancesMax: "2"})
	var n int
	var g errgroup.Group
	stop := make(chan struct{})
	g.Go(func() (err error) {
		n, err = good.pace(50, stop)
		return err
	})
	t.Run("evil", func(t *testing.T) {
		for name, x := range evils {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				yard{TB: t, kafka: y.kafka, admin: y.admin}.suffer(x.evil, x.special, x.reason, x.fails, x.more)
			})
		}
	})
	close(stop)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	good.await(uint64(n))
	last := map[string]int{}
	out := good.read("good-out")
	for i, m := range out {
		var v int
		if _, err := fmt.Sscan(string(m.Value), &v); err != nil {
			t.Fatal(err)
		}
		if before, seen := last[string(m.Key)]; seen && v != before+17 {
			t.Fatalf("record %d of the good pipeline: %d comes after %d", i, v, before)
		}
		last[string(m.Key)] = v
	}
	if len(out) != n {
		t.Errorf("%d of %d records came out of the good pipeline", len(out), n)
	}
	good.end()
}

// suffer runs one evil function over records.
func (y yard) suffer(evil, special, reason, fails string, more map[string]string) {
	y.Helper()
	more = maps.Clone(more)
	l := y.run(testkit.UniqueName("evil"), evil, more)
	if fails != "" {
		select {
		case err := <-l.ended:
			if err == nil || !strings.Contains(err.Error(), fails) {
				y.Errorf("the task ended with %v, want %q", err, fails)
			}
		case <-time.After(30 * time.Second):
			y.Error("the task goes on")
		}
		_ = l.producer.Close()
		return
	}
	defer l.end()
	const n = 2500
	msgs := numbers(0, n, 17)
	if special != "" {
		msgs = msgs[:8]
		msgs[5].Value = []byte(special)
	}
	l.send(msgs...)
	l.await(uint64(len(msgs)))
	out := slices.DeleteFunc(l.read(l.name+"-out"), func(m kafka.Fetched) bool { return string(m.Value) == special })
	dead := l.read(l.name + "-dead")
	switch {
	case special == "" && (len(out) != n || len(dead) > 0):
		y.Errorf("%d records came out, %d are dead, want %d and none", len(out), len(dead), n)
	case special != "" && (len(out) != len(msgs)-1 || len(dead) != 1 || !strings.Contains(header(dead[0], "exception.message"), reason)):
		y.Errorf("%d records came out, dead are %+v; want all but one, and that for %q", len(out), dead, reason)
	}
}
