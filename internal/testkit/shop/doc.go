// Package shop is the workload of the demo and the system tests: a shop database whose orders keep changing, and the record
// of every change that was made, so that what comes out at the other end can be checked change by change.
//
// Goroutines: Writer.Run starts its writers and returns when they have ended.
package shop
