// Package worker is the worker role: it makes what runs in this process equal to what the leader assigned.
//
//	leader ──assignments──► session ──► manager ──► runner.Unit ──► source | sink | pipe loop
//	       ◄──status, plans───────────────┘ statuses
//
// The session goroutine owns the connection to the leader and the lease; the manager goroutine owns the set of units. Leader
// changes disturb no unit while the lease runs; when it runs out, all units stop before the leader may give them away (I1).
package worker
