package migrate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/smt"
)

// ShadowOptions say how to run connectors beside those of Kafka Connect. The first limit that is reached ends the run, and so does the
// end of the context; without limits it goes on until then.
type ShadowOptions struct {
	Kafka kafka.Config
	Admin *kafka.Admin
	// Records is how many to compare; 0: no limit.
	Records int64
	// For is how long to compare; 0: no limit.
	For time.Duration
	// CaughtUp ends the run once everything is compared that Kafka Connect had written when it began.
	CaughtUp bool
	// Keep leaves the shadow connector and its topics.
	Keep bool
	// Say gets each step once it is done.
	Say func(name, step string)
}

const (
	// clockDifference bounds how far the database's clock may be ahead of the brokers': topics are read from so long before the offset.
	clockDifference = 5 * time.Minute
	// settleLimit is how long the end of a run waits for what one side has written and the other has passed.
	settleLimit = 15 * time.Second
	removeLimit = time.Minute
	// router is the transform that gives a shadow's records their private topics.
	router = "millrace_shadow"
)

// shadow is a connector of Kafka Connect and the one that runs beside it.
type shadow struct {
	*Migration
	ShadowOptions
	name, own, prefix string
	pairing           *pairing
	fromMS            int64
}

// shadowName is the name of a connector's shadow, and the prefix of its topics: of letters that names may have, and no other's.
func shadowName(name string) (own, prefix string) {
	return name + "-shadow", fmt.Sprintf("millrace-shadow-%x.", sha256.Sum256([]byte(name)))[:len("millrace-shadow-")+8] + "."
}

// Shadow runs a connector here beside the one on Kafka Connect, from the same offset, into private topics, and compares what both write.
func (m *Migration) Shadow(ctx context.Context, name string, o ShadowOptions) (out *Equivalence, err error) {
	s := &shadow{Migration: m, ShadowOptions: o, name: name}
	s.own, s.prefix = shadowName(name)
	out = &Equivalence{Name: name, Topics: []string{}, Differences: []*DifferenceClass{}, NotCompared: []NotCompared{}, Tolerated: []*Tolerance{}}
	reports, err := m.Look(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	if r := reports[0]; r.Type != "source" {
		out.Verdict, out.Reason = NotShadowed, "it is a "+r.Type+": a second one would write to the same system; only sources can be shadowed"
		return out, nil
	}
	if out.From, err = s.begin(ctx, reports[0], out); err != nil {
		return nil, err
	}
	if !o.Keep {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
			defer cancel()
			if rerr := m.RemoveShadow(ctx, name, o.Admin); rerr != nil {
				err = errors.Join(err, fmt.Errorf("the shadow %s is not removed: %w; do it with --shadow --remove", s.own, rerr))
				return
			}
			o.Say(name, "its shadow and the private topics are deleted")
		}()
	}
	if err := m.takeOver(ctx, m.Here, s.own, []api.Offset{{Partition: s.partition(reports[0]), Offset: out.From}}); err != nil {
		return nil, fmt.Errorf("write the offset of %s: %w", s.own, err)
	}
	if err := m.restore(ctx, m.Here, s.own, "RUNNING"); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.own, err)
	}
	o.Say(name, "runs here as "+s.own+", into topics that begin with "+s.prefix)
	out.Prefix = s.prefix
	out.Reason, err = s.watch(ctx)
	return out, err
}

func (s *shadow) partition(r *Report) map[string]any {
	return map[string]any{"server": r.config["topic.prefix"]}
}

