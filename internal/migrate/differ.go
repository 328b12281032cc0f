package migrate

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// difference is one value that is not the same on both sides. Its what is part of the class that it belongs to.
type difference struct {
	path, what  string
	there, here any
}

// Tolerance is a difference that is meant to be.
type Tolerance struct {
	Path    string `json:"path"`
	Reason  string `json:"reason"`
	Records int64  `json:"records"`

	match *regexp.Regexp
	alone bool // also where only one side has it
	cut   bool // in the transaction that Debezium was restarted in, and no other
}

func tolerances() []*Tolerance {
	var out []*Tolerance
	for _, t := range []Tolerance{
		{Path: "value.ts_ms, ts_us, ts_ns", Reason: "when each of the two handled the change", match: regexp.MustCompile(`^value(\.payload)?\.(__)?ts_(ms|us|ns)$`)},
		{Path: "value.source.version", Reason: "each writes its own version", match: regexp.MustCompile(`^value(\.payload)?\.(source\.|__source_)version$`)},
		{Path: "headers.__debezium.context.runId", Reason: "Debezium's number of its run; there is none here", match: regexp.MustCompile(`^headers\.__debezium\.context\.runId$`), alone: true},
		{
			Path: "value.transaction.total_order, data_collection_order", Reason: "Debezium counts anew when it goes on within a transaction, as it did at the start of this run",
			match: regexp.MustCompile(`^value(\.payload)?\.transaction\.(total|data_collection)_order$`), cut: true,
		},
	} {
		out = append(out, &t)
	}
	return out
}

// compare appends what differs between two decoded values.
func compare(out []difference, path string, there, here any) []difference {
	switch t := there.(type) {
	case map[string]any:
		h, ok := here.(map[string]any)
		if !ok {
			break
		}
		keys := maps.Clone(t)
		maps.Copy(keys, h)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			tv, tok := t[k]
			hv, hok := h[k]
			switch {
			case !tok:
				out = append(out, difference{path + "." + k, "only here", nil, hv})
			case !hok:
				out = append(out, difference{path + "." + k, "only there", tv, nil})
			default:
				out = compare(out, path+"."+k, tv, hv)
			}
		}
		return out
	case []any:
		h, ok := here.([]any)
		if !ok || len(h) != len(t) {
			break
		}
		for i := range t {
			out = compare(out, path+"/"+nameOf(t[i], i), t[i], h[i])
		}
		return out
	}
	if tt, ht := typeOf(there), typeOf(here); tt != ht {
		return append(out, difference{path, tt + " there, " + ht + " here", there, here})
	}
	if !same(there, here) {
		out = append(out, difference{path, "another value", there, here})
	}
	return out
}

// nameOf names an item of a list: a schema's field by what it is of.
func nameOf(v any, i int) string {
	if m, ok := v.(map[string]any); ok {
		if f, ok := m["field"].(string); ok {
			return f
		}
	}
	return strconv.Itoa(i)
}

func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "text"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	}
	return "an object"
}

// same compares scalars and lists of unlike length; numbers by what they are, not by how they are written.
func same(a, b any) bool {
	x, ok := a.(json.Number)
	y, also := b.(json.Number)
	if ok && also && x != y {
		f, err1 := x.Float64()
		g, err2 := y.Float64()
		return err1 == nil && err2 == nil && f == g && strings.ContainsAny(x.String()+y.String(), ".eE")
	}
	if _, list := a.([]any); list { // their lengths differ
		return false
	}
	return a == b
}
