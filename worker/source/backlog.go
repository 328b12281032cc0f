package source

import (
	"context"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/worker/runner"
)

// How soon a source that gives nothing is asked why: the longer it is quiet, the more seldom, since most are just that.
const (
	backlogFirst = 10 * time.Second
	backlogLast  = 2 * time.Minute
)

// watchBacklog asks a source that gives nothing whether there is something, so that status tells a quiet source from one that is stuck.
func (l *loop) watchBacklog(ctx context.Context) error {
	source, ok := l.task.(connectors.Backlogger)
	if !ok {
		return nil
	}
	seen, wait := l.polls.Load(), backlogFirst
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		now, more := l.polls.Load(), false
		if now != seen || l.Gate.Paused() {
			wait = backlogFirst
		} else {
			m, err := l.backlog(ctx, source)
			more = err == nil && m && l.polls.Load() == seen
			if wait = min(2*wait, backlogLast); more {
				wait = backlogFirst
			}
		}
		seen = now
		l.Live.Backlog(more)
	}
}

func (l *loop) backlog(ctx context.Context, s connectors.Backlogger) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, runner.PollSlice)
	defer cancel()
	return s.Backlog(ctx)
}
