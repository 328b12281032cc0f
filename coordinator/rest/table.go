package rest

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/internal/api"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// either is a body that has one of several types.
type either []any

// routes is the API: what is served, and what /openapi.json and /docs say of it.
func (s *Server) routes() []route {
	const get, put, post, del, patch = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch
	ok := func(body any) map[int]any { return map[int]any{http.StatusOK: body} }
	none := func(status int) map[int]any { return map[int]any{status: nil} }
	expand := param{name: "expand", many: true, about: "status, info, or both (given twice): an object by name instead of the list of names."}
	list := []route{
		{method: get, path: "/", handle: root, local: true, about: "Version of the API and the brokers' cluster id.", out: ok(api.ServerInfo{})},
		{
			method: get, path: "/health", handle: health, local: true, about: "Whether this node can serve.",
			out: map[int]any{http.StatusOK: api.Health{}, http.StatusServiceUnavailable: api.Health{}, http.StatusInternalServerError: api.Health{}},
		},
		{
			method: get, path: "/connector-plugins", handle: plugins, local: true, about: "Classes that this node has.", out: ok([]api.PluginInfo{}),
			query: []param{{name: "connectorsOnly", boolean: true, about: "false lists converters too. Default true."}},
		},
		{
			method: get, path: "/connector-plugins/{plugin}/config", handle: pluginConfig, local: true, about: "Keys of a class's config.", out: ok([]api.ConfigKey{}),
			query: []param{{name: "version", about: "A version (1.0.0), a range ([1,2)) or latest."}},
		},
		{
			method: put, path: "/connector-plugins/{plugin}/config/validate", handle: validate, in: nullableConfig{}, out: ok(api.ConfigInfos{}),
			about: "Everything that is wrong with a config, by key. Nothing is changed.",
		},
		{method: get, path: "/connectors", handle: list, about: "Connectors.", query: []param{expand}, out: ok(either{[]string{}, map[string]api.Expanded{}})},
		{method: post, path: "/connectors", handle: create, about: "Create a connector.", in: api.CreateConnector{}, out: map[int]any{http.StatusCreated: api.ConnectorInfo{}}},
		{method: get, path: "/connectors/{connector}", handle: getConnector, about: "A connector's config and tasks.", out: ok(api.ConnectorInfo{})},
		{method: del, path: "/connectors/{connector}", handle: deleteConnector, about: "Delete a connector. Its topics and offsets stay.", out: none(http.StatusNoContent)},
		{method: get, path: "/connectors/{connector}/config", handle: getConfig, about: "A connector's config, references to secrets unresolved.", out: ok(map[string]string{})},
		{
			method: put, path: "/connectors/{connector}/config", handle: putConfig, about: "Create a connector, or replace its config.", in: api.GivenConfig{},
			out: map[int]any{http.StatusOK: api.ConnectorInfo{}, http.StatusCreated: api.ConnectorInfo{}},
		},
		{method: patch, path: "/connectors/{connector}/config", handle: patchConfig, about: "Change single keys of a config; null removes a key.", in: nullableConfig{}, out: ok(api.ConnectorInfo{})},
		{method: get, path: "/connectors/{connector}/status", handle: status, about: "State of a connector and its tasks.", out: ok(api.ConnectorStatus{})},
		{method: get, path: "/connectors/{connector}/tasks", handle: tasks, about: "A connector's tasks with their configs.", out: ok([]api.TaskInfo{})},
		{method: post, path: "/connectors/{connector}/tasks", handle: unsigned, local: true, about: "Closed: Kafka Connect's workers speak to each other here."},
		{method: put, path: "/connectors/{connector}/fence", handle: unsigned, local: true, about: "Closed: Kafka Connect's workers speak to each other here."},
		{method: get, path: "/connectors/{connector}/tasks-config", handle: tasksConfig, about: "Configs of the tasks by name, as Kafka Connect had it before 4.0.", out: ok(map[string]map[string]string{})},
		{method: get, path: "/connectors/{connector}/tasks/{task}/status", handle: taskStatus, about: "State of one task.", out: ok(api.TaskState{})},
		{method: post, path: "/connectors/{connector}/tasks/{task}/restart", handle: restartTask, about: "Restart one task.", out: none(http.StatusNoContent)},
		{
			method: post, path: "/connectors/{connector}/restart", handle: restart, about: "Restart a connector.",
			query: []param{{name: "includeTasks", boolean: true, about: "Its tasks, too."}, {name: "onlyFailed", boolean: true, about: "Only what has failed."}},
			out:   map[int]any{http.StatusNoContent: nil, http.StatusAccepted: api.ConnectorStatus{}},
		},
		{method: put, path: "/connectors/{connector}/pause", handle: s.setTarget(commandv1.TargetState_TARGET_STATE_PAUSED, http.StatusAccepted), about: "Pause: tasks stay where they are and do nothing.", out: none(http.StatusAccepted)},
		{method: put, path: "/connectors/{connector}/resume", handle: s.setTarget(commandv1.TargetState_TARGET_STATE_RUNNING, http.StatusAccepted), about: "Run again after pause or stop.", out: none(http.StatusAccepted)},
		{method: put, path: "/connectors/{connector}/stop", handle: s.setTarget(commandv1.TargetState_TARGET_STATE_STOPPED, http.StatusNoContent), about: "Stop: the tasks end.", out: none(http.StatusNoContent)},
		{method: get, path: "/connectors/{connector}/offsets", handle: getOffsets, about: "Stored offsets of a source, or of the consumer group of a sink or transform.", out: ok(api.Offsets{})},
		{method: patch, path: "/connectors/{connector}/offsets", handle: patchOffsets, about: "Change offsets of a stopped connector; null forgets one. Partitions that are not named keep theirs.", in: api.Offsets{}, out: ok(api.Message{})},
		{method: del, path: "/connectors/{connector}/offsets", handle: deleteOffsets, about: "Forget all offsets of a stopped connector.", out: ok(api.Message{})},
		{method: get, path: "/connectors/{connector}/topics", handle: topics, about: "Topics that a connector has used since it was created or they were reset.", out: ok(map[string]api.Topics{})},
		{method: put, path: "/connectors/{connector}/topics/reset", handle: resetTopics, about: "Forget the topics that a connector has used.", out: none(http.StatusAccepted)},
		{method: get, path: "/admin/loggers", handle: loggers, local: true, about: "Log levels of this node.", out: ok(map[string]api.Logger{})},
		{method: get, path: "/admin/loggers/{logger}", handle: logger, local: true, about: "Level of one logger.", out: ok(api.Logger{})},
		{
			method: put, path: "/admin/loggers/{logger}", handle: setLevel, local: true, in: api.SetLevel{},
			about: "Set the level of a logger and all below it, until the node ends.",
			query: []param{{name: "scope", about: "worker (the default): this node; cluster: all nodes."}},
			out:   map[int]any{http.StatusOK: []string{}, http.StatusNoContent: nil},
		},
		{method: get, path: api.Prefix + "/connectors/{connector}/progress", handle: progress, about: "How far a connector's tasks are.", out: ok(api.Progress{})},
		{method: get, path: api.Prefix + "/connectors/{connector}/audit", handle: audit, about: "How a connector's topics compare with its ledger.", out: ok(api.Audit{})},
		{method: get, path: api.Prefix + "/connectors/{connector}/events", handle: events, about: "What happened to a connector's tasks: starts, failures, retries, restarts.", out: ok(api.Events{})},
		{method: get, path: api.Prefix + "/connectors/{connector}/logs", handle: logs, about: "The last log lines of a connector, of all nodes.", out: ok(api.Logs{})},
		{method: get, path: api.Prefix + "/node/logs/{connector}", handle: nodeLogs, local: true, about: "The last log lines of a connector, of the node that is asked.", out: ok(api.Logs{})},
		{method: post, path: api.Prefix + "/connectors/{connector}/signals", handle: signal, about: "Ask a connector's tasks for something, such as to read tables anew.", in: api.Signal{}, out: none(http.StatusAccepted)},
		{method: get, path: api.Prefix + "/live", handle: live, local: true, about: "Whether the process answers.", out: ok(api.Health{})},
		{
			method: get, path: api.Prefix + "/ready", handle: ready, local: true, about: "Whether this node does its part in the cluster; if not, why.",
			out: map[int]any{http.StatusOK: api.Health{}, http.StatusServiceUnavailable: api.Health{}},
		},
		{method: get, path: "/metrics", raw: metrics, local: true, about: "This node's metrics in Prometheus' text form.", media: "text/plain", out: ok("")},
		{method: get, path: "/openapi.json", handle: s.openAPI, local: true, about: "This description.", out: ok(map[string]any{})},
		{method: get, path: "/docs", handle: s.docs, local: true, about: "This description as a page.", media: "text/html", out: ok("")},
	}
	list = append(list, clusterRoutes()...)
	for i := range list {
		if list[i].path != "/" {
			list[i].segs = strings.Split(strings.TrimPrefix(list[i].path, "/"), "/")
		}
	}
	return list
}

// nullableConfig is a GivenConfig whose values may be null: the key goes, or is found wrong.
type nullableConfig map[string]any
