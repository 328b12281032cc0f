package herder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Group is what the herder needs of the coordinator to run the cluster itself.
type Group interface {
	Info() *clusterv1.InfoResponse
	Members() []raftnode.Member
	Remove(ctx context.Context, id string) error
	Transfer(ctx context.Context, to string) (string, error)
	SetDrain(ctx context.Context, id string, drained bool) error
	Image(ctx context.Context) (*commandv1.Image, error)
	Restore(ctx context.Context, img *commandv1.Image) error
}

// Cluster describes the cluster.
func (h *Herder) Cluster(version string) *api.Cluster {
	i := h.c.Info()
	out := &api.Cluster{
		ClusterID: i.ClusterId, Version: version, Leader: i.LeaderId, Term: i.Term, Brokers: i.Brokers, EmbeddedBroker: i.EmbeddedBroker, Nodes: []api.Node{},
	}
	units, drained := map[string][]string{}, map[string]bool{}
	h.c.View(func(s *state.State) {
		for _, a := range s.Assignments() {
			if a.Worker != "" {
				units[a.Worker] = append(units[a.Worker], a.Unit.String())
			}
		}
		for _, n := range i.Nodes {
			drained[n.Id] = s.Drained(n.Id)
		}
	})
	votes := map[string]string{}
	for _, m := range h.c.Members() {
		votes[m.ID] = "learner"
		if m.Voter {
			votes[m.ID] = "voter"
		}
	}
	for _, n := range i.Nodes {
		u := units[n.Id]
		if u == nil {
			u = []string{}
		}
		out.Nodes = append(out.Nodes, api.Node{
			ID: n.Id, Cluster: n.ClusterAddr, REST: n.RestAddr, Coordinator: n.Coordinator, Worker: n.Worker, Leader: n.Id == i.LeaderId,
			Alive: n.Alive || n.Id == i.LeaderId, Labels: n.Labels, Version: n.Version, Units: u, Vote: votes[n.Id], Drained: drained[n.Id],
			Capacity: max(n.Capacity, 1), Protocol: max(n.Protocol, 1),
		})
	}
	return out
}

// RemoveNode takes a node out of the cluster.
func (h *Herder) RemoveNode(ctx context.Context, id string) error { return h.c.Remove(ctx, id) }

// Transfer hands leadership over.
func (h *Herder) Transfer(ctx context.Context, to string) (*api.Transfer, error) {
	leader, err := h.c.Transfer(ctx, to)
	return &api.Transfer{Node: leader}, err
}

// Drain has a worker run nothing that another can run, or takes that back.
func (h *Herder) Drain(ctx context.Context, id string, drained bool) error {
	return h.c.SetDrain(ctx, id, drained)
}

// Backup returns the state with all in it that was stored before.
func (h *Herder) Backup(ctx context.Context, version string) (*api.Backup, error) {
	img, err := h.c.Image(ctx)
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("encode backup: %w", err)
	}
	sum := sha256.Sum256(b)
	return &api.Backup{
		Format: api.BackupFormat, Version: version, ClusterID: img.GetCluster().GetClusterId(), Created: time.Now().UTC().Truncate(time.Millisecond),
		Index: img.Index, Connectors: names(img), SHA256: hex.EncodeToString(sum[:]), Image: b,
	}, nil
}

// Restore puts a backup in the place of the connectors that are there; when there are some, only by force. A backup that can't be read whole
// changes nothing.
func (h *Herder) Restore(ctx context.Context, b *api.Backup, force bool) (*api.Restored, error) {
	img, err := open(b)
	if err != nil {
		return nil, err
	}
	if n := len(h.Names()); n > 0 && !force {
		return nil, fault.New(fault.Conflict, "The cluster has %d connectors, which a restore would replace: use a fresh cluster, or force it", n)
	}
	if err := h.c.Restore(ctx, img); err != nil {
		return nil, err
	}
	return &api.Restored{Connectors: names(img)}, nil
}

// open reads a backup, or says why it is none.
func open(b *api.Backup) (*commandv1.Image, error) {
	switch sum := sha256.Sum256(b.Image); {
	case b.Format > api.BackupFormat:
		return nil, fault.New(fault.Invalid, "The backup was made by version %s in format %d, and this version reads up to %d: restore it with that version or a later one", b.Version, b.Format, api.BackupFormat)
	case b.Format < 1 || len(b.Image) == 0:
		return nil, fault.New(fault.Invalid, "This is no backup: it has no format or no image")
	case hex.EncodeToString(sum[:]) != b.SHA256:
		return nil, fault.New(fault.Invalid, "The backup is damaged: its image does not have the checksum that it says (sha256)")
	}
	img := &commandv1.Image{}
	if err := proto.Unmarshal(b.Image, img); err != nil {
		return nil, fault.New(fault.Invalid, "The backup's image can't be decoded: %v", err)
	}
	if _, err := state.FromImage(img); err != nil {
		if errors.Is(err, state.ErrFormat) {
			return nil, fault.New(fault.Invalid, "The backup was made by version %s: %v; restore it with that version or a later one", b.Version, err)
		}
		return nil, err
	}
	return img, nil
}

func names(img *commandv1.Image) []string {
	out := []string{}
	for _, c := range img.Connectors {
		out = append(out, c.Name)
	}
	return out
}
