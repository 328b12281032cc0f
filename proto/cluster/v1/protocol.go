package clusterv1

import (
	"fmt"

	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Protocol is the newest protocol that this version speaks, OldestProtocol the oldest.
const (
	Protocol       = commandv1.Protocol
	OldestProtocol = 1
)

// CheckProtocol returns why this version and a node can't share a cluster; nil: they can.
func CheckProtocol(n *NodeInfo, oldest uint32) error {
	theirs := max(n.GetProtocol(), 1)
	if theirs < OldestProtocol || oldest > Protocol {
		return fmt.Errorf("node %s (version %s) speaks protocols %d to %d and this leader %d to %d: upgrade through a version in between",
			n.GetId(), n.GetVersion(), max(oldest, 1), theirs, OldestProtocol, Protocol)
	}
	return nil
}
