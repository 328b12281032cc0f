package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/internal/fault"
)

const fileHelp = "File with the connector, .json, .yaml or .properties; - is JSON on standard input."

// definition is a connector as a file or the arguments describe it.
type definition struct {
	name   string
	config map[string]string
	state  string // initial_state
}

// readDefinition reads a connector from a file and key=value arguments.
func readDefinition(in io.Reader, file string, args []string) (d definition, err error) {
	d.config = map[string]string{}
	if file != "" {
		var b []byte
		if file == "-" {
			b, err = io.ReadAll(in)
		} else {
			b, err = os.ReadFile(file)
		}
		if err != nil {
			return d, fault.New(fault.Invalid, "read %s: %v", file, err)
		}
		if d, err = parseDefinition(file, b); err != nil {
			return d, err
		}
	}
	named := false
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		switch {
		case ok:
			d.config[k] = v
		case !named:
			d.name, named = a, true
		default:
			return d, fault.New(fault.Invalid, "argument %q is not key=value", a)
		}
	}
	if d.name == "" {
		d.name = d.config["name"]
	}
	return d, nil
}

// parseDefinition reads a connector in the format that the file's name tells: {"name", "config", "initial_state"} as Kafka Connect
// takes them, or a flat config that may have its name in it.
func parseDefinition(file string, b []byte) (d definition, err error) {
	var raw map[string]any
	switch filepath.Ext(file) {
	case ".properties":
		if d.config, err = parseProperties(string(b)); err != nil {
			return d, fault.New(fault.Invalid, "%s: %v", file, err)
		}
		d.name = d.config["name"]
		return d, nil
	case ".yaml", ".yml":
		if raw, err = decodeYAML(b); err != nil {
			return d, fault.New(fault.Invalid, "%s is no YAML mapping: %v", file, err)
		}
	default:
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		if err := dec.Decode(&raw); err != nil {
			return d, fault.New(fault.Invalid, "%s is no JSON object: %v", file, err)
		}
	}
	if inner, ok := raw["config"].(map[string]any); ok {
		for k, v := range raw {
			switch k {
			case "name", "initial_state":
				if _, ok := v.(string); !ok {
					return d, fault.New(fault.Invalid, "%s: %s must be text", file, k)
				}
			case "config", "tasks", "type": // the last two are what GET adds
			default:
				return d, fault.New(fault.Invalid, "%s: unknown field %q beside config; name and initial_state may be there", file, k)
			}
		}
		d.name, _ = raw["name"].(string)
		d.state, _ = raw["initial_state"].(string)
		raw = inner
	}
	d.config = make(map[string]string, len(raw))
	for k, v := range raw {
		switch v.(type) {
		case map[string]any, []any, nil:
			return d, fault.New(fault.Invalid, "%s: the value of %q must be text, a number or a boolean", file, k)
		}
		d.config[k] = fmt.Sprint(v)
	}
	if d.name == "" {
		d.name = d.config["name"]
	}
	return d, nil
}

// decodeYAML keeps scalars as they are written: 0012, 1e3 and on are texts in a connector's config.
func decodeYAML(b []byte) (map[string]any, error) {
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal(b, &nodes); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(nodes))
	for k, n := range nodes {
		v, err := yamlValue(&n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		out[k] = v
	}
	return out, nil
}

func yamlValue(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.AliasNode:
		return yamlValue(n.Alias)
	case yaml.MappingNode:
		var nodes map[string]yaml.Node
		if err := n.Decode(&nodes); err != nil {
			return nil, err
		}
		out := make(map[string]any, len(nodes))
		for k, inner := range nodes {
			v, err := yamlValue(&inner)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
			out[k] = v
		}
		return out, nil
	case yaml.ScalarNode:
		if n.ShortTag() != "!!null" {
			return n.Value, nil
		}
		return nil, nil
	case yaml.DocumentNode, yaml.SequenceNode:
	}
	return []any{}, nil // no value of a config: the caller says so
}

// parseProperties reads Java's format as far as connectors' files use it: comments, = or :, lines that a backslash continues.
func parseProperties(text string) (map[string]string, error) {
	out := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line, first := strings.TrimLeft(lines[i], " \t"), i+1
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for continues(line) && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + strings.TrimLeft(lines[i], " \t")
		}
		at := strings.IndexAny(line, "=:")
		if at <= 0 {
			return nil, fmt.Errorf("line %d is not key=value", first)
		}
		out[strings.TrimSpace(line[:at])] = unescape(strings.TrimLeft(line[at+1:], " \t"))
	}
	return out, nil
}

// continues: the line ends in an odd number of backslashes.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// unescape takes a value's backslashes as Java does: before any other letter than t, n, r and f they go.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte("tnrf", s[i]); at >= 0 {
			b.WriteByte("\t\n\r\f"[at])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
