package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Paths in rules: "connectors" is that package of this module, "connectors/..." it and all below, "connectors/*" those
// directly below. "std" is the whole standard library, "std:net" one package of it and "std:net/..." that and all below.
// "other" is everyone else's modules, "other:github.com/x/y/..." a part of them.
type rule struct {
	from   []string // the importing packages
	except []string // ... less these
	allow  []string // what they may import, nothing else; empty: anything
	deny   []string // what they may not import, though a wider pattern allows it; a path that allow names itself stays allowed
	why    string
}

var (
	assembly = []string{"internal/cli/...", "internal/sim/...", "internal/docgen/...", "internal/archtest/..."}
	forTests = []string{"internal/testkit/...", "internal/bench/...", "connectors/connectortest/...", "deploy/..."}
)

var rules = []rule{
	{
		from: []string{"coordinator/..."}, deny: []string{"worker/..."},
		why: "coordinator and worker meet only in proto/cluster, so that two neighbouring versions can share a cluster",
	},
	{
		from: []string{"worker/..."}, deny: []string{"coordinator/..."},
		why: "coordinator and worker meet only in proto/cluster, so that two neighbouring versions can share a cluster",
	},
	{
		// worker/transform is the task of the class that connectors/transform declares.
		from: []string{"coordinator/...", "worker/..."}, except: []string{"worker/transform"}, deny: []string{"connectors/*/..."},
		allow: []string{"std", "other", "proto/...", "internal/...", "coordinator/...", "worker/...", "connectors", "connectors/record", "connectors/configdef"},
		why:   "the roles know connectors by contract and registry only: one that needs special treatment lacks something in the contract",
	},
	{
		from: []string{"connectors/record/...", "connectors/configdef/..."}, allow: []string{"std", "connectors/record/...", "connectors/configdef/..."},
		why: "records and config specs are what everyone shares: with a dependency of their own, everyone would have it",
	},
	{
		from: []string{"connectors"}, allow: []string{"std", "connectors/record", "connectors/configdef"},
		why: "the contract is public and knows no implementation",
	},
	{
		from: []string{"connectors/*/..."}, except: []string{"connectors/all", "connectors/connectortest/...", "connectors/record/...", "connectors/configdef/..."},
		allow: []string{"std", "other", "connectors", "connectors/record", "connectors/configdef", "connectors/internal/...", "self"},
		why:   "a connector is the contract and a driver: it could live in another repository, and knows no other connector",
	},
	{
		from:  []string{"coordinator/state/...", "coordinator/assign/..."},
		allow: []string{"std", "other:google.golang.org/protobuf/...", "proto/command/...", "coordinator/state/...", "coordinator/assign/..."},
		deny:  []string{"std:net/...", "std:os/...", "std:time", "std:math/rand/...", "std:crypto/rand", "std:log/...", "std:syscall"},
		why:   "I6: replicated state is a function of the log: no clock, no random, no I/O; times and ids arrive inside the command",
	},
	{
		from: []string{"..."}, except: []string{"internal/kafka/..."}, deny: []string{"other:github.com/IBM/sarama/..."},
		why: "sarama's types stay behind internal/kafka, the one place that knows how it must be driven",
	},
	{
		from: []string{"..."}, except: []string{"coordinator/raftnode/...", "coordinator/fsm/...", "internal/sim/..."},
		deny: []string{"other:github.com/hashicorp/raft/...", "other:github.com/hashicorp/raft-boltdb/..."},
		why:  "raft's types stay behind coordinator/raftnode and coordinator/fsm; the simulation alone puts a disk of its own under it",
	},
	{
		from: []string{"internal/..."}, except: slices.Concat(assembly, forTests), deny: []string{"coordinator/...", "worker/...", "connectors/*/...", "internal/testkit/..."},
		allow: []string{"std", "other", "proto/...", "internal/...", "connectors", "connectors/record", "connectors/configdef"},
		why:   "internal leaves serve both roles and belong to neither",
	},
	{
		from: []string{"..."}, except: slices.Concat([]string{"."}, assembly), deny: slices.Concat(assembly, []string{"connectors/all"}),
		why: "assembly packages put everything together: only main and tests import them, or everything would import everything",
	},
	{
		from: []string{"..."}, except: forTests, deny: []string{"internal/testkit/...", "connectors/connectortest/...", "std:testing"},
		why: "what is for tests stays out of the product's binary",
	},
	{
		from: []string{"proto/..."}, allow: []string{"std", "other", "proto/..."},
		why: "generated code knows the wire only",
	},
	{
		from: []string{"sdk/..."}, allow: []string{"std", "other", "proto/transform/...", "sdk/..."},
		why: "a function's author depends on the SDK and its public contract, not on Millrace's inside",
	},
	{
		from: []string{"."}, allow: []string{"std", "internal/cli"},
		why: "main picks nothing and wires nothing: internal/cli does",
	},
}

// edge is one import; both ends are written as in rules.
type edge struct{ from, to string }

// forbidden returns why the edge is not allowed, one text a broken rule.
func forbidden(rules []rule, e edge) []string {
	var out []string
	for _, r := range rules {
		if !matchAny(r.from, e.from) || matchAny(r.except, e.from) {
			continue
		}
		denied := matchAny(r.deny, e.to) && !(len(r.allow) > 0 && slices.Contains(r.allow, e.to))
		if len(r.allow) > 0 && !matchAny(r.allow, e.to) && !(slices.Contains(r.allow, "self") && sameComponent(e.from, e.to)) {
			denied = true
		}
		if denied {
			out = append(out, fmt.Sprintf("%s must not import %s: %s", e.from, e.to, r.why))
		}
	}
	return out
}

func matchAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, p) })
}

func match(pattern, p string) bool {
	switch pattern {
	case "...":
		return !strings.Contains(p, ":")
	case "std", "other":
		return strings.HasPrefix(p, pattern+":")
	}
	pattern, below := strings.CutSuffix(pattern, "/...")
	want, have := strings.Split(pattern, "/"), strings.Split(p, "/")
	if len(have) < len(want) || len(have) > len(want) && !below {
		return false
	}
	ok, err := path.Match(pattern, strings.Join(have[:len(want)], "/"))
	return ok && err == nil
}

// sameComponent: connectors/mysqlcdc and connectors/mysqlcdc/event are one connector.
func sameComponent(a, b string) bool {
	x, y := strings.SplitN(a, "/", 3), strings.SplitN(b, "/", 3)
	return len(x) > 1 && len(y) > 1 && x[0] == y[0] && x[1] == y[1]
}
