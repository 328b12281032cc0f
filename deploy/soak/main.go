// Command soak runs a cluster of real processes under load, breaks something at random every few seconds, and proves at the end that every
// committed change came through exactly once. `make soak` builds what it needs.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit/fleet"
	"github.com/millrace/millrace/internal/testkit/shop"
)

type options struct {
	bin, function, dir, servers, json, only, database string
	seed                                              uint64
	minutes                                           float64
	faults, nodes, rows, rate                         int
	kafkaPort, databasePort                           int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/millrace", "the millrace binary")
	flag.StringVar(&o.function, "function", "bin/maskorders", "the function's binary")
	flag.StringVar(&o.dir, "dir", "", "directory for the nodes' data and logs; it is emptied first")
	flag.StringVar(&o.servers, "servers", "internal/testkit/servers/servers", "the script that starts servers")
	flag.StringVar(&o.json, "json", "", "file for the report as JSON")
	flag.StringVar(&o.only, "only", "", "inject these faults only, by comma")
	flag.StringVar(&o.database, "database", "mysql", "mysql or mariadb")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "which faults come when")
	flag.Float64Var(&o.minutes, "minutes", 10, "how long faults are injected")
	flag.IntVar(&o.faults, "faults", 0, "end after so many faults, if that is sooner")
	flag.IntVar(&o.nodes, "nodes", 5, "3 or 5")
	flag.IntVar(&o.rows, "rows", 5000, "orders in the shop at the start")
	flag.IntVar(&o.rate, "rate", 200, "changes a second")
	flag.IntVar(&o.kafkaPort, "kafka-port", 29320, "port of the broker; the next one is taken, too")
	flag.IntVar(&o.databasePort, "database-port", 23320, "port of the database")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "\nsoak: %v\n", err)
		os.Exit(1)
	}
}

// soak is a run.
type soak struct {
	o          options
	rng        *rand.Rand
	lab        *lab
	broker, db *server
	fleet      *fleet.Fleet
	shop       *shop.Shop
	source     *sql.DB
	flow       *flow
	from       uint64
	report     report
}

const (
	sourceDB, copyDB = "shop", "warehouse"
	sourceTopic      = "soak.shop.orders"
	outTopic         = "soak.masked"
	// recoveryLimit is when the run gives up.
	recoveryLimit = 90 * time.Second
)

func run(ctx context.Context, o options) (err error) {
	if o.dir == "" {
		return errors.New("-dir is missing: a directory for the nodes' data and logs")
	}
	var ids []string
	for i := range o.nodes {
		ids = append(ids, fmt.Sprintf("node%d", i+1))
	}
	if err := os.RemoveAll(o.dir); err != nil {
		return fmt.Errorf("empty the directory (a run that was killed may have left its disks mounted: umount %s/node*): %w", o.dir, err)
	}
	fmt.Printf("seed %d\n", o.seed)
	s := &soak{o: o, rng: rand.New(rand.NewPCG(o.seed, 0)), flow: newFlow(), report: report{Seed: o.seed, Nodes: o.nodes}}
	chosen, err := choose(o.only, os.Geteuid() == 0)
	if err != nil {
		return err
	}
	if s.lab, err = newLab(o.dir, ids); err != nil {
		return err
	}
	defer s.lab.close()
	var addr string
	s.broker, s.db, addr = servers(o, s.lab)
	defer func() { err = errors.Join(err, s.broker.drop(), s.db.drop()) }()
	if err := errors.Join(s.broker.drop(), s.db.drop(), s.broker.up(), s.db.up()); err != nil {
		return err
	}
	defer func() {
		if s.fleet != nil {
			s.fleet.Close()
		}
	}()
	if err := s.start(ctx, addr, ids); err != nil {
		return err
	}
	return s.underLoad(ctx, addr, chosen)
}

