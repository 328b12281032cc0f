// Package systest runs the real binary against real servers: kills, failures, wrong input. It holds tests only.
package systest
