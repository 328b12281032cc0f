// Package all is the set of connectors built into the binary: importing it registers them.
package all
