package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// lab is what root can give the nodes: a network namespace and a small file system each.
//
//	node1 ── ┐
//	node2 ── ┼─ bridge, in a namespace of its own, where no firewall of this machine looks on ─── this machine, with the servers
//	node3 ── ┘
type lab struct {
	root  bool
	dir   string
	nodes []string
}

const (
	hub    = "mrsoak-hub" // the bridge's namespace
	uplink = "mrsoak0"
	subnet = "10.231.77."
	// hostAddr is this machine as the nodes see it: the servers answer there.
	hostAddr = subnet + "1"
	// diskSize holds a node's state many times over, and is full in a moment.
	diskSize = "48m"
)

func newLab(dir string, nodes []string) (*lab, error) {
	l := &lab{root: os.Geteuid() == 0, dir: dir, nodes: nodes}
	if !l.root {
		return l, nil
	}
	l.close() // what a run that was killed has left
	steps := [][]string{
		{"netns", "add", hub},
		{"-n", hub, "link", "add", "bridge", "type", "bridge"},
		{"-n", hub, "link", "set", "bridge", "up"},
		{"link", "add", uplink, "type", "veth", "peer", "name", "host", "netns", hub},
		{"-n", hub, "link", "set", "host", "master", "bridge"},
		{"-n", hub, "link", "set", "host", "up"},
		{"addr", "add", hostAddr + "/24", "dev", uplink},
		{"link", "set", uplink, "up"},
	}
	for _, n := range nodes {
		ns := namespace(n)
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"-n", hub, "link", "add", n, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"-n", hub, "link", "set", n, "master", "bridge"},
			[]string{"-n", hub, "link", "set", n, "up"},
			[]string{"-n", ns, "addr", "add", l.addr(n) + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"},
		)
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			l.close()
			return nil, err
		}
	}
	for _, n := range nodes {
		at := filepath.Join(dir, n)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, err
		}
		if err := syscall.Mount("soak", at, "tmpfs", 0, "size="+diskSize); err != nil {
			l.close()
			return nil, fmt.Errorf("mount a small disk on %s: %w", at, err)
		}
	}
	return l, nil
}

func namespace(node string) string { return "mrsoak-" + node }

func (l *lab) addr(node string) string {
	for i, n := range l.nodes {
		if n == node {
			return fmt.Sprintf("%s%d", subnet, 11+i)
		}
	}
	return ""
}

// place is where a node lives, for the fleet.
func (l *lab) place(node string) (addr string, enter []string) {
	return l.addr(node), []string{"ip", "netns", "exec", namespace(node)}
}

// cut takes a node off the network; the result puts it back.
func (l *lab) cut(node string) (heal func() error, err error) {
	set := func(to string) error { return ip("-n", hub, "link", "set", node, to) }
	return func() error { return set("up") }, set("down")
}

// cutPeers keeps a node from all other nodes. It still reaches the broker and the database.
func (l *lab) cutPeers(node string) (heal func() error, err error) {
	routes := func(verb string) error {
		var errs []error
		for _, n := range l.nodes {
			if n != node {
				errs = append(errs, ip("-n", namespace(node), "route", verb, "blackhole", l.addr(n)+"/32"))
			}
		}
		return errors.Join(errs...)
	}
	return func() error { return routes("del") }, routes("add")
}

// fill leaves no byte on a node's disk.
func (l *lab) fill(node string) (heal func() error, err error) {
	path := filepath.Join(l.dir, node, "ballast")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, fmt.Errorf("fill the disk of %s: %w", node, err)
	}
	return func() error { return os.Remove(path) }, nil
}

func (l *lab) close() {
	if !l.root {
		return
	}
	for _, n := range l.nodes {
		_ = syscall.Unmount(filepath.Join(l.dir, n), syscall.MNT_DETACH)
		_ = ip("netns", "del", namespace(n))
	}
	_ = ip("link", "del", uplink)
	_ = ip("netns", "del", hub)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
