package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/loglevel"
)

// maxAnswer bounds what is read of another node's answer (I8).
const maxAnswer = 32 << 20

func levelOf(s loglevel.State) api.Logger {
	l := api.Logger{Level: s.Level}
	if s.ModifiedMS > 0 {
		l.LastModified = &s.ModifiedMS
	}
	return l
}

func loggers(s *Server, _ *http.Request) (int, any, error) {
	out := map[string]api.Logger{}
	for name, l := range s.opts.Levels.All() {
		out[name] = levelOf(l)
	}
	return http.StatusOK, out, nil
}

func logger(s *Server, r *http.Request) (int, any, error) {
	l, ok := s.opts.Levels.Get(seg(r, 2))
	if !ok {
		return 0, nil, fault.New(fault.NotFound, "Logger %s not found.", seg(r, 2))
	}
	return http.StatusOK, levelOf(l), nil
}

func setLevel(s *Server, r *http.Request) (int, any, error) {
	var in api.SetLevel
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	if in.Level == "" {
		return 0, nil, fault.New(fault.Invalid, "Desired 'level' parameter was not specified in request.")
	}
	level, ok := loglevel.Parse(in.Level)
	if !ok {
		return 0, nil, fault.New(fault.NotFound, "invalid log level '%s'.", in.Level)
	}
	name := seg(r, 2)
	if r.URL.Query().Get("scope") == "cluster" {
		return http.StatusNoContent, nil, s.setEverywhere(r, name, level, in)
	}
	return http.StatusOK, s.opts.Levels.Set(name, level), nil
}

// setEverywhere sets a level on this node and on all others that live. A node that can't be told is a warning in the log: levels are a
// help for people, and the other nodes' are set all the same.
func (s *Server) setEverywhere(r *http.Request, name string, level slog.Level, in api.SetLevel) error {
	s.opts.Levels.Set(name, level)
	nodes, err := s.opts.Nodes(r.Context())
	if err != nil {
		return fault.New(fault.Unavailable, "The level is set on this node; the others are not known at the moment: %v", err)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	var g errgroup.Group
	for _, addr := range nodes {
		g.Go(func() error {
			if err := s.toNode(ctx, r, http.MethodPut, addr, "/admin/loggers/"+url.PathEscape(name), b, nil); err != nil {
				s.opts.Logger.Warn("log level of another node", "rest", addr, "err", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// toNode asks another node for something on behalf of who sent r, whose login goes with it. out, if not nil, gets the answer.
func (s *Server) toNode(ctx context.Context, r *http.Request, method, addr, path string, in []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.scheme+"://"+addr+path, bytes.NewReader(in))
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", jsonMedia)
	}
	if who := r.Header.Get("Authorization"); who != "" {
		req.Header.Set("Authorization", who)
	}
	resp, err := (&http.Client{Transport: s.toNodes}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
}
