// Package sim runs a whole cluster in one process, in fake time, on a network and on disks that fail as a seed says, and checks at the end what
// the cluster promises.
//
//	faults (seeded) ──► network, disks, nodes ◄── coordinators, Raft, sessions, workers, source loop, sarama, broker: all real
//	                                                      │ what each task does, with its epoch
//	                                                      ▼
//	                                                   history ──► Run's report: I1, I2, I3, I4, I6, everything placed and running again
//
// What is not the product: the network, the disks under Raft's log, and the source, which is a log that grows with time. The broker is the
// embedded one and does not fail; the way to it does.
//
// Run must be called in a testing/synctest bubble. Its seed decides the faults and their times, but not the order in which goroutines run, so a
// failing seed may have to run a few times until it fails again. Goroutines can't be killed: a node that is
// killed is cut off from network, disk and history first, and then told to end.
package sim
