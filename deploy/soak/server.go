package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// server is a private server of the kind, started by the servers script.
type server struct {
	script, kind string
	port         int
	opts         []string
}

const instance = "soak"

func (s *server) call(verb string, args ...string) (string, error) {
	cmd := exec.Command(s.script, append([]string{s.kind, verb, "--instance", instance}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("servers %s %s: %w\n%s", s.kind, verb, err, stderr.String())
	}
	return stdout.String(), nil
}

// up starts it, and waits until it answers.
func (s *server) up() error {
	args := []string{"--port", strconv.Itoa(s.port)}
	for _, o := range s.opts {
		args = append(args, "--opt", o)
	}
	_, err := s.call("up", args...)
	return err
}

// kill ends it as kill -9 does.
func (s *server) kill() error {
	out, err := exec.Command(s.script, "status").Output()
	if err != nil {
		return fmt.Errorf("servers status: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == s.kind && f[1] == instance {
			pid, err := strconv.Atoi(f[3])
			if err != nil {
				return fmt.Errorf("servers status: %q: %w", line, err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return err
			}
			// The script sees to what is left of it: it waits until the process is gone.
			return s.down()
		}
	}
	return fmt.Errorf("%s does not run", s.kind)
}

func (s *server) down() error {
	_, err := s.call("down")
	return err
}

func (s *server) drop() error {
	_, err := s.call("drop")
	return err
}

// servers are the broker and the database. Where nodes have a network of their own, both answer on all addresses of this machine.
func servers(o options, l *lab) (broker, db *server, addr string) {
	addr = "127.0.0.1"
	broker = &server{script: o.servers, kind: "kafka", port: o.kafkaPort}
	db = &server{script: o.servers, kind: o.database, port: o.databasePort}
	if l.root {
		addr = hostAddr
		broker.opts = []string{
			fmt.Sprintf("listeners=PLAINTEXT://0.0.0.0:%d,CONTROLLER://127.0.0.1:%d", broker.port, broker.port+1),
			fmt.Sprintf("advertised.listeners=PLAINTEXT://%s:%d", addr, broker.port),
		}
		db.opts = []string{"bind-address=0.0.0.0"}
	}
	return broker, db, addr
}
