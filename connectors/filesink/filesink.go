// Package filesink writes records to files, one JSON value a line, each record exactly once.
//
// Each topic partition has a directory, <file.path>/<topic>/<partition>/, with files named by the offset of their first record. A file in
// the making ends in .part; a finished one was synced and renamed. The file "state" says how much of which file counts, and the
// next offset: it is replaced as a whole after the data was synced, so what a crash left beyond it is cut off at the next start
// and read again (I3). A lock keeps a second process out.
//
// A task belongs to one goroutine and has no others.
package filesink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// The keys.
const (
	Path           = "file.path"
	RotateBytes    = "rotate.bytes"
	RotateInterval = "rotate.interval.ms"
)

// Spec is the class's own keys.
func Spec() *configdef.Spec {
	return configdef.New(
		configdef.Key{
			Name: Path, Type: configdef.String, Required: true, Importance: configdef.High, Group: "File", Width: configdef.WidthLong, Example: "/srv/archive",
			Doc: "Directory for the files, on the worker that runs the task; on a shared file system if tasks may move between machines. Files are <topic>/<partition>/<first offset>.jsonl below it.",
		},
		configdef.Key{
			Name: RotateBytes, Type: configdef.Long, Default: "134217728", HasMin: true, Min: 1, Importance: configdef.Medium, Group: "File",
			Doc: "Size in bytes at which a file is finished and the next one begun.",
		},
		configdef.Key{
			Name: RotateInterval, Type: configdef.Long, Default: "0", HasMin: true, Importance: configdef.Medium, Group: "File",
			Doc: "Age in milliseconds at which a file is finished, looked at when records arrive; 0: only by size.",
		},
	)
}

func init() {
	connectors.Register(connectors.Plugin{
		Class: "file", Aliases: []string{"org.apache.kafka.connect.file.FileStreamSinkConnector"}, Kind: connectors.KindSink, Version: "1.0.0",
		Doc: "Writes topics to files as JSON lines, each record exactly once, with rotation and atomic finish.", Spec: Spec(), ValueConverter: "bytes", KeyConverter: "bytes",
		NewSink: func() connectors.SinkTask { return &task{} },
	})
}

type task struct {
	dir      string
	bytes    int64
	interval time.Duration
	epoch    uint64
	void     func(connectors.TopicPartition) uint64
	parts    map[connectors.TopicPartition]*part
}

var _ connectors.Durable = (*task)(nil)

// state is what the state file holds.
type state struct {
	// File is the .part file in the making, without its ending; empty: none. Size of it counts.
	File string `json:"file,omitempty"`
	Size int64  `json:"size"`
	// Next offset to read, and the epoch of the task that got there.
	Next  int64  `json:"next"`
	Epoch uint64 `json:"epoch,omitempty"`
}

// part is one topic partition.
type part struct {
	dir   string
	lock  *os.File
	f     *os.File
	w     *bufio.Writer
	saved state
	size  int64 // of f, buffered bytes included
	next  int64
	born  time.Time
	dirty bool
}

// Open implements connectors.SinkTask.
func (t *task) Open(_ context.Context, tc connectors.TaskContext) error {
	v, problems := Spec().Parse(tc.Config)
	if len(problems) > 0 {
		return configdef.AsError(problems)
	}
	t.dir, t.bytes, t.interval = v.String(Path), v.Int(RotateBytes), v.Duration(RotateInterval)
	t.parts, t.epoch, t.void = map[connectors.TopicPartition]*part{}, tc.Epoch, tc.VoidBelow
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return fmt.Errorf("file.path: %w", err)
	}
	return nil
}

// Offsets implements connectors.Durable.
func (t *task) Offsets(_ context.Context, partitions []connectors.TopicPartition) (map[connectors.TopicPartition]int64, error) {
	out := map[connectors.TopicPartition]int64{}
	for _, tp := range partitions {
		p, err := t.part(tp)
		if err != nil {
			return nil, err
		}
		if p.next >= 0 {
			out[tp] = p.next
		}
	}
	return out, nil
}

// part opens a partition's directory and cuts off what does not count.
func (t *task) part(tp connectors.TopicPartition) (*part, error) {
	if p := t.parts[tp]; p != nil {
		return p, nil
	}
	p := &part{dir: filepath.Join(t.dir, tp.Topic, strconv.Itoa(int(tp.Partition))), next: -1}
	err := p.open()
	if err == nil && t.void != nil && p.saved.Epoch < t.void(tp) {
		err = p.forget()
	}
	if err != nil {
		p.close()
		return nil, diskError(fmt.Errorf("%s: %w", p.dir, err))
	}
	t.parts[tp] = p
	return p, nil
}

// forget finishes the file in the making and lets go of the offset, which was altered from outside. The state is left as it is until the
// next flush, and so is what it leads to.
func (p *part) forget() error {
	p.next = -1
	if p.f == nil {
		return nil
	}
	if err := p.finish(); err != nil {
		return err
	}
	p.saved.File, p.saved.Size = "", 0
	return nil
}

