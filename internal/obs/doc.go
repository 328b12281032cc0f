// Package obs is how a node's metrics are declared, gathered and shown.
//
// A package declares its metrics in one block of variables; each name exists once in the process, and docs/reference/metrics.md, the
// dashboard and the alerts are checked against what is declared. Most metrics are read from the thing itself when somebody scrapes: what is
// gone (a task that moved away) has no series any more, and nothing is counted twice. Labels are bounded by what is configured (connectors,
// tasks, routes), never by data.
//
// A Registry belongs to one node. Safe for concurrent use; it has no goroutines.
package obs
