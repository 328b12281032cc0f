// Package transform is the worker's side of functions: it launches or calls one, sends it batches and makes sense of its answers.
//
// A function that crashes, hangs or answers nonsense costs the batch a new start and a retry; a batch that does it again and again is
// split, down to the record that does it, which then fails with the reason (I5). The task itself fails only when the function can't
// be started.
//
// A Function belongs to one goroutine. Its process and connection end with Close.
package transform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	spec "github.com/millrace/millrace/connectors/transform"
	"github.com/millrace/millrace/internal/kafka"
	transformv1 "github.com/millrace/millrace/proto/transform/v1"
	"github.com/millrace/millrace/worker/pipe"
	"github.com/millrace/millrace/worker/plugin"
	"github.com/millrace/millrace/worker/runner"
)

// Options of a Function.
type Options struct {
	// Command launches the function; or Address says where it runs.
	Command []string
	Address string
	Dir     string
	Env     map[string]string
	// Config is the function's own.
	Config                     map[string]string
	StartTimeout, BatchTimeout time.Duration
	MaxRecords, MaxCrashes     int
	// MemoryMax is how many bytes the function's processes may hold, for each instance; 0: any.
	MemoryMax int64
	Connector string
	Task      int
	Logger    *slog.Logger
	// Usage, if set, meters the function.
	Usage *runner.Usage
}

// maxMessage bounds what one batch may be on the wire.
const maxMessage = 64 << 20

// batchBytes is how much input goes into one call, unless a single record is larger.
const batchBytes = 4 << 20

// FromConfig reads a transform connector's config: the pipe's options, and what starts its function.
func FromConfig(v configdef.Values, d runner.Deps) (pipe.Options, func(context.Context) (pipe.Function, error)) {
	command, _ := spec.Split(v.String(spec.Command)) // checked by the spec
	o := Options{
		Command: command, Address: v.String(spec.Address), Dir: v.String(spec.Dir), Env: v.Prefixed(spec.EnvPrefix), Config: v.Prefixed(spec.ConfigPrefix),
		StartTimeout: v.Duration(spec.StartTimeout), BatchTimeout: v.Duration(spec.BatchTimeout), MaxRecords: int(v.Int(spec.BatchMax)),
		MemoryMax: v.Int(spec.MemoryMax) << 20, MaxCrashes: int(v.Int(spec.Crashes)), Connector: d.Connector, Task: d.Task, Logger: d.Logger, Usage: &d.Progress.Usage,
	}
	scale := pipe.Scale{Min: int(v.Int(spec.InstancesMin)), Max: int(v.Int(spec.InstancesMax)), Idle: v.Duration(spec.IdleTimeout), Drain: v.Duration(spec.DrainTarget)}
	return pipe.Options{Output: v.String(spec.Output), Routes: v.List(spec.Routes), Scale: scale}, func(ctx context.Context) (pipe.Function, error) {
		return Open(ctx, o)
	}
}

// Function is an open function.
type Function struct {
	opts   Options
	name   string
	proc   *plugin.Process
	conn   *grpc.ClientConn
	stream transformv1.Transform_ApplyClient
	cancel context.CancelFunc
	id     uint64
	max    int
}

// Open starts the function, or connects to it, and gives it its config. A command that can't be started now may be startable later,
// so the error is retriable unless the function refuses its config.
func Open(ctx context.Context, o Options) (*Function, error) {
	if o.Usage == nil {
		o.Usage = &runner.Usage{}
	}
	f := &Function{opts: o, max: o.MaxRecords}
	if err := f.start(ctx); err != nil {
		f.drop()
		return nil, err
	}
	return f, nil
}

// errRefused: the function says no to its config or protocol; trying again is no use.
var errRefused = errors.New("the function refuses its config")

