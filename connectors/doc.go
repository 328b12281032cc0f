// Package connectors is the contract between Millrace and its connectors: what a source, a sink and a planning half are,
// and the registry of those built into the binary.
//
// A connector is one package below this one. In its init it registers a Plugin: its class name, its config spec and the
// functions that make its tasks. It imports this package, record, configdef and its driver, and nothing else of Millrace.
//
// The worker runs a task on one goroutine: all methods of a task are called from it, one after the other, unless the
// method says otherwise. Every call gets a context that ends when the task must stop; a method that ignores it is
// abandoned after a grace period and its late effects are fenced off by Kafka (I1, I9).
package connectors
