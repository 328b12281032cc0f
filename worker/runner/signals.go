package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/millrace/millrace/connectors"
)

// Signals leads to the task of a unit while there is one that takes signals. Safe for concurrent use.
type Signals struct {
	Logger *slog.Logger

	mu   sync.Mutex // guards: task
	task connectors.Signaler
}

// Set makes task the one that signals go to, if it takes any; nil: there is none now.
func (s *Signals) Set(task any) {
	t, _ := task.(connectors.Signaler)
	s.mu.Lock()
	s.task = t
	s.mu.Unlock()
}

// Send hands a signal to the task.
func (s *Signals) Send(ctx context.Context, kind, data string) error {
	s.mu.Lock()
	t := s.task
	s.mu.Unlock()
	if t == nil {
		return errors.New("the task does not run, or takes no signals")
	}
	return Guard(s.Logger, func() error { return t.Signal(ctx, kind, data) })()
}