func (f *Function) start(ctx context.Context) error {
	addr := f.opts.Address
	if len(f.opts.Command) > 0 {
		p, err := plugin.Start(ctx, plugin.Options{
			Command: f.opts.Command, Dir: f.opts.Dir, Env: f.opts.Env, Ready: describes, StartTimeout: f.opts.StartTimeout, Held: f.opts.Usage.Held, MemoryMax: f.opts.MemoryMax, Logger: f.opts.Logger,
		})
		if err != nil {
			return connectors.Retriable(fmt.Errorf("start function %q: %w", strings.Join(f.opts.Command, " "), err))
		}
		f.proc, addr = p, p.Addr()
	}
	conn, err := dial(addr)
	if err != nil {
		return fmt.Errorf("function at %s: %w", addr, err)
	}
	f.conn = conn
	client := transformv1.NewTransformClient(conn)
	bounded, cancel := context.WithTimeout(ctx, f.opts.StartTimeout)
	defer cancel()
	d, err := client.Describe(bounded, &transformv1.DescribeRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return connectors.Retriable(fmt.Errorf("function at %s does not say what it is: %w", addr, err))
	}
	f.name = d.Name
	f.opts.Usage.Is(d.Name, d.Version)
	if n := int(d.MaxBatchRecords); n > 0 {
		f.max = min(f.opts.MaxRecords, n)
	}
	if err := f.checkConfig(d); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = stop
	f.stream, err = client.Apply(run)
	if err != nil {
		return connectors.Retriable(fmt.Errorf("open function %s: %w", f.name, err))
	}
	err = f.stream.Send(&transformv1.ApplyRequest{Kind: &transformv1.ApplyRequest_Configure{Configure: &transformv1.Configure{
		Config: f.opts.Config, Connector: f.opts.Connector, Task: int32(f.opts.Task),
	}}})
	var answer *transformv1.ApplyResponse
	if err == nil {
		answer, err = f.receive(ctx, f.opts.StartTimeout)
	}
	if err != nil {
		return connectors.Retriable(fmt.Errorf("configure function %s: %w", f.name, f.explain(err)))
	}
	c := answer.GetConfigured()
	switch {
	case c == nil:
		return fmt.Errorf("function %s did not answer its config", f.name)
	case c.Error != "":
		return fmt.Errorf("%w: %s", errRefused, c.Error)
	}
	f.opts.Logger.Info("function is up", "function", f.name, "version", d.Version)
	return nil
}

