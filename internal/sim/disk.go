package sim

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/coordinator/raftnode"
)

// disk is what a machine keeps of Raft through crashes. Safe for concurrent use.
type disk struct {
	*raft.InmemStore
	snapshots *raft.InmemSnapshotStore

	mu   sync.Mutex // guards: the rest
	rng  *rand.Rand
	slow time.Duration
	full bool
}

func newDisk(seed uint64) *disk {
	return &disk{InmemStore: raft.NewInmemStore(), snapshots: raft.NewInmemSnapshotStore(), rng: rand.New(rand.NewPCG(seed, 3))}
}

func (d *disk) set(f func(d *disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

var (
	errFull   = errors.New("no space left on device")
	errKilled = errors.New("the process was killed")
)

// open gives the disk to a process.
func (d *disk) open() (*files, *raftnode.Storage) {
	f := &files{disk: d}
	return f, &raftnode.Storage{Log: f, Snapshots: d.snapshots}
}

// files are the disk as one process has it open: a write is a sync, and one that a kill catches may or may not have been done.
type files struct {
	*disk
	dead bool // guarded by disk.mu
}

func (f *files) kill() { f.set(func(*disk) { f.dead = true }) }

// sync waits as long as the disk takes, and says whether the write is to be done.
func (f *files) sync() (do bool, err error) {
	f.mu.Lock()
	wait, dead := f.slow, f.dead
	f.mu.Unlock()
	if dead {
		return false, errKilled
	}
	if wait > 0 {
		time.Sleep(wait)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead:
		return wait > 0 && f.rng.IntN(2) == 0, errKilled
	case f.full:
		return false, errFull
	}
	return true, nil
}

func (f *files) write(do func() error) error {
	ok, err := f.sync()
	if ok {
		return errors.Join(do(), err)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (f *files) StoreLog(l *raft.Log) error {
	return f.write(func() error { return f.InmemStore.StoreLog(l) })
}

// StoreLogs implements raft.LogStore.
func (f *files) StoreLogs(l []*raft.Log) error {
	return f.write(func() error { return f.InmemStore.StoreLogs(l) })
}

// DeleteRange implements raft.LogStore.
func (f *files) DeleteRange(from, to uint64) error {
	return f.write(func() error { return f.InmemStore.DeleteRange(from, to) })
}

// Set implements raft.StableStore. Raft ends its process when it can't store a term or a vote, and this one must go on: so a full disk has room
// for those, and a process that was killed believes that it has stored them.
func (f *files) Set(key, value []byte) error {
	if ok, err := f.sync(); !ok && !errors.Is(err, errFull) {
		return nil
	}
	return f.InmemStore.Set(key, value)
}

// SetUint64 implements raft.StableStore.
func (f *files) SetUint64(key []byte, value uint64) error {
	if ok, err := f.sync(); !ok && !errors.Is(err, errFull) {
		return nil
	}
	return f.InmemStore.SetUint64(key, value)
}

// Close implements io.Closer.
func (f *files) Close() error { return nil }
