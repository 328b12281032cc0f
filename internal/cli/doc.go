// Package cli is the command line, and the assembly of a node: the only place where coordinator, worker and connectors meet.
package cli
