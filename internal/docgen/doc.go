// Package docgen writes the reference pages under docs/reference from the config specs, the metrics and the commands: what a key means is said once, where it is
// declared. Its test compares the pages with what is checked in; `go test ./internal/docgen -rewrite` (make generate) writes them.
package docgen
