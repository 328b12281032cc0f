// Package rest serves Kafka Connect's REST API, and Millrace's own additions under /millrace/v1.
//
// Any node answers. What the leader must decide or knows best is passed on to it; / and /health answer locally, before Raft is
// up. The server owns its goroutines; they end when Run returns.
package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/login"
	"github.com/millrace/millrace/internal/loglevel"
	"github.com/millrace/millrace/internal/logring"
	"github.com/millrace/millrace/internal/obs"
	"github.com/millrace/millrace/internal/tlsfile"
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
	// Levels are the process's log levels.
	Levels *loglevel.Levels
	// NodeID is this node's, and Logs are the last log lines of the connectors that it has to do with.
	NodeID string
	Logs   *logring.Ring
	// Nodes returns where the other nodes answer REST (host:port).
	Nodes func(ctx context.Context) ([]string, error)
	// Data is the node's data directory.
	Data string
	// KafkaClusterID is the brokers' own id, as far as it is known.
	KafkaClusterID func() string
	// TLS, if set, makes REST https, here and on the nodes that requests are passed on to. ClientAuth says what clients must show.
	TLS        *tlsfile.Source
	ClientAuth tls.ClientAuthType
	// Logins are who may use REST; nil: everybody.
	Logins *login.Logins
	CORS   CORS
	// Ready says whether orchestrators should send work here, and if not, why.
	Ready func() (why string, ok bool)
	// Metrics are shown at /metrics, and get those of REST.
	Metrics *obs.Registry
	Logger  *slog.Logger
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
	// scheme is that of all nodes; toNodes carries requests to them.
	scheme  string
	toNodes http.RoundTripper
	// scrape answers with the node's metrics.
	scrape http.Handler
	// observe counts a request.
	observe obs.Observe
}

// New makes a server on a port that listens already; requests wait until Run.
func New(l net.Listener, o Options) *Server {
	s := &Server{opts: o, l: l, scheme: "http", toNodes: http.DefaultTransport, scrape: o.Metrics.Handler(o.Logger), observe: o.Metrics.Histogram(metricRequests)}
	s.http = &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 120 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	if o.TLS != nil {
		s.scheme, s.http.TLSConfig = "https", o.TLS.Server(o.ClientAuth, "h2", "http/1.1")
		s.toNodes = &http.Transport{DialTLSContext: o.TLS.DialContext, IdleConnTimeout: 90 * time.Second}
	}
	return s
}

// Run serves until ctx ends; requests on their way get a few seconds to finish.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		if s.opts.TLS != nil {
			done <- s.http.ServeTLS(s.l, "", "")
			return
		}
		done <- s.http.Serve(s.l)
	}()
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

// Handler returns the routes.
func (s *Server) Handler() http.Handler {
	routes := s.routes()
	return s.measured(routes, s.guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		if here := at(routes, segs); len(here) > 0 {
			s.serve(w, r, here)
			return
		}
		fail(w, http.StatusNotFound, "HTTP 404 Not Found")
	})))
}

// serve answers a request for a path that has these routes.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, here []*route) {
	method := r.Method
	switch method {
	case http.MethodHead:
		method = http.MethodGet
	case http.MethodOptions:
		allow := strings.Join(methods(here), ",")
		w.Header().Set("Allow", allow)
		write(w, http.StatusOK, text{"text/plain", strings.ReplaceAll(allow, ",", ", ") + "\n"})
		return
	}
	i := slices.IndexFunc(here, func(x *route) bool { return x.method == method })
	if i < 0 {
		fail(w, http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
		return
	}
	found := here[i]
	if ct := r.Header.Get("Content-Type"); ct != "" && method != http.MethodGet && method != http.MethodDelete {
		if media, _, err := mime.ParseMediaType(ct); err != nil || media != jsonMedia {
			fail(w, http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
			return
		}
	}
	if !accepts(r, found.media) {
		fail(w, http.StatusNotAcceptable, "HTTP 406 Not Acceptable")
		return
	}
	if found.raw != nil {
		found.raw(s, w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(found.maxBody, maxBody))
	if !found.local && !s.onLeader(w, r) {
		return
	}
	status, body, err := found.handle(s, r)
	switch {
	case errors.Is(err, raftnode.ErrNotLeader):
		// Leadership went while the request was on its way; nothing was changed.
		fail(w, http.StatusConflict, "Cannot complete request momentarily due to no known leader URL, likely because a rebalance was underway.")
	case err != nil:
		s.failed(w, r, err)
	default:
		if i, ok := body.(*api.ConnectorInfo); ok && status == http.StatusCreated {
			w.Header().Set("Location", s.scheme+"://"+r.Host+"/connectors/"+url.PathEscape(i.Name))
		}
		write(w, status, body)
	}
}

// failed answers with an error.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes", large.Limit))
		return
	}
	if fault.KindOf(err) == fault.Internal {
		s.opts.Logger.Error("REST request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	fail(w, fault.Status(err), err.Error())
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
			p.Out.URL.Scheme, p.Out.URL.Host = s.scheme, leader
			p.Out.URL.RawQuery = q.Encode()
			p.Out.Host = host // so that Location names the node that was asked
		},
		ModifyResponse: func(resp *http.Response) error {
			for name := range resp.Header {
				if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
					resp.Header.Del(name) // this node's own are there
				}
			}
			return nil
		},
		Transport: s.toNodes,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				s.failed(w, r, err)
				return
			}
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

func seg(r *http.Request, i int) string {
	segs, _ := segments(r)
	return segs[i]
}

func write(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	if t, ok := body.(text); ok {
		w.Header().Set("Content-Type", t.media)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, t.body)
		return
	}
	w.Header().Set("Content-Type", jsonMedia)
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(body)
}

// text is a body that is no JSON.
type text struct{ media, body string }

const jsonMedia = "application/json"

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

// scalars turns the values of a config into text, as Connect does: numbers and booleans are taken, objects and lists are not. Keys whose
// value is null come apart: they are an error of the config, not of the request.
func scalars(in api.GivenConfig) (given map[string]string, nulls []string, err error) {
	if in == nil {
		return nil, nil, fault.New(fault.Invalid, "The request needs a config: an object of settings")
	}
	given = make(map[string]string, len(in))
	for k, v := range in {
		switch x := v.(type) {
		case string:
			given[k] = x
		case json.Number:
			given[k] = x.String()
		case bool:
			given[k] = strconv.FormatBool(x)
		case nil:
			nulls = append(nulls, k)
		default:
			return nil, nil, fault.New(fault.Invalid, "Invalid value for configuration %s: a config value is text, a number or a boolean, not an object or a list", k)
		}
	}
	slices.Sort(nulls)
	return given, nulls, nil
}

func (s *Server) setTarget(t commandv1.TargetState, status int) handler {
	return func(s *Server, r *http.Request) (int, any, error) {
		return status, nil, s.opts.Herder.SetTarget(r.Context(), seg(r, 1), t)
	}
}