// start makes shop, cluster and pipeline.
func (s *soak) start(ctx context.Context, addr string, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dsn := fmt.Sprintf("cdc:cdc@tcp(127.0.0.1:%d)/", s.db.port)
	admin, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	defer admin.Close()
	for _, name := range []string{sourceDB, copyDB} {
		if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name+" CHARACTER SET utf8mb4"); err != nil {
			return fmt.Errorf("create database %s: %w", name, err)
		}
	}
	if s.source, err = sql.Open("mysql", dsn+sourceDB); err != nil {
		return err
	}
	if s.shop, err = shop.Create(ctx, s.source, s.o.rows); err != nil {
		return err
	}
	s.shop.Committed, s.shop.Outlive = s.flow.committed, true

	s.fleet = &fleet.Fleet{Bin: s.o.bin, Dir: s.o.dir, Args: []string{"--brokers", fmt.Sprintf("%s:%d", addr, s.broker.port)}}
	if s.lab.root {
		s.fleet.Place = s.lab.place
	}
	if err := s.fleet.Group(ids...); err != nil {
		return err
	}
	for _, n := range s.fleet.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	for name, config := range s.pipeline(addr) {
		if err := s.ask(ctx, func(ctx context.Context, c fleet.Cluster) error { _, err := c.Create(ctx, name, config); return err }); err != nil {
			return fmt.Errorf("create connector %s: %w", name, err)
		}
	}
	return nil
}

func (s *soak) pipeline(addr string) map[string]map[string]string {
	function, err := filepath.Abs(s.o.function)
	if err != nil {
		function = s.o.function
	}
	topic := func(config map[string]string) map[string]string {
		config["topic.creation.default.partitions"], config["topic.creation.default.replication.factor"] = "4", "1"
		return config
	}
	return map[string]map[string]string{
		"soak-source": topic(map[string]string{
			"connector.class": "mysql", "topic.prefix": "soak", "database.include.list": sourceDB, "table.include.list": sourceDB + ".orders",
			"database.hostname": addr, "database.port": fmt.Sprint(s.db.port), "database.user": "cdc", "database.password": "cdc",
		}),
		"soak-mask": topic(map[string]string{
			"connector.class": "transform", "tasks.max": "2", "topics": sourceTopic, "transform.output.topic": outTopic, "function.command": function,
		}),
		"soak-sink": {
			"connector.class": "sql", "tasks.max": "2", "topics": sourceTopic, "connection.url": fmt.Sprintf("mysql://cdc:cdc@%s:%d/%s", addr, s.db.port, copyDB),
		},
	}
}

// underLoad writes, injects, stops writing and compares.
func (s *soak) underLoad(ctx context.Context, addr string, chosen []kind) error {
	up := func(ctx context.Context, c fleet.Cluster) error {
		_, err := c.WaitRunning(ctx, time.Second)
		return err
	}
	if err := s.ask(ctx, up); err != nil {
		return err
	}
	writing, stopWriting := context.WithCancel(ctx)
	var writers sync.WaitGroup
	var writeErr error
	writers.Go(func() { writeErr = s.shop.Write(writing, s.o.rate) })
	defer writers.Wait()
	defer stopWriting()
	if err := s.ask(ctx, func(ctx context.Context, c fleet.Cluster) error { return c.WaitCommitted(ctx, "soak-source") }); err != nil {
		return err
	}
	s.from = s.shop.Seq() // from here on every change must be in the topics

	brokers := kafka.Config{Brokers: []string{fmt.Sprintf("%s:%d", addr, s.broker.port)}}
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	var watchErr error
	watch.Go(func() { watchErr = s.flow.watch(watching, brokers, outTopic) })
	defer watch.Wait()
	defer stopWatching()
	first, cancel := context.WithTimeout(ctx, recoveryLimit)
	took, err := s.flow.since(first, time.Now())
	cancel()
	if err != nil {
		return err
	}
	fmt.Printf("records flow; a change takes %v through all partitions\n", took.Round(time.Millisecond))

	injectErr := s.inject(ctx, chosen)
	stopWriting()
	writers.Wait()
	s.report.Changes = s.shop.Changes()
	var equalErr error
	if injectErr == nil && writeErr == nil {
		fmt.Printf("%d changes were made; waiting until all of them have arrived\n", s.report.Changes)
		equalErr = s.compare(ctx, brokers.Brokers)
	}
	stopWatching()
	watch.Wait()
	err = errors.Join(injectErr, writeErr, equalErr, watchErr)
	s.report.Verdict = "equal"
	if err != nil {
		s.report.Verdict = err.Error()
	}
	s.report.summarize()
	s.report.table(os.Stdout)
	if s.o.json != "" {
		err = errors.Join(err, s.report.write(s.o.json))
	}
	if err == nil {
		fmt.Println("equal")
	}
	return err
}

