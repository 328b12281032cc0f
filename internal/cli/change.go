package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
)

// change is one key that differs. A nil side: the key is not there. Its values can be shown.
type change struct {
	Key string  `json:"key"`
	Old *string `json:"old"`
	New *string `json:"new"`
}

// changes lists by key what makes a config of another.
func changes(before, after map[string]string) []change {
	keys := map[string]string{}
	maps.Copy(keys, before)
	maps.Copy(keys, after)
	shown := shower(before, after)
	out := []change{}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		old, had := before[k]
		now, has := after[k]
		if had == has && old == now {
			continue
		}
		c := change{Key: k}
		if had {
			c.Old = shown(k, old)
		}
		if has {
			c.New = shown(k, now)
		}
		out = append(out, c)
	}
	return out
}

var (
	wholeReference = regexp.MustCompile(`^\$\{[^}]*\}$`)
	userInfo       = regexp.MustCompile(`(://[^:/@\s]*:)[^/\s]*@`)
)

// shower gives what may be shown of a value. What no plugin declares is not known to be free of secrets; the keys of a family, such as
// function.env.X, are not either.
func shower(configs ...map[string]string) func(key, value string) *string {
	var specs []*configdef.Spec
	for _, c := range configs {
		if p, ok := connectors.Lookup(c[config.ConnectorClass]); ok {
			specs = append(specs, config.Full(p))
		}
	}
	return func(key, value string) *string {
		open := wholeReference.MatchString(value) || key == config.ConnectorClass || key == "name"
		for _, s := range specs {
			k, ok := s.Lookup(key)
			if ok && k.Type == configdef.Password && !wholeReference.MatchString(value) {
				open = false
				break
			}
			open = open || ok && !k.Prefix
		}
		if !open {
			value = "[hidden]"
		}
		value = userInfo.ReplaceAllString(value, "${1}[hidden]@")
		return &value
	}
}

// showChanges writes a line for each key.
func showChanges(w io.Writer, list []change) {
	for _, c := range list {
		switch {
		case c.Old == nil:
			fmt.Fprintf(w, "  + %s: %s\n", c.Key, *c.New)
		case c.New == nil:
			fmt.Fprintf(w, "  - %s: %s\n", c.Key, *c.Old)
		default:
			fmt.Fprintf(w, "  ~ %s: %s → %s\n", c.Key, *c.Old, *c.New)
		}
	}
}

// problem is what is wrong with a key.
type problem struct {
	Connector string `json:"connector,omitempty"`
	File      string `json:"file,omitempty"`
	Key       string `json:"key"`
	Message   string `json:"message"`
}

// problems asks the cluster for all that is wrong with a config.
func (c *client) problems(ctx context.Context, name string, given map[string]string) ([]problem, error) {
	class := given[config.ConnectorClass]
	if class == "" {
		return []problem{{Connector: name, Key: config.ConnectorClass, Message: "It is missing; `millrace connector plugins` lists the classes."}}, nil
	}
	given = withName(given, name)
	infos, err := c.api().Validate(ctx, class, given)
	if err != nil {
		if k := fault.KindOf(err); ctx.Err() != nil || k == fault.Unavailable {
			return nil, err
		}
		return []problem{{Connector: name, Key: config.ConnectorClass, Message: err.Error()}}, nil
	}
	return found(name, infos), nil
}

func found(name string, infos *api.ConfigInfos) []problem {
	out := []problem{}
	for _, i := range infos.Configs {
		for _, e := range i.Value.Errors {
			out = append(out, problem{Connector: name, Key: i.Value.Name, Message: e})
		}
	}
	return out
}

// withName is the config as the cluster stores it.
func withName(given map[string]string, name string) map[string]string {
	out := maps.Clone(given)
	if name != "" {
		out["name"] = name
	}
	return out
}

// refuse shows problems and returns the error that ends the command.
func (c *client) refuse(w io.Writer, list []problem) error {
	for _, p := range list {
		where := p.Connector
		if p.File != "" {
			where = p.File
		}
		if where != "" {
			where += ": "
		}
		fmt.Fprintf(w, "%s%s: %s\n", where, p.Key, p.Message)
	}
	return fault.New(fault.Invalid, "%d problem(s); nothing was changed", len(list))
}
