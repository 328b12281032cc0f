package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/connectors/configdef"
)

// The node's settings. Each is a flag (--rest), an environment variable (MILLRACE_REST) and a key of the config file (rest).
const (
	NodeID            = "id"
	NodeData          = "data"
	NodeREST          = "rest"
	NodeRESTAdvertise = "rest-advertise"
	NodeCluster       = "cluster"
	NodeClusterAdvert = "cluster-advertise"
	NodeJoin          = "join"
	NodeRoles         = "roles"
	NodeBrokers       = "brokers"
	NodeEmbedded      = "embedded-kafka"
	NodeLabels        = "labels"
	NodeOffsetsTopic  = "offsets-topic"
	NodeLogLevel      = "log-level"
	NodeLogFormat     = "log-format"
	NodeLease         = "lease-ms"
	NodeHeartbeat     = "heartbeat-ms"
	NodeElection      = "election-timeout-ms"
	NodeGrace         = "shutdown-timeout-ms"
	NodeProfile       = "profile"
	NodeDrain         = "drain-timeout-ms"
	NodeBootstrap     = "bootstrap-expect"
	NodeCapacity      = "capacity"
	NodeMoves         = "moves-max"
	NodeSnapEntries   = "raft-snapshot-entries"
	NodeSnapInterval  = "raft-snapshot-interval-ms"
	NodeTrailing      = "raft-trailing-entries"
)

