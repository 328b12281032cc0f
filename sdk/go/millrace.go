package millrace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	transformv1 "github.com/millrace/millrace/proto/transform/v1"
)

// Record is a Kafka record.
type Record struct {
	// Topic, Partition and Offset say where it came from. Setting Topic on a returned record routes it there; the topic must be in
	// the pipeline's transform.routes.
	Topic     string
	Partition int32
	Offset    int64
	// Key and Value: nil is null, which for a value means a tombstone.
	Key, Value  []byte
	Headers     []Header
	TimestampMS int64

	from string // the topic that it came from
}

// Header is one header; a nil Value is null.
type Header struct {
	Key   string
	Value []byte
}

// ConfigKey declares a setting of the function, given in the pipeline as function.config.<Name>.
type ConfigKey struct {
	Name, Doc, Default string
	Required, Secret   bool
}

// Config are the pipeline's settings for the function, defaults filled in.
type Config map[string]string

// Function is a function.
type Function struct {
	Name, Version, Description string
	Config                     []ConfigKey
	// Init, if set, gets the settings before the first record. An error refuses them, and the task fails with it.
	Init func(ctx context.Context, c Config) error
	// Handle says what becomes of a record. Returning the record itself, unchanged, keeps it.
	Handle func(ctx context.Context, r Record) ([]Record, error)
}

// retry marks an error as worth trying again.
type retry struct{ err error }

func (r *retry) Error() string { return r.err.Error() }
func (r *retry) Unwrap() error { return r.err }

// Retry marks a failure as one that may pass: a service that is away. The pipeline's errors.retry.timeout says how long it is tried again.
func Retry(err error) error { return &retry{err} }

// Serve runs the function until the worker ends it, and exits the process.
func Serve(f Function) {
	if err := serve(f); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", f.Name, err)
		os.Exit(1)
	}
}

func serve(f Function) error {
	addr := os.Getenv("MILLRACE_LISTEN")
	if addr == "" {
		return errors.New("this is a Millrace function; a worker launches it (function.command in a connector of class transform)")
	}
	if p := os.Getenv("MILLRACE_PROTOCOL"); p != "" && p != "1" {
		return fmt.Errorf("the worker speaks protocol %s, this function knows 1", p)
	}
	network, path := "tcp", addr
	if rest, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, path = "unix", rest
	}
	l, err := net.Listen(network, path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20))
	transformv1.RegisterTransformServer(s, &Server{Function: f})
	go func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		ended := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(ended)
		}()
		select {
		case <-ctx.Done():
		case <-ended:
		}
		s.Stop()
	}()
	return s.Serve(l)
}

// Server serves a function over gRPC; Serve uses it, and so can tests and services of your own.
type Server struct {
	transformv1.UnimplementedTransformServer
	Function Function
}

// Describe implements the contract.
func (s *Server) Describe(context.Context, *transformv1.DescribeRequest) (*transformv1.DescribeResponse, error) {
	d := &transformv1.DescribeResponse{Name: s.Function.Name, Version: s.Function.Version, Description: s.Function.Description}
	for _, k := range s.Function.Config {
		d.Config = append(d.Config, &transformv1.ConfigKey{Name: k.Name, Doc: k.Doc, Required: k.Required, DefaultValue: k.Default, Secret: k.Secret})
	}
	return d, nil
}

// Apply implements the contract.
func (s *Server) Apply(stream transformv1.Transform_ApplyServer) error {
	ctx := stream.Context()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var resp *transformv1.ApplyResponse
		switch k := req.Kind.(type) {
		case *transformv1.ApplyRequest_Configure:
			resp = &transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Configured{Configured: s.configure(ctx, k.Configure)}}
		case *transformv1.ApplyRequest_Batch:
			r := &transformv1.BatchResult{Id: k.Batch.Id, Results: make([]*transformv1.Result, len(k.Batch.Records))}
			for i, rec := range k.Batch.Records {
				r.Results[i] = s.one(ctx, rec)
			}
			resp = &transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Result{Result: r}}
		default:
			continue // of a newer contract
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func (s *Server) configure(ctx context.Context, c *transformv1.Configure) *transformv1.Configured {
	config := Config{}
	for _, k := range s.Function.Config {
		if k.Default != "" {
			config[k.Name] = k.Default
		}
	}
	maps.Copy(config, c.Config)
	if s.Function.Init != nil {
		if err := s.Function.Init(ctx, config); err != nil {
			return &transformv1.Configured{Error: err.Error()}
		}
	}
	return &transformv1.Configured{}
}

// one runs the handler on a record. A panic fails that record only.
func (s *Server) one(ctx context.Context, in *transformv1.Record) (res *transformv1.Result) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s\n", p, debug.Stack())
			res = &transformv1.Result{Action: transformv1.Action_ACTION_FAIL, Reason: fmt.Sprintf("panic: %v", p)}
		}
	}()
	r := Record{Topic: in.Topic, Partition: in.Partition, Offset: in.Offset, Key: in.Key, Value: in.Value, TimestampMS: in.TimestampMs, from: in.Topic}
	for _, h := range in.Headers {
		r.Headers = append(r.Headers, Header{h.Key, h.Value})
	}
	out, err := s.Function.Handle(ctx, r)
	if err != nil {
		var again *retry
		return &transformv1.Result{Action: transformv1.Action_ACTION_FAIL, Reason: err.Error(), Retriable: errors.As(err, &again)}
	}
	if len(out) == 0 {
		return &transformv1.Result{Action: transformv1.Action_ACTION_DROP}
	}
	res = &transformv1.Result{Action: transformv1.Action_ACTION_REPLACE}
	for _, o := range out {
		x := &transformv1.OutputRecord{Key: o.Key, Value: o.Value, TimestampMs: o.TimestampMS}
		if o.Topic != o.from {
			x.Topic = o.Topic
		}
		for _, h := range o.Headers {
			x.Headers = append(x.Headers, &transformv1.Header{Key: h.Key, Value: h.Value})
		}
		res.Records = append(res.Records, x)
	}
	return res
}
