package worker

import (
	"sync"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// inbox holds the assignments that sessions have brought and manage has not taken yet, many messages as one. Safe for concurrent use.
type inbox struct {
	wake chan struct{}

	mu   sync.Mutex // guards: news
	news news
}

// news is what has become of the set that the worker is to run.
type news struct {
	// hello is when the hello of their session was sent.
	hello time.Time
	// whole: what is not in here is to be stopped.
	whole bool
	units map[unitKey]*clusterv1.Assignment // nil: removed
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), news: news{units: map[unitKey]*clusterv1.Assignment{}}}
}

// put adds a message of the session that began with hello.
func (b *inbox) put(m *clusterv1.Assignments, hello time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !m.Change {
		b.news = news{whole: true, units: make(map[unitKey]*clusterv1.Assignment, len(m.Assignments))}
	}
	b.news.hello = hello
	for _, a := range m.Assignments {
		b.news.units[keyOf(a.Unit)] = a
	}
	for _, u := range m.Removed {
		b.news.units[keyOf(u)] = nil
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties it.
func (b *inbox) take() news {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.news
	b.news = news{hello: n.hello, units: map[unitKey]*clusterv1.Assignment{}}
	return n
}

// into brings a set up to date, and returns the units that may have changed.
func (n news) into(set map[unitKey]*clusterv1.Assignment) []unitKey {
	changed := make([]unitKey, 0, len(n.units))
	for k, a := range n.units {
		changed = append(changed, k)
		if a == nil {
			delete(set, k)
		} else {
			set[k] = a
		}
	}
	if n.whole {
		for k := range set {
			if n.units[k] == nil {
				delete(set, k)
				changed = append(changed, k)
			}
		}
	}
	return changed
}
