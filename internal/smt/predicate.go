package smt

import (
	"regexp"
	"slices"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var predicateClasses = []*class{
	{
		name: "HasHeaderKey", pkg: apache + "predicates.", doc: "Holds for records with at least one header of the name.",
		spec: configdef.New(configdef.Key{Name: "name", Type: configdef.String, Required: true, Doc: "Name of the header."}),
		test: func(v configdef.Values) predicate { return hasHeader(v.String("name")) },
	},
	{
		name: "RecordIsTombstone", pkg: apache + "predicates.", doc: "Holds for records whose value is null.", spec: configdef.New(),
		test: func(configdef.Values) predicate { return isTombstone{} },
	},
	{
		name: "TopicNameMatches", pkg: apache + "predicates.", doc: "Holds for records whose topic the pattern matches as a whole.",
		spec: configdef.New(configdef.Key{Name: "pattern", Type: configdef.String, Required: true, Check: checkRegex, Doc: "Regular expression (RE2)."}),
		test: func(v configdef.Values) predicate { return topicMatches{anchored(v.String("pattern"))} },
	},
}

type hasHeader string

func (h hasHeader) holds(r *record.Record) bool {
	return slices.ContainsFunc(r.Headers, func(x record.Header) bool { return x.Key == string(h) })
}

type isTombstone struct{}

func (isTombstone) holds(r *record.Record) bool {
	if c, ok := r.Value.(*record.ChangeEvent); ok {
		return c == nil
	}
	return r.Value == nil
}

type topicMatches struct{ pattern *regexp.Regexp }

func (t topicMatches) holds(r *record.Record) bool { return t.pattern.MatchString(r.Topic) }

// anchored compiles a pattern that checkRegex has passed.
func anchored(pattern string) *regexp.Regexp { return regexp.MustCompile("^(?:" + pattern + ")$") }