// inject breaks one thing after the other until the time is over.
func (s *soak) inject(ctx context.Context, chosen []kind) error {
	began := time.Now()
	s.report.Load1 = load1()
	for _, k := range kinds {
		if k.root && !s.lab.root {
			s.report.Skipped = append(s.report.Skipped, k.name)
		}
	}
	var bag []kind
	for n := 0; time.Since(began).Minutes() < s.o.minutes && (s.o.faults == 0 || n < s.o.faults); n++ {
		if len(bag) == 0 {
			bag = append(bag, chosen...)
			s.rng.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		k := bag[0]
		bag = bag[1:]
		f, err := s.one(ctx, k, began)
		if err != nil {
			return fmt.Errorf("fault %d, %s on %s: %w", n+1, k.name, f.On, err)
		}
		s.report.Faults = append(s.report.Faults, f)
		fmt.Printf("%6.1f s  %-16s %-14s for %.1f s, recovered after %.2f s\n", f.AtS, f.Kind, f.On, f.HeldS, f.RecoveredS)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(between(s.rng, 1, 3)):
		}
	}
	s.report.Minutes = time.Since(began).Minutes()
	return nil
}

// one injects a fault, and waits until it is over and records flow again.
func (s *soak) one(ctx context.Context, k kind, began time.Time) (f fault, err error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	at := time.Now()
	f = fault{Kind: k.name, AtS: seconds(at.Sub(began))}
	on, hold, heal, err := k.do(ctx, s)
	f.On = on
	if err != nil {
		return f, err
	}
	from := time.Now()
	healed := make(chan error, 1)
	time.AfterFunc(hold, func() { healed <- heal() })
	if k.fromHeal {
		if err := <-healed; err != nil {
			return f, err
		}
		f.HeldS = seconds(time.Since(from))
		from = time.Now()
	}
	took, recoverErr := s.flow.since(ctx, from)
	f.RecoveredS = seconds(took)
	if !k.fromHeal {
		if err := <-healed; err != nil {
			return f, err
		}
		f.HeldS = seconds(hold)
	}
	if recoverErr != nil {
		return f, recoverErr
	}
	for _, n := range s.fleet.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return f, err
		}
	}
	return f, nil
}

// compare waits until the sink equals the source, and checks each change in both topics.
func (s *soak) compare(ctx context.Context, brokers []string) error {
	began := time.Now()
	for {
		err := shop.TablesEqual(ctx, s.source, sourceDB, copyDB)
		if err == nil {
			break
		}
		if time.Since(began) > recoveryLimit {
			return fmt.Errorf("NOT equal, the sink differs from the source: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Printf("  sink equals source %.1f s after the last change\n", time.Since(began).Seconds())
	for _, topic := range []string{sourceTopic, outTopic} {
		for {
			events, n, err := shop.ReadTopic(ctx, brokers, topic)
			if err != nil {
				return err
			}
			bad := shop.Check(s.shop.History(), events, s.from)
			if len(bad) == 0 {
				fmt.Printf("  topic %s: %d messages, each change once and in order per key\n", topic, n)
				break
			}
			if time.Since(began) > recoveryLimit {
				return fmt.Errorf("NOT equal, topic %s differs from what was done:\n  %s", topic, strings.Join(bad, "\n  "))
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	return nil
}
