package kafka

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// Admins shares an Admin between all who need one of the same brokers at the same time: connections, goroutines and metadata of a thousand tasks are
// those of one. It is for those who only ask, or make what may be made twice: who has to be cut off needs an Admin of his own. The zero value is ready;
// safe for concurrent use.
type Admins struct {
	mu   sync.Mutex // guards: all below, and the fields of what it holds
	open map[string]*sharedAdmin
}

// sharedAdmin is an Admin with those who use it. admin and err are set when ready is closed.
type sharedAdmin struct {
	ready chan struct{}
	admin *Admin
	err   error
	users int
}

// connectLimit bounds how long a shared Admin may take to connect: whoever waits has a limit of his own.
const connectLimit = 30 * time.Second

// Get returns an Admin for as long as done is not called. done is told how the user's work ended: an Admin of somebody whose work failed may know leaders
// and coordinators that are gone, so who comes next gets a new one.
func (s *Admins) Get(ctx context.Context, c Config) (admin *Admin, done func(err error), err error) {
	key := strings.Join(c.Brokers, ",") + " " + c.Login.User
	s.mu.Lock()
	x := s.open[key]
	if x == nil {
		x = &sharedAdmin{ready: make(chan struct{})}
		if s.open == nil {
			s.open = map[string]*sharedAdmin{}
		}
		s.open[key] = x
		go s.connect(c, key, x) //nolint:contextcheck // what is shared outlives the one who asked first
	}
	x.users++
	s.mu.Unlock()
	var once sync.Once
	done = func(err error) { once.Do(func() { s.leave(key, x, err) }) }
	select {
	case <-ctx.Done():
		done(nil)
		return nil, nil, ctx.Err()
	case <-x.ready:
	}
	if x.err != nil {
		done(x.err)
		return nil, nil, x.err
	}
	return x.admin, done, nil
}

func (s *Admins) connect(c Config, key string, x *sharedAdmin) {
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	c.ClientID = ""
	admin, err := NewAdmin(ctx, c)
	s.mu.Lock()
	x.admin, x.err = admin, err
	close(x.ready)
	unused := x.users == 0 // all have given up meanwhile
	if unused || err != nil {
		s.forget(key, x)
	}
	s.mu.Unlock()
	if unused && err == nil {
		_ = admin.Close()
	}
}

// leave takes a user off; the last one closes the Admin.
func (s *Admins) leave(key string, x *sharedAdmin, err error) {
	stale := Retriable(err) || errors.Is(err, ErrUnknownTopic) || errors.Is(err, context.DeadlineExceeded)
	s.mu.Lock()
	x.users--
	last := x.users == 0 && x.admin != nil // without one yet, connect sees to it
	if last || stale {
		s.forget(key, x)
	}
	s.mu.Unlock()
	if last {
		_ = x.admin.Close()
	}
}

// forget has the next one who asks get another, with mu held.
func (s *Admins) forget(key string, x *sharedAdmin) {
	if s.open[key] == x {
		delete(s.open, key)
	}
}
