package rest

import (
	"net/http"
	"strconv"
	"time"

	"github.com/millrace/millrace/internal/obs"
)

var metricRequests = obs.Histogram("millrace_rest_request_duration_seconds",
	"Time to answer a REST request, by its route, method and status. Requests that were passed on to the leader count on both nodes.",
	[]float64{.001, .005, .025, .1, .5, 2.5, 10, 60}, "route", "method", "code")

func metrics(s *Server, w http.ResponseWriter, r *http.Request) { s.scrape.ServeHTTP(w, r) }

// measured counts what next answers. The route of a path that is none of ours is "other", and so is a method: nobody can make series at will.
func (s *Server) measured(routes []route, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, seen := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		name, method := "other", "other"
		if segs, err := segments(r); err == nil {
			if here := at(routes, segs); len(here) > 0 {
				name = here[0].path
			}
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
			method = r.Method
		}
		s.observe(time.Since(began).Seconds(), name, method, strconv.Itoa(seen.status))
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
