package connectors

import (
	"errors"
	"fmt"
)

// retriable marks an error that may pass by itself.
type retriable struct{ err error }

func (r *retriable) Error() string { return r.err.Error() }
func (r *retriable) Unwrap() error { return r.err }

// Retriable marks err as worth trying again: a server that is away, a lock that was not got. The worker restarts the task
// with backoff. It returns nil for nil.
func Retriable(err error) error {
	if err == nil {
		return nil
	}
	return &retriable{err}
}

// IsRetriable reports whether err, or one it wraps, was marked by Retriable.
func IsRetriable(err error) bool {
	var r *retriable
	return errors.As(err, &r)
}

// RecordError blames one record of a Put: the worker hands that record to errors.tolerance and puts the others again.
type RecordError struct {
	// Index of the record in the slice that Put got.
	Index int
	Err   error
}

// Error names the record's place in the batch and the cause.
func (e *RecordError) Error() string {
	return fmt.Sprintf("record %d of the batch: %v", e.Index, e.Err)
}

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }
