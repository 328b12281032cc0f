package runner

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// Progress counts what a task does. Safe for concurrent use.
type Progress struct {
	in, out, bytes, dropped atomic.Uint64
	lag                     atomic.Int64
	newest                  atomic.Int64 // time of the newest record done, Unix ms
	commit                  atomic.Int64
	protocol                atomic.Int32
	Counters
	// Usage meters the function of a transform.
	Usage Usage

	mu     sync.Mutex // guards: the rest
	live   *Live      // the attempt that runs, with what tells whether it stalls
	stall  time.Duration
	gate   *Gate
	detail map[string]string
	rateAt time.Time
	rateN  uint64
	rate   float64
	// topics used since the list was reset, which since names.
	topics map[string]struct{}
	since  uint64
}

// NewProgress returns a Progress that knows no lag yet.
func NewProgress() *Progress {
	p := &Progress{rateAt: time.Now(), topics: map[string]struct{}{}}
	p.lag.Store(-1)
	return p
}

// follow makes l the attempt that is reported on.
func (p *Progress) follow(l *Live, stall time.Duration, g *Gate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live, p.stall, p.gate = l, stall, g
}

// In counts records read.
func (p *Progress) In(n int) { p.in.Add(uint64(n)) }

// Dropped counts records left out because the config says so.
func (p *Progress) Dropped(n int) { p.dropped.Add(uint64(n)) }

// Committed counts what has become durable.
func (p *Progress) Committed(records, bytes int) {
	p.out.Add(uint64(records))
	p.bytes.Add(uint64(bytes))
	p.commit.Store(time.Now().UnixMilli())
	p.committed(records)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live != nil {
		p.live.moved()
	}
}

// Used notes the topics that were read or written.
func (p *Progress) Used(topics ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range topics {
		p.topics[t] = struct{}{}
	}
}

// TopicsSince begins the list of used topics anew when its reset is another than the last one.
func (p *Progress) TopicsSince(reset uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since != reset {
		p.since = reset
		clear(p.topics)
	}
}

// Protocol notes the transaction protocol of the task's producer; 0: none.
func (p *Progress) Protocol(n int) { p.protocol.Store(int32(n)) }

// Newest notes the time of the newest record done, in ms since the Unix epoch.
func (p *Progress) Newest(ms int64) {
	if ms > p.newest.Load() {
		p.newest.Store(ms)
	}
}

// Lag notes how many records of input are still to do.
func (p *Progress) Lag(n int64) { p.lag.Store(n) }

// Report replaces what the task says of itself.
func (p *Progress) Report(detail map[string]string) {
	d := maps.Clone(detail)
	p.mu.Lock()
	p.detail = d
	p.mu.Unlock()
}

// Message is the progress as it goes to the leader.
func (p *Progress) Message() *clusterv1.Progress {
	m := &clusterv1.Progress{
		RecordsIn: p.in.Load(), RecordsOut: p.out.Load(), BytesOut: p.bytes.Load(), RecordsDropped: p.dropped.Load(),
		LagRecords: p.lag.Load(), LagMs: -1, LastCommitUnixMs: p.commit.Load(), TransactionProtocol: p.protocol.Load(),
		Function: p.Usage.Message(),
	}
	if n := p.newest.Load(); n > 0 {
		m.LagMs = max(0, time.Now().UnixMilli()-n)
		if m.LagRecords == 0 {
			m.LagMs = 0
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := time.Since(p.rateAt); since >= time.Second {
		p.rate = float64(m.RecordsOut-p.rateN) / since.Seconds()
		p.rateAt, p.rateN = time.Now(), m.RecordsOut
	}
	m.RecordsPerSecond = p.rate
	m.Detail = p.detail
	if p.live != nil {
		m.Retrying = p.live.retries()
		m.Stall = p.live.stall(p.stall, p.gate.Paused(), m.LagRecords)
	}
	if m.Stall != nil {
		m.Stall.LastRecordUnixMs = p.newest.Load()
	}
	m.Topics, m.TopicsSince = slices.Sorted(maps.Keys(p.topics)), p.since
	return m
}

// Gate holds a task while it is paused. Safe for concurrent use.
type Gate struct {
	mu     sync.Mutex // guards: open
	open   chan struct{}
	paused atomic.Bool
}

// Set pauses or resumes.
func (g *Gate) Set(paused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused.Swap(paused) == paused {
		return
	}
	if paused {
		g.open = make(chan struct{})
	} else {
		close(g.open)
	}
}

// Paused reports whether the gate is shut.
func (g *Gate) Paused() bool { return g.paused.Load() }

// Wait returns when the gate is open, or done is closed.
func (g *Gate) Wait(done <-chan struct{}) {
	for g.paused.Load() {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		select {
		case <-open:
		case <-done:
			return
		}
	}
}
