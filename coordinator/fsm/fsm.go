// Package fsm runs package state as hashicorp/raft's state machine, and lets others read it.
//
// Raft calls Apply, Snapshot and Restore from one goroutine; readers come from any. A restore replaces the state as a whole or
// not at all.
package fsm

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/coordinator/state"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// FSM is the adapter.
type FSM struct {
	mu      sync.RWMutex // guards: state, halt
	state   *state.State
	halt    error
	changed func()
	halted  chan struct{}
}

// New makes an FSM. changed is called after each command and restore, outside the lock; it must not block.
func New(changed func()) *FSM {
	return &FSM{state: state.New(), changed: changed, halted: make(chan struct{})}
}

// Halted is closed when the log holds something that this version does not know. From then on the state stands still and no Raft snapshot
// is taken of it, for it is not what the log says (I6). The node must end.
func (f *FSM) Halted() <-chan struct{} { return f.halted }

// Halt is why.
func (f *FSM) Halt() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.halt
}

// View lets f read the state. f must not keep the *State, call back into the FSM or block.
func (f *FSM) View(read func(*state.State)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	read(f.state)
}

// Apply implements raft.FSM. What it returns is a state.Result.
func (f *FSM) Apply(l *raft.Log) any {
	defer f.changed()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.halt != nil {
		return state.Result{Index: l.Index, Err: f.halt}
	}
	var c commandv1.Command
	if err := proto.Unmarshal(l.Data, &c); err != nil {
		// The same bytes fail on every node, so refusing them is still a function of the log (I6).
		return state.Result{Index: l.Index, Err: fmt.Errorf("log entry %d: %w", l.Index, err)}
	}
	r := f.state.Apply(l.Index, &c)
	if errors.Is(r.Err, state.ErrUnknownCommand) {
		f.halt = fmt.Errorf("log entry %d: %w; run this node with the version that the other coordinators run", l.Index, r.Err)
		close(f.halted)
	}
	return r
}

// Snapshot implements raft.FSM.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.halt != nil {
		return nil, f.halt
	}
	// Connectors and maps are immutable, so the image can be written later while commands go on.
	return image{f.state.Image()}, nil
}

// Restore implements raft.FSM.
func (f *FSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read raft snapshot: %w", err)
	}
	var img commandv1.Image
	if err := proto.Unmarshal(b, &img); err != nil {
		return fmt.Errorf("decode raft snapshot: %w", err)
	}
	s, err := state.FromImage(&img)
	if err != nil {
		return fmt.Errorf("restore raft snapshot: %w", err)
	}
	f.mu.Lock()
	f.state = s
	f.mu.Unlock()
	f.changed()
	return nil
}

type image struct{ img *commandv1.Image }

// Persist implements raft.FSMSnapshot.
func (i image) Persist(sink raft.SnapshotSink) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(i.img)
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		_ = sink.Cancel()
		return fmt.Errorf("write raft snapshot: %w", err)
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (image) Release() {}
