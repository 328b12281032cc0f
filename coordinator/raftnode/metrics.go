package raftnode

import (
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/obs"
)

var (
	metricTerm        = obs.Gauge("millrace_raft_term", "Raft term that this coordinator is in.")
	metricLeads       = obs.Gauge("millrace_raft_leads", "1 on the coordinator that leads, 0 on the others.")
	metricLeaderKnown = obs.Gauge("millrace_raft_leader_known", "1 when this coordinator knows a leader.")
	metricContact     = obs.Gauge("millrace_raft_leader_contact_seconds", "How long ago a follower last heard from the leader; 0 on the leader.")
	metricMembers     = obs.Gauge("millrace_raft_members", "Coordinators in the Raft group, as far as this one knows.")
	metricApplied     = obs.Gauge("millrace_raft_applied_index", "Index of the last log entry that was applied to the state.")
	metricCommitted   = obs.Gauge("millrace_raft_commit_index", "Index of the last log entry that a majority has.")
	metricLast        = obs.Gauge("millrace_raft_last_index", "Index of the last entry in this coordinator's log.")
	metricSnapshot    = obs.Gauge("millrace_raft_snapshot_index", "Index of the last log entry in the newest Raft snapshot; 0 when there is none.")
	metricSnapshotAge = obs.Gauge("millrace_raft_snapshot_age_seconds", "Age of the newest Raft snapshot. None: there is no snapshot yet.")
	metricLogFault    = obs.Gauge("millrace_raft_log_fault", "1 when this coordinator could not store its log last, such as on a full disk.")
	metricRefused     = obs.Counter("millrace_node_connections_refused_total", "Connections to the cluster's port that were refused: no TLS, no certificate, or a wrong one.")
)

// Collect gives the metrics of this coordinator's part in Raft.
func (n *Node) Collect(emit obs.Emit) {
	emit(metricTerm, float64(n.raft.CurrentTerm()))
	emit(metricLeads, obs.Bool(n.IsLeader()))
	id, _ := n.Leader()
	emit(metricLeaderKnown, obs.Bool(id != ""))
	if last := n.raft.LastContact(); n.IsLeader() || !last.IsZero() {
		contact := time.Duration(0)
		if !n.IsLeader() {
			contact = time.Since(last)
		}
		emit(metricContact, contact.Seconds())
	}
	if f := n.raft.GetConfiguration(); f.Error() == nil {
		emit(metricMembers, float64(len(f.Configuration().Servers)))
	}
	emit(metricApplied, float64(n.raft.AppliedIndex()))
	emit(metricCommitted, float64(n.raft.CommitIndex()))
	emit(metricLast, float64(n.raft.LastIndex()))
	emit(metricLogFault, obs.Bool(n.Fault() != ""))
	emit(metricRefused, float64(n.opts.Mux.Refused()))
	n.collectSnapshot(emit)
}

func (n *Node) collectSnapshot(emit obs.Emit) {
	list, err := n.snaps.List()
	if err != nil || len(list) == 0 {
		emit(metricSnapshot, 0)
		return
	}
	emit(metricSnapshot, float64(list[0].Index))
	// Raft's file store names a snapshot term-index-milliseconds, and keeps its time nowhere else.
	_, ms, _ := strings.Cut(strings.TrimPrefix(list[0].ID, strconv.FormatUint(list[0].Term, 10)+"-"), "-")
	if at, err := strconv.ParseInt(ms, 10, 64); err == nil {
		emit(metricSnapshotAge, time.Since(time.UnixMilli(at)).Seconds())
	}
}
