// Package plugin launches and watches the processes of functions.
//
// A Process owns its operating system process, in a group of its own, and two goroutines: one reads what it prints, one waits for
// its end. Stop ends all of it, children included. If the worker dies, the kernel kills the process.
package plugin

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say what to run.
type Options struct {
	Command []string
	// Dir to run in; empty: the process's private directory.
	Dir string
	Env map[string]string
	// Protocol is what the process is told of the contract; empty: the one there is.
	Protocol string
	// Ready is asked again and again until it returns nil or its context ends: does the process answer on addr?
	Ready        func(ctx context.Context, addr string) error
	StartTimeout time.Duration
	// MemoryMax is how many bytes the process and what it started may hold, resident and together; more kills them. 0: any.
	MemoryMax int64
	// Held, if set, is told how much was held for how long.
	Held   func(bytes int64, d time.Duration)
	Logger *slog.Logger
}

// Process is a running function.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	dir   string
	addr  string
	log   *slog.Logger
	done  chan struct{}
	err   error                  // valid once done is closed
	over  atomic.Pointer[string] // the limit that it was killed for
	tail  tail
	once  sync.Once
}

// passed on from the node's environment; everything else is the function's own affair.
var passed = []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// Start launches the command and waits until it is ready. A process that ends before, or is not ready in time, is an error with its
// exit status and the last of what it printed.
func Start(ctx context.Context, o Options) (*Process, error) {
	dir, err := os.MkdirTemp("", "millrace-fn-")
	if err != nil {
		return nil, fmt.Errorf("function's directory: %w", err)
	}
	p := &Process{dir: dir, addr: "unix://" + filepath.Join(dir, "fn.sock"), log: o.Logger, done: make(chan struct{})}
	cmd := exec.Command(o.Command[0], o.Command[1:]...) //nolint:noctx // its life is longer than ctx, which bounds its start; Stop ends it
	cmd.Dir = o.Dir
	if cmd.Dir == "" {
		cmd.Dir = dir
	}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o.Env)) {
		cmd.Env = append(cmd.Env, k+"="+o.Env[k])
	}
	cmd.Env = append(cmd.Env, "MILLRACE_LISTEN="+p.addr, "MILLRACE_PROTOCOL="+cmp.Or(o.Protocol, "1"))
	ownGroup(cmd)
	out, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("function's output: %w", err), os.RemoveAll(dir))
	}
	cmd.Stdout, cmd.Stderr = w, w
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	_ = w.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("launch the function: %w", err), out.Close(), os.RemoveAll(dir))
	}
	p.cmd, p.stdin = cmd, in
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.capture(out)
	}()
	exited, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(o, exited)
	}()
	go func() {
		p.err = cmd.Wait()
		close(exited)
		<-watched
		killGroup(cmd) // children that it left behind
		// What is still in the pipe belongs to the error text; a child that holds it open does not hold us up.
		select {
		case <-read:
		case <-time.After(200 * time.Millisecond):
		}
		_ = out.Close()
		<-read
		_ = os.RemoveAll(dir)
		close(p.done)
	}()
	if err := p.waitReady(ctx, o); err != nil {
		p.Stop(0)
		return nil, err
	}
	return p, nil
}

// ErrEnded: the process ended, by itself, before it was ready.
var ErrEnded = errors.New("the function ended before it was ready")

func (p *Process) waitReady(ctx context.Context, o Options) error {
	limit := time.NewTimer(o.StartTimeout)
	defer limit.Stop()
	var last error
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		last = o.Ready(try, p.addr)
		cancel()
		if last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%w: %w", ErrEnded, p.Failure())
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("the function was not ready after %v (function.start.timeout.ms): %w%s", o.StartTimeout, last, p.tail.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Addr is where the function listens, as unix://path.
func (p *Process) Addr() string { return p.addr }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and is cleaned up.
func (p *Process) Done() <-chan struct{} { return p.done }

// Failure says how the process ended and what it printed last. Valid once Done.
func (p *Process) Failure() error {
	how := "it exited with status 0"
	if limit := p.over.Load(); limit != nil {
		how = *limit
	} else if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s%s", how, p.tail.String())
}

// CloseInput asks the process to end, by closing its standard input.
func (p *Process) CloseInput() { _ = p.stdin.Close() }

// Terminate asks the process to end, by SIGTERM.
func (p *Process) Terminate() { terminate(p.cmd) }

// Stop asks the process to end, by closing its standard input and then by SIGTERM, and after grace kills its group. It returns when all
// is gone.
func (p *Process) Stop(grace time.Duration) {
	p.once.Do(func() {
		p.CloseInput()
		if grace > 0 {
			p.Terminate()
			select {
			case <-p.done:
			case <-time.After(grace):
			}
		}
		killGroup(p.cmd)
	})
	<-p.done
}

const (
	maxLine  = 4096
	perSec   = 100
	tailSize = 20
)

// capture logs what the process prints, line by line: long lines cut, floods thinned out and counted (I8).
func (p *Process) capture(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	second, n, dropped := time.Now(), 0, 0
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			text := strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "�")
			p.tail.add(text)
			if time.Since(second) > time.Second {
				if dropped > 0 {
					p.log.Warn("function prints too much; lines were left out", "lines", dropped)
				}
				second, n, dropped = time.Now(), 0, 0
			}
			if n++; n <= perSec {
				p.log.Info("function output", "line", text)
			} else {
				dropped++
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// tail keeps the last lines.
type tail struct {
	mu    sync.Mutex // guards: lines
	lines []string
}

func (t *tail) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, s); len(t.lines) > tailSize {
		t.lines = slices.Delete(t.lines, 0, 1)
	}
}

// String is "" or the lines, introduced.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return ""
	}
	return "; its last output:\n  " + strings.Join(t.lines, "\n  ")
}
