package smt

import "github.com/millrace/millrace/connectors/configdef"

// transformClasses are all transforms, in order of name.
var transformClasses = []*class{
	byLogicalTable, castClass, dropHeaders, extractField, extractNewRecordState, filter, flattenClass, headerFrom, hoistField, insertField,
	insertHeader, maskField, regexRouter, replaceField, setSchemaMetadata, timestampConverter, timestampRouter, valueToKey,
}

// Class describes a transform or predicate for people.
type Class struct {
	// Name is without package; Names are all that a config may use.
	Name, Doc string
	Names     []string
	Spec      *configdef.Spec
}

// Describe returns the transforms and the predicates, in order of name.
func Describe() (transforms, predicates []Class) {
	show := func(classes []*class) (out []Class) {
		for _, c := range classes {
			out = append(out, Class{c.name, c.doc, c.names(), c.spec})
		}
		return out
	}
	return show(transformClasses), show(predicateClasses)
}

// Common declares what each transform has beside its class's own settings.
func Common() *configdef.Spec { return framework }