// checkConfig compares the pipeline's function.config.* with what the function declares.
func (f *Function) checkConfig(d *transformv1.DescribeResponse) error {
	if len(d.Config) == 0 {
		return nil // it declares nothing, so nothing can be said
	}
	var bad []string
	known := map[string]bool{}
	for _, k := range d.Config {
		known[k.Name] = true
		if _, given := f.opts.Config[k.Name]; k.Required && !given {
			bad = append(bad, fmt.Sprintf("Missing required configuration %q which has no default value.", spec.ConfigPrefix+k.Name))
		}
	}
	for k := range f.opts.Config {
		if !known[k] {
			bad = append(bad, fmt.Sprintf("Unknown configuration key %q: function %s has no such setting.", spec.ConfigPrefix+k, d.Name))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", errRefused, strings.Join(bad, " "))
	}
	return nil
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
}

// describes asks whether a function answers on addr.
func describes(ctx context.Context, addr string) error {
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = transformv1.NewTransformClient(conn).Describe(ctx, &transformv1.DescribeRequest{})
	return err
}

// receive waits for an answer, no longer than limit.
func (f *Function) receive(ctx context.Context, limit time.Duration) (*transformv1.ApplyResponse, error) {
	type result struct {
		r   *transformv1.ApplyResponse
		err error
	}
	got := make(chan result, 1)
	stream := f.stream
	go func() {
		r, err := stream.Recv()
		got <- result{r, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var ended <-chan struct{}
	if f.proc != nil {
		ended = f.proc.Done()
	}
	select {
	case g := <-got:
		return g.r, g.err
	case <-ended:
		return nil, fmt.Errorf("the function crashed: %w", f.proc.Failure())
	case <-timer.C:
		return nil, fmt.Errorf("%w: no answer after %v (function.batch.timeout.ms)", errHung, limit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errHung = errors.New("the function hangs")

// explain adds how the process ended to an error of its connection.
func (f *Function) explain(err error) error {
	if f.proc == nil || errors.Is(err, errHung) {
		return err
	}
	select {
	case <-f.proc.Done():
		return fmt.Errorf("the function crashed: %w", f.proc.Failure())
	case <-time.After(300 * time.Millisecond):
		return err
	}
}

// drop ends the function's process and connection at once.
func (f *Function) drop() {
	if f.cancel != nil {
		f.cancel()
	}
	if f.conn != nil {
		_ = f.conn.Close()
	}
	if f.proc != nil {
		f.proc.Stop(0)
	}
	f.cancel, f.conn, f.proc, f.stream = nil, nil, nil, nil
}

// Close ends the function, gently first.
func (f *Function) Close() error {
	if f.stream != nil {
		_ = f.stream.CloseSend()
	}
	if f.proc != nil {
		f.proc.Stop(2 * time.Second)
	}
	f.drop()
	return nil
}

// Apply implements pipe.Function.
func (f *Function) Apply(ctx context.Context, records []kafka.Fetched) ([]pipe.Outcome, error) {
	out := make([]pipe.Outcome, 0, len(records))
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && n < f.max && (n == 0 || size < batchBytes) {
			size += len(records[n].Key) + len(records[n].Value)
			n++
		}
		part, err := f.stubborn(ctx, records[:n])
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
		records = records[n:]
	}
	return out, nil
}

// stubborn gets a batch through: with new starts, and at last by splitting it to find the record that can't be.
func (f *Function) stubborn(ctx context.Context, records []kafka.Fetched) ([]pipe.Outcome, error) {
	var last error
	for try := range f.opts.MaxCrashes {
		if f.stream == nil {
			if err := f.restart(ctx, try); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		out, err := f.call(ctx, records)
		if err == nil {
			f.opts.Usage.Called(called(records, out, time.Since(began)))
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f.opts.Usage.Broken(time.Since(began))
		last = f.explain(err)
		f.opts.Logger.Warn("function failed on a batch", "function", f.name, "records", len(records), "attempt", try+1, "err", last)
		f.drop()
		if len(records) > 1 && try > 0 {
			break // not a chance mishap: look for the record
		}
	}
	if len(records) == 1 {
		return []pipe.Outcome{{Action: pipe.Fail, Reason: fmt.Sprintf("function %s failed on this record %d times: %v", f.name, f.opts.MaxCrashes, last)}}, nil
	}
	half := len(records) / 2
	left, err := f.stubborn(ctx, records[:half])
	if err != nil {
		return nil, err
	}
	right, err := f.stubborn(ctx, records[half:])
	return append(left, right...), err
}

func (f *Function) restart(ctx context.Context, try int) error {
	if try > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		}
	}
	f.opts.Usage.Restarted()
	if err := f.start(ctx); err != nil {
		f.drop()
		return err
	}
	return nil
}

// called measures a call.
func called(in []kafka.Fetched, out []pipe.Outcome, busy time.Duration) runner.Call {
	c := runner.Call{In: len(in), BytesIn: kafka.Size(in), Busy: busy}
	for i, o := range out {
		switch o.Action {
		case pipe.Keep:
			c.Out++
			c.BytesOut += len(in[i].Key) + len(in[i].Value)
		case pipe.Replace:
			c.Out += len(o.Records)
			for _, m := range o.Records {
				c.BytesOut += len(m.Key) + len(m.Value)
			}
		case pipe.Fail:
			c.Failed++
		case pipe.Drop:
		}
	}
	return c
}

func (f *Function) call(ctx context.Context, records []kafka.Fetched) ([]pipe.Outcome, error) {
	f.id++
	b := &transformv1.Batch{Id: f.id, Records: make([]*transformv1.Record, len(records))}
	buf := make([]transformv1.Record, len(records))
	for i, m := range records {
		r := &buf[i]
		r.Key, r.Value, r.Topic, r.Partition, r.Offset, r.TimestampMs = m.Key, m.Value, m.Topic, m.Partition, m.Offset, m.TimestampMS
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, &transformv1.Header{Key: h.Key, Value: h.Value})
		}
		b.Records[i] = r
	}
	if err := f.stream.Send(&transformv1.ApplyRequest{Kind: &transformv1.ApplyRequest_Batch{Batch: b}}); err != nil {
		return nil, fmt.Errorf("send a batch to function %s: %w", f.name, err)
	}
	answer, err := f.receive(ctx, f.opts.BatchTimeout)
	if err != nil {
		return nil, fmt.Errorf("answer of function %s: %w", f.name, err)
	}
	r := answer.GetResult()
	switch {
	case r == nil:
		return nil, fmt.Errorf("function %s answered a batch with something else", f.name)
	case r.Id != f.id:
		return nil, fmt.Errorf("function %s answered batch %d, asked was %d", f.name, r.Id, f.id)
	case len(r.Results) != len(records):
		return nil, fmt.Errorf("function %s answered %d results for %d records", f.name, len(r.Results), len(records))
	}
	return f.outcomes(r.Results)
}

func (f *Function) outcomes(results []*transformv1.Result) ([]pipe.Outcome, error) {
	out := make([]pipe.Outcome, len(results))
	for i, r := range results {
		o := &out[i]
		switch r.GetAction() {
		case transformv1.Action_ACTION_KEEP:
			o.Action = pipe.Keep
		case transformv1.Action_ACTION_DROP:
			o.Action = pipe.Drop
		case transformv1.Action_ACTION_FAIL:
			o.Action, o.Reason, o.Retriable = pipe.Fail, r.Reason, r.Retriable
			if o.Reason == "" {
				o.Reason = "the function gave no reason"
			}
		case transformv1.Action_ACTION_REPLACE:
			if len(r.Records) == 0 {
				return nil, fmt.Errorf("function %s replaced record %d of the batch by nothing; that is what drop is for", f.name, i)
			}
			o.Action = pipe.Replace
			for _, x := range r.Records {
				m := kafka.Message{Topic: x.Topic, Key: x.Key, Value: x.Value, TimestampMS: x.TimestampMs}
				for _, h := range x.Headers {
					m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
				}
				o.Records = append(o.Records, m)
			}
		default:
			return nil, fmt.Errorf("function %s gave the unknown action %v for record %d of the batch", f.name, r.GetAction(), i)
		}
	}
	return out, nil
}
