package docgen

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/obs"
)

const generated = "<!-- generated from the code by make generate: change the key's declaration, not this page -->\n"

// Pages returns the text of each page by its file name.
func Pages() map[string]string {
	out := map[string]string{
		"node-config.md": node(),
		"metrics.md":     metrics(),
		"cli.md":         commands(),
		"transforms.md":  transforms(),
		"connector-config.md": "# Settings that every connector has\n" + generated +
			"\nBeside these a connector has its own; their pages are under [connectors](connectors.md).\n" +
			"\n## Sources\n" + keys(config.Connector(connectors.KindSource), 3, false) +
			"\n## Sinks\n" + keys(config.Connector(connectors.KindSink), 3, false) +
			"\n## Transforms\n" + keys(config.Connector(connectors.KindTransform), 3, false),
		"converters.md": "# Settings of converters\n" + generated +
			"\n`value.converter` is one of " + code(convert.Names()) + ", or the class name of Kafka Connect's or Confluent's converter. `key.converter` has the same choice, and the\n" +
			"settings of the first and the last group. What they do is told in [formats](../guides/formats.md).\n" + keys(convert.ValueOptions(), 2, false) +
			"\n## With a schema registry: avro and protobuf\nBehind `key.converter.` and `value.converter.`:\n\n" + table(convert.RegistrySpec()),
	}
	index := &strings.Builder{}
	index.WriteString("# Connectors\n" + generated + "\n| class | kind | what it does | also answers to |\n|---|---|---|---|\n")
	for _, p := range connectors.All() {
		name := "connector-" + p.Class + ".md"
		out[name] = plugin(p)
		fmt.Fprintf(index, "| [`%s`](%s) | %s | %s | %s |\n", p.Class, name, p.Kind, cell(p.Doc), code(p.Aliases))
	}
	index.WriteString("\nSettings that all of them have: [connector-config](connector-config.md). Forms of messages: [converters](converters.md).\n")
	out["connectors.md"] = index.String()
	return out
}

func plugin(p *connectors.Plugin) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "# The %s connector `%s`\n%s\n%s\n\nVersion %s.", p.Kind, p.Class, generated, p.Doc, p.Version)
	if len(p.Aliases) > 0 {
		fmt.Fprintf(b, " `connector.class` may also say %s, as existing configs do.", code(p.Aliases))
	}
	if p.ValueConverter != "" {
		fmt.Fprintf(b, " Values are `%s` unless `value.converter` says otherwise.", p.ValueConverter)
	}
	b.WriteString("\n\nSettings that every connector has are on [their own page](connector-config.md).\n")
	b.WriteString(keys(p.Spec, 2, false))
	return b.String()
}

func node() string {
	return "# Settings of a node\n" + generated +
		"\nEach setting of `millrace node` is a flag (`--rest`), an environment variable (`MILLRACE_REST`) and a key of the YAML file that `--config` names\n" +
		"(`rest`). A flag wins over the environment, the environment over the file.\n" + keys(config.Node(), 2, true)
}

// metrics lists what GET /metrics of a node shows, by the second word of the names.
func metrics() string {
	b := &strings.Builder{}
	b.WriteString("# Metrics\n" + generated + "\nEvery node answers `GET /metrics` in Prometheus' text format, with what it has: its own part in Raft, its worker, the tasks that run on it.\n" +
		"The coordinator that leads also shows the cluster as a whole (`millrace_cluster_*`). Beside these there are the Go runtime's (`go_*`) and the\n" +
		"process's (`process_*`). A task that moves takes its series with it: sum over `instance`, and expect counters to begin anew.\n")
	last := ""
	for _, m := range obs.Declared() {
		if group := strings.SplitN(m.Name, "_", 3)[1]; group != last {
			last = group
			fmt.Fprintf(b, "\n## %s\n| metric | type | labels | what it says |\n|---|---|---|---|\n", group)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, code(m.Labels), cell(m.Help))
	}
	return b.String()
}

// keys renders a spec: a heading and a table for each group, at the level given.
func keys(s *configdef.Spec, level int, process bool) string {
	b := &strings.Builder{}
	groups := s.Groups()
	if hasUngrouped(s) {
		groups = append(groups, "")
	}
	for _, g := range groups {
		rows := &strings.Builder{}
		for _, k := range s.Keys() {
			if k.Group == g && !k.Hidden {
				rows.WriteString(row(&k, process))
			}
		}
		if rows.Len() == 0 {
			continue
		}
		if g == "" {
			g = "Other"
		}
		fmt.Fprintf(b, "\n%s %s\n| key | type | default | what it does |\n|---|---|---|---|\n%s", strings.Repeat("#", level), g, rows)
	}
	return b.String()
}

// table renders a spec's keys without groups.
func table(s *configdef.Spec) string {
	b := &strings.Builder{}
	b.WriteString("| key | type | default | what it does |\n|---|---|---|---|\n")
	for _, k := range s.Keys() {
		if !k.Hidden {
			b.WriteString(row(&k, false))
		}
	}
	return b.String()
}

func hasUngrouped(s *configdef.Spec) bool {
	for _, k := range s.Keys() {
		if k.Group == "" {
			return true
		}
	}
	return false
}

func row(k *configdef.Key, process bool) string {
	name := "`" + k.Name + "`"
	if k.Prefix {
		name = "`" + k.Name + "*`"
	}
	if process && k.Env != "" {
		name += "<br>`" + k.Env + "`"
	}
	def := "`" + cell(k.Default) + "`"
	switch {
	case k.Required:
		def = "**required**"
	case k.NoDefault, k.Prefix, k.Default == "":
		def = ""
	}
	doc := cell(k.Doc)
	if len(k.OneOf) > 0 {
		doc += " One of " + code(k.OneOf) + "."
	}
	switch {
	case k.HasMin && k.HasMax:
		doc += fmt.Sprintf(" From %d to %d.", k.Min, k.Max)
	case k.HasMin:
		doc += fmt.Sprintf(" At least %d.", k.Min)
	case k.HasMax:
		doc += fmt.Sprintf(" At most %d.", k.Max)
	}
	if k.Example != "" {
		doc += " Example: `" + cell(k.Example) + "`."
	}
	if k.DeprecatedBy != "" {
		doc += " Deprecated: use `" + k.DeprecatedBy + "`."
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", name, strings.ToLower(string(k.Type)), def, doc)
}

func code(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "`" + cell(w) + "`"
	}
	return strings.Join(quoted, ", ")
}

// cell keeps a text inside its cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s)
}
