// Command demo runs the whole pipeline on real data and proves at the end that nothing was lost, doubled or changed on the way.
// deploy/demo/demo.sh sets up what it needs.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
)

type options struct {
	bin, dir, dsn, mask, python, route string
	seconds, rows, rate                int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/millrace", "the millrace binary")
	flag.StringVar(&o.dir, "dir", "", "directory for the nodes' data and logs")
	flag.StringVar(&o.dsn, "dsn", "", "database server, as user:password@tcp(host:port)/")
	flag.StringVar(&o.mask, "mask", "", "the Go function's binary")
	flag.StringVar(&o.python, "python", "python3", "Python with the millrace package")
	flag.StringVar(&o.route, "route", "", "the Python function's file")
	flag.IntVar(&o.seconds, "seconds", 45, "how long to run under load")
	flag.IntVar(&o.rows, "rows", 20000, "orders in the shop at the start")
	flag.IntVar(&o.rate, "rate", 500, "changes a second")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Whatever hangs, the demo does not.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second+90*time.Second)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	title("a shop with %d orders", o.rows)
	db, err := openShop(ctx, o)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := shop.Create(ctx, db, o.rows)
	if err != nil {
		return err
	}
	lat := newLatency()
	s.Committed = lat.committed

	title("three nodes, the embedded broker on the first")
	server, err := mysql.ParseDSN(o.dsn)
	if err != nil {
		return fmt.Errorf("data source name %q: %w", o.dsn, err)
	}
	// Connectors name the password by reference; the nodes have it in their environment.
	f := &fleet.Fleet{Bin: o.bin, Dir: o.dir, Env: []string{"DEMO_DB_PASSWORD=" + server.Passwd}}
	defer f.Close()
	if err := startNodes(ctx, f); err != nil {
		return err
	}
	a := fleet.Cluster{Client: api.NewClient(f.Nodes[1].REST)}

	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	var writers sync.WaitGroup
	var writeErr error
	writers.Go(func() { writeErr = s.Write(writing, o.rate) })

	title("the pipeline: shop.orders → mask (Go) → route (Python) → warehouse.orders and files")
	archive := filepath.Join(o.dir, "archive")
	for _, c := range pipeline(o, server, archive) {
		if _, err := a.Create(ctx, c.name, c.config); err != nil {
			return fmt.Errorf("create connector %s: %w", c.name, err)
		}
		fmt.Printf("  created %-10s %s\n", c.name, c.what)
	}
	took, err := a.WaitRunning(ctx, 20*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("  all tasks run after %d ms\n", took.Milliseconds())
	if err := a.WaitCommitted(ctx, "shop"); err != nil {
		return err
	}
	from := s.Seq() // from here on every change must be in the topic
	brokers, err := a.Brokers(ctx)
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	watchErr := make(chan error, 1)
	watchers.Go(func() { watchErr <- lat.watch(watching, brokers) })

	if err := underLoad(ctx, o, f, a, s, lat); err != nil {
		return err
	}

	title("stopping the shop, waiting until all of it has arrived")
	stopWriting()
	writers.Wait()
	if writeErr != nil {
		return fmt.Errorf("the shop's writers: %w", writeErr)
	}
	fmt.Printf("  %d changes were made\n", s.Changes())
	err = compare(ctx, db, s, from, brokers, archive)
	stopWatching()
	watchers.Wait()
	if err != nil {
		return err
	}
	if err := <-watchErr; err != nil {
		return err
	}
	for _, n := range f.Nodes {
		if err := n.Stop(15 * time.Second); err != nil {
			return fmt.Errorf("stop: %w", err)
		}
	}
	return nil
}

type connector struct {
	name, what string
	config     map[string]string
}

func pipeline(o options, server *mysql.Config, archive string) []connector {
	host, port, _ := net.SplitHostPort(server.Addr) // it was connected to
	return []connector{
		{"shop", "MariaDB binlog → topic shop.shop.orders", map[string]string{
			"connector.class": "mysql", "topic.prefix": "shop", "database.include.list": "shop", "table.include.list": "shop.orders",
			"database.hostname": host, "database.port": port, "database.user": server.User, "database.password": "${env:DEMO_DB_PASSWORD}",
			"topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
		}},
		{"mask", "Go function: masks personal data, adds the total", map[string]string{
			"connector.class": "transform", "tasks.max": "2", "topics": "shop.shop.orders", "transform.output.topic": "orders.masked",
			"function.command": o.mask, "topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
		}},
		{"route", "Python function: drops test customers, routes big orders", map[string]string{
			"connector.class": "transform", "tasks.max": "2", "topics": "orders.masked", "transform.output.topic": "orders.clean", "transform.routes": "orders.big",
			"function.command": o.python + " " + o.route, "topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
		}},
		{"warehouse", "topics → table warehouse.orders", map[string]string{
			"connector.class": "sql", "tasks.max": "2", "topics": "orders.clean,orders.big", "table.name.format": "${table}",
			"connection.url": fmt.Sprintf("mysql://%s:${env:DEMO_DB_PASSWORD}@%s:%s/warehouse", url.QueryEscape(server.User), host, port),
		}},
		{"archive", "topic orders.clean → files", map[string]string{
			"connector.class": "file", "topics": "orders.clean", "file.path": archive,
		}},
	}
}

