package rest

import (
	"mime"
	"net/http"
	"slices"
	"strings"
)

// handler answers on the leader, or on any node where its route is local. What it returns is the body; nil: none.
type handler func(s *Server, r *http.Request) (status int, body any, err error)

// route is one path with one method: what serves it, and what the description of the API says of it.
type route struct {
	method string
	// path has {name} for a segment that may be anything.
	path   string
	handle handler
	// local routes are answered by the node that is asked, the others by the leader.
	local bool
	// raw, if set, answers instead of handle, in a form of its own.
	raw func(s *Server, w http.ResponseWriter, r *http.Request)

	about string
	query []param
	// in is a value of the body's type; nil: no body is looked at.
	in any
	// out has a value of the type of each body that is no error; nil: none.
	out map[int]any
	// maxBody is how large the body may be, in bytes; 0: maxBody.
	maxBody int64
	// media is what the answer is, when it is no JSON.
	media string

	segs []string
}

// param is a query parameter.
type param struct {
	name, about string
	// boolean parameters are true for "true" in any case, and false for all else.
	boolean bool
	// many: may be given several times.
	many bool
}

// at returns the routes of a path.
func at(routes []route, segs []string) (out []*route) {
	for i := range routes {
		if match(routes[i].segs, segs) {
			out = append(out, &routes[i])
		}
	}
	return out
}

func match(pattern, segs []string) bool {
	if len(pattern) != len(segs) {
		return false
	}
	for i := range pattern {
		if !strings.HasPrefix(pattern[i], "{") && pattern[i] != segs[i] {
			return false
		}
	}
	return true
}

// methods are what OPTIONS lists.
func methods(here []*route) []string {
	var out []string
	for _, r := range here {
		out = append(out, r.method)
		if r.method == http.MethodGet {
			out = append(out, http.MethodHead)
		}
	}
	return append(out, http.MethodOptions)
}

// accepts reports whether the client takes what a route answers.
func accepts(r *http.Request, media string) bool {
	given := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(given) == "" {
		return true
	}
	if media == "" {
		media = jsonMedia
	}
	family, _, _ := strings.Cut(media, "/")
	return slices.ContainsFunc(strings.Split(given, ","), func(item string) bool {
		got, _, err := mime.ParseMediaType(item)
		return err == nil && (got == "*/*" || got == family+"/*" || got == media)
	})
}
