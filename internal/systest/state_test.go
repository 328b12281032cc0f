package systest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// logState writes down, of a test that fails, how far each connector is, and how far each topic can be read: a committed end that stays
// behind the written one is a transaction that nobody ends.
func logState(t *testing.T, c fleet.Cluster, broker string, connectors, topics []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, name := range connectors {
		p, err := c.Progress(ctx, name)
		b, _ := json.Marshal(p)
		t.Logf("progress of %s: %s %v", name, b, err)
	}
	a, err := kafka.NewAdmin(ctx, kafka.Config{Brokers: []string{broker}})
	if err != nil {
		t.Log(err)
		return
	}
	defer a.Close()
	for _, topic := range topics {
		ends, err := a.ListOffsets(ctx, topic, kafka.Latest)
		committed, errCommitted := a.CommittedEnds(ctx, topic)
		t.Logf("topic %s: written to %v %v, committed to %v %v", topic, ends, err, committed, errCommitted)
	}
	for _, name := range connectors {
		at, err := a.GroupOffsets(ctx, "connect-"+name)
		t.Logf("group connect-%s: %v %v", name, at, err)
	}
}
