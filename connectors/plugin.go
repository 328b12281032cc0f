package connectors

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/connectors/configdef"
)

// Kind says what a connector does.
type Kind string

// The kinds of connectors. A transform runs a function between topics; Kafka Connect's clients see it as a sink that
// also writes.
const (
	KindSource    Kind = "source"
	KindSink      Kind = "sink"
	KindTransform Kind = "transform"
)

// Plugin describes one connector class.
type Plugin struct {
	// Class is the value of connector.class, for instance "mysql".
	Class string
	// Aliases are other class names that mean the same, so that existing configs run as they are.
	Aliases []string
	Kind    Kind
	Version string
	// Doc is one sentence: what it does.
	Doc string
	// Spec declares the connector's own config keys.
	Spec *configdef.Spec
	// KeyConverter and ValueConverter are what key.converter and value.converter are when neither the config nor the
	// worker says: names that internal/convert knows ("canal-json", "json", "string", "bytes"). Empty: the worker's.
	KeyConverter   string
	ValueConverter string
	// JSONConverter is the converter that Kafka Connect's class JsonConverter stands for; empty: json.
	JSONConverter string

	// Rows, of a sink, asks for change events where values are plain rows too: structs or JSON objects, with the record's key as the
	// primary key, and tombstones as their deletes. The table of such an event is the last part of its topic's name. The key of a
	// delete that was a tombstone is in Table.MessageKey: it need not be the table's own.
	Rows bool

	// Validate looks at what the spec alone can't: does the server answer, are the privileges there. It gets a config whose
	// keys parse, and must return when ctx ends. Optional.
	Validate func(ctx context.Context, config map[string]string) []configdef.Problem

	// Diagnose looks for what Validate lets pass and people should know before it hurts: logs that are kept for a short time, tables
	// without a key. It is for a person who asks (millrace doctor source), gets a config that Validate found good, with secrets resolved,
	// and must return when ctx ends. Optional.
	Diagnose func(ctx context.Context, config map[string]string) ([]Diagnosis, error)

	// Plan splits the connector into at most maxTasks task configs. It is called on a worker with secrets resolved, may
	// talk to the source, and must return when ctx ends. What it returns is stored, so it must pass references, not
	// secrets: it gets the raw config too and builds on that. nil means: one task for sources, maxTasks for others, each
	// with the connector's config.
	Plan func(ctx context.Context, req PlanRequest) ([]map[string]string, error)

	// CheckOffset judges an offset of a source that somebody wants to store, before it is stored: is the partition one of this config's, can a
	// task go on from the position. A nil position forgets the partition. config has its secrets resolved. Optional: anything goes.
	CheckOffset func(config map[string]string, o Offset) error

	// NewSource makes a task of a KindSource; NewSink of a KindSink. They do no I/O.
	NewSource func() SourceTask
	NewSink   func() SinkTask
}

// Diagnosis is something in the system that a connector connects to that is not as it should be, and the way out.
type Diagnosis struct{ Message, Fix string }

// PlanRequest is what Plan works on.
type PlanRequest struct {
	// Config has its secrets resolved; Raw has the references.
	Config   map[string]string
	Raw      map[string]string
	MaxTasks int
}

var registry = struct {
	mu      sync.RWMutex // guards: plugins, names
	plugins map[string]*Plugin
	names   map[string]*Plugin
}{plugins: map[string]*Plugin{}, names: map[string]*Plugin{}}

// Register adds a plugin to the binary. It is called from init and panics on a mistake of the programmer's: a class
// name taken twice, no spec, or a kind without its maker.
func Register(p Plugin) {
	if p.Class == "" || p.Spec == nil {
		panic("connectors: plugin without class or spec")
	}
	if (p.Kind == KindSource) != (p.NewSource != nil) || (p.Kind == KindSink) != (p.NewSink != nil) {
		panic(fmt.Sprintf("connectors: plugin %s: kind and maker do not fit", p.Class))
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	for _, name := range append([]string{p.Class}, p.Aliases...) {
		if _, taken := registry.names[name]; taken {
			panic(fmt.Sprintf("connectors: class %s registered twice", name))
		}
		registry.names[name] = &p
	}
	registry.plugins[p.Class] = &p
}

// Lookup finds a plugin by class or alias. Kafka Connect's rule holds too: a simple name, with or without its
// "Connector" ending, finds a class with a Java package.
func Lookup(class string) (*Plugin, bool) {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	if p, ok := registry.names[class]; ok {
		return p, true
	}
	if class == "" || strings.Contains(class, ".") {
		return nil, false
	}
	for _, name := range slices.Sorted(maps.Keys(registry.names)) {
		simple := name[strings.LastIndexByte(name, '.')+1:]
		if simple == class || strings.TrimSuffix(simple, "Connector") == class {
			return registry.names[name], true
		}
	}
	return nil, false
}

// All returns the plugins, sorted by class.
func All() []*Plugin {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	out := make([]*Plugin, 0, len(registry.plugins))
	for _, class := range slices.Sorted(maps.Keys(registry.plugins)) {
		out = append(out, registry.plugins[class])
	}
	return out
}
