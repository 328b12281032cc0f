package sim

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/herder"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// connectorNames are the connectors that there are in the end.
var connectorNames = []string{"red", "blue"}

func tasksOf(name string) int { return len(name) - 1 } // 2 and 3

// user is who manages the cluster.
type user struct {
	r   *run
	rng *rand.Rand
}

// operate creates the connectors and changes them now and then, as far as there is a leader, until ctx ends.
func (r *run) operate(ctx context.Context) {
	u := user{r, rand.New(rand.NewPCG(r.opts.Seed, 5))}
	for wait := 100 * time.Millisecond; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if l := r.leader(); l != nil {
			bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
			fresh := r.reinstate(bounded, l) != ""
			if wait = 100 * time.Millisecond; !fresh {
				u.meddle(bounded, l)
				wait = time.Duration(u.rng.Int64N(int64(6 * time.Second)))
			}
			cancel()
		}
	}
}

// meddle does one thing. Its error is of no interest: what was done or not shows in the state.
func (u user) meddle(ctx context.Context, l *coordinator.Coordinator) {
	h := herder.New(l, herder.Kafka{})
	name := connectorNames[u.rng.IntN(len(connectorNames))]
	n := u.r.nodes[u.rng.IntN(len(u.r.nodes))].name
	var what string
	var err error
	switch u.rng.IntN(6) {
	case 0:
		what = "restarts " + name
		_, err = h.Restart(ctx, name, true, false)
	case 1:
		what = "changes " + name
		_, _, err = h.Put(ctx, name, u.r.configOf(name, strconv.Itoa(u.rng.Int())))
	case 2:
		what = "pauses " + name
		err = u.target(ctx, l, name, commandv1.TargetState_TARGET_STATE_PAUSED)
	case 3:
		what = "stops " + name
		err = u.target(ctx, l, name, commandv1.TargetState_TARGET_STATE_STOPPED)
	case 4:
		what = "deletes " + name
		err = h.Delete(ctx, name)
	default:
		what = "drains " + n
		err = l.SetDrain(ctx, n, true)
	}
	u.r.history.note("user: %s: %v", what, err)
}

func (u user) create(ctx context.Context, l *coordinator.Coordinator, name string) error {
	_, err := herder.New(l, herder.Kafka{}).Create(ctx, name, u.r.configOf(name, ""), "")
	return err
}

func (u user) target(ctx context.Context, l *coordinator.Coordinator, name string, t commandv1.TargetState) error {
	return herder.New(l, herder.Kafka{}).SetTarget(ctx, name, t)
}