// finish gives the file in the making its final name, at once or not at all. The state still names it, which open understands.
func (p *part) finish() error {
	if err := p.f.Close(); err != nil {
		return err
	}
	p.f, p.w = nil, nil
	if err := os.Rename(p.path(".part"), p.path("")); err != nil {
		return err
	}
	return syncDir(p.dir)
}

func (p *part) open() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(p.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	p.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return connectors.Retriable(fmt.Errorf("another task writes here: %w", err))
	}
	b, err := os.ReadFile(filepath.Join(p.dir, "state"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &p.saved); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	p.next = p.saved.Next
	if p.saved.File == "" {
		return nil
	}
	f, err := os.OpenFile(p.path(".part"), os.O_RDWR, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		// Finished, and the crash came before the next state: nothing is in the making.
		if _, err := os.Stat(p.path("")); err != nil {
			return fmt.Errorf("neither %s nor its finished form is there, though the state counts on it: %w", p.path(".part"), err)
		}
		p.saved.File, p.saved.Size = "", 0
		return nil
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() < p.saved.Size {
		err = fmt.Errorf("%s has %d bytes, the state counts on %d: data was lost underneath", f.Name(), st.Size(), p.saved.Size)
	}
	if err == nil {
		err = f.Truncate(p.saved.Size)
	}
	if err == nil {
		_, err = f.Seek(p.saved.Size, 0)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	p.f, p.w, p.size, p.born = f, bufio.NewWriterSize(f, 64<<10), p.saved.Size, time.Now()
	return nil
}

func (p *part) path(ending string) string { return filepath.Join(p.dir, p.saved.File+ending) }

// Put implements connectors.SinkTask.
func (t *task) Put(_ context.Context, records []record.Record) error {
	for i := range records {
		r := &records[i]
		line, ok := r.Value.([]byte)
		if !ok && r.Value != nil {
			b, err := json.Marshal(r.Value)
			if err != nil {
				return &connectors.RecordError{Index: i, Err: fmt.Errorf("write as JSON: %w", err)}
			}
			line = b
		}
		if r.Value == nil {
			line = []byte("null") // a tombstone
		}
		if slices.Contains(line, '\n') {
			return &connectors.RecordError{Index: i, Err: errors.New("the value holds a line break and would not be one line")}
		}
		p, err := t.part(connectors.TopicPartition{Topic: r.Topic, Partition: r.Partition})
		if err != nil {
			return err
		}
		if r.Offset < p.next {
			continue // a redelivery of what is written (I3)
		}
		if err := t.write(p, line, r.Offset); err != nil {
			return diskError(fmt.Errorf("write %s: %w", p.dir, err))
		}
	}
	return nil
}

func (t *task) write(p *part, line []byte, offset int64) error {
	if p.f == nil {
		p.saved.File, p.saved.Size = fmt.Sprintf("%020d.jsonl", offset), 0
		if _, err := os.Stat(p.path("")); err == nil {
			// Read again after the offsets were altered: what was written the first time stays.
			p.saved.File = fmt.Sprintf("%020d-%d.jsonl", offset, t.epoch)
		}
		f, err := os.OpenFile(p.path(".part"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		p.f, p.w, p.size, p.born = f, bufio.NewWriterSize(f, 64<<10), 0, time.Now()
	}
	_, _ = p.w.Write(line) // its error comes with Flush
	if err := p.w.WriteByte('\n'); err != nil {
		return err
	}
	p.size += int64(len(line)) + 1
	p.next, p.dirty = offset+1, true
	return nil
}

// Flush implements connectors.SinkTask: data first, then the state that counts it.
func (t *task) Flush(context.Context) error {
	for _, p := range t.parts {
		if !p.dirty {
			continue
		}
		if err := t.flush(p); err != nil {
			return diskError(fmt.Errorf("flush %s: %w", p.dir, err))
		}
	}
	return nil
}

func (t *task) flush(p *part) error {
	if err := p.w.Flush(); err != nil {
		return err
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	p.saved.Size, p.saved.Next, p.saved.Epoch = p.size, p.next, t.epoch
	if err := p.save(); err != nil {
		return err
	}
	p.dirty = false
	if p.size < t.bytes && (t.interval == 0 || time.Since(p.born) < t.interval) {
		return nil
	}
	return p.finish()
}

// save replaces the state file.
func (p *part) save() error {
	b, err := json.Marshal(p.saved)
	if err != nil {
		return err
	}
	tmp := filepath.Join(p.dir, "state.tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(p.dir, "state")); err != nil {
		return err
	}
	return syncDir(p.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// diskError marks what a freed disk mends as worth trying again.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
		return connectors.Retriable(fmt.Errorf("%w (nothing that was not flushed counts as written; free some space)", err))
	}
	return err
}

// Close implements connectors.SinkTask.
func (t *task) Close() error {
	for _, p := range t.parts {
		p.close()
	}
	t.parts = nil
	return nil
}

func (p *part) close() {
	if p.f != nil {
		_ = p.f.Close()
	}
	if p.lock != nil {
		_ = p.lock.Close() // releases the lock
	}
}
