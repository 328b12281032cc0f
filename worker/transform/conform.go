package transform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"

	transformv1 "github.com/millrace/millrace/proto/transform/v1"
	"github.com/millrace/millrace/worker/plugin"
)

// Conformance is what the battery runs against: the function of Options, and what else is known of it.
type Conformance struct {
	Options
	// Refused are configs that the function must refuse.
	Refused []map[string]string
	// Samples are values that the function must not fail.
	Samples [][]byte
}

// Checked is one rule of the contract and how the function kept it.
type Checked struct {
	Rule string        `json:"rule"`
	Says string        `json:"says"`
	Took time.Duration `json:"took_ns"`
	// Problem is how it broke the rule; empty: it did not.
	Problem string `json:"problem,omitempty"`
	// Skipped is why the rule was not looked at.
	Skipped string `json:"skipped,omitempty"`
}

// errSkip: a rule does not apply.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// contract are the rules that any function keeps, whatever it does with records: to fail one with a reason is always allowed.
var contract = []struct {
	rule, says string
	check      func(*kit, context.Context) error
}{
	{"describe", "Describe answers with a name, and each setting has a name of its own", (*kit).describe},
	{"configure", "Configure is answered by Configured, which accepts the given settings", (*kit).configure},
	{"refuse", "Configured refuses settings that are wrong, with a reason", (*kit).refuse},
	{"result", "a batch is answered by a result with its id, and each record by one well-formed result", (*kit).one},
	{"empty batch", "a batch without records is answered by a result without results", (*kit).empty},
	{"batch sizes", "batches of every size up to max_batch_records have as many results, in order", (*kit).sizes},
	{"null", "a key, a value or a header may be null, which is not empty", (*kit).nulls},
	{"headers", "records may have many headers, the same name twice, and names that are not ASCII", (*kit).headers},
	{"big record", "a record of 8 MiB is answered", (*kit).big},
	{"flight", "several batches of a stream may be unanswered, and each is answered once", (*kit).flight},
	{"streams", "several streams may be open at once", (*kit).streams},
	{"sample", "the samples are not failed", (*kit).sample},
	{"protocol", "a process that is told of a protocol it does not know exits at once, with an error", (*kit).protocol},
	{"standard input", "a process ends when its standard input closes", (*kit).input},
	{"SIGTERM", "a process ends on SIGTERM", (*kit).sigterm},
}

// Conform runs the battery and reports each rule as it is done. Every rule gets BatchTimeout, and a process that is up.
func Conform(ctx context.Context, c Conformance, report func(Checked)) (kept bool) {
	kept = true
	for _, r := range contract {
		began := time.Now()
		err := func() error {
			k := &kit{Conformance: c}
			defer k.stop()
			bounded, cancel := context.WithTimeout(ctx, c.StartTimeout+c.BatchTimeout)
			defer cancel()
			if err := r.check(k, bounded); err != nil {
				return k.explain(bounded, err)
			}
			return nil
		}()
		done := Checked{Rule: r.rule, Says: r.says, Took: time.Since(began)}
		if skip := errSkip(""); errors.As(err, &skip) {
			done.Skipped = string(skip)
		} else if err != nil {
			done.Problem, kept = err.Error(), false
		}
		report(done)
	}
	return kept
}

// kit is one rule's look at the function.
type kit struct {
	Conformance
	proc   *plugin.Process
	conn   *grpc.ClientConn
	client transformv1.TransformClient
	is     *transformv1.DescribeResponse
}

func (k *kit) launch(ctx context.Context, protocol string) error {
	p, err := plugin.Start(ctx, plugin.Options{
		Command: k.Command, Dir: k.Dir, Env: k.Env, Protocol: protocol, Ready: describes, StartTimeout: k.StartTimeout, Logger: k.Logger,
	})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	k.proc = p
	return nil
}

// start launches the function, or dials it, and asks what it is.
func (k *kit) start(ctx context.Context) error {
	addr := k.Address
	if len(k.Command) > 0 {
		if err := k.launch(ctx, ""); err != nil {
			return err
		}
		addr = k.proc.Addr()
	}
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	k.conn, k.client = conn, transformv1.NewTransformClient(conn)
	if k.is, err = k.client.Describe(ctx, &transformv1.DescribeRequest{}); err != nil {
		return fmt.Errorf("the answer to Describe: %w", err)
	}
	return nil
}

func (k *kit) stop() {
	if k.conn != nil {
		_ = k.conn.Close()
	}
	if k.proc != nil {
		k.proc.Stop(0)
	}
}

// explain adds that the process crashed, or that time was over, to what was seen of it.
func (k *kit) explain(ctx context.Context, err error) error {
	if skip := errSkip(""); errors.As(err, &skip) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("no answer in time: %w", err)
	}
	if k.proc != nil {
		select {
		case <-k.proc.Done():
			return fmt.Errorf("%w; the process ended: %w", err, k.proc.Failure())
		case <-time.After(200 * time.Millisecond):
		}
	}
	return err
}

// talk is an open stream.
type talk struct {
	transformv1.Transform_ApplyClient
	max int
}

