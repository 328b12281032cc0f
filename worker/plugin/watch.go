package plugin

import (
	"fmt"
	"time"
)

// How often the memory of a process is looked at: seldom to meter it, often when there is a limit to keep, for a function can
// take hundreds of megabytes in a second.
const (
	meterEvery = time.Second
	limitEvery = 50 * time.Millisecond
)

// watch meters the process's memory until it has exited, and kills its group when it holds more than it may. An address space limit would not
// do: Go and others reserve far more than they use.
func (p *Process) watch(o Options, exited <-chan struct{}) {
	every := meterEvery
	if o.MemoryMax > 0 {
		every = limitEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	held := resident(p.PID())
	for {
		over := false
		select {
		case <-exited:
			over = true
		case <-tick.C:
		}
		now := time.Now()
		if o.Held != nil {
			o.Held(held, now.Sub(last))
		}
		if over {
			return
		}
		last, held = now, resident(p.PID())
		if o.MemoryMax > 0 && held > o.MemoryMax {
			limit := fmt.Sprintf("it held %d MB of memory and was killed (function.memory.max.mb is %d)", held>>20, o.MemoryMax>>20)
			p.over.CompareAndSwap(nil, &limit)
			killGroup(p.cmd)
		}
	}
}
