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
// properties file, ${dir:/path:name} or ${directory:…} by a file's content. It is called where the config is used; stored configs keep the
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
	case "dir", "directory":
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
	return "", fmt.Errorf("unknown config provider %q: env, file or directory", provider)
}

// Redactor takes resolved secrets out of texts for people.
type Redactor struct {
	given map[string]string
	swap  *strings.Replacer
}

// NewRedactor looks up what the references of a config resolve to on this node.
func NewRedactor(given map[string]string) Redactor {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(given)) {
		for _, m := range reference.FindAllStringSubmatch(given[key], -1) {
			if value, err := lookup(m[1], m[2], m[3]); err == nil && value != "" {
				pairs = append(pairs, value, m[0])
			}
		}
	}
	return Redactor{given, strings.NewReplacer(pairs...)}
}

// Text returns s with each secret's value replaced by its reference.
func (r Redactor) Text(s string) string { return r.swap.Replace(s) }

// refers reports whether a key's value holds a reference.
func (r Redactor) refers(key string) bool { return reference.MatchString(r.given[key]) }

// static redacts what parsing found. Such messages quote values, or parts of them, so for a key with a reference only the fact remains.
func (r Redactor) static(problems []configdef.Problem) []configdef.Problem {
	for i, p := range problems {
		if r.refers(p.Key) && p.Value != "" {
			problems[i].Message = fmt.Sprintf("Invalid value %s for configuration %s: what the reference resolves to is no legal value of this key; it is not shown", r.given[p.Key], p.Key)
		}
	}
	return r.dynamic(problems)
}

// dynamic redacts what a connector found.
func (r Redactor) dynamic(problems []configdef.Problem) []configdef.Problem {
	for i, p := range problems {
		problems[i].Message = r.Text(p.Message)
		problems[i].Value = r.Text(p.Value)
		if r.refers(p.Key) {
			problems[i].Value = r.given[p.Key]
		}
	}
	return problems
}

// Error returns err with the secrets taken out of its text; errors.Is and As see through it.
func (r Redactor) Error(err error) error {
	if err == nil || r.Text(err.Error()) == err.Error() {
		return err
	}
	return &redacted{err, r.Text(err.Error())}
}

type redacted struct {
	err  error
	text string
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// Parse resolves a config and reads it by spec. What it finds wrong shows no secrets.
func Parse(spec *configdef.Spec, given map[string]string) (v configdef.Values, resolved map[string]string, problems []configdef.Problem) {
	resolved, problems = Resolve(given)
	v, bad := spec.Parse(resolved)
	return v, resolved, append(problems, NewRedactor(given).static(bad)...)
}
