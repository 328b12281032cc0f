// Package clusterv1 is what nodes say to each other, generated from cluster.proto, and the one check that both ends of a connection share: do
// they speak a common protocol. It opens no connections.
package clusterv1
