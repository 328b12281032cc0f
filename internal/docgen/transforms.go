package docgen

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/internal/smt"
)

// transforms is the page of the single message transforms and predicates.
func transforms() string {
	list, predicates := smt.Describe()
	b := &strings.Builder{}
	b.WriteString("# Transforms and predicates\n" + generated + `
Kafka Connect's single message transforms, for sources and sinks: ` + "`transforms`" + ` names them in order, ` + "`transforms.<name>.type`" + ` says what each is, and
` + "`transforms.<name>.<setting>`" + ` is one of the settings below. How they see records is told in [formats](../guides/formats.md). Class names are Kafka Connect's, with or without
their package.

## Every transform has
` + table(smt.Common()))
	for _, c := range list {
		section(b, c)
	}
	b.WriteString("\n## Predicates\n`predicates` names them, `predicates.<name>.type` says what each is.\n")
	for _, c := range predicates {
		section(b, c)
	}
	return b.String()
}

func section(b *strings.Builder, c smt.Class) {
	var full []string
	for i := 0; i < len(c.Names); i += 2 {
		full = append(full, c.Names[i])
	}
	fmt.Fprintf(b, "\n### %s\n%s Class %s.\n", c.Name, c.Doc, code(full))
	if len(c.Spec.Keys()) > 0 {
		b.WriteString("\n" + table(c.Spec))
	}
}
