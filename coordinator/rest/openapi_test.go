package rest

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
)

// The description can be made of every route, and says something of each.
func TestDescription(t *testing.T) {
	s := &Server{}
	rec := httptest.NewRecorder()
	_, body, err := s.openAPI(s, httptest.NewRequest("GET", "/openapi.json", nil))
	if err != nil {
		t.Fatal(err)
	}
	write(rec, 200, body)
	var doc struct {
		Paths map[string]map[string]struct {
			Summary   string         `json:"summary"`
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, ops := range doc.Paths {
		for method, op := range ops {
			if n++; op.Summary == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s is described as %+v", method, path, op)
			}
		}
	}
	if n != len(s.routes()) {
		t.Errorf("%d operations of %d routes", n, len(s.routes()))
	}
}
