package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/login"
)

// CORS says which pages of other origins browsers let use REST; Kafka Connect's access.control.allow.origin and .methods.
type CORS struct {
	// Origins may be "*". Empty: none.
	Origins []string
	Methods []string
}

// open are the paths that orchestrators ask without a login.
var open = []string{api.Prefix + "/live", api.Prefix + "/ready"}

// guarded lets next answer only who may ask. A node that passes a request on passes the login on with it, and the leader looks again.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.preflight(w, r) {
			return
		}
		if s.opts.Logins == nil || slices.Contains(open, strings.TrimSuffix(r.URL.Path, "/")) {
			next.ServeHTTP(w, r)
			return
		}
		name, role := s.opts.Logins.Who(r.Header.Get("Authorization"))
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		switch {
		case role == login.Admin, role == login.Read && reads:
			next.ServeHTTP(w, r)
		case role == login.Read:
			fail(w, http.StatusForbidden, name+" may only read; "+r.Method+" needs the role admin")
		default: // in the words and the form of Kafka Connect's BasicAuthSecurityRestExtension
			w.Header().Set("WWW-Authenticate", `Basic realm="millrace", charset="UTF-8"`)
			write(w, http.StatusUnauthorized, text{"text/plain", "User cannot access the resource."})
		}
	})
}

// preflight adds what a browser wants to know before it lets a page of another origin see the answer. Whether such a page may send a request
// that changes something is asked beforehand, without a login: that is answered here, and true is returned.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if len(s.opts.CORS.Origins) == 0 || origin == "" {
		return false
	}
	w.Header().Add("Vary", "Origin")
	asks := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	if slices.Contains(s.opts.CORS.Origins, "*") || slices.Contains(s.opts.CORS.Origins, origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		if asks {
			w.Header().Set("Access-Control-Allow-Methods", strings.Join(s.opts.CORS.Methods, ","))
			w.Header().Set("Access-Control-Allow-Headers", "Accept,Authorization,Content-Type,Origin,X-Requested-With")
			w.Header().Set("Access-Control-Max-Age", "1800")
		}
	}
	if asks {
		w.WriteHeader(http.StatusOK)
	}
	return asks
}
