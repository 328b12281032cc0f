package rest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

func (s *Server) routes() []route {
	r := func(path string, methods map[string]handler) route {
		var segs []string
		if path != "" {
			segs = strings.Split(path, "/")
		}
		return route{path: segs, methods: methods}
	}
	local := func(path string, h handler) route {
		x := r(path, map[string]handler{http.MethodGet: h})
		x.local = true
		return x
	}
	const get, put, post, del, patch = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch
	return slices.Concat(clusterRoutes(r), []route{
		local("", root),
		local("health", health),
		local("connector-plugins", plugins),
		local("connector-plugins/*/config", pluginConfig),
		r("connector-plugins/*/config/validate", map[string]handler{put: validate}),
		r("connectors", map[string]handler{get: list, post: create}),
		r("connectors/*", map[string]handler{get: getConnector, del: deleteConnector}),
		r("connectors/*/config", map[string]handler{get: getConfig, put: putConfig, patch: patchConfig}),
		r("connectors/*/status", map[string]handler{get: status}),
		r("connectors/*/tasks", map[string]handler{get: tasks}),
		r("connectors/*/tasks-config", map[string]handler{get: tasksConfig}),
		r("connectors/*/tasks/*/status", map[string]handler{get: taskStatus}),
		r("connectors/*/tasks/*/restart", map[string]handler{post: restartTask}),
		r("connectors/*/restart", map[string]handler{post: restart}),
		r("connectors/*/pause", map[string]handler{put: s.setTarget(commandv1.TargetState_TARGET_STATE_PAUSED, http.StatusAccepted)}),
		r("connectors/*/resume", map[string]handler{put: s.setTarget(commandv1.TargetState_TARGET_STATE_RUNNING, http.StatusAccepted)}),
		r("connectors/*/stop", map[string]handler{put: s.setTarget(commandv1.TargetState_TARGET_STATE_STOPPED, http.StatusNoContent)}),
		r("connectors/*/offsets", map[string]handler{get: later, patch: later, del: later}),
		r("connectors/*/topics", map[string]handler{get: later}),
		r("connectors/*/topics/reset", map[string]handler{put: later}),
		r("admin/loggers", map[string]handler{get: later}),
		r("admin/loggers/*", map[string]handler{get: later, put: later}),
		r("millrace/v1/connectors/*/progress", map[string]handler{get: progress}),
		r("millrace/v1/connectors/*/events", map[string]handler{get: events}),
		r("millrace/v1/connectors/*/signals", map[string]handler{post: signal}),
		r("metrics", map[string]handler{get: metrics}),
	})
}

func root(s *Server, _ *http.Request) (int, any, error) {
	return http.StatusOK, api.ServerInfo{Version: ConnectVersion, Commit: s.opts.Commit, KafkaClusterID: s.opts.KafkaClusterID()}, nil
}

func health(s *Server, r *http.Request) (int, any, error) {
	if addr, self := s.opts.Leader(r.Context()); addr == "" && !self {
		if why := s.fault(); why != "" {
			return http.StatusInternalServerError, api.Health{Status: "unhealthy", Message: why}, nil
		}
		return http.StatusServiceUnavailable, api.Health{Status: "starting", Message: "Worker is still starting up. No leader is known yet."}, nil
	}
	return http.StatusOK, api.Health{Status: "healthy", Message: "Worker has completed startup and is ready to handle requests."}, nil
}

func plugins(*Server, *http.Request) (int, any, error) { return http.StatusOK, herder.Plugins(), nil }

func pluginConfig(_ *Server, r *http.Request) (int, any, error) {
	keys, err := herder.PluginConfig(seg(r, 1))
	return http.StatusOK, keys, err
}

func validate(_ *Server, r *http.Request) (int, any, error) {
	given, err := flat(r)
	if err != nil {
		return 0, nil, err
	}
	infos, err := herder.Validate(r.Context(), seg(r, 1), given)
	return http.StatusOK, infos, err
}

func flat(r *http.Request) (map[string]string, error) {
	var in map[string]any
	if err := body(r, &in); err != nil {
		return nil, err
	}
	return scalars(in)
}

func list(s *Server, r *http.Request) (int, any, error) {
	expand, given := r.URL.Query()["expand"]
	if !given {
		return http.StatusOK, s.opts.Herder.Names(), nil
	}
	var withStatus, withInfo bool
	for _, e := range expand {
		withStatus = withStatus || e == "status"
		withInfo = withInfo || e == "info"
	}
	return http.StatusOK, s.opts.Herder.Expand(withStatus, withInfo), nil
}

