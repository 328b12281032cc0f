package configdef

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Problem is one thing wrong with one key of a config.
type Problem struct {
	Key   string
	Value string
	// Message is a full sentence for the user: what is wrong, and what to do.
	Message string
}

// Error is all that is wrong with a config.
type Error struct{ Problems []Problem }

// Error lists the problems, one a line.
func (e *Error) Error() string {
	msgs := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		msgs[i] = p.Message
	}
	return strings.Join(msgs, "\n")
}

// AsError returns nil for no problems, else an *Error.
func AsError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{Problems: problems}
}

// Values are the values of a spec's keys, parsed. Getters panic on a key that the spec does not declare: reading an
// undeclared key is a mistake of the programmer's that the first test finds.
type Values struct {
	spec  *Spec
	given map[string]string
	vals  map[string]any
	bad   map[string]bool
}

// Parse reads given by the spec. Keys that the spec does not declare are passed over (Unknown finds them). The values are
// usable even with problems: a key with a problem has its default.
func (s *Spec) Parse(given map[string]string) (Values, []Problem) {
	v := Values{spec: s, given: given, vals: make(map[string]any, len(s.keys)), bad: map[string]bool{}}
	var problems []Problem
	for i := range s.keys {
		k := &s.keys[i]
		if k.Prefix || k.Pattern != nil {
			continue
		}
		text, set := given[k.Name]
		if set {
			val, err := parse(k, text)
			if err == nil {
				v.vals[k.Name] = val
				continue
			}
			v.bad[k.Name] = true
			shown := text
			if k.Type == Password {
				shown = "[hidden]"
			}
			problems = append(problems, Problem{k.Name, shown, fmt.Sprintf("Invalid value %s for configuration %s: %v", shown, k.Name, err)})
		} else if k.Required {
			v.bad[k.Name] = true
			problems = append(problems, Problem{k.Name, "", fmt.Sprintf("Missing required configuration %q which has no default value.", k.Name)})
		}
		if !k.Required && !k.NoDefault {
			v.vals[k.Name], _ = parse(k, k.Default)
		}
	}
	for _, k := range s.keys {
		if !k.Prefix && k.Pattern == nil || k.Check == nil {
			continue
		}
		for _, name := range sortedKeys(given) {
			if owner, ok := s.Lookup(name); ok && owner.Name == k.Name {
				if err := k.Check(given[name]); err != nil {
					v.bad[name] = true
					problems = append(problems, Problem{name, given[name], fmt.Sprintf("Invalid value %s for configuration %s: %v", given[name], name, err)})
				}
			}
		}
	}
	for _, check := range s.cross {
		problems = append(problems, check(v)...)
	}
	return v, problems
}

func parse(k *Key, text string) (any, error) {
	var val any
	switch k.Type {
	case Boolean:
		switch strings.ToLower(strings.TrimSpace(text)) {
		case "true":
			val = true
		case "false":
			val = false
		default:
			return nil, fmt.Errorf("Expected value to be either true or false")
		}
	case Int, Long:
		bits := 64
		if k.Type == Int {
			bits = 32
		}
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, bits)
		if err != nil {
			return nil, fmt.Errorf("Not a number of type %s", k.Type)
		}
		if k.HasMin && n < k.Min {
			return nil, fmt.Errorf("Value must be at least %d", k.Min)
		}
		if k.HasMax && n > k.Max {
			return nil, fmt.Errorf("Value must be no more than %d", k.Max)
		}
		val = n
	case Double:
		f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return nil, fmt.Errorf("Not a number of type DOUBLE")
		}
		val = f
	case List:
		items := []string{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				if err := oneOf(k, item); err != nil {
					return nil, err
				}
				items = append(items, item)
			}
		}
		val = items
	case String, Class, Password:
		if k.Required && strings.TrimSpace(text) == "" {
			if k.Check != nil && k.Check(text) != nil {
				return nil, k.Check(text) // it says it in its own words
			}
			return nil, fmt.Errorf("String must be non-empty")
		}
		if err := oneOf(k, text); err != nil {
			return nil, err
		}
		val = text
	default:
		return nil, fmt.Errorf("unknown type %s", k.Type)
	}
	if k.Check != nil {
		if err := k.Check(text); err != nil {
			return nil, err
		}
	}
	return val, nil
}

func oneOf(k *Key, item string) error {
	if len(k.OneOf) == 0 {
		return nil
	}
	for _, legal := range k.OneOf {
		if strings.EqualFold(legal, item) {
			return nil
		}
	}
	return fmt.Errorf("String must be one of: %s", strings.Join(k.OneOf, ", "))
}

func (v Values) get(key string, types ...Type) any {
	i, ok := v.spec.byName[key]
	if !ok || !slices.Contains(types, v.spec.keys[i].Type) {
		panic(fmt.Sprintf("configdef: key %q is not declared as %v", key, types))
	}
	return v.vals[key]
}

// String returns the value of a STRING, CLASS or PASSWORD key, "" when it is not set. Values of keys with OneOf come in the
// declared spelling.
func (v Values) String(key string) string {
	s, _ := v.get(key, String, Class, Password).(string)
	for _, legal := range v.spec.keys[v.spec.byName[key]].OneOf {
		if strings.EqualFold(legal, s) {
			return legal
		}
	}
	return s
}

// Int returns the value of an INT or LONG key, 0 when it is not set.
func (v Values) Int(key string) int64 {
	n, _ := v.get(key, Int, Long).(int64)
	return n
}

// Duration returns the value of an INT or LONG key in milliseconds.
func (v Values) Duration(key string) time.Duration {
	return time.Duration(v.Int(key)) * time.Millisecond
}

// Bool returns the value of a BOOLEAN key.
func (v Values) Bool(key string) bool {
	b, _ := v.get(key, Boolean).(bool)
	return b
}

// Float returns the value of a DOUBLE key.
func (v Values) Float(key string) float64 {
	f, _ := v.get(key, Double).(float64)
	return f
}

// List returns the items of a LIST key.
func (v Values) List(key string) []string {
	l, _ := v.get(key, List).([]string)
	return slices.Clone(l)
}

// Prefixed returns the given keys that begin with prefix, without it.
func (v Values) Prefixed(prefix string) map[string]string {
	out := map[string]string{}
	for k, val := range v.given {
		if rest, ok := strings.CutPrefix(k, prefix); ok && rest != "" {
			out[rest] = val
		}
	}
	return out
}

// IsSet reports whether the user gave the key.
func (v Values) IsSet(key string) bool {
	_, ok := v.given[key]
	return ok
}

// OK reports whether the key has no problem, so that a cross check may judge it.
func (v Values) OK(key string) bool { return !v.bad[key] }

// Given returns what the user gave; read only.
func (v Values) Given() map[string]string { return v.given }

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func sortProblems(ps []Problem) {
	slices.SortFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Key, b.Key) })
}
