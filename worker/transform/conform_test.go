package transform

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	transformv1 "github.com/millrace/millrace/proto/transform/v1"
)

// conform returns the rules that are broken and those that were not looked at.
func conform(t *testing.T, c Conformance) (broken, skipped []string) {
	t.Helper()
	kept := Conform(t.Context(), c, func(r Checked) {
		switch {
		case r.Skipped != "":
			skipped = append(skipped, r.Rule)
		case r.Problem != "":
			t.Logf("%s: %s", r.Rule, r.Problem)
			broken = append(broken, r.Rule)
		}
	})
	if kept != (len(broken) == 0) {
		t.Errorf("kept is %t with %v broken", kept, broken)
	}
	return broken, skipped
}

// A function of the SDK keeps every rule, as a process and at an address.
func TestConformingFunction(t *testing.T) {
	t.Parallel()
	c := Conformance{Options: options(t, "none"), Refused: []map[string]string{{"refuse": "1"}}, Samples: [][]byte{[]byte("a")}}
	c.StartTimeout, c.BatchTimeout = 30*time.Second, 30*time.Second
	if broken, skipped := conform(t, c); len(broken) > 0 || len(skipped) > 0 {
		t.Errorf("broken %v, skipped %v", broken, skipped)
	}
	c.Command, c.Address, c.Refused = nil, serveAt(t, sound{}), nil
	broken, skipped := conform(t, c)
	if want := []string{"refuse", "protocol", "standard input", "SIGTERM"}; len(broken) > 0 || !slices.Equal(skipped, want) {
		t.Errorf("at an address: broken %v, skipped %v, want %v", broken, skipped, want)
	}
}

// Each rule is broken by a function that breaks only it, or what follows from it, and is named.
func TestBrokenContracts(t *testing.T) {
	t.Parallel()
	every := []string{"result", "batch sizes", "null", "headers", "big record", "flight", "streams", "sample"} // all with records
	results := func(do func(*transformv1.BatchResult)) transformv1.TransformServer {
		return sound{answer: func(r *transformv1.BatchResult) *transformv1.BatchResult { do(r); return r }}
	}
	for name, x := range map[string]struct {
		server transformv1.TransformServer
		want   []string
		silent bool // it does not answer at all, which takes its time to see
	}{
		"no name": {sound{is: &transformv1.DescribeResponse{}}, []string{"describe"}, false},
		"a setting twice": {
			sound{is: &transformv1.DescribeResponse{Name: "x", Config: []*transformv1.ConfigKey{{Name: "a"}, {Name: "a"}}}}, []string{"describe"}, false,
		},
		"takes all settings": {sound{careless: true}, []string{"refuse"}, false},
		"one result less":    {results(func(r *transformv1.BatchResult) { r.Results = r.Results[:max(0, len(r.Results)-1)] }), every, false},
		"one result more":    {results(func(r *transformv1.BatchResult) { r.Results = append(r.Results, keep) }), slices.Insert(slices.Clone(every), 1, "empty batch"), false},
		"another id":         {results(func(r *transformv1.BatchResult) { r.Id++ }), slices.Insert(slices.Clone(every), 1, "empty batch"), false},
		"no action":          {results(func(r *transformv1.BatchResult) { r.Results = make([]*transformv1.Result, len(r.Results)) }), every, false},
		"no reason": {results(func(r *transformv1.BatchResult) {
			for i := range r.Results {
				r.Results[i] = &transformv1.Result{Action: transformv1.Action_ACTION_FAIL}
			}
		}), every, false},
		"replaced by nothing": {results(func(r *transformv1.BatchResult) {
			for i := range r.Results {
				r.Results[i] = &transformv1.Result{Action: transformv1.Action_ACTION_REPLACE}
			}
		}), every, false},
		"fails all": {results(func(r *transformv1.BatchResult) {
			for i := range r.Results {
				r.Results[i] = &transformv1.Result{Action: transformv1.Action_ACTION_FAIL, Reason: "no"}
			}
		}), []string{"sample"}, false},
		"no answer to an empty batch": {sound{answer: func(r *transformv1.BatchResult) *transformv1.BatchResult {
			if len(r.Results) == 0 {
				return nil
			}
			return r
		}}, []string{"empty batch"}, true},
		"no big batches": {sound{answer: func(r *transformv1.BatchResult) *transformv1.BatchResult {
			if len(r.Results) > 500 {
				return nil
			}
			return r
		}}, []string{"batch sizes"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Conformance{Options: options(t, ""), Refused: []map[string]string{{"refuse": "1"}}, Samples: [][]byte{[]byte("a")}}
			c.Command, c.Address = nil, serveAt(t, x.server)
			c.StartTimeout, c.BatchTimeout = time.Second, 30*time.Second
			if x.silent {
				c.BatchTimeout = 5 * time.Second
			}
			if broken, _ := conform(t, c); !slices.Equal(broken, x.want) {
				t.Errorf("broken %v, want %v", broken, x.want)
			}
		})
	}
}

// What only a process can do wrong. "wrong count" looks neither at its standard input nor at the protocol.
func TestBrokenProcess(t *testing.T) {
	t.Parallel()
	c := Conformance{Options: options(t, "wrong count")}
	c.StartTimeout, c.BatchTimeout = 15*time.Second, 5*time.Second
	broken, _ := conform(t, c)
	for _, rule := range []string{"result", "protocol", "standard input"} {
		if !slices.Contains(broken, rule) {
			t.Errorf("%s is kept; broken are %v", rule, broken)
		}
	}
	if slices.Contains(broken, "SIGTERM") {
		t.Error("it ends on SIGTERM, and that was not seen")
	}
	c.Command = []string{"/no/such/program"}
	if broken, _ := conform(t, c); !slices.Contains(broken, "describe") {
		t.Errorf("no program: broken %v", broken)
	}
}

// serveAt serves a function on a socket.
func serveAt(t *testing.T, f transformv1.TransformServer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fn.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	transformv1.RegisterTransformServer(s, f)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "unix://" + path
}

var keep = &transformv1.Result{Action: transformv1.Action_ACTION_KEEP}

// sound keeps all records and every rule, unless it is told how not to.
type sound struct {
	transformv1.UnimplementedTransformServer
	is       *transformv1.DescribeResponse
	careless bool
	// answer changes an answer; nil: there is none.
	answer func(*transformv1.BatchResult) *transformv1.BatchResult
}

func (s sound) Describe(context.Context, *transformv1.DescribeRequest) (*transformv1.DescribeResponse, error) {
	if s.is != nil {
		return s.is, nil
	}
	return &transformv1.DescribeResponse{Name: "sound"}, nil
}

func (s sound) Apply(stream transformv1.Transform_ApplyServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if b := r.GetBatch(); b != nil {
			answer := &transformv1.BatchResult{Id: b.Id}
			for range b.Records {
				answer.Results = append(answer.Results, keep)
			}
			if s.answer != nil {
				answer = s.answer(answer)
			}
			if answer == nil {
				continue
			}
			err = stream.Send(&transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Result{Result: answer}})
		} else {
			c := &transformv1.Configured{}
			if r.GetConfigure().Config["refuse"] != "" && !s.careless {
				c.Error = "refuse is set"
			}
			err = stream.Send(&transformv1.ApplyResponse{Kind: &transformv1.ApplyResponse_Configured{Configured: c}})
		}
		if err != nil {
			return err
		}
	}
}
