// Package kafka is the data path's client: a thin transactional producer and a fetcher on sarama's broker layer, topic and
// offset administration, and the store of source offsets. It is the only package that imports sarama, whose types stay
// off its API.
//
//	source loop ─► Producer ─► topics ─► Consumer ─► transform, sink loops
//	                  └── offsets in the same transaction (I3)
//
// The broker layer is used rather than sarama's AsyncProducer and Consumer because a batch at a time is several times
// faster than a message at a time, because a transaction that fails should fail at once and start anew rather than be
// retried inside (a torn transaction is the client's worst case), and because a consumer must know its position past
// control records, or lag never reaches zero.
//
// A Producer and a Consumer each belong to one goroutine. Each owns its connections; closing it ends what it started.
package kafka
