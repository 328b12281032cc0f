// Package record holds what flows through Millrace: records, and inside them the change events of databases.
//
// A source task fills records, a converter turns them into the bytes of a Kafka message, and on the other side a
// converter turns the bytes back for a sink task. A row change is a *ChangeEvent whose columns are Datums: plain values
// that keep the source's own type and own nothing, so that a batch of rows costs no allocation per row.
//
// The package imports the standard library only and starts no goroutines.
package record
