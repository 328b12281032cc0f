package systest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

// asNode in the environment makes this test binary a node, with the connectors below beside the product's: the product has none that are sick.
const asNode = "MILLRACE_SYSTEST_NODE"

// sickNodes starts nodes that know the sick connectors.
func sickNodes(t *testing.T, n int, args ...string) (*fleet.Fleet, fleet.Cluster) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return begin(t, n, &fleet.Fleet{Bin: self, Dir: t.TempDir(), Args: args, Env: []string{asNode + "=1"}})
}

const (
	chaosMode  = "chaos.mode"
	chaosNode  = "chaos.node"
	chaosTopic = "chaos.topic"
)

var chaosSpec = configdef.New(
	configdef.Key{Name: chaosMode, Type: configdef.String, Default: "steady", OneOf: []string{"steady", "hang", "wait", "panic", "fail", "mixed"}, Doc: "How it behaves."},
	configdef.Key{Name: chaosNode, Type: configdef.String, Default: "", Doc: "The node on which it does so; empty: on all."},
	configdef.Key{Name: chaosTopic, Type: configdef.String, Default: "chaos", Doc: "Topic of the source."},
)

func init() {
	connectors.Register(connectors.Plugin{
		Class: "chaos-source", Kind: connectors.KindSource, Doc: "A source that may be sick.", Spec: chaosSpec, KeyConverter: "string", ValueConverter: "bytes",
		NewSource: func() connectors.SourceTask { return &chaosSource{} },
	})
	connectors.Register(connectors.Plugin{
		Class: "chaos-sink", Kind: connectors.KindSink, Doc: "A sink that may be sick.", Spec: chaosSpec, KeyConverter: "bytes", ValueConverter: "bytes",
		NewSink: func() connectors.SinkTask { return &chaosSink{} },
	})
}

// misbehave does what the mode says, if this is the node for it.
func misbehave(ctx context.Context, v configdef.Values) error {
	if node := v.String(chaosNode); node != "" && !slices.Contains(os.Args, node) {
		return nil
	}
	switch v.String(chaosMode) {
	case "hang":
		select {} // deaf to everything
	case "wait":
		<-ctx.Done()
		return ctx.Err()
	case "panic":
		panic("the connector is sick")
	case "fail":
		return connectors.Retriable(errors.New("the connector is sick here"))
	}
	return nil
}

// chaosSource makes numbered records as fast as it is asked. Mixed: every tenth has a value that the bytes converter can't write.
type chaosSource struct {
	name string
	v    configdef.Values
	n    int
}

func (s *chaosSource) Open(ctx context.Context, sc connectors.SourceContext) error {
	s.name = sc.Connector
	s.v, _ = chaosSpec.Parse(sc.Config)
	at, err := sc.Offset(ctx, map[string]any{"chaos": sc.Connector})
	if err != nil || at == nil {
		return err
	}
	s.n, err = strconv.Atoi(fmt.Sprint(at["n"]))
	return err
}

func (s *chaosSource) Poll(ctx context.Context) (*connectors.Batch, error) {
	if err := misbehave(ctx, s.v); err != nil {
		return nil, err
	}
	b := &connectors.Batch{}
	for range 20 {
		r := record.Record{Topic: s.v.String(chaosTopic), Partition: -1, Key: strconv.Itoa(s.n), Value: []byte(strconv.Itoa(s.n))}
		if s.v.String(chaosMode) == "mixed" && s.n%10 == 0 {
			r.Value = map[string]any{"n": s.n}
		}
		b.Records = append(b.Records, r)
		s.n++
	}
	b.Offset = connectors.Offset{Partition: map[string]any{"chaos": s.name}, Position: map[string]any{"n": s.n}}
	if s.v.String(chaosMode) == "mixed" && s.n > 100 { // that is all
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return b, nil
}

func (s *chaosSource) Committed(context.Context, connectors.Offset) error { return nil }
func (s *chaosSource) Close() error                                       { return nil }

type chaosSink struct{ v configdef.Values }

func (s *chaosSink) Open(_ context.Context, tc connectors.TaskContext) error {
	s.v, _ = chaosSpec.Parse(tc.Config)
	return nil
}
func (s *chaosSink) Put(ctx context.Context, _ []record.Record) error { return misbehave(ctx, s.v) }
func (s *chaosSink) Flush(context.Context) error                      { return nil }
func (s *chaosSink) Close() error                                     { return nil }

// seen lists the kinds of events of a connector.
func seen(ctx context.Context, t *testing.T, c fleet.Cluster, name string) (kinds []string) {
	t.Helper()
	e, err := c.Events(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range e.Events {
		if x.Task != nil {
			kinds = append(kinds, x.Event)
		}
	}
	return kinds
}

func count(list []string, what string) (n int) {
	for _, x := range list {
		if x == what {
			n++
		}
	}
	return n
}

// outOf is how many records a connector's first task has got through.
func outOf(ctx context.Context, t *testing.T, c fleet.Cluster, name string) (n uint64, at time.Time) {
	t.Helper()
	p, err := c.Progress(ctx, name)
	if err != nil || len(p.Tasks) == 0 {
		t.Fatalf("progress of %s: %+v, %v", name, p, err)
	}
	return p.Tasks[0].RecordsOut, time.Now()
}
