package smt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
)

// The keys.
const (
	Transforms = "transforms"
	Predicates = "predicates"
)

const (
	apache   = "org.apache.kafka.connect.transforms."
	debezium = "io.debezium.transforms."
)

// class is one transform or predicate that a config can name.
type class struct {
	// name is without package; pkg is the package of the class in Kafka Connect.
	name, pkg string
	// halves: the class exists as name$Key and name$Value.
	halves bool
	doc    string
	spec   *configdef.Spec
	// build makes the transform; what is wrong with keys in combination comes back with the keys' own names.
	build func(b builder) (transform, []configdef.Problem)
	// test makes the predicate.
	test func(v configdef.Values) predicate
}

// builder is what a transform is made of.
type builder struct {
	configdef.Values
	part part
	opts Options
}

// wrong is the problem of one key.
func wrong(key, value, format string, args ...any) []configdef.Problem {
	return []configdef.Problem{{Key: key, Value: value, Message: fmt.Sprintf("Invalid value %s for configuration %s: %s", value, key, fmt.Sprintf(format, args...))}}
}

// names are those that a config may use for the class, the full one first.
func (c *class) names() []string {
	suffixes := []string{""}
	if c.halves {
		suffixes = []string{"$Key", "$Value"}
	}
	var out []string
	for _, s := range suffixes {
		out = append(out, c.pkg+c.name+s, c.name+s)
	}
	return out
}

// find looks a class up by what .type says.
func find(classes []*class, name string) (*class, part, bool) {
	base, half, halved := strings.Cut(name, "$")
	for _, c := range classes {
		if base != c.name && base != c.pkg+c.name || c.halves != halved {
			continue
		}
		switch {
		case !halved:
			return c, whole, true
		case half == "Key":
			return c, key, true
		case half == "Value":
			return c, value, true
		}
	}
	return nil, whole, false
}

// framework are the keys that each transform has beside its own.
var framework = configdef.New(
	configdef.Key{Name: "type", Type: configdef.Class, Required: true, Importance: configdef.High, Doc: "Class of the transform, with or without its package."},
	configdef.Key{Name: "predicate", Type: configdef.String, Default: "", Doc: "Name of the predicate that decides which records the transform takes; the others pass it by. Empty: all."},
	configdef.Key{Name: "negate", Type: configdef.Boolean, Default: "false", Doc: "Whether the transform takes the records for which the predicate does not hold."},
	configdef.Key{Name: "plugin.version", Type: configdef.String, Default: "", Hidden: true, Doc: "Accepted for existing configs. There is one version."},
)

var predicateFramework = configdef.New(
	configdef.Key{Name: "type", Type: configdef.Class, Required: true, Importance: configdef.High, Doc: "Class of the predicate, with or without its package."},
	configdef.Key{Name: "plugin.version", Type: configdef.String, Default: "", Hidden: true, Doc: "Accepted for existing configs. There is one version."},
)

// Keys are what a connector's spec holds for transforms and predicates.
func Keys() []configdef.Key {
	return []configdef.Key{
		{
			Name: Transforms, Type: configdef.List, Default: "", Importance: configdef.Low, Group: "Transforms", Width: configdef.WidthLong, Example: "route,unwrap",
			Doc: "Names of the single message transforms, in the order in which each record goes through them. transforms.<name>.type says what each one is; their classes are on the page transforms.md.",
		},
		{Name: "transforms.", Type: configdef.String, Prefix: true, Importance: configdef.Low, Group: "Transforms", Doc: "transforms.<name>.type, .predicate, .negate, and the class's own settings."},
		{
			Name: Predicates, Type: configdef.List, Default: "", Importance: configdef.Low, Group: "Predicates", Width: configdef.WidthLong,
			Doc: "Names of the predicates that transforms.<name>.predicate may refer to.",
		},
		{Name: "predicates.", Type: configdef.String, Prefix: true, Importance: configdef.Low, Group: "Predicates", Doc: "predicates.<name>.type, and the class's own settings."},
	}
}

// item is a transform or predicate of a config, with its keys parsed.
type item struct {
	alias, prefix string
	class         *class
	part          part
	values        configdef.Values
	ok            bool
}

