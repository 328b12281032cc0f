package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Transfer is the body of POST /millrace/v1/cluster/transfer, and its answer.
type Transfer struct {
	// Node that is to lead, or leads; empty in a request: whichever is best.
	Node string `json:"node"`
}

// Backup is the cluster's state in a file: connectors, their target states and task configs. Secrets are references in it, as everywhere; what a
// config says in clear is in it in clear. Source and sink offsets are not: they are in Kafka.
type Backup struct {
	// Format of this object; a reader refuses what is newer than it knows.
	Format int `json:"format"`
	// Version of Millrace, cluster, time and place in the log that it was made of.
	Version   string    `json:"version"`
	ClusterID string    `json:"cluster_id"`
	Created   time.Time `json:"created"`
	Index     uint64    `json:"index"`
	// Connectors by name, to look at; what counts is in Image.
	Connectors []string `json:"connectors"`
	// SHA256 of Image, in hex.
	SHA256 string `json:"sha256"`
	// Image as millrace.command.v1.Image.
	Image []byte `json:"image"`
}

// BackupFormat is the newest Backup.Format.
const BackupFormat = 1

// Restored is the answer of POST /millrace/v1/cluster/restore.
type Restored struct {
	Connectors []string `json:"connectors"`
}

const clusterPath = Prefix + "/cluster"

func node(id string) string { return clusterPath + "/nodes/" + url.PathEscape(id) }

// RemoveNode takes a node out of the cluster.
func (c *Client) RemoveNode(ctx context.Context, id string) error {
	return c.Do(ctx, http.MethodDelete, node(id), nil, nil)
}

// Drain has a worker run nothing that another can run, or takes that back.
func (c *Client) Drain(ctx context.Context, id string, drained bool) error {
	verb := "/undrain"
	if drained {
		verb = "/drain"
	}
	return c.Do(ctx, http.MethodPut, node(id)+verb, nil, nil)
}

// TransferLeadership hands leadership over and returns who leads then.
func (c *Client) TransferLeadership(ctx context.Context, to string) (leader string, err error) {
	var out Transfer
	err = c.Do(ctx, http.MethodPost, clusterPath+"/transfer", Transfer{Node: to}, &out)
	return out.Node, err
}

// Backup reads the cluster's state.
func (c *Client) Backup(ctx context.Context) (out *Backup, err error) {
	err = c.Do(ctx, http.MethodGet, clusterPath+"/backup", nil, &out)
	return out, err
}

// Restore puts a backup in the place of the cluster's connectors; with connectors there, only by force.
func (c *Client) Restore(ctx context.Context, b *Backup, force bool) (out *Restored, err error) {
	err = c.Do(ctx, http.MethodPost, clusterPath+"/restore?force="+strconv.FormatBool(force), b, &out)
	return out, err
}

// Condition answers GET /millrace/v1/condition.
type Condition struct {
	AtUnixMS int64 `json:"at_unix_ms"`
	// Disk is that of the data directory.
	Disk Disk `json:"disk"`
	// Peers are the other nodes, seen from this one.
	Peers []Peer `json:"peers"`
}

// Disk is the state of a file system.
type Disk struct {
	FreeBytes  int64 `json:"free_bytes"`
	TotalBytes int64 `json:"total_bytes"`
	// SyncMS is how long a small write takes to be on disk, the best of some.
	SyncMS int64  `json:"sync_ms"`
	Error  string `json:"error,omitempty"`
}

// Peer is another node: where it answers REST, and why it can't be reached.
type Peer struct {
	REST  string `json:"rest_addr"`
	Error string `json:"error,omitempty"`
}

// Condition returns what the node itself tells of its state.
func (c *Client) Condition(ctx context.Context) (out *Condition, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+"/condition", nil, &out)
	return out, err
}
