// Package ledger is the book that sources and transforms keep of what they have committed, and the auditor that compares topics with it.
//
// Each transaction adds one entry to a topic of the cluster, in the same transaction as its records: which task under which epoch, from which
// place of the source to which, and for each topic partition how many records from which sequence of the producer on, with a sum of hashes in
// which their order does not matter. Kafka keeps the producer's id, epoch and sequence with each batch, so what is read back is
// told apart exactly, however many producers a partition has, and the entry need not know offsets, which come with the
// brokers' answers only: it goes out together with the last records and costs no round trip. Offsets are found when the topics are read.
//
// Nothing runs here by itself: an Auditor works when its Round is called, on the caller's goroutine.
package ledger
