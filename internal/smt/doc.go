// Package smt is Kafka Connect's single message transforms: what transforms and predicates of a connector's config say, checked and run.
//
// A Chain belongs to one goroutine and changes one record at a time, in place. It has no part in a connector without transforms.
//
// What a transform sees: a value with a schema is a *record.Struct, one without is what plain JSON gives (maps and lists). A change event is
// the struct that Debezium's envelope is, whatever the converter, and its key the struct of its key columns; they are unfolded for the
// first transform that looks inside, so that routing and headers cost nothing of the sort.
package smt
