// Package runner is what all kinds of tasks share: the life of a unit (start, run, pause, fail, try again, stop), the gate that
// pauses it, the progress it reports and the lease it acts under.
//
// A Unit's Run is one goroutine; each attempt to run the unit is another, so that code which ignores its context can be left
// behind (I9). A panic in an attempt is a failure of that unit alone.
package runner
