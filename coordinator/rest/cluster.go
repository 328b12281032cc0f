package rest

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/internal/api"
)

// maxBackup bounds the body of a restore (I8): some ten thousand connectors.
const maxBackup = 256 << 20

// clusterRoutes are those that run the cluster itself.
func clusterRoutes(r func(path string, methods map[string]handler) route) []route {
	restoring := r("millrace/v1/cluster/restore", map[string]handler{http.MethodPost: restoreBackup})
	restoring.maxBody = maxBackup
	return []route{
		r("millrace/v1/cluster", map[string]handler{http.MethodGet: cluster}),
		r("millrace/v1/cluster/nodes/*", map[string]handler{http.MethodDelete: removeNode}),
		r("millrace/v1/cluster/nodes/*/drain", map[string]handler{http.MethodPut: drain(true)}),
		r("millrace/v1/cluster/nodes/*/undrain", map[string]handler{http.MethodPut: drain(false)}),
		r("millrace/v1/cluster/transfer", map[string]handler{http.MethodPost: transfer}),
		r("millrace/v1/cluster/backup", map[string]handler{http.MethodGet: backup}),
		restoring,
	}
}

func cluster(s *Server, _ *http.Request) (int, any, error) {
	return http.StatusOK, s.opts.Herder.Cluster(s.opts.Version), nil
}

func removeNode(s *Server, r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, s.opts.Herder.RemoveNode(r.Context(), seg(r, 4))
}

func drain(drained bool) handler {
	return func(s *Server, r *http.Request) (int, any, error) {
		return http.StatusAccepted, nil, s.opts.Herder.Drain(r.Context(), seg(r, 4), drained)
	}
}

func transfer(s *Server, r *http.Request) (int, any, error) {
	var in api.Transfer
	if r.ContentLength != 0 {
		if err := body(r, &in); err != nil {
			return 0, nil, err
		}
	}
	out, err := s.opts.Herder.Transfer(r.Context(), in.Node)
	return http.StatusOK, out, err
}

func backup(s *Server, r *http.Request) (int, any, error) {
	b, err := s.opts.Herder.Backup(r.Context(), s.opts.Version)
	return http.StatusOK, b, err
}

func restoreBackup(s *Server, r *http.Request) (int, any, error) {
	var in api.Backup
	if err := body(r, &in); err != nil {
		return 0, nil, err
	}
	out, err := s.opts.Herder.Restore(r.Context(), &in, strings.EqualFold(r.URL.Query().Get("force"), "true"))
	return http.StatusOK, out, err
}
