// Package archtest holds the import rules of the source tree, as a test that reads what `go list` says and names the reason
// for every edge that is not allowed, and the rule that every package says once what it is for.
package archtest