// Node declares the settings of a node.
func Node() *configdef.Spec {
	s := func(name, def, group, doc, example string) configdef.Key {
		return configdef.Key{Name: name, Type: configdef.String, Default: def, Group: group, Doc: doc, Example: example}
	}
	keys := []configdef.Key{
		s(NodeID, "", "Node", "Name of the node, unique in the cluster and the same after a restart. Empty: made once and kept in the data directory.", "node1"),
		s(NodeData, "millrace-data", "Node", "Directory for everything that the node keeps: the Raft log, and the embedded broker's topics.", "/var/lib/millrace"),
		{Name: NodeRoles, Type: configdef.List, Default: "coordinator,worker", OneOf: []string{"coordinator", "worker"}, Group: "Node", Doc: "What the node does: coordinator (holds the cluster's state; 1, 3 or 5 of them), worker (runs tasks), or both.", Example: "worker"},
		s(NodeREST, "127.0.0.1:8083", "Addresses", "Address for REST. Use :8083 to listen on all interfaces; without logins (rest-logins) or certificates of clients (rest-tls-client-auth) whoever reaches it manages the cluster.", ":8083"),
		s(NodeRESTAdvertise, "", "Addresses", "Address of REST as other nodes reach it. Empty: the one that is listened on.", "node1:8083"),
		s(NodeCluster, "127.0.0.1:8084", "Addresses", "Address for the other nodes (Raft and worker sessions).", ":8084"),
		s(NodeClusterAdvert, "", "Addresses", "That address as the other nodes reach it. Empty: the one that is listened on.", "node1:8084"),
		{Name: NodeJoin, Type: configdef.List, Default: "", Group: "Addresses", Check: hostPorts, Doc: "Cluster addresses of nodes of the cluster to join. A node that has them never makes a cluster alone. Empty: a new node makes a cluster of its own.", Example: "node1:8084,node2:8084"},
		{Name: NodeBootstrap, Type: configdef.Int, Default: "0", Check: groupSize, Group: "Addresses", Doc: "How many new coordinators make a cluster together: 3 or 5, each with this setting and the addresses of all in join. They wait for each other; where there is a cluster already, a new one joins it. 0: a new coordinator joins or is alone.", Example: "3"},
		{Name: NodeBrokers, Type: configdef.List, Default: "", Group: "Kafka", Check: hostPorts, Doc: "Kafka brokers. Empty: a node that makes a cluster starts the embedded broker; one that joins uses the cluster's.", Example: "kafka1:9092,kafka2:9092"},
		s(NodeEmbedded, "127.0.0.1:9092", "Kafka", "Address of the embedded broker, when no brokers are given. It keeps its topics under the data directory. For trying and for small jobs, not for production.", "127.0.0.1:9092"),
		s(NodeOffsetsTopic, "millrace-offsets", "Kafka", "Topic for source offsets, in Kafka Connect's format.", "connect-offsets"),
		{Name: NodeLabels, Type: configdef.List, Default: "", Check: labels, Group: "Node", Doc: "Labels of the node as name=value; connectors ask for them with placement.labels. The label zone says what may fail as a whole: tasks of one connector are spread over zones.", Example: "zone=a,disk=ssd"},
		{Name: NodeCapacity, Type: configdef.Int, Default: "1", HasMin: true, Min: 1, HasMax: true, Max: 1000, Group: "Node", Doc: "How much the worker takes in proportion to others: one of capacity 2 gets twice the tasks, by weight, of one of capacity 1."},
		{Name: NodeLogLevel, Type: configdef.String, Default: "info", OneOf: []string{"debug", "info", "warn", "error"}, Group: "Log", Doc: "Least important log line that is written."},
		{Name: NodeLogFormat, Type: configdef.String, Default: "text", OneOf: []string{"text", "json"}, Group: "Log", Doc: "Form of the log, which goes to standard error."},
		s(NodeProfile, "", "Log", "Address for Go's profiles (/debug/pprof/), to see where time and memory go. Empty: off. Who reaches it sees inside the process: keep it local.", "127.0.0.1:6060"),
		{Name: NodeLease, Type: configdef.Int, Default: "1500", HasMin: true, Min: 500, Group: "Timing", Doc: "How long a worker may act without hearing from the leader, in milliseconds. A dead worker's tasks move after this and an eighth of it. The same on all coordinators."},
		{Name: NodeHeartbeat, Type: configdef.Int, Default: "200", HasMin: true, Min: 50, Group: "Timing", Doc: "Interval of workers' heartbeats, in milliseconds; well below a third of the lease."},
		{Name: NodeElection, Type: configdef.Int, Default: "600", HasMin: true, Min: 300, Group: "Timing", Doc: "How long coordinators wait for a silent leader before they elect another, in milliseconds; well below the lease, so that no task notices."},
		{Name: NodeGrace, Type: configdef.Int, Default: "5000", HasMin: true, Min: 100, Group: "Timing", Doc: "How long a task may take to stop, in milliseconds, before it is cut off."},
		{Name: NodeDrain, Type: configdef.Int, Default: "20000", HasMin: true, Group: "Timing", Doc: "How long a worker that is told to end (SIGTERM) waits for its tasks to move to others, in milliseconds; what is left is stopped, and moves then. 0: stops at once."},
		{Name: NodeMoves, Type: configdef.Int, Default: "8", HasMin: true, Min: 1, Group: "Timing", Doc: "How many running tasks move at a time, to a worker that joins or away from one that is drained. The same on all coordinators."},
		{Name: NodeSnapEntries, Type: configdef.Int, Default: "8192", HasMin: true, Min: 1, Group: "Raft log", Doc: "After how many changes the log of the cluster's state gives way to an image of it on disk."},
		{Name: NodeSnapInterval, Type: configdef.Int, Default: "30000", HasMin: true, Min: 5, Group: "Raft log", Doc: "How often that is looked at, in milliseconds."},
		{Name: NodeTrailing, Type: configdef.Int, Default: "4096", HasMin: true, Group: "Raft log", Doc: "How many changes stay in the log behind an image, so that a coordinator that was away for a moment need not take the whole of it."},
	}
	keys = slices.Concat(keys, kafkaKeys(), tlsKeys(), restKeys())
	return configdef.New(withEnv(keys)...).Cross(nodeChecks).Cross(kafkaChecks).Cross(tlsChecks)
}

func groupSize(v string) error {
	switch strings.TrimSpace(v) {
	case "0", "1", "3", "5":
		return nil
	}
	return fmt.Errorf("a group of coordinators has 1, 3 or 5 of them")
}

func hostPorts(v string) error {
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(item); err != nil {
			return fmt.Errorf("%q is not host:port", item)
		}
	}
	return nil
}

