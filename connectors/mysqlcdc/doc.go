// Package mysqlcdc captures MySQL and MariaDB: a snapshot of the tables and every change from the binlog, exactly once
// per place in the log.
//
//	server ──binlog──► dump (events) ──► queue, bounded by bytes ──► stream ──► batches ──► Poll
//	       ──SELECT──► snapshot readers (chunks) ───────────────────────────▲
//
// Goroutines: one stream, which owns the position, the schema and all of snapshotState; up to snapshot.max.threads readers,
// which talk to it by functions that it runs (stream.do); one that reads the log (queue.fill). All end with Close.
//
// Offsets have Debezium's shape. Within a transaction they name its start, and how many row events, and rows of the next,
// were delivered; all tables' events count, so that a filter may change. A DDL statement counts as one. (I2, I3)
//
// The snapshot takes no lock. The stream runs from before it. A chunk (rows by primary key) is registered with the stream,
// read once all that the stream has emitted is visible, and emitted when the stream has passed the log's end of after the
// read, without the rows that the stream touched meanwhile (I4). Each chunk carries its progress. A table without a primary
// key is locked for a moment and read while the stream stands still; killed in the middle, it is read again.
//
// An UPDATE that changes the primary key is emitted as a delete of the old key and a create of the new one.
//
// XA transactions are read again when they commit. Changed parts of JSON documents are put into the document of the before image.
// A compressed transaction is unpacked event by event (I8).
//
// What can't be decoded or understood stops the task (I5): statements instead of rows, incidents, wrong checksums, parts of JSON
// documents without the document, unknown events, row images without the key, invalid text.
//
// Not done: foreign-key cascades before MySQL 9.6 are not in the log at all; without binlog_row_metadata=FULL a column renamed
// while the connector is behind can't be told from the log.
package mysqlcdc
