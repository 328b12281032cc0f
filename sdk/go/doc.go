// Package millrace is the Go SDK for Millrace functions: a function is one handler.
//
//	func main() {
//		millrace.Serve(millrace.Function{Name: "mask", Version: "1.0.0", Handle: handle})
//	}
//
// Handle gets a record and returns what becomes of it: the records to write instead (one, changed or routed, or many), nil to drop
// it, or an error to fail it with a reason. It is called for one record at a time; several batches may be in work at once, so
// a handler that keeps state guards it. Records of one key come in order.
//
// Serve ends when the worker closes the process's standard input, or on SIGTERM.
package millrace
