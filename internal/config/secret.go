package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
)

// reference is Kafka Connect's form: ${provider:[path:]key}.
var reference = regexp.MustCompile(`\$\{([a-zA-Z][a-zA-Z0-9_]*):(?:([^}:]*):)?([^}:]*)\}`)

// Resolve replaces the references of a config: ${env:NAME} by an environment variable, ${file:/path:key} by a key of a
// properties file, ${dir:/path:name} by a file's content. It is called where the config is used; stored configs keep the
// references. A reference that can't be resolved is a problem of its key.
func Resolve(given map[string]string) (map[string]string, []configdef.Problem) {
	out := maps.Clone(given)
	if out == nil {
		out = map[string]string{}
	}
	var problems []configdef.Problem
	for _, key := range slices.Sorted(maps.Keys(given)) {
		out[key] = reference.ReplaceAllStringFunc(given[key], func(ref string) string {
			m := reference.FindStringSubmatch(ref)
			value, err := lookup(m[1], m[2], m[3])
			if err != nil {
				problems = append(problems, configdef.Problem{
					Key: key, Value: ref, Message: fmt.Sprintf("Invalid value %s for configuration %s: %v", ref, key, err),
				})
			}
			return value
		})
	}
	return out, problems
}

func lookup(provider, path, key string) (string, error) {
	switch provider {
	case "env":
		v, ok := os.LookupEnv(key)
		if path != "" {
			return "", fmt.Errorf("env takes a name only: ${env:%s}", key)
		}
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set on this node", key)
		}
		return v, nil
	case "dir":
		b, err := os.ReadFile(filepath.Join(path, filepath.Base(key)))
		if err != nil {
			return "", fmt.Errorf("the file can't be read on this node: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	case "file":
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("the file can't be read on this node: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(k, "#") && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v), nil
			}
		}
		return "", fmt.Errorf("%s has no key %q", path, key)
	}
	return "", fmt.Errorf("unknown config provider %q: env, file or dir", provider)
}
