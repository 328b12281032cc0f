package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver of the tables

	"github.com/millrace/millrace/internal/testkit/fleet"
)

// system is one of the two, running. Both speak Kafka Connect's REST API.
type system struct {
	name string
	url  string
	pid  int
	stop func() error
}

// env is what both systems share.
type env struct {
	dsn, addr string // of MariaDB
	brokers   string
	scripts   string // the servers script
	bin       string // the millrace binary
	dir       string
	profile   string // where Millrace serves its profiles; empty: nowhere
}

const instance = "bench"

// servers runs the script that starts real servers and returns what it printed.
func (e *env) servers(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.scripts, args...)
	cmd.Env = append(os.Environ(), "KAFKA_HEAP=1g")
	if e.brokers != "" {
		cmd.Env = append(cmd.Env, "KAFKA_BROKERS="+e.brokers)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("servers %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (e *env) up(ctx context.Context) error {
	out, err := e.servers(ctx, "mariadb", "up", "--instance", instance, "--opt", "innodb_buffer_pool_size=1G")
	if err != nil {
		return err
	}
	e.dsn = strings.TrimPrefix(out, "MARIADB_DSN=")
	_, rest, _ := strings.Cut(e.dsn, "tcp(")
	e.addr, _, _ = strings.Cut(rest, ")")
	out, err = e.servers(ctx, "kafka", "up", "--instance", instance)
	e.brokers = strings.TrimPrefix(out, "KAFKA_BROKERS=")
	return err
}

func (e *env) down(ctx context.Context) error {
	var all []error
	for _, kind := range []string{"connect", "kafka", "mariadb"} {
		_, err := e.servers(ctx, kind, "drop", "--instance", instance)
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (e *env) debezium(ctx context.Context) (*system, error) {
	url, err := e.servers(ctx, "connect", "up", "--instance", instance)
	if err != nil {
		return nil, err
	}
	log, err := e.servers(ctx, "connect", "log", "--instance", instance)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(log), "pid"))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, err
	}
	return &system{name: "Debezium", url: strings.TrimPrefix(url, "CONNECT_URL="), pid: pid, stop: func() error {
		_, err := e.servers(context.WithoutCancel(ctx), "connect", "down", "--instance", instance)
		return err
	}}, nil
}

func (e *env) millrace(ctx context.Context) (*system, error) {
	f := &fleet.Fleet{Bin: e.bin, Dir: filepath.Join(e.dir, strconv.FormatInt(time.Now().UnixNano(), 10)), Args: []string{"--brokers", e.brokers, "--profile", e.profile}}
	n, err := f.Add("bench")
	if err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		return nil, err
	}
	if err := n.WaitReady(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return &system{name: "Millrace", url: n.REST, pid: n.PID(), stop: func() error {
		err := n.Stop(20 * time.Second)
		return errors.Join(err, os.RemoveAll(f.Dir))
	}}, nil
}

// config of the connector: the same for both but for what only one of them knows.
func (s *system) config(e *env, sh shape, prefix string, extra map[string]string) map[string]string {
	host, port, _ := strings.Cut(e.addr, ":")
	c := map[string]string{
		"connector.class": "io.debezium.connector.mariadb.MariaDbConnector", "tasks.max": "1",
		"database.hostname": host, "database.port": port, "database.user": "cdc", "database.password": "cdc",
		"database.server.id": strconv.FormatInt(time.Now().UnixNano()%1_000_000+1000, 10), "topic.prefix": prefix,
		"database.include.list": sh.database(), "table.include.list": sh.database() + "." + sh.name, "include.schema.changes": "false",
		"key.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter": "org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
		"topic.creation.default.partitions": "1", "topic.creation.default.replication.factor": "1",
		"exactly.once.support": "required",
	}
	if s.name == "Debezium" {
		c["schema.history.internal.kafka.bootstrap.servers"], c["schema.history.internal.kafka.topic"] = e.brokers, "history."+prefix
		c["database.ssl.mode"] = "disable"
		c["max.batch.size"], c["max.queue.size"] = "8192", "32768"
	}
	for k, v := range extra {
		c[k] = v
		if v == "" {
			delete(c, k)
		}
	}
	return c
}

// call does a REST request; want is the status that is right.
func (s *system) call(ctx context.Context, method, path string, body any, want int) error {
	var r io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	for {
		req, err := http.NewRequestWithContext(ctx, method, s.url+path, r)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == want {
			return nil
		}
		if resp.StatusCode != http.StatusConflict || body != nil {
			return fmt.Errorf("%s: %s %s: %s: %s", s.name, method, path, resp.Status, b)
		}
		time.Sleep(200 * time.Millisecond) // a rebalance is in progress
	}
}

// usage of the process: the largest resident size in bytes, and its processor time.
func (s *system) usage() (peak int64, cpu time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0, 0, err
			}
			peak = kib << 10
		}
	}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return peak, time.Duration(user+system) * 10 * time.Millisecond, nil // the kernel counts in hundredths
}
