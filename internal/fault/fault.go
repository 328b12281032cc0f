// Package fault gives errors a kind, and each kind its HTTP status and exit code, in one table.
package fault

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind is what sort of failure it is.
type Kind int

// The kinds.
const (
	Internal    Kind = iota // our fault
	Invalid                 // the request is wrong
	NotFound                // what it names is not there
	Conflict                // it clashes with what is there
	Unavailable             // not now
	Unsupported             // not in this version
)

var table = map[Kind]struct{ status, exit int }{
	Internal:    {http.StatusInternalServerError, 1},
	Invalid:     {http.StatusBadRequest, 2},
	NotFound:    {http.StatusNotFound, 3},
	Conflict:    {http.StatusConflict, 4},
	Unavailable: {http.StatusServiceUnavailable, 5},
	Unsupported: {http.StatusNotImplemented, 6},
}

// Error is an error for users: its text says the cause and, where there is one, the way out.
type Error struct {
	Kind Kind
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// New makes an Error.
func New(k Kind, format string, args ...any) error { return &Error{k, fmt.Sprintf(format, args...)} }

// KindOf returns an error's kind; Internal when it has none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Status is the HTTP status for an error.
func Status(err error) int { return table[KindOf(err)].status }

// Exit is the exit code for an error.
func Exit(err error) int { return table[KindOf(err)].exit }

// FromStatus is the kind that an HTTP status stands for.
func FromStatus(status int) Kind {
	for k, row := range table {
		if row.status == status {
			return k
		}
	}
	if status >= 400 && status < 500 {
		return Invalid
	}
	return Internal
}
