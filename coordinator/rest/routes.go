package rest

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

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

// live answers as long as the process does: an orchestrator that gets no answer should start it anew.
func live(*Server, *http.Request) (int, any, error) {
	return http.StatusOK, api.Health{Status: "live", Message: "The node runs."}, nil
}

// ready answers 503 while the node can't do its part, with the reason: it starts, has lost the leader, or is about to end.
func ready(s *Server, _ *http.Request) (int, any, error) {
	if why, ok := s.opts.Ready(); !ok {
		return http.StatusServiceUnavailable, api.Health{Status: "not ready", Message: why}, nil
	}
	return http.StatusOK, api.Health{Status: "ready", Message: "The node does its part in the cluster."}, nil
}

func plugins(_ *Server, r *http.Request) (int, any, error) {
	only := true
	if q := r.URL.Query(); q.Has("connectorsOnly") {
		only = isTrue(r, "connectorsOnly")
	}
	return http.StatusOK, herder.Plugins(only), nil
}

func pluginConfig(_ *Server, r *http.Request) (int, any, error) {
	keys, err := herder.PluginConfig(seg(r, 1), r.URL.Query().Get("version"))
	return http.StatusOK, keys, err
}

func validate(_ *Server, r *http.Request) (int, any, error) {
	var in api.GivenConfig
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	given, nulls, err := scalars(in)
	if err != nil {
		return 0, nil, err
	}
	infos, err := herder.Validate(r.Context(), seg(r, 1), given, nulls)
	return http.StatusOK, infos, err
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
	given, nulls, err := scalars(in.Config)
	if err == nil {
		err = herder.NoNulls(nulls)
	}
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
	var in api.GivenConfig
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	given, nulls, err := scalars(in)
	if err == nil {
		err = herder.NoNulls(nulls)
	}
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
	var in api.GivenConfig
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	given, gone, err := scalars(in)
	if err != nil {
		return 0, nil, err
	}
	changes := map[string]*string{}
	for _, k := range gone {
		changes[k] = nil
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

// isTrue reads a boolean query parameter as Connect does: whatever is not true is false.
func isTrue(r *http.Request, name string) bool {
	return strings.EqualFold(r.URL.Query().Get(name), "true")
}

func restart(s *Server, r *http.Request) (int, any, error) {
	all, failed := isTrue(r, "includeTasks"), isTrue(r, "onlyFailed")
	st, err := s.opts.Herder.Restart(r.Context(), seg(r, 1), all, failed)
	if !all && !failed {
		return http.StatusNoContent, nil, err
	}
	return http.StatusAccepted, st, err
}

func progress(s *Server, r *http.Request) (int, any, error) {
	p, err := s.opts.Herder.Progress(seg(r, 3))
	return http.StatusOK, p, err
}

func events(s *Server, r *http.Request) (int, any, error) {
	e, err := s.opts.Herder.Events(seg(r, 3))
	return http.StatusOK, e, err
}

func audit(s *Server, r *http.Request) (int, any, error) {
	a, err := s.opts.Herder.Audit(seg(r, 3))
	return http.StatusOK, a, err
}

func signal(s *Server, r *http.Request) (int, any, error) {
	var in api.Signal
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, nil, s.opts.Herder.Signal(r.Context(), seg(r, 3), in)
}
