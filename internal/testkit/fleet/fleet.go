// Package fleet runs real millrace nodes as processes, for the demo and the system tests: start, kill -9, stop, look.
//
// Each node has its own directory with its data and its log. Goroutines: one a process, which waits for its end.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Fleet is a set of nodes that share one directory.
type Fleet struct {
	// Bin is the millrace binary; Dir holds a directory for each node.
	Bin string
	Dir string
	// Args are given to every node.
	Args []string
	// Env is added to every node's environment.
	Env []string
	// HTTPS, if set, is what calls REST, which then has TLS by Args.
	HTTPS *http.Client
	// Login is the Authorization header that nodes with logins want.
	Login string
	// Place, if set, is where a node lives: its own address, and the words before its command line that take it there, such as those that
	// enter a network namespace.
	Place func(id string) (addr string, enter []string)
	Nodes []*Node
}

// Node is one process.
type Node struct {
	ID      string
	REST    string // http://host:port
	Cluster string // host:port
	enter   []string
	args    []string
	fleet   *Fleet
	cmd     *exec.Cmd
	ended   chan struct{}
	err     error
}

// Group makes and starts nodes, the first of the fleet, that make a cluster together.
func (f *Fleet) Group(ids ...string) error {
	for _, id := range ids {
		if _, err := f.node(id); err != nil {
			return err
		}
	}
	for _, n := range f.Nodes {
		n.args = append(n.args, "--join", f.peers(), "--bootstrap-expect", fmt.Sprint(len(ids)))
		if err := n.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) peers() string {
	var out []string
	for _, n := range f.Nodes {
		out = append(out, n.Cluster)
	}
	return strings.Join(out, ",")
}

// Add makes a node, on ports of its own, without starting it. The first node makes the cluster; later ones join it.
func (f *Fleet) Add(id string, args ...string) (*Node, error) {
	peers := f.peers()
	n, err := f.node(id)
	if err != nil {
		return nil, err
	}
	if peers != "" {
		n.args = append(n.args, "--join", peers)
	}
	n.args = append(n.args, args...)
	return n, nil
}

func (f *Fleet) node(id string) (*Node, error) {
	var rest, cluster string
	var enter []string
	if f.Place != nil {
		var addr string
		addr, enter = f.Place(id)
		rest, cluster = net.JoinHostPort(addr, "8083"), net.JoinHostPort(addr, "8084")
	} else {
		var err error
		if rest, err = freePort(); err != nil {
			return nil, err
		}
		if cluster, err = freePort(); err != nil {
			return nil, err
		}
	}
	scheme := "http://"
	if f.HTTPS != nil {
		scheme = "https://"
	}
	n := &Node{ID: id, REST: scheme + rest, Cluster: cluster, enter: enter, fleet: f}
	n.args = append([]string{"node", "--id", id, "--data", filepath.Join(f.Dir, id), "--rest", rest, "--cluster", cluster}, f.Args...)
	f.Nodes = append(f.Nodes, n)
	return n, nil
}

// Start starts the process, again if it has ended, and returns at once.
func (n *Node) Start() error {
	if err := os.MkdirAll(n.fleet.Dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	words := slices.Concat(n.enter, []string{n.fleet.Bin}, n.args)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), n.fleet.Env...)
	// The node dies with the test that started it, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.ID, err)
	}
	n.cmd, n.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		n.err = cmd.Wait()
		close(ended)
	}(n.ended)
	return nil
}

// LogPath is the file with all that the node has printed.
func (n *Node) LogPath() string { return filepath.Join(n.fleet.Dir, n.ID+".log") }

// Log returns the last size bytes of the node's log.
func (n *Node) Log(size int64) string {
	f, err := os.Open(n.LogPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > size {
		_, _ = f.Seek(-size, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// PID returns the process id.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Alive reports whether the process runs.
func (n *Node) Alive() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal.
func (n *Node) Signal(sig syscall.Signal) error { return n.cmd.Process.Signal(sig) }

// Kill ends the process as kill -9 does and waits until it is gone.
func (n *Node) Kill() {
	if n.Alive() {
		_ = n.cmd.Process.Kill()
		<-n.ended
	}
}

// Stop asks the process to end, kills it when it has not within limit, and returns how it ended.
func (n *Node) Stop(limit time.Duration) error {
	if !n.Alive() {
		return nil
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
		return n.err
	case <-time.After(limit):
		n.Kill()
		return fmt.Errorf("node %s did not stop within %v", n.ID, limit)
	}
}

// Close kills all nodes.
func (f *Fleet) Close() {
	for _, n := range f.Nodes {
		n.Kill()
	}
}

// WaitREST waits until the node answers GET / with 200. It fails at once when the process ends.
func (n *Node) WaitREST(ctx context.Context) error { return n.waitFor(ctx, "/") }

// WaitReady waits until the node has a leader to ask: GET /connectors answers.
func (n *Node) WaitReady(ctx context.Context) error { return n.waitFor(ctx, "/connectors") }

func (n *Node) waitFor(ctx context.Context, path string) error {
	var last error
	for ctx.Err() == nil {
		if !n.Alive() {
			return fmt.Errorf("node %s ended: %w\n%s", n.ID, n.err, n.Log(2000))
		}
		reqCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		req, _ := http.NewRequestWithContext(reqCtx, http.MethodGet, n.REST+path, http.NoBody)
		req.Header.Set("Authorization", n.fleet.Login)
		resp, err := n.fleet.http().Do(req)
		if err == nil {
			_ = resp.Body.Close()
			err = fmt.Errorf("status %s", resp.Status)
		}
		cancel()
		if resp != nil && resp.StatusCode == http.StatusOK {
			return nil
		}
		last = err
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("node %s does not answer %s: %w", n.ID, path, errors.Join(last, ctx.Err()))
}

func (f *Fleet) http() *http.Client {
	if f.HTTPS != nil {
		return f.HTTPS
	}
	return http.DefaultClient
}

// RSS returns the resident memory of the process in bytes.
func (n *Node) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.PID()))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// PeakRSS returns the most resident memory that the process has had, in bytes.
func (n *Node) PeakRSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, errors.New("the system does not tell the peak of the resident memory")
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
