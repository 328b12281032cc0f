package rest

import (
	"net/http"
	"strings"

	"github.com/millrace/millrace/internal/api"
)

// maxBackup bounds the body of a restore (I8): some ten thousand connectors.
const maxBackup = 256 << 20

// clusterRoutes are those that run the cluster itself.
func clusterRoutes() []route {
	const get, put, post, del = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete
	ok := func(body any) map[int]any { return map[int]any{http.StatusOK: body} }
	none := func(status int) map[int]any { return map[int]any{status: nil} }
	const at = api.Prefix + "/cluster"
	return []route{
		{method: get, path: at, handle: cluster, about: "Nodes of the cluster and what they run.", out: ok(api.Cluster{})},
		{method: get, path: api.Prefix + "/condition", handle: condition, local: true, about: "This node's clock, its disk, and whether it reaches the REST of the others.", out: ok(api.Condition{})},
		{method: del, path: at + "/nodes/{node}", handle: removeNode, about: "Remove a node that is gone or is to go.", out: none(http.StatusNoContent)},
		{method: put, path: at + "/nodes/{node}/drain", handle: drain(true), about: "Move a worker's tasks to others and give it no more.", out: none(http.StatusAccepted)},
		{method: put, path: at + "/nodes/{node}/undrain", handle: drain(false), about: "Let a worker take its share again.", out: none(http.StatusAccepted)},
		{method: post, path: at + "/transfer", handle: transfer, about: "Hand leadership over, to the node that the body names or to the best one.", in: api.Transfer{}, out: ok(api.Transfer{})},
		{method: get, path: at + "/backup", handle: backup, about: "The cluster's state: connectors, configs, what is drained.", out: ok(api.Backup{})},
		{
			method: post, path: at + "/restore", handle: restoreBackup, maxBody: maxBackup, about: "Take over a backup's connectors into an empty cluster.",
			query: []param{{name: "force", boolean: true, about: "Also into a cluster that has connectors; theirs are replaced."}}, in: api.Backup{}, out: ok(api.Restored{}),
		},
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
