package configdef

import (
	"fmt"
	"slices"
	"strings"
)

// Type is the type of a key's value, in Kafka Connect's names.
type Type string

// The types. Durations are Long or Int keys whose name ends in .ms.
const (
	Boolean  Type = "BOOLEAN"
	String   Type = "STRING"
	Int      Type = "INT"
	Long     Type = "LONG"
	Double   Type = "DOUBLE"
	List     Type = "LIST"     // comma-separated
	Class    Type = "CLASS"    // name of a plugin
	Password Type = "PASSWORD" // never shown
)

// Importance orders keys in docs and forms.
type Importance string

// The importances.
const (
	High   Importance = "HIGH"
	Medium Importance = "MEDIUM"
	Low    Importance = "LOW"
)

// Width is the width of a key's field in a form.
type Width string

// The widths.
const (
	WidthNone   Width = "NONE"
	WidthShort  Width = "SHORT"
	WidthMedium Width = "MEDIUM"
	WidthLong   Width = "LONG"
)

// Key declares one key. Name, Type and Doc are always there; the zero value of the rest is a sensible key.
type Key struct {
	Name string
	Type Type
	// Required keys have no default and must be given.
	Required bool
	// Default in text form, as a user would write it. Ignored when Required. Optional without default: NoDefault.
	Default string
	// NoDefault: not given means not set, which is not the same as empty.
	NoDefault bool
	// OneOf, if set, lists the legal values of a STRING, or of each item of a LIST.
	OneOf []string
	// Min and Max bound a number when HasMin, HasMax say so.
	Min, Max       int64
	HasMin, HasMax bool
	// Check is a further check of the value's text; its error completes "Invalid value X for configuration K: …".
	Check      func(value string) error
	Importance Importance
	Group      string
	Width      Width
	// Display is the label in a form; empty means Name.
	Display string
	// Doc is one or more full sentences: what it does, unit, when to change it.
	Doc     string
	Example string
	// Since is the version that brought the key; DeprecatedBy names the key to use instead.
	Since        string
	DeprecatedBy string
	// DependsOn names keys that matter for this one; they list it among their dependents.
	DependsOn []string
	// Recommend offers values that fit what else is set. Optional.
	Recommend func(given map[string]string) []string
	// Prefix: Name is a prefix (it ends in a dot) and the key stands for all keys that begin with it.
	Prefix bool
	// Pattern, for key families whose variable part is in the middle ("column.truncate.to.${n}.chars"): reports whether a
	// key belongs to this one. Optional.
	Pattern func(key string) bool
	// Env is the environment variable that sets it, for process settings.
	Env string
	// Hidden keys work but are not shown in docs or forms.
	Hidden bool
}

// Spec is a set of keys in the order in which they are shown.
type Spec struct {
	keys   []Key
	byName map[string]int
	// groups in order of first use.
	groups []string
	// cross are checks over several keys.
	cross []func(v Values) []Problem
}

// New makes a spec. It panics on a key declared twice or without name, type or doc: mistakes of the programmer's.
func New(keys ...Key) *Spec {
	s := &Spec{byName: map[string]int{}}
	for _, k := range keys {
		s.add(k)
	}
	return s
}

// With returns a new spec: the keys of s, then those of the others. A key that is there already is left out, so that a
// connector's own declaration wins over the framework's.
func (s *Spec) With(others ...*Spec) *Spec {
	out := &Spec{byName: map[string]int{}, cross: slices.Clone(s.cross)}
	for _, k := range s.keys {
		out.add(k)
	}
	for _, o := range others {
		for _, k := range o.keys {
			if _, dup := out.byName[k.Name]; !dup {
				out.add(k)
			}
		}
		out.cross = append(out.cross, o.cross...)
	}
	return out
}

// Cross returns a copy of the spec with a further check over several keys. It sees values that parse only.
func (s *Spec) Cross(check func(v Values) []Problem) *Spec {
	out := s.With()
	out.cross = append(out.cross, check)
	return out
}

func (s *Spec) add(k Key) {
	if k.Name == "" || k.Type == "" || k.Doc == "" {
		panic(fmt.Sprintf("configdef: key %q needs a name, a type and a doc", k.Name))
	}
	if _, dup := s.byName[k.Name]; dup {
		panic(fmt.Sprintf("configdef: key %q declared twice", k.Name))
	}
	if k.Importance == "" {
		k.Importance = Medium
	}
	if k.Width == "" {
		k.Width = WidthMedium
	}
	if k.Display == "" {
		k.Display = k.Name
	}
	if !k.Required && !k.NoDefault && !k.Prefix && k.Pattern == nil {
		if _, err := parse(&k, k.Default); err != nil {
			panic(fmt.Sprintf("configdef: key %q: its default is no value of it: %v", k.Name, err))
		}
	}
	s.byName[k.Name] = len(s.keys)
	s.keys = append(s.keys, k)
	if k.Group != "" && !slices.Contains(s.groups, k.Group) {
		s.groups = append(s.groups, k.Group)
	}
}

// Keys returns the keys in order.
func (s *Spec) Keys() []Key { return slices.Clone(s.keys) }

// Groups returns the groups in order of first use.
func (s *Spec) Groups() []string { return slices.Clone(s.groups) }

// Lookup finds the declaration of a key as a user wrote it: by name, pattern or prefix.
func (s *Spec) Lookup(name string) (Key, bool) {
	if i, ok := s.byName[name]; ok && !s.keys[i].Prefix {
		return s.keys[i], true
	}
	for _, k := range s.keys {
		if k.Pattern != nil && k.Pattern(name) || k.Prefix && strings.HasPrefix(name, k.Name) && name != k.Name {
			return k, true
		}
	}
	return Key{}, false
}

// Dependents returns the names of the keys that depend on key.
func (s *Spec) Dependents(key string) []string {
	var out []string
	for _, k := range s.keys {
		if slices.Contains(k.DependsOn, key) {
			out = append(out, k.Name)
		}
	}
	return out
}

// Unknown returns a problem for each given key that no key of the spec stands for, with the nearest name. Sorted by key.
func (s *Spec) Unknown(given map[string]string) []Problem {
	var out []Problem
	for key := range given {
		if _, ok := s.Lookup(key); ok {
			continue
		}
		msg := fmt.Sprintf("Unknown configuration key %q.", key)
		if near := s.Nearest(key); near != "" {
			msg += fmt.Sprintf(" Did you mean %q?", near)
		}
		out = append(out, Problem{Key: key, Value: given[key], Message: msg})
	}
	sortProblems(out)
	return out
}

// Nearest returns the declared name closest to key, or "" when none is close.
func (s *Spec) Nearest(key string) string {
	best, bestDist := "", len(key)/3+1
	for _, k := range s.keys {
		if k.Prefix || k.Pattern != nil || k.Hidden {
			continue
		}
		if d := distance(strings.ToLower(key), strings.ToLower(k.Name), bestDist); d <= bestDist && (best == "" || d < bestDist) {
			best, bestDist = k.Name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b, or limit+1 when it is larger than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