func openShop(ctx context.Context, o options) (*sql.DB, error) {
	admin, err := sql.Open("mysql", o.dsn)
	if err != nil {
		return nil, fmt.Errorf("data source name %q: %w", o.dsn, err)
	}
	defer admin.Close()
	for _, q := range []string{
		"DROP DATABASE IF EXISTS shop", "DROP DATABASE IF EXISTS warehouse",
		"CREATE DATABASE shop CHARACTER SET utf8mb4", "CREATE DATABASE warehouse CHARACTER SET utf8mb4",
	} {
		if _, err := admin.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	return sql.Open("mysql", o.dsn+"shop?charset=utf8mb4&collation=utf8mb4_unicode_ci")
}

func startNodes(ctx context.Context, f *fleet.Fleet) error {
	for i := range 3 {
		var args []string
		if i == 0 {
			args = []string{"--embedded-kafka", "127.0.0.1:0"}
		}
		n, err := f.Add(fmt.Sprintf("node%d", i+1), args...)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := n.Start(); err != nil {
			return err
		}
		if err := n.WaitREST(ctx); err != nil {
			return err
		}
		fmt.Printf("  %s pid %d  REST %s answers after %d ms\n", n.ID, n.PID(), n.REST, time.Since(began).Milliseconds())
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// underLoad shows the pipeline at work and kills a worker a third of the way in.
func underLoad(ctx context.Context, o options, f *fleet.Fleet, a fleet.Cluster, s *shop.Shop, lat *latency) error {
	title("under load for %d s; after a third of it a worker is killed with kill -9", o.seconds)
	end := time.Now().Add(time.Duration(o.seconds) * time.Second)
	killAt := time.Now().Add(time.Duration(o.seconds) * time.Second / 3)
	killed := false
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	fmt.Printf("  %7s %10s %9s %16s   %s\n", "time", "changes", "rows/s", "latency p50/p99", "lag of each stage (records)")
	began, last := time.Now(), 0
	for time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !killed && time.Now().After(killAt) {
			killed = true
			if err := killWorker(ctx, f, a); err != nil {
				return err
			}
		}
		stages, err := a.Stages(ctx)
		if err != nil {
			return err
		}
		seen, p50, p99 := lat.window()
		fmt.Printf("  %6.0fs %10d %9.0f %7s/%-8s   %s\n", time.Since(began).Seconds(), s.Changes(), float64(seen-last)/2, ms(p50), ms(p99), stages)
		last = seen
	}
	if !killed {
		return fmt.Errorf("no worker was killed: DEMO_SECONDS=%d is too short", o.seconds)
	}
	_, err := a.WaitRunning(ctx, 20*time.Second)
	return err
}

// killWorker kills a node that runs tasks and holds neither the broker nor the leadership's only copy, and waits until
// its tasks run elsewhere.
func killWorker(ctx context.Context, f *fleet.Fleet, a fleet.Cluster) error {
	victim := f.Nodes[2]
	before, err := a.TasksByWorker(ctx)
	if err != nil {
		return err
	}
	mine := before[victim.ID]
	fmt.Printf("  ── kill -9 %s (pid %d), which runs %v\n", victim.ID, victim.PID(), mine)
	victim.Kill()
	began := time.Now()
	for {
		now, err := a.TasksByWorker(ctx)
		if err == nil && len(now[victim.ID]) == 0 && now.Running() >= before.Running() {
			fmt.Printf("  ── its tasks run again after %.1f s: %s\n", time.Since(began).Seconds(), now)
			return nil
		}
		if time.Since(began) > 20*time.Second {
			return errors.Join(fmt.Errorf("20 s after the kill of %s its tasks do not run: %v", victim.ID, now), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func title(format string, args ...any) { fmt.Printf("\033[1m== "+format+"\033[0m\n", args...) }
