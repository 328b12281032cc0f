package herder

import (
	"context"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/convert"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/smt"
)

// Plugins lists the connector classes: sinks first, then sources, by name. Aliases are listed too, so that a tool that looks for the
// class of an existing config finds it. Converters, which Connect calls plugins too, come after them unless only connectors are wanted.
func Plugins(onlyConnectors bool) []api.PluginInfo {
	out := []api.PluginInfo{}
	for _, want := range []string{"sink", "source"} {
		for _, p := range connectors.All() {
			kind := "sink"
			if p.Kind == connectors.KindSource {
				kind = "source"
			}
			if kind != want {
				continue
			}
			for _, class := range append([]string{p.Class}, p.Aliases...) {
				out = append(out, api.PluginInfo{Class: class, Type: kind, Version: p.Version})
			}
		}
	}
	if !onlyConnectors {
		for _, name := range convert.Classes() {
			out = append(out, api.PluginInfo{Class: name, Type: "converter", Version: convert.Version})
		}
	}
	return out
}

// PluginConfig lists the keys of a class: its own first, then the framework's. wanted is a version or a range of them.
func PluginConfig(class, wanted string) ([]api.ConfigKey, error) {
	in, err := parseRange(wanted)
	if err != nil {
		return nil, err
	}
	p, ok := connectors.Lookup(class)
	if !ok {
		return nil, fault.New(fault.NotFound, "Unknown plugin %s.", class)
	}
	if !in.holds(p.Version) {
		return nil, fault.New(fault.Invalid, "Plugin %s not found that matches the version range %s, available versions: [%s]", p.Class, in, p.Version)
	}
	spec := p.Spec.With(config.Connector(p.Kind))
	out := []api.ConfigKey{}
	for _, k := range spec.Keys() {
		if !k.Hidden && !k.Prefix && k.Pattern == nil {
			out = append(out, keyInfo(spec, k))
		}
	}
	return out, nil
}

func keyInfo(spec *configdef.Spec, k configdef.Key) api.ConfigKey {
	i := api.ConfigKey{
		Name: k.Name, Type: string(k.Type), Required: k.Required, Importance: string(k.Importance), Documentation: k.Doc, OrderInGroup: -1,
		Width: string(k.Width), DisplayName: k.Display, Dependents: spec.Dependents(k.Name),
	}
	if i.Dependents == nil {
		i.Dependents = []string{}
	}
	if !k.Required && !k.NoDefault {
		i.DefaultValue = &k.Default
	}
	if k.Group != "" {
		i.Group = &k.Group
		i.OrderInGroup = 0
		for _, other := range spec.Keys() {
			if other.Group == k.Group {
				i.OrderInGroup++
			}
			if other.Name == k.Name {
				break
			}
		}
	}
	return i
}

// Validate looks at a config without changing anything: every key with its value and all that is wrong with it. nulls are keys that
// were given no value.
func Validate(ctx context.Context, path string, given map[string]string, nulls []string) (*api.ConfigInfos, error) {
	class := given[config.ConnectorClass]
	if class != "" && !sameClass(class, path) {
		return nil, fault.New(fault.Invalid, "Included connector type %s does not match request type %s", class, path)
	}
	p, err := plugin(given)
	if err != nil {
		return nil, err
	}
	spec := config.Full(p).With(smt.SpecOf(given), convert.SpecOf(given))
	errs := map[string][]string{}
	count := len(nulls)
	for _, k := range nulls {
		errs[k] = []string{noNull(k)}
	}
	for _, x := range problemsOf(ctx, p, given) {
		if !slices.Contains(errs[x.Key], x.Message) {
			errs[x.Key] = append(errs[x.Key], x.Message)
			count++
		}
	}
	out := &api.ConfigInfos{Name: class, ErrorCount: count, Groups: spec.Groups(), Configs: []api.ConfigInfo{}}
	known := map[string]bool{}
	for _, k := range spec.Keys() {
		if k.Prefix || k.Pattern != nil || k.Hidden && given[k.Name] == "" && errs[k.Name] == nil {
			continue
		}
		known[k.Name] = true
		d := keyInfo(spec, k)
		// The value as it was given, references and all: what a secret resolves to is nobody's business here.
		v := &api.ConfigValue{Name: k.Name, RecommendedValues: recommended(k, given), Errors: orEmpty(errs[k.Name]), Visible: !k.Hidden}
		if text, set := given[k.Name]; set {
			if k.Type == configdef.Password && !strings.HasPrefix(text, "${") {
				text = "[hidden]"
			}
			v.Value = &text
		} else {
			v.Value = d.DefaultValue
		}
		out.Configs = append(out.Configs, api.ConfigInfo{Definition: &d, Value: v})
	}
	// Keys that nothing declares come first, as in Connect.
	var undeclared []api.ConfigInfo
	for key, msgs := range errs {
		if !known[key] {
			v := &api.ConfigValue{Name: key, RecommendedValues: []string{}, Errors: msgs, Visible: true}
			if text, ok := given[key]; ok {
				v.Value = &text
			}
			undeclared = append(undeclared, api.ConfigInfo{Value: v})
		}
	}
	slices.SortFunc(undeclared, func(a, b api.ConfigInfo) int { return strings.Compare(a.Value.Name, b.Value.Name) })
	out.Configs = append(undeclared, out.Configs...)
	return out, nil
}

// sameClass: a config's class fits the path's if it is the same plugin by whatever name, or, where nothing is known of it, if it ends so.
func sameClass(class, path string) bool {
	p, known := connectors.Lookup(class)
	q, also := connectors.Lookup(path)
	if known || also {
		return p == q
	}
	return strings.HasSuffix(strings.TrimSuffix(class, "Connector"), strings.TrimSuffix(path, "Connector"))
}

func recommended(k configdef.Key, given map[string]string) []string {
	if k.Recommend != nil {
		return orEmpty(k.Recommend(given))
	}
	return orEmpty(k.OneOf)
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
