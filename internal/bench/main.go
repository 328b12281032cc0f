package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

type options struct {
	rounds, rows, rate, seconds int
	tables, parts               []string
	alone                       bool
	out, doc                    string
	format, profile             string
}

func main() {
	var o options
	var tables, parts string
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.IntVar(&o.rows, "rows", 0, "rows of a table, instead of each table's own number")
	flag.IntVar(&o.rate, "rate", 200, "rows/s of the latency's load")
	flag.IntVar(&o.seconds, "seconds", 20, "how long the latency is measured")
	flag.StringVar(&tables, "tables", "orders,tiny,wide", "tables to measure")
	flag.StringVar(&parts, "parts", "rates,latency", "what to measure")
	flag.BoolVar(&o.alone, "alone", false, "measure Millrace only")
	flag.StringVar(&o.format, "format", "canal-json", "what Millrace writes: canal-json, its default, or debezium-json as Debezium does")
	flag.StringVar(&o.profile, "profile", "", "address for Millrace's profiles while it is measured")
	flag.StringVar(&o.out, "json", "", "write the results to this file")
	flag.StringVar(&o.doc, "doc", "", "write the table into this page, between its bench comments")
	flag.Parse()
	o.tables, o.parts = strings.Split(tables, ","), strings.Split(parts, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "millrace-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("find the source tree: %w", err)
	}
	top := strings.TrimSpace(string(root))
	e := &env{scripts: filepath.Join(top, "internal/testkit/servers/servers"), bin: filepath.Join(top, "bin/millrace"), dir: dir, profile: o.profile}
	if err := e.up(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.down(context.WithoutCancel(ctx))) }()
	if err := warmUp(ctx, e); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	var results []result
	for _, sh := range shapes {
		if !slices.Contains(o.tables, sh.name) {
			continue
		}
		if o.rows > 0 {
			sh.rows = o.rows
		}
		for round := 1; round <= o.rounds; round++ {
			list, err := one(ctx, e, o, sh, round)
			results = append(results, list...)
			if err != nil {
				return err
			}
		}
	}
	return write(ctx, o, results)
}

// warmUp has the broker and the database do once what they will be measured with: a broker's first seconds are slow.
func warmUp(ctx context.Context, e *env) error {
	sh := shapes[0]
	db, err := sh.create(ctx, e.dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = rates(ctx, e, e.millrace, sh, db, nil)
	return err
}

// variant is a system as it is measured.
type variant struct {
	name  string
	start func(context.Context) (*system, error)
	extra map[string]string
	once  bool // latency only
}

// one is a round: every system in turn, in another order each time.
func one(ctx context.Context, e *env, o options, sh shape, round int) ([]result, error) {
	ours := map[string]string{}
	if o.format == "canal-json" {
		ours = map[string]string{"connector.class": "mysql", "key.converter": "", "value.converter": "", "key.converter.schemas.enable": "", "value.converter.schemas.enable": ""}
	}
	atLeastOnce := maps.Clone(ours)
	atLeastOnce["exactly.once.support"] = "disabled"
	all := []variant{
		{name: "Millrace", start: e.millrace, extra: ours},
		{name: "Debezium", start: e.debezium},
		{name: "Millrace again", start: e.millrace, extra: ours},
		{name: "Millrace at least once", start: e.millrace, extra: atLeastOnce, once: true},
	}
	if o.alone {
		all = slices.DeleteFunc(all, func(v variant) bool { return v.name == "Debezium" })
	}
	if round%2 == 0 {
		slices.Reverse(all)
	}
	var out []result
	for _, v := range all {
		r := result{}
		db, err := sh.create(ctx, e.dsn)
		if err != nil {
			return out, err
		}
		if slices.Contains(o.parts, "rates") && !v.once {
			if r, err = rates(ctx, e, v.start, sh, db, v.extra); err != nil {
				return out, fmt.Errorf("%s, %s: %w", v.name, sh.name, err)
			}
		}
		if slices.Contains(o.parts, "latency") && sh.name == "orders" {
			l, err := latency(ctx, e, v.start, sh, db, v.extra, o.rate, o.seconds)
			if err != nil {
				return out, fmt.Errorf("%s, latency: %w", v.name, err)
			}
			r.P50, r.P99 = l.P50, l.P99
		}
		_ = db.Close()
		if r == (result{}) {
			continue
		}
		r.System, r.Table, r.Round = v.name, sh.name, round
		out = append(out, r)
		b, _ := json.Marshal(r)
		fmt.Println(string(b))
	}
	return out, nil
}
