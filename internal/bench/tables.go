package main

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

// shape is a table to measure with. Its column note is free for the latency's clock.
type shape struct {
	name    string
	columns string
	insert  string // columns of the generator
	values  string // expressions over seq (1…1000) and @base
	rows    int
}

var shapes = []shape{
	{
		name: "orders", rows: 300_000,
		columns: `id bigint unsigned not null primary key auto_increment, customer_id int not null, sku varchar(32) not null, qty int not null,
			price decimal(12,2) not null, status enum('new','paid','shipped','done') not null default 'new', note varchar(200),
			created_at datetime(6) not null, updated_at timestamp(3) not null default current_timestamp(3), payload json,
			flag tinyint(1) not null default 0, weight double`,
		insert: "customer_id, sku, qty, price, status, note, created_at, payload, flag, weight",
		values: `seq mod 10007, concat('SKU-', lpad(seq mod 5003, 8, '0')), seq mod 17 + 1, (seq mod 100000)/100.0, 1+(seq mod 4),
			concat('note number ', @base+seq, ' some text that is of medium length'), '2026-01-01 00:00:00' + interval (@base+seq) second,
			json_object('a', @base+seq, 'b', concat('x', @base+seq)), seq mod 2, (@base+seq)/3.0`,
	},
	{
		name: "tiny", rows: 300_000,
		columns: "id bigint not null primary key auto_increment, v int not null, note varchar(40)",
		insert:  "v, note", values: "seq * 7, concat('n', @base+seq)",
	},
	wide(),
}

// wide has 50 columns of the usual kinds.
func wide() shape {
	s := shape{name: "wide", rows: 60_000, columns: "id bigint not null primary key auto_increment, note varchar(200)", insert: "note", values: "concat('n', @base+seq)"}
	for i := range 12 {
		n := strconv.Itoa(i)
		s.columns += ", i" + n + " int, t" + n + " varchar(60), p" + n + " decimal(14,4), d" + n + " datetime"
		s.insert += ", i" + n + ", t" + n + ", p" + n + ", d" + n
		s.values += ", seq*" + n + ", concat('text of column " + n + " in row ', @base+seq), (@base+seq)/" + strconv.Itoa(i+2) + ", '2026-01-01' + interval (@base+seq) second"
	}
	return s
}

// fill appends rows, a thousand in a transaction.
func (s shape) fill(ctx context.Context, db *sql.DB, rows int) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	insert := "insert into " + s.name + " (" + s.insert + ") select " + s.values + " from seq_1_to_1000"
	for done := 0; done < rows; done += 1000 {
		if _, err := c.ExecContext(ctx, fmt.Sprintf("set @base = %d", done)); err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, insert); err != nil {
			return fmt.Errorf("fill %s: %w", s.name, err)
		}
	}
	return nil
}

// create makes the table anew with its rows, in a database of its own so that neither system has to read other tables.
func (s shape) create(ctx context.Context, dsn string) (*sql.DB, error) {
	admin, err := sql.Open("mysql", dsn)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	for _, q := range []string{
		"drop database if exists " + s.database(), "create database " + s.database(),
		"create table " + s.database() + "." + s.name + " (" + s.columns + ")",
	} {
		if _, err := admin.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.SplitN(q, "(", 2)[0], err)
		}
	}
	db, err := sql.Open("mysql", dsn+s.database())
	if err != nil {
		return nil, err
	}
	return db, s.fill(ctx, db, s.rows)
}

func (s shape) database() string { return "bench_" + s.name }
