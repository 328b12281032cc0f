// Package rest serves Kafka Connect's REST API, and Millrace's own additions under /millrace/v1.
//
// Any node answers. What the leader must decide or knows best is passed on to it; / and /health answer locally, before Raft is
// up. The server owns its goroutines; they end when Run returns.
package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// ConnectVersion is the version of Kafka Connect whose API this is; clients switch features by it.
const ConnectVersion = "4.1.0"

// Options of a Server.
type Options struct {
	Version, Commit string
	// Herder is this node's, nil on a node that is no coordinator. It is used while this node leads.
	Herder *herder.Herder
	// Leader returns where the leader answers REST (host:port), and whether that is this node, ready to act. An empty address: nobody
	// knows at the moment.
	Leader func(ctx context.Context) (addr string, self bool)
	// Fault says what keeps this node from storing the cluster's state, empty when nothing does.
	Fault func() string
	// KafkaClusterID is the brokers' own id, as far as it is known.
	KafkaClusterID func() string
	Logger         *slog.Logger
}

// Limits of a request (I8).
const (
	maxBody    = 1 << 20
	leaderWait = 5 * time.Second
)

// Server is the REST server.
type Server struct {
	opts Options
	l    net.Listener
	http *http.Server
}

// New makes a server on a port that listens already; requests wait until Run.
func New(l net.Listener, o Options) *Server {
	s := &Server{opts: o, l: l}
	s.http = &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 120 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Run serves until ctx ends; requests on their way get a few seconds to finish.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(s.l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve REST: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := s.http.Shutdown(stop); err != nil {
		_ = s.http.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve REST: %w", err)
	}
	return nil
}

// handler answers on the leader. What it returns is the body; nil: none.
type handler func(s *Server, r *http.Request) (status int, body any, err error)

// route is a path, as segments where * stands for anything, with its methods.
type route struct {
	path    []string
	methods map[string]handler
	local   bool
	maxBody int64 // 0: maxBody
}

// Handler returns the routes.
func (s *Server) Handler() http.Handler {
	routes := s.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p) // the client went away in the middle; the server knows what to do
				}
				s.opts.Logger.Error("REST handler panicked", "path", r.URL.Path, "panic", p)
				fail(w, http.StatusInternalServerError, "Internal error; the node's log has the details")
			}
		}()
		segs, err := segments(r)
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		var found *route
		for i := range routes {
			if match(routes[i].path, segs) {
				found = &routes[i]
				break
			}
		}
		if found == nil {
			fail(w, http.StatusNotFound, "HTTP 404 Not Found")
			return
		}
		s.serve(w, r, found)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, found *route) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	h := found.methods[method]
	switch {
	case r.Method == http.MethodOptions:
		var allow []string
		for m := range found.methods {
			allow = append(allow, m)
		}
		w.Header().Set("Allow", strings.Join(append(allow, "OPTIONS"), ","))
		w.Header().Set("Content-Type", "text/plain")
		return
	case h == nil:
		fail(w, http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
		return
	}
	if ct := r.Header.Get("Content-Type"); ct != "" && method != http.MethodGet && method != http.MethodDelete && !strings.HasPrefix(strings.TrimSpace(ct), "application/json") {
		fail(w, http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
		return
	}
	if a := r.Header.Get("Accept"); a != "" && !strings.Contains(a, "*/*") && !strings.Contains(a, "application/*") && !strings.Contains(a, "application/json") {
		fail(w, http.StatusNotAcceptable, "HTTP 406 Not Acceptable")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(found.maxBody, maxBody))
	if !found.local && !s.onLeader(w, r) {
		return
	}
	status, body, err := h(s, r)
	if errors.Is(err, raftnode.ErrNotLeader) {
		// Leadership went while the request was on its way; nothing was changed.
		fail(w, http.StatusConflict, "Cannot complete request momentarily due to no known leader URL, likely because a rebalance was underway.")
		return
	}
	if err != nil {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes", large.Limit))
			return
		}
		if fault.KindOf(err) == fault.Internal {
			s.opts.Logger.Error("REST request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		fail(w, fault.Status(err), err.Error())
		return
	}
	if status == http.StatusCreated {
		if i, ok := body.(*api.ConnectorInfo); ok {
			w.Header().Set("Location", "http://"+r.Host+"/connectors/"+url.PathEscape(i.Name))
		}
	}
	write(w, status, body)
}

// onLeader reports whether this node is to answer. If not it has passed the request on, or said why it can't.
func (s *Server) onLeader(w http.ResponseWriter, r *http.Request) bool {
	deadline := time.Now().Add(leaderWait)
	for {
		addr, self := s.opts.Leader(r.Context())
		switch {
		case self && s.opts.Herder != nil:
			return true
		case addr != "" && !self:
			s.forward(w, r, addr)
			return false
		case time.Now().After(deadline) || r.Context().Err() != nil:
			if why := s.fault(); why != "" {
				fail(w, http.StatusServiceUnavailable, why)
				return false
			}
			fail(w, http.StatusConflict, "Cannot complete request momentarily due to no known leader URL, likely because a rebalance was underway.")
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// fault is what to tell when this node can't store the cluster's state.
func (s *Server) fault() string {
	if s.opts.Fault == nil {
		return ""
	}
	why := s.opts.Fault()
	if why == "" {
		return ""
	}
	return "This node can't store the cluster's state: " + why + ". Free some space in its data directory; it goes on by itself. Nothing that was answered before is lost."
}

// forward passes the request to the leader: a first hop says forward=true, a second forward=false, a third is refused.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, leader string) {
	q := r.URL.Query()
	next := "true"
	switch q.Get("forward") {
	case "true":
		next = "false"
	case "false":
		fail(w, http.StatusConflict, "Cannot complete request because of a conflicting operation (e.g. worker rebalance)")
		return
	}
	q.Set("forward", next)
	host := r.Host
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", leader
			p.Out.URL.RawQuery = q.Encode()
			p.Out.Host = host // so that Location names the node that was asked
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			fail(w, http.StatusInternalServerError, "IO Error trying to forward REST request: "+err.Error())
		},
		ErrorLog: slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(w, r)
}

func segments(r *http.Request) ([]string, error) {
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if path == "" {
		return nil, nil
	}
	segs := strings.Split(path, "/")
	for i, s := range segs {
		u, err := url.PathUnescape(s)
		if err != nil || u == "" {
			return nil, fault.New(fault.Invalid, "Bad path: empty or wrongly escaped segment")
		}
		segs[i] = u
	}
	return segs, nil
}

func match(pattern, segs []string) bool {
	if len(pattern) != len(segs) {
		return false
	}
	for i := range pattern {
		if pattern[i] != "*" && pattern[i] != segs[i] {
			return false
		}
	}
	return true
}

func seg(r *http.Request, i int) string {
	segs, _ := segments(r)
	return segs[i]
}

func write(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	if text, ok := body.(plain); ok {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, string(text))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(body)
}

// plain is a body that is no JSON.
type plain string

func fail(w http.ResponseWriter, status int, message string) {
	write(w, status, api.Error{Code: status, Message: message})
}

// body reads a JSON body strictly: unknown members and anything after it are refused.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return err
		case errors.Is(err, io.EOF):
			return fault.New(fault.Invalid, "The request needs a JSON body")
		}
		return fault.New(fault.Invalid, "The request body is not what this endpoint takes: %v", err)
	}
	if d.More() {
		return fault.New(fault.Invalid, "The request body goes on after its JSON value")
	}
	return nil
}

// scalars turns the values of a config into text, as Connect does: numbers and booleans are taken, objects and lists are not.
func scalars(in map[string]any) (map[string]string, error) {
	if in == nil {
		return nil, fault.New(fault.Invalid, "The request needs a config: an object of settings")
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		switch x := v.(type) {
		case string:
			out[k] = x
		case json.Number:
			out[k] = x.String()
		case bool:
			out[k] = strconv.FormatBool(x)
		case nil:
			return nil, fault.New(fault.Invalid, "Invalid value null for configuration %s: Null value can not be supplied as the configuration value.", k)
		default:
			return nil, fault.New(fault.Invalid, "Invalid value for configuration %s: a config value is text, a number or a boolean, not an object or a list", k)
		}
	}
	return out, nil
}

func (s *Server) setTarget(t commandv1.TargetState, status int) handler {
	return func(s *Server, r *http.Request) (int, any, error) {
		return status, nil, s.opts.Herder.SetTarget(r.Context(), seg(r, 1), t)
	}
}
