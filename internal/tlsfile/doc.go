// Package tlsfile makes TLS of PEM files that may be replaced while the process runs, as certificates that live for days must be.
//
// The files are looked at when a connection begins, at most once a second, so there is no goroutine and nothing to stop. Files that can't be
// used, such as half-written ones, are reported and the last good ones stay in use. Connections that exist keep what they began with.
package tlsfile