// begin checks that a connector can be shadowed, and creates its shadow, stopped. It returns the offset to begin with.
func (s *shadow) begin(ctx context.Context, r *Report, out *Equivalence) (map[string]any, error) {
	if len(r.Blockers) > 0 {
		return nil, fault.New(fault.Conflict, "%s can't run here: %s", s.name, strings.Join(r.Blockers, "; "))
	}
	for _, key := range []string{config.KeyConverter, config.ValueConverter} {
		if c := strings.ToLower(r.config[key]); strings.Contains(c, "avro") || strings.Contains(c, "protobuf") {
			return nil, fault.New(fault.Unsupported, "%s: what %s=%s writes can't be compared; JSON, text and bytes can", s.name, key, r.config[key])
		}
	}
	offsets, err := s.There.Offsets(ctx, s.name)
	if err != nil {
		return nil, fmt.Errorf("offsets of %s on Kafka Connect: %w", s.name, err)
	}
	if len(offsets.Offsets) != 1 || text(offsets.Offsets[0].Offset["file"]) == "" {
		return nil, fault.New(fault.Conflict, "%s has no offset at Kafka Connect yet: wait until it has (offset.flush.interval.ms)", s.name)
	}
	given := offsets.Offsets[0].Offset
	if given["snapshot"] != nil && given["snapshot_completed"] != true {
		return nil, fault.New(fault.Conflict, "the first snapshot of %s is not finished at Kafka Connect: wait for its end", s.name)
	}
	offset, from := startOf(given)
	s.fromMS = time.Unix(number(given["ts_sec"]), 0).Add(-clockDifference).UnixMilli()
	s.pairing = newPairing(from, out)
	if _, err := s.Here.CreateIn(ctx, "STOPPED", s.own, s.config(r.config)); err != nil {
		if fault.KindOf(err) == fault.Conflict {
			return nil, fault.New(fault.Conflict, "%v: if %s is of a shadow run that was killed, delete it and its topics with --shadow --remove", err, s.own)
		}
		return nil, fmt.Errorf("create %s: %w", s.own, err)
	}
	return offset, nil
}

// config is a connector's config for its shadow: the topics are private, whatever the connector writes to, and it does nothing else.
func (s *shadow) config(given map[string]string) map[string]string {
	c := maps.Clone(given)
	for _, k := range []string{
		config.Name, config.OffsetsTopic, // the old one's may be there
		"database.server.id",     // one of its own is made from the name
		"heartbeat.action.query", // it writes to the source
		"signal.data.collection", // both would read the tables that are asked for
	} {
		delete(c, k)
	}
	c[config.Ledger] = "false"
	c["snapshot.mode"] = "no_data"
	if dead := c[config.DeadTopic]; dead != "" {
		c[config.DeadTopic] = s.prefix + dead
	}
	c[smt.Transforms] = strings.TrimPrefix(strings.TrimSpace(c[smt.Transforms])+","+router, ",")
	at := smt.Transforms + "." + router
	c[at+".type"], c[at+".regex"], c[at+".replacement"] = "RegexRouter", "(.*)", s.prefix+"$1"
	return c
}

// RemoveShadow deletes a connector's shadow, its offsets and its topics. What is not there is no error.
func (m *Migration) RemoveShadow(ctx context.Context, name string, a *kafka.Admin) error {
	own, prefix := shadowName(name)
	err := m.stopped(ctx, m.Here, own)
	if err == nil {
		_, err = m.Here.ResetOffsets(ctx, own)
	}
	if err == nil {
		err = m.Here.Delete(ctx, own)
	}
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	for {
		topics, err := a.Topics(ctx)
		if err != nil {
			return err
		}
		topics = slices.DeleteFunc(topics, func(t string) bool { return !strings.HasPrefix(t, prefix) })
		if len(topics) == 0 {
			return nil
		}
		for _, t := range topics {
			if err := a.DeleteTopic(ctx, t); err != nil {
				return fmt.Errorf("delete topic %s: %w", t, err)
			}
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil { // brokers learn of it one after the other
			return err
		}
	}
}

// topics are those of a side that there are.
func (s *shadow) topics(ctx context.Context, side int) ([]string, error) {
	mine := func(topic string) bool { return strings.HasPrefix(topic, s.prefix) }
	if side == there {
		var used map[string]api.Topics
		if err := s.There.Do(ctx, http.MethodGet, "/connectors/"+url.PathEscape(s.name)+"/topics", nil, &used); err != nil {
			return nil, fmt.Errorf("topics of %s at Kafka Connect: %w", s.name, err)
		}
		mine = func(topic string) bool { return slices.Contains(used[s.name].Topics, topic) }
	}
	all, err := s.Admin.Topics(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(topic string) bool { return !mine(topic) }), nil
}

// firsts are the offsets to begin a topic with: on the old side those of records that may be from after the start.
func (s *shadow) firsts(ctx context.Context, side int, topic string) (map[kafka.TopicPartition]int64, error) {
	if side == here {
		return s.Admin.ListOffsets(ctx, topic, kafka.Earliest)
	}
	first, err := s.Admin.ListOffsets(ctx, topic, s.fromMS)
	if err != nil {
		return nil, err
	}
	ends, err := s.Admin.ListOffsets(ctx, topic, kafka.Latest)
	if err != nil {
		return nil, err
	}
	for tp, o := range first {
		if o < 0 { // nothing so new
			first[tp] = ends[tp]
		}
	}
	return first, nil
}
