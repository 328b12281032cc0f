package connectors

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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

// RecordError blames one record of a Put: the worker hands that record to errors.tolerance and puts the others again. Several are joined
// with errors.Join.
type RecordError struct {
	// Index of the record in the slice that the last Put got.
	Index int
	Err   error
}

// Error names the record's place in the batch and the cause.
func (e *RecordError) Error() string {
	return fmt.Sprintf("record %d of the batch: %v", e.Index, e.Err)
}

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

// Blamed returns the records that err blames, by index; nothing when it is no blame: then all of the batch failed.
func Blamed(err error) []*RecordError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // only a join of blames is one, not what wraps it
		var all []*RecordError
		for _, e := range joined.Unwrap() {
			one, ok := e.(*RecordError) //nolint:errorlint // a blame itself, not what wraps it
			if !ok {
				return nil
			}
			all = append(all, one)
		}
		slices.SortFunc(all, func(a, b *RecordError) int { return cmp.Compare(a.Index, b.Index) })
		return all
	}
	if one, ok := errors.AsType[*RecordError](err); ok {
		return []*RecordError{one}
	}
	return nil
}