// open starts the function and opens a stream with a config.
func (k *kit) open(ctx context.Context) (*talk, error) {
	if k.is == nil {
		if err := k.start(ctx); err != nil {
			return nil, err
		}
	}
	t, refusal, err := k.ask(ctx, k.Config)
	if err == nil && refusal != "" {
		err = fmt.Errorf("the function refuses the given settings: %s", refusal)
	}
	return t, err
}

// ask opens a stream and returns what the function says to a config; empty: it takes it.
func (k *kit) ask(ctx context.Context, config map[string]string) (*talk, string, error) {
	s, err := k.client.Apply(ctx)
	if err != nil {
		return nil, "", err
	}
	err = s.Send(&transformv1.ApplyRequest{Kind: &transformv1.ApplyRequest_Configure{Configure: &transformv1.Configure{Config: config, Connector: "conformance"}}})
	if err != nil {
		return nil, "", fmt.Errorf("send Configure: %w", err)
	}
	answer, err := s.Recv()
	if err != nil {
		return nil, "", fmt.Errorf("the answer to Configure: %w", err)
	}
	if answer.GetConfigured() == nil {
		return nil, "", fmt.Errorf("the answer to Configure is %T", answer.Kind)
	}
	t := &talk{s, 1000}
	if n := int(k.is.MaxBatchRecords); n > 0 {
		t.max = min(n, t.max)
	}
	return t, answer.GetConfigured().Error, nil
}

func (t *talk) send(id uint64, records []*transformv1.Record) error {
	if err := t.Send(&transformv1.ApplyRequest{Kind: &transformv1.ApplyRequest_Batch{Batch: &transformv1.Batch{Id: id, Records: records}}}); err != nil {
		return fmt.Errorf("send batch %d: %w", id, err)
	}
	return nil
}

func (t *talk) receive() (*transformv1.BatchResult, error) {
	answer, err := t.Recv()
	if err != nil {
		return nil, fmt.Errorf("the answer to a batch: %w", err)
	}
	if answer.GetResult() == nil {
		return nil, fmt.Errorf("the answer to a batch is %T", answer.Kind)
	}
	return answer.GetResult(), nil
}

// batch sends records and returns their results, which are well formed.
func (t *talk) batch(id uint64, records []*transformv1.Record) ([]*transformv1.Result, error) {
	if err := t.send(id, records); err != nil {
		return nil, err
	}
	r, err := t.receive()
	if err != nil {
		return nil, err
	}
	if r.Id != id {
		return nil, fmt.Errorf("batch %d was answered with id %d", id, r.Id)
	}
	return r.Results, wellFormed(r.Results, len(records))
}

func wellFormed(results []*transformv1.Result, records int) error {
	if len(results) != records {
		return fmt.Errorf("%d results for %d records", len(results), records)
	}
	for i, r := range results {
		if r.GetAction() == transformv1.Action_ACTION_FAIL && r.Reason == "" {
			return fmt.Errorf("record %d of the batch is failed without a reason", i)
		}
	}
	_, err := (&Function{name: "it"}).outcomes(results)
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "function it "))
	}
	return nil
}

// some makes n records that differ.
func some(n int) []*transformv1.Record {
	out := make([]*transformv1.Record, n)
	for i := range out {
		out[i] = &transformv1.Record{Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, `{"n":%d}`, i), Topic: "conformance", Partition: int32(i % 3), Offset: int64(i), TimestampMs: 1_700_000_000_000 + int64(i)}
	}
	return out
}