func create(s *Server, r *http.Request) (int, any, error) {
	var in api.CreateConnector
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	given, err := scalars(in.Config)
	if err != nil {
		return 0, nil, err
	}
	i, err := s.opts.Herder.Create(r.Context(), in.Name, given, in.InitialState)
	return http.StatusCreated, i, err
}

func getConnector(s *Server, r *http.Request) (int, any, error) {
	i, err := s.opts.Herder.Get(seg(r, 1))
	return http.StatusOK, i, err
}

func deleteConnector(s *Server, r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, s.opts.Herder.Delete(r.Context(), seg(r, 1))
}

func getConfig(s *Server, r *http.Request) (int, any, error) {
	i, err := s.opts.Herder.Get(seg(r, 1))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, i.Config, nil
}

func putConfig(s *Server, r *http.Request) (int, any, error) {
	given, err := flat(r)
	if err != nil {
		return 0, nil, err
	}
	i, created, err := s.opts.Herder.Put(r.Context(), seg(r, 1), given)
	if created {
		return http.StatusCreated, i, err
	}
	return http.StatusOK, i, err
}

func patchConfig(s *Server, r *http.Request) (int, any, error) {
	var in map[string]any
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	changes := map[string]*string{}
	for k, v := range in {
		if v == nil {
			changes[k] = nil
			delete(in, k)
		}
	}
	given, err := scalars(in)
	if err != nil {
		return 0, nil, err
	}
	for k, v := range given {
		changes[k] = &v
	}
	i, err := s.opts.Herder.Patch(r.Context(), seg(r, 1), changes)
	return http.StatusOK, i, err
}

func status(s *Server, r *http.Request) (int, any, error) {
	st, err := s.opts.Herder.Status(seg(r, 1))
	return http.StatusOK, st, err
}

func tasks(s *Server, r *http.Request) (int, any, error) {
	t, err := s.opts.Herder.Tasks(seg(r, 1))
	return http.StatusOK, t, err
}

func tasksConfig(s *Server, r *http.Request) (int, any, error) {
	t, err := s.opts.Herder.Tasks(seg(r, 1))
	out := map[string]map[string]string{}
	for _, x := range t {
		out[x.ID.Connector+"-"+strconv.Itoa(int(x.ID.Task))] = x.Config
	}
	return http.StatusOK, out, err
}

func taskNumber(r *http.Request) (int32, error) {
	n, err := strconv.ParseInt(seg(r, 3), 10, 32)
	if err != nil {
		return 0, fault.New(fault.NotFound, "HTTP 404 Not Found")
	}
	return int32(n), nil
}

func taskStatus(s *Server, r *http.Request) (int, any, error) {
	n, err := taskNumber(r)
	if err != nil {
		return 0, nil, err
	}
	st, err := s.opts.Herder.Status(seg(r, 1))
	if err != nil || n < 0 || int(n) >= len(st.Tasks) {
		return 0, nil, fault.New(fault.NotFound, "No status found for task %s-%d", seg(r, 1), n)
	}
	return http.StatusOK, st.Tasks[n], nil
}

func restartTask(s *Server, r *http.Request) (int, any, error) {
	n, err := taskNumber(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, s.opts.Herder.RestartTask(r.Context(), seg(r, 1), n)
}

func restart(s *Server, r *http.Request) (int, any, error) {
	yes := func(k string) bool { return strings.EqualFold(r.URL.Query().Get(k), "true") }
	all, failed := yes("includeTasks"), yes("onlyFailed")
	st, err := s.opts.Herder.Restart(r.Context(), seg(r, 1), all, failed)
	if !all && !failed {
		return http.StatusNoContent, nil, err
	}
	return http.StatusAccepted, st, err
}

// later answers for the endpoints of Kafka Connect that are not built yet.
func later(*Server, *http.Request) (int, any, error) {
	return 0, nil, fault.New(fault.Unsupported, "This endpoint of Kafka Connect is not supported yet")
}

func progress(s *Server, r *http.Request) (int, any, error) {
	p, err := s.opts.Herder.Progress(seg(r, 3))
	return http.StatusOK, p, err
}

func events(s *Server, r *http.Request) (int, any, error) {
	e, err := s.opts.Herder.Events(seg(r, 3))
	return http.StatusOK, e, err
}

func signal(s *Server, r *http.Request) (int, any, error) {
	var in api.Signal
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, s.opts.Herder.Signal(r.Context(), seg(r, 3), in)
}

func metrics(s *Server, _ *http.Request) (int, any, error) {
	return http.StatusOK, plain(s.opts.Herder.Metrics()), nil
}
