// Package state is the cluster's replicated state: connectors, their task configs, who runs what under which epoch, nodes.
//
// It is a pure function of the Raft log (I6): Apply gets commands in log order and nothing else; no clock, no random, no
// I/O, no log, no goroutines. It is not safe for concurrent use: its owner (package fsm) guards it. What the read
// methods return is shared and must not be changed.
package state