func nodeChecks(v configdef.Values) []configdef.Problem {
	var out []configdef.Problem
	roles := v.List(NodeRoles)
	if len(roles) == 0 {
		out = append(out, configdef.Problem{Key: NodeRoles, Message: "Invalid value for configuration roles: coordinator, worker or both"})
	}
	if !slices.Contains(roles, "coordinator") && len(v.List(NodeJoin)) == 0 {
		out = append(out, configdef.Problem{Key: NodeJoin, Message: "A node that is only a worker needs the cluster address of a coordinator: set join (--join, MILLRACE_JOIN)"})
	}
	if v.OK(NodeBootstrap) && v.Int(NodeBootstrap) > 1 && int64(len(v.List(NodeJoin))) < v.Int(NodeBootstrap)-1 {
		out = append(out, configdef.Problem{Key: NodeBootstrap, Message: fmt.Sprintf("Invalid value %d for configuration bootstrap-expect: join must have the cluster addresses of all of them (it has %d)", v.Int(NodeBootstrap), len(v.List(NodeJoin)))})
	}
	if v.OK(NodeBootstrap) && v.Int(NodeBootstrap) > 1 && len(v.List(NodeBrokers)) == 0 {
		out = append(out, configdef.Problem{Key: NodeBrokers, Message: "Coordinators that make a cluster together (bootstrap-expect) have no embedded broker: set brokers (--brokers, MILLRACE_BROKERS)"})
	}
	if v.OK(NodeLease) && v.OK(NodeHeartbeat) && v.Int(NodeHeartbeat)*3 > v.Int(NodeLease) {
		out = append(out, configdef.Problem{Key: NodeHeartbeat, Message: fmt.Sprintf("Invalid value %d for configuration heartbeat-ms: it must be at most a third of lease-ms (%d)", v.Int(NodeHeartbeat), v.Int(NodeLease))})
	}
	if v.OK(NodeLease) && v.OK(NodeElection) && v.Int(NodeElection)*2 > v.Int(NodeLease) {
		out = append(out, configdef.Problem{Key: NodeElection, Message: fmt.Sprintf("Invalid value %d for configuration election-timeout-ms: it must be at most half of lease-ms (%d), or an election stops the tasks", v.Int(NodeElection), v.Int(NodeLease))})
	}
	return out
}

// LoadNode puts a node's settings together: flags over environment over file over defaults. All problems come back at once.
func LoadNode(flags map[string]string, env []string, file string) (configdef.Values, error) {
	spec := Node()
	given := map[string]string{}
	var problems []configdef.Problem
	if file != "" {
		fromFile, err := readFile(file)
		if err != nil {
			return configdef.Values{}, err
		}
		for _, p := range spec.Unknown(fromFile) {
			p.Message = file + ": " + p.Message
			problems = append(problems, p)
		}
		maps.Copy(given, fromFile)
	}
	byEnv := map[string]string{}
	for _, k := range spec.Keys() {
		byEnv[k.Env] = k.Name
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if key, ok := byEnv[name]; ok {
			given[key] = value
		}
	}
	maps.Copy(given, flags)
	v, bad := spec.Parse(given)
	return v, configdef.AsError(append(problems, bad...))
}

// readFile reads a YAML file of settings; lists may be YAML lists.
func readFile(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("config file %s does not exist", path)
	}
	if err != nil {
		return nil, fmt.Errorf("config file: %w", err)
	}
	var raw map[string]any
	if err := yaml.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("config file %s: %w", path, err)
	}
	out := map[string]string{}
	for k, v := range raw {
		switch x := v.(type) {
		case []any:
			parts := make([]string, len(x))
			for i := range x {
				parts[i] = fmt.Sprint(x[i])
			}
			out[k] = strings.Join(parts, ",")
		case map[string]any:
			var parts []string
			for _, name := range slices.Sorted(maps.Keys(x)) {
				parts = append(parts, fmt.Sprintf("%s=%v", name, x[name]))
			}
			out[k] = strings.Join(parts, ",")
		case nil:
			out[k] = ""
		default:
			out[k] = fmt.Sprint(x)
		}
	}
	return out, nil
}
