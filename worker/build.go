package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/smt"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker/deadletter"
	"github.com/millrace/millrace/worker/pipe"
	"github.com/millrace/millrace/worker/runner"
	"github.com/millrace/millrace/worker/sink"
	"github.com/millrace/millrace/worker/source"
	"github.com/millrace/millrace/worker/transform"
)

// task returns what runs one task: config resolved and parsed anew at each attempt, so that a secret that was mended is seen.
func (w *Worker) task(k unitKey, a *clusterv1.Assignment, u *runner.Unit, signals *runner.Signals) runner.Attempt {
	d := runner.Deps{
		Lease: w.lease.Hold(), Gate: u.Gate, Progress: u.Progress, Signals: signals, Logger: u.Logger,
		Connector: k.connector, Task: int(k.task), Tasks: int(a.TaskCount), Epoch: a.Epoch, OffsetsTopic: w.opts.OffsetsTopic,
		Offsets: w.offsets, Admins: &w.offsets.Admins, Turns: w.turns, Voids: a.VoidOffsets, Faults: w.opts.Faults,
	}
	raw := a.Config
	return func(ctx context.Context, live *runner.Live) (err error) {
		p, ok := connectors.Lookup(raw[config.ConnectorClass])
		if !ok {
			return fmt.Errorf("this node has no connector class %q", raw[config.ConnectorClass])
		}
		// Status and log show the error; they must not show what a reference resolves to.
		defer func() { err = config.NewRedactor(raw).Error(err) }()
		v, resolved, problems := config.Parse(config.Full(p), raw)
		if len(problems) > 0 {
			return configdef.AsError(problems)
		}
		d := d
		d.Config, d.Live, d.Throttle = resolved, live, runner.NewThrottle(int(v.Int(config.MaxRecordsPerSecond)))
		info := w.cluster()
		d.ClusterID, d.Kafka = info.GetClusterId(), w.opts.Kafka
		if len(d.Kafka.Brokers) == 0 {
			d.Kafka.Brokers = info.GetBrokers()
		}
		d.Kafka.ClientID = fmt.Sprintf("millrace-%s-%d", k.connector, k.task)
		d.Settings = settings(p, v, d)
		d.Settings.Retry.Note = noteRetries(live, d.Progress, config.NewRedactor(raw), d.Logger)
		if t := sourceOffsetsTopic(p, v); t != "" {
			d.OffsetsTopic = t
		}
		conv := convert.Config{
			Key: v.String(config.KeyConverter), Value: v.String(config.ValueConverter), DefaultKey: p.KeyConverter, DefaultValue: p.ValueConverter,
			JSONConverter: p.JSONConverter,
			KeyOptions:    v.Prefixed("key.converter."), ValueOptions: v.Prefixed("value.converter."),
		}
		switch p.Kind {
		case connectors.KindSource:
			enc, err := convert.NewEncoder(conv)
			if err != nil {
				return err
			}
			if d.Settings.Transform, err = transforms(resolved, smt.Options{Source: true, NamesSchemas: enc.NamesSchemas()}); err != nil {
				return err
			}
			dead, err := convert.NewEncoder(convert.Config{Key: convert.JSON, Value: convert.CanalJSON})
			if err != nil {
				return err
			}
			return source.Run(ctx, d, p.NewSource(), enc, dead)
		case connectors.KindSink:
			dec, err := convert.NewDecoder(conv)
			if err != nil {
				return err
			}
			var o smt.Options
			if dec.Debezium() || p.Rows {
				o.Fold = (&convert.Folder{Rows: p.Rows}).Fold
			}
			if d.Settings.Transform, err = transforms(resolved, o); err != nil {
				return err
			}
			return sink.Run(ctx, d, p.NewSink(), dec)
		case connectors.KindTransform:
			o, open := transform.FromConfig(v, d)
			return pipe.Run(ctx, d, o, open)
		}
		return fmt.Errorf("connector class %s has the unknown kind %q", p.Class, p.Kind)
	}
}

// transforms returns what each record goes through; nil: nothing.
func transforms(resolved map[string]string, o smt.Options) (func(*record.Record) (bool, error), error) {
	o.Unfold = convert.NewUnfolder()
	chain, err := smt.New(resolved, o)
	if err != nil || chain != nil {
		return chain.Apply, err
	}
	if o.Fold == nil {
		return nil, nil
	}
	return func(r *record.Record) (bool, error) { return true, o.Fold(r) }, nil
}

