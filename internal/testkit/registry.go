package testkit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

// RegistryServer is a schema registry within the test's process: what the documentation of Confluent's REST interface says of registering,
// looking up and reading schemas. It does not check compatibility; Refuse makes it say no.
type RegistryServer struct {
	URL string

	mu       sync.Mutex // guards what follows
	schemas  []registered
	subjects map[string][]int
	refuse   string
	requests int
}

type registered struct {
	Schema string `json:"schema"`
	Type   string `json:"schemaType,omitempty"`
}

// Registry starts one; with user and password it asks for them.
func Registry(t testing.TB, user, password string) *RegistryServer {
	r := &RegistryServer{subjects: map[string][]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /subjects/{subject}/versions", func(w http.ResponseWriter, q *http.Request) { r.post(w, q, true) })
	mux.HandleFunc("POST /subjects/{subject}", func(w http.ResponseWriter, q *http.Request) { r.post(w, q, false) })
	mux.HandleFunc("GET /subjects/{subject}/versions/latest", r.latest)
	mux.HandleFunc("GET /schemas/ids/{id}", r.byID)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if u, p, _ := q.BasicAuth(); user != "" && (u != user || p != password) {
			http.Error(w, `{"error_code":401,"message":"Unauthorized"}`, http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests++
		w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
		mux.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// Refuse makes further registrations fail with a text; empty: no more.
func (r *RegistryServer) Refuse(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = text
}

// Put registers a schema, as another client would.
func (r *RegistryServer) Put(subject, kind, text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(subject, registered{Schema: text, Type: kind})
}

// Schema returns the newest schema of a subject; empty: none.
func (r *RegistryServer) Schema(subject string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ids := r.subjects[subject]; len(ids) > 0 {
		return r.schemas[ids[len(ids)-1]-1].Schema
	}
	return ""
}

// Requests returns how many it has answered.
func (r *RegistryServer) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func (r *RegistryServer) add(subject string, s registered) int {
	id := 0
	for i, x := range r.schemas {
		if x == s {
			id = i + 1
		}
	}
	if id == 0 {
		r.schemas = append(r.schemas, s)
		id = len(r.schemas)
	}
	r.subjects[subject] = append(r.subjects[subject], id)
	return id
}

func (r *RegistryServer) post(w http.ResponseWriter, q *http.Request, register bool) {
	var s registered
	if err := json.NewDecoder(q.Body).Decode(&s); err != nil || s.Schema == "" {
		fail(w, http.StatusUnprocessableEntity, 42201, "Invalid schema")
		return
	}
	subject := q.PathValue("subject")
	for _, id := range r.subjects[subject] {
		if r.schemas[id-1] == s {
			answer(w, map[string]any{"subject": subject, "id": id, "version": 1, "schema": s.Schema})
			return
		}
	}
	switch {
	case !register && len(r.subjects[subject]) == 0:
		fail(w, http.StatusNotFound, 40401, "Subject '"+subject+"' not found.")
	case !register:
		fail(w, http.StatusNotFound, 40403, "Schema not found")
	case r.refuse != "":
		fail(w, http.StatusConflict, 409, r.refuse)
	default:
		answer(w, map[string]any{"id": r.add(subject, s)})
	}
}

func (r *RegistryServer) latest(w http.ResponseWriter, q *http.Request) {
	subject := q.PathValue("subject")
	ids := r.subjects[subject]
	if len(ids) == 0 {
		fail(w, http.StatusNotFound, 40401, "Subject '"+subject+"' not found.")
		return
	}
	id := ids[len(ids)-1]
	s := r.schemas[id-1]
	answer(w, map[string]any{"subject": subject, "id": id, "version": len(ids), "schema": s.Schema, "schemaType": s.Type})
}

func (r *RegistryServer) byID(w http.ResponseWriter, q *http.Request) {
	id, err := strconv.Atoi(q.PathValue("id"))
	if err != nil || id < 1 || id > len(r.schemas) {
		fail(w, http.StatusNotFound, 40403, fmt.Sprintf("Schema %s not found", q.PathValue("id")))
		return
	}
	answer(w, r.schemas[id-1])
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func fail(w http.ResponseWriter, status, code int, text string) {
	w.WriteHeader(status)
	answer(w, map[string]any{"error_code": code, "message": text})
}
