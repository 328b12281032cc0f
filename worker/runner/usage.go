package runner

import (
	"sync"
	"sync/atomic"
	"time"

	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// Usage meters a task's function. Safe for concurrent use; the zero value has used nothing.
type Usage struct {
	invocations, in, out, bytesIn, bytesOut, failed, broken, cold, restarts atomic.Uint64
	instances                                                               atomic.Int64
	busy, byteSeconds                                                       sum

	mu            sync.Mutex // guards: name, version
	name, version string
}

// Call is what one call of the function took and gave.
type Call struct {
	In, Out, BytesIn, BytesOut, Failed int
	Busy                               time.Duration
}

// Called counts a call that was answered.
func (u *Usage) Called(c Call) {
	u.invocations.Add(1)
	u.in.Add(uint64(c.In))
	u.out.Add(uint64(c.Out))
	u.bytesIn.Add(uint64(c.BytesIn))
	u.bytesOut.Add(uint64(c.BytesOut))
	u.failed.Add(uint64(c.Failed))
	u.busy.add(c.Busy.Seconds())
}

// Broken counts a call that ended with a crash, a hang or nonsense, after so long.
func (u *Usage) Broken(after time.Duration) {
	u.invocations.Add(1)
	u.broken.Add(1)
	u.busy.add(after.Seconds())
}

// ColdStart counts a start for records that waited and had no instance.
func (u *Usage) ColdStart() { u.cold.Add(1) }

// Restarted counts a start in place of an instance that broke.
func (u *Usage) Restarted() { u.restarts.Add(1) }

// Up notes that n more instances run or start, or fewer.
func (u *Usage) Up(n int) { u.instances.Add(int64(n)) }

// Held counts memory that was held for a time.
func (u *Usage) Held(bytes int64, d time.Duration) { u.byteSeconds.add(float64(bytes) * d.Seconds()) }

// Is notes which function it is.
func (u *Usage) Is(name, version string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.name, u.version = name, version
}

// Message is the usage so far; nil: there is no function, or it never ran.
func (u *Usage) Message() *clusterv1.FunctionUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.name == "" {
		return nil
	}
	return &clusterv1.FunctionUsage{
		Name: u.name, Version: u.version, Instances: int32(u.instances.Load()), Invocations: u.invocations.Load(), RecordsIn: u.in.Load(), RecordsOut: u.out.Load(),
		BytesIn: u.bytesIn.Load(), BytesOut: u.bytesOut.Load(), BusySeconds: u.busy.load(), RecordErrors: u.failed.Load(), Crashes: u.broken.Load(),
		ColdStarts: u.cold.Load(), Restarts: u.restarts.Load(), GigabyteSeconds: u.byteSeconds.load() / 1e9,
	}
}

// sum changes once a call, so a lock will do.
type sum struct {
	mu    sync.Mutex // guards: total
	total float64
}

func (f *sum) add(v float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total += v
}

func (f *sum) load() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}