// noteRetries shows in status why a task tries something again in place, counts that, and logs it once.
func noteRetries(live *runner.Live, progress *runner.Progress, redact config.Redactor, log *slog.Logger) func(error) {
	return func(why error) {
		if why == nil {
			live.Retrying("")
			return
		}
		progress.Retried()
		why = redact.Error(why)
		if live.Retrying(why.Error()) {
			log.Warn("trying again in place (errors.retry.timeout)", "err", why)
		}
	}
}

func sourceOffsetsTopic(p *connectors.Plugin, v configdef.Values) string {
	if p.Kind != connectors.KindSource {
		return ""
	}
	return v.String(config.OffsetsTopic)
}

func settings(p *connectors.Plugin, v configdef.Values, d runner.Deps) runner.Settings {
	s := runner.Settings{
		Linger: v.Duration(config.Linger), MaxRecords: int(v.Int(config.BatchMaxRecords)), MaxBytes: int(v.Int(config.MaxBytesInFlight)),
		Retry:     deadletter.Retry{For: v.Duration(config.ErrorsRetryTimeout), MaxDelay: v.Duration(config.ErrorsRetryDelayMax)},
		DeadTopic: kafka.TopicConfig{Replication: int16(v.Int(config.DeadReplication))},
		Dead: deadletter.Policy{
			TolerateAll: v.String(config.ErrorsTolerance) == "all", Log: v.Bool(config.ErrorsLogEnable), Messages: v.Bool(config.ErrorsLogMessages),
			Topic: v.String(config.DeadTopic), Context: v.Bool(config.DeadContext),
			Connector: d.Connector, Class: p.Class, Task: d.Task, Logger: d.Logger, Counter: d.Progress,
		},
	}
	if p.Kind == connectors.KindSource {
		s.AtLeastOnce = v.String(config.ExactlyOnce) == "disabled"
	}
	if p.Kind != connectors.KindSource {
		s.Topics = v.List(config.Topics)
		if rx := v.String(config.TopicsRegex); rx != "" {
			s.TopicsRegex = regexp.MustCompile("^(?:" + rx + ")$") // checked by the spec
		}
		s.Group = v.String(config.GroupOverride)
		if s.Group == "" {
			s.Group = "connect-" + d.Connector
		}
		s.FromLatest = v.String(config.OffsetReset) == "latest"
	}
	if p.Kind != connectors.KindSink {
		s.Creation = creationOf(v)
		s.Compression = v.String(config.CompressionType)
		if config.KeepsLedger(p, v) {
			s.Ledger = v.String(config.LedgerTopic)
		}
	}
	return s
}

// creationOf reads topic.creation.*.
func creationOf(v configdef.Values) runner.Creation {
	def := kafka.TopicConfig{Partitions: int32(v.Int(config.CreationPartitions)), Replication: int16(v.Int(config.CreationReplication)), Configs: map[string]string{}}
	given := v.Prefixed("topic.creation.")
	for k, val := range given {
		if setting, ok := strings.CutPrefix(k, "default."); ok && setting != "partitions" && setting != "replication.factor" {
			def.Configs[setting] = val
		}
	}
	c := runner.Creation{Default: def}
	for _, name := range v.List(config.CreationGroups) {
		g := runner.CreationGroup{Config: kafka.TopicConfig{Partitions: def.Partitions, Replication: def.Replication, Configs: map[string]string{}}}
		for k, val := range given {
			setting, ok := strings.CutPrefix(k, name+".")
			if !ok {
				continue
			}
			n, _ := strconv.Atoi(val)
			switch setting {
			case "include":
				g.Include = patterns(val)
			case "exclude":
				g.Exclude = patterns(val)
			case "partitions":
				g.Config.Partitions = int32(n)
			case "replication.factor":
				g.Config.Replication = int16(n)
			default:
				g.Config.Configs[setting] = val
			}
		}
		c.Groups = append(c.Groups, g)
	}
	return c
}

