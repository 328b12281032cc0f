// Package coordinator is the coordinator role: a member of the Raft group that holds the cluster's state, and, while it
// leads, decides who runs what.
//
//	REST, CLI ─► herder ─► Propose ─► raftnode ─► fsm/state
//	workers ◄─► server (gRPC sessions) ─► session.Registry ◄─ reconcile.Loop ─► Propose
//
// Run owns all goroutines. The state is pure (I6); leases and status are soft (session); the reconcile loop is the only
// one that assigns.
package coordinator