// parse reads a config's transforms and predicates.
func parse(given map[string]string, o Options) ([]step, []configdef.Problem) {
	predicates, problems := items(given, Predicates, predicateClasses, predicateFramework)
	transforms, more := items(given, Transforms, transformClasses, framework)
	problems = append(problems, more...)
	byName := map[string]predicate{}
	for _, p := range predicates {
		byName[p.alias] = nil
		if p.ok {
			byName[p.alias] = p.class.test(p.values)
		}
	}
	var steps []step
	for _, t := range transforms {
		if !t.ok {
			continue
		}
		s := step{alias: t.alias, negate: t.values.Bool("negate")}
		made, bad := t.class.build(builder{t.values, t.part, o})
		problems = append(problems, prefixed(bad, t.prefix)...)
		s.transform = made
		if name := t.values.String("predicate"); name != "" {
			p, known := byName[name]
			if !known {
				problems = append(problems, configdef.Problem{Key: t.prefix + "predicate", Value: name, Message: fmt.Sprintf(
					"Invalid value %s for configuration %spredicate: there is no predicate of that name; predicates lists %v", name, t.prefix, slices.Sorted(maps.Keys(byName)))})
			}
			s.when = p
		} else if s.negate {
			problems = append(problems, prefixed(wrong("negate", "true", "there is no predicate to negate; set %spredicate", t.prefix), t.prefix)...)
		}
		steps = append(steps, s)
	}
	return steps, problems
}

// items reads the list under key, and the settings of each of its members.
func items(given map[string]string, list string, classes []*class, common *configdef.Spec) ([]item, []configdef.Problem) {
	var out []item
	var problems []configdef.Problem
	spec := configdef.New(configdef.Key{Name: list, Type: configdef.List, Default: "", Doc: "x"})
	v, _ := spec.Parse(given)
	var aliases []string
	for _, alias := range v.List(list) {
		if slices.Contains(aliases, alias) {
			problems = append(problems, wrong(list, given[list], "Duplicate alias provided: %s", alias)...)
			continue
		}
		aliases = append(aliases, alias)
		it, bad := read(given, list+"."+alias+".", alias, classes, common)
		out = append(out, it)
		problems = append(problems, bad...)
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		rest, ok := strings.CutPrefix(k, list+".")
		if ok && !slices.ContainsFunc(aliases, func(a string) bool { return strings.HasPrefix(rest, a+".") }) {
			problems = append(problems, configdef.Problem{Key: k, Value: given[k], Message: fmt.Sprintf("Unknown configuration key %q: %s lists %v.", k, list, aliases)})
		}
	}
	return out, problems
}

func read(given map[string]string, prefix, alias string, classes []*class, common *configdef.Spec) (item, []configdef.Problem) {
	it := item{alias: alias, prefix: prefix}
	own := map[string]string{}
	for k, v := range given {
		if rest, ok := strings.CutPrefix(k, prefix); ok {
			own[rest] = v
		}
	}
	name, typed := own["type"]
	c, p, ok := find(classes, name)
	if !ok {
		if !typed {
			return it, prefixed([]configdef.Problem{{Key: "type", Message: `Missing required configuration "type" which has no default value.`}}, prefix)
		}
		var known []string
		for _, c := range classes {
			for i, n := range c.names() {
				if i%2 == 1 {
					known = append(known, n)
				}
			}
		}
		return it, prefixed(wrong("type", name, "there is no such class; known are %s", strings.Join(known, ", ")), prefix)
	}
	spec := c.spec.With(common)
	v, bad := spec.Parse(own)
	bad = append(bad, spec.Unknown(own)...)
	it.class, it.part, it.values, it.ok = c, p, v, len(bad) == 0
	return it, prefixed(bad, prefix)
}

// prefixed binds problems of a transform's own keys to the keys as the config has them.
func prefixed(problems []configdef.Problem, prefix string) []configdef.Problem {
	for i, p := range problems {
		problems[i].Key = prefix + p.Key
		for _, before := range []string{"configuration ", `configuration "`, `configuration key "`} {
			problems[i].Message = strings.Replace(problems[i].Message, before+p.Key, before+prefix+p.Key, 1)
		}
	}
	return problems
}

// SpecOf declares the keys of the transforms and predicates that a config has, as the config writes them.
func SpecOf(given map[string]string) *configdef.Spec {
	var keys []configdef.Key
	for _, list := range []struct {
		name, one string
		classes   []*class
		common    *configdef.Spec
	}{{Transforms, "Transforms: ", transformClasses, framework}, {Predicates, "Predicates: ", predicateClasses, predicateFramework}} {
		members, _ := items(given, list.name, list.classes, list.common)
		for _, m := range members {
			spec := list.common
			if m.class != nil {
				spec = list.common.With(m.class.spec)
			}
			for _, k := range spec.Keys() {
				k.Group, k.Display, k.Name = list.one+m.alias, k.Name, m.prefix+k.Name
				if k.DeprecatedBy != "" {
					k.DeprecatedBy = m.prefix + k.DeprecatedBy
				}
				keys = append(keys, k)
			}
		}
	}
	return configdef.New(keys...)
}