func (k *kit) describe(ctx context.Context) error {
	if err := k.start(ctx); err != nil {
		return err
	}
	if k.is.Name == "" {
		return errors.New("the name is empty")
	}
	seen := map[string]bool{}
	for _, c := range k.is.Config {
		switch {
		case c.Name == "":
			return errors.New("a setting has no name")
		case seen[c.Name]:
			return fmt.Errorf("the setting %s is there twice", c.Name)
		case c.Required && c.DefaultValue != "":
			return fmt.Errorf("the setting %s is required and has a default", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}

func (k *kit) configure(ctx context.Context) error {
	_, err := k.open(ctx)
	return err
}

func (k *kit) refuse(ctx context.Context) error {
	if len(k.Refused) == 0 {
		return errSkip("no wrong settings were given")
	}
	if err := k.start(ctx); err != nil {
		return err
	}
	for _, config := range k.Refused {
		if _, refusal, err := k.ask(ctx, config); err != nil || refusal == "" {
			return errors.Join(fmt.Errorf("the settings %v are not refused", config), err)
		}
	}
	return nil
}

func (k *kit) one(ctx context.Context) error { return k.batches(ctx, some(1)) }

func (k *kit) empty(ctx context.Context) error { return k.batches(ctx, nil) }

func (k *kit) big(ctx context.Context) error {
	return k.batches(ctx, []*transformv1.Record{{Key: []byte("big"), Value: bytes.Repeat([]byte("x"), 8<<20), Topic: "conformance"}})
}

// batches sends batches one after the other.
func (k *kit) batches(ctx context.Context, list ...[]*transformv1.Record) error {
	t, err := k.open(ctx)
	if err != nil {
		return err
	}
	for i, records := range list {
		if _, err := t.batch(uint64(i+7), records); err != nil {
			return fmt.Errorf("a batch of %d: %w", len(records), err)
		}
	}
	return nil
}

func (k *kit) sizes(ctx context.Context) error {
	t, err := k.open(ctx)
	if err != nil {
		return err
	}
	id := uint64(0)
	for _, n := range []int{2, 3, 10, 100, 999, 1000, 1} {
		id++
		if _, err := t.batch(id, some(min(n, t.max))); err != nil {
			return fmt.Errorf("a batch of %d: %w", n, err)
		}
	}
	return nil
}

func (k *kit) nulls(ctx context.Context) error {
	v := []byte("v")
	return k.batches(ctx, []*transformv1.Record{
		{Value: v, Topic: "t"}, {Key: v, Topic: "t"}, {Topic: "t"}, {Key: []byte{}, Value: []byte{}, Topic: "t"}, {Key: v, Value: v, Topic: "t", Headers: []*transformv1.Header{{Key: "h"}, {Key: "e", Value: []byte{}}}},
	})
}

func (k *kit) headers(ctx context.Context) error {
	r := some(1)
	for i := range 200 {
		r[0].Headers = append(r[0].Headers, &transformv1.Header{Key: fmt.Sprint("h", i%100), Value: []byte{byte(i), 0, 255}})
	}
	r[0].Headers = append(r[0].Headers, &transformv1.Header{Key: "名前", Value: []byte("値")}, &transformv1.Header{Key: "", Value: []byte("x")})
	return k.batches(ctx, r)
}

// flight sends batches of different keys without waiting. Few enough that a function may answer each before it reads the next.
func (k *kit) flight(ctx context.Context) error {
	t, err := k.open(ctx)
	if err != nil {
		return err
	}
	open := map[uint64]int{}
	for i := range 8 {
		id, records := uint64(1000-i), some(1+i%t.max)
		for _, r := range records {
			r.Key = fmt.Append(r.Key, "-", i)
		}
		if err := t.send(id, records); err != nil {
			return err
		}
		open[id] = len(records)
	}
	for len(open) > 0 {
		r, err := t.receive()
		if err != nil {
			return fmt.Errorf("%d batches are not answered: %w", len(open), err)
		}
		n, asked := open[r.Id]
		if !asked {
			return fmt.Errorf("batch %d is answered twice, or was never asked", r.Id)
		}
		if err := wellFormed(r.Results, n); err != nil {
			return fmt.Errorf("batch %d: %w", r.Id, err)
		}
		delete(open, r.Id)
	}
	return nil
}

func (k *kit) streams(ctx context.Context) error {
	var all []*talk
	for range 3 {
		t, err := k.open(ctx)
		if err != nil {
			return fmt.Errorf("stream %d: %w", len(all)+1, err)
		}
		all = append(all, t)
	}
	for i, t := range all {
		if _, err := t.batch(uint64(i+1), some(min(5, t.max))); err != nil {
			return fmt.Errorf("stream %d of %d: %w", i+1, len(all), err)
		}
	}
	return nil
}

func (k *kit) sample(ctx context.Context) error {
	if len(k.Samples) == 0 {
		return errSkip("no samples were given")
	}
	t, err := k.open(ctx)
	if err != nil {
		return err
	}
	for i, value := range k.Samples {
		r := some(1)
		r[0].Value = value
		results, err := t.batch(uint64(i+1), r)
		if err == nil && results[0].Action == transformv1.Action_ACTION_FAIL {
			err = fmt.Errorf("it is failed: %s", results[0].Reason)
		}
		if err != nil {
			return fmt.Errorf("sample %d: %w", i+1, err)
		}
	}
	return nil
}

// errNoProcess: the rules of processes are not those of a service that somebody else runs.
const errNoProcess = errSkip("the function runs already, at an address")

func (k *kit) protocol(ctx context.Context) error {
	if len(k.Command) == 0 {
		return errNoProcess
	}
	err := k.launch(ctx, "999")
	switch {
	case err == nil:
		return errors.New("with MILLRACE_PROTOCOL=999 it serves")
	case !errors.Is(err, plugin.ErrEnded):
		return fmt.Errorf("with MILLRACE_PROTOCOL=999 it neither serves nor exits: %w", err)
	case strings.Contains(err.Error(), "exited with status 0"):
		return errors.New("with MILLRACE_PROTOCOL=999 it exits with status 0")
	}
	return nil
}

func (k *kit) input(ctx context.Context) error { return k.ends(ctx, (*plugin.Process).CloseInput) }

func (k *kit) sigterm(ctx context.Context) error { return k.ends(ctx, (*plugin.Process).Terminate) }

// ends asks the process to end, with a stream open.
func (k *kit) ends(ctx context.Context, ask func(*plugin.Process)) error {
	if len(k.Command) == 0 {
		return errNoProcess
	}
	if _, err := k.open(ctx); err != nil {
		return err
	}
	ask(k.proc)
	select {
	case <-k.proc.Done():
		return nil
	case <-time.After(k.BatchTimeout):
	case <-ctx.Done():
	}
	return errors.New("it goes on")
}
