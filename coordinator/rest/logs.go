package rest

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/logring"
)

// own are this node's lines of a connector.
func (s *Server) own(connector string) []api.LogLine {
	out := []api.LogLine{}
	for _, l := range s.opts.Logs.Lines(connector) {
		x := api.LogLine{AtUnixMS: l.At.UnixMilli(), Node: s.opts.NodeID, Seq: l.Seq, Level: l.Level, Text: l.Text}
		if l.Task != logring.NoTask {
			task := int32(l.Task)
			x.Task = &task
		}
		out = append(out, x)
	}
	return out
}

func nodeLogs(s *Server, r *http.Request) (int, any, error) {
	name := seg(r, 4)
	return http.StatusOK, &api.Logs{Name: name, Lines: s.own(name)}, nil
}

// logs gathers a connector's lines from all nodes. One that does not answer is named; the others' lines are there all the same.
func logs(s *Server, r *http.Request) (int, any, error) {
	name := seg(r, 3)
	if _, err := s.opts.Herder.Events(name); err != nil { // there is no such connector
		return 0, nil, err
	}
	nodes, err := s.opts.Nodes(r.Context())
	if err != nil {
		return 0, nil, fault.New(fault.Unavailable, "The nodes are not known at the moment: %v", err)
	}
	out := &api.Logs{Name: name, Lines: s.own(name)}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	var g errgroup.Group
	var mu sync.Mutex // guards: out
	for _, addr := range nodes {
		g.Go(func() error {
			var theirs api.Logs
			err := s.toNode(ctx, r, http.MethodGet, addr, api.Prefix+"/node/logs/"+url.PathEscape(name), nil, &theirs)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.opts.Logger.Debug("log lines of another node", "rest", addr, "err", err)
				out.Unreachable = append(out.Unreachable, addr)
				return nil
			}
			out.Lines = append(out.Lines, theirs.Lines...)
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	slices.SortStableFunc(out.Lines, func(a, b api.LogLine) int {
		return cmp.Or(cmp.Compare(a.AtUnixMS, b.AtUnixMS), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Seq, b.Seq))
	})
	slices.Sort(out.Unreachable)
	return http.StatusOK, out, nil
}