func patterns(list string) []*regexp.Regexp {
	var out []*regexp.Regexp
	for item := range strings.SplitSeq(list, ",") {
		if r, err := regexp.Compile("^(?:" + strings.TrimSpace(item) + ")$"); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// policyOf reads restart.*; a config that does not parse gets the defaults, and its problem shows when the task starts.
func policyOf(raw map[string]string, grace time.Duration) runner.Policy {
	v, _ := config.Connector(connectors.KindSource).Parse(raw)
	return runner.Policy{
		Attempts: int(v.Int(config.RestartMaxAttempts)), Crashes: int(v.Int(config.RestartMaxCrashes)), Move: int(v.Int(config.RestartMoveAfter)),
		Min: v.Duration(config.RestartBackoff), Max: v.Duration(config.RestartBackoffMax), Grace: grace,
		Stall: v.Duration(config.StallAfter), Hang: v.Duration(config.HangTimeout),
	}
}

// planner is the planning half of a connector: it splits the config into tasks whenever the leader wants it.
type planner struct {
	status *statuses
	wake   chan struct{}
	// audit compares the connector's topics with its ledger until ctx ends.
	audit func(ctx context.Context, log *slog.Logger, current func() *clusterv1.Assignment)
	log   *slog.Logger

	mu sync.Mutex // guards: a
	a  *clusterv1.Assignment
}

func (w *Worker) newPlanner(a *clusterv1.Assignment, log *slog.Logger) *planner {
	return &planner{status: w.status, wake: make(chan struct{}, 1), a: a, audit: w.audit, log: log}
}

func (p *planner) current() *clusterv1.Assignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.a
}

// set gives it the newest assignment.
func (p *planner) set(a *clusterv1.Assignment) {
	p.mu.Lock()
	p.a = a
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *planner) run(ctx context.Context, live *runner.Live) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(runner.Guard(p.log, func() error { p.audit(ctx, p.log, p.current); return nil }))
	g.Go(runner.Guard(p.log, func() error { return p.plan(ctx, live) }))
	return g.Wait()
}

// plan splits the config into tasks whenever the leader wants it.
func (p *planner) plan(ctx context.Context, live *runner.Live) error {
	up := false
	for {
		a := p.current()
		if a.PlanWanted {
			tasks, err := plan(ctx, a.Config)
			if err != nil {
				return err
			}
			m := &clusterv1.Planned{Connector: a.Unit.Connector, ConfigIndex: a.ConfigIndex, Epoch: a.Epoch}
			for _, t := range tasks {
				m.Configs = append(m.Configs, &clusterv1.TaskConfig{Config: t})
			}
			p.status.plan(a.Unit.Connector, m)
		} else {
			p.status.plan(a.Unit.Connector, nil)
		}
		if !up {
			up = true
			live.Started()
		}
		select {
		case <-ctx.Done():
			p.status.plan(a.Unit.Connector, nil)
			return ctx.Err()
		case <-p.wake:
		}
	}
}

// plan splits a connector's config into task configs.
func plan(ctx context.Context, raw map[string]string) ([]map[string]string, error) {
	p, ok := connectors.Lookup(raw[config.ConnectorClass])
	if !ok {
		return nil, fmt.Errorf("this node has no connector class %q", raw[config.ConnectorClass])
	}
	v, resolved, problems := config.Parse(config.Full(p), raw)
	if len(problems) > 0 {
		return nil, configdef.AsError(problems)
	}
	limit := int(v.Int(config.TasksMax))
	if p.Plan == nil {
		n := limit
		if p.Kind == connectors.KindSource {
			n = 1
		}
		out := make([]map[string]string, n)
		for i := range out {
			out[i] = maps.Clone(raw)
		}
		return out, nil
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := p.Plan(bounded, connectors.PlanRequest{Config: resolved, Raw: raw, MaxTasks: limit})
	switch {
	case err != nil:
		return nil, fmt.Errorf("plan tasks: %w", config.NewRedactor(raw).Error(err))
	case len(out) > limit:
		return nil, fmt.Errorf("the connector has generated %d tasks, which is greater than %d, the maximum number of tasks it is configured to create (tasks.max)", len(out), limit)
	case len(out) == 0:
		return nil, errors.New("the connector has nothing to do: it planned no task")
	}
	return out, nil
}
