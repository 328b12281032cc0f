package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/testkit/shop"
)

// columns are the order's columns as the source has them; the function adds total.
const columns = "id, customer_id, email, phone, status, quantity, unit_price, note, created_at, updated_at, seq"

// row is an order as text, column by column; nil is NULL.
type row map[string]*string

// compare waits until the warehouse equals the shop passed through the functions, and then looks at every stage: the topic
// holds each change exactly once, in order; the table equals; the files, replayed, equal.
func compare(ctx context.Context, db *sql.DB, s *shop.Shop, from uint64, brokers []string, archive string) error {
	source, err := read(ctx, db, "SELECT "+columns+" FROM shop.orders")
	if err != nil {
		return err
	}
	want, big := map[string]row{}, map[string]bool{}
	for id, r := range source {
		if out, isBig, keep := throughFunctions(r); keep {
			want[id], big[id] = out, isBig
		}
	}

	began := time.Now()
	var diff []string
	for {
		got, err := read(ctx, db, "SELECT "+columns+", total FROM warehouse.orders")
		if err != nil {
			return fmt.Errorf("read the warehouse: %w", err)
		}
		if diff = differences(want, got); len(diff) == 0 {
			break
		}
		if time.Since(began) > 40*time.Second {
			return fmt.Errorf("NOT equal, the warehouse differs from the shop after 40 s:\n  %s", strings.Join(diff[:min(len(diff), 10)], "\n  "))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped while the warehouse still differed: %w", errors.Join(ctx.Err(), errors.New(diff[0])))
		case <-time.After(200 * time.Millisecond):
		}
	}
	fmt.Printf("  table  warehouse.orders  %d rows, row by row equal to shop.orders (%d rows) through both functions, %.1f s after the last change\n", len(want), len(source), time.Since(began).Seconds())

	events, n, err := shop.ReadTopic(ctx, brokers, "shop.shop.orders")
	if err != nil {
		return err
	}
	if bad := shop.Check(s.History(), events, from); len(bad) > 0 {
		return fmt.Errorf("NOT equal, the topic differs from what was done:\n  %s", strings.Join(bad, "\n  "))
	}
	fmt.Printf("  topic  shop.shop.orders  %d messages, each change once and in order\n", n)

	for id := range want {
		if big[id] {
			delete(want, id)
		}
	}
	for {
		got, lines, err := replay(archive)
		if err != nil {
			return err
		}
		if diff = differences(want, got); len(diff) == 0 {
			fmt.Printf("  files  %s  %d lines, replayed: %d rows, equal\n", archive, lines, len(got))
			break
		}
		if time.Since(began) > 60*time.Second {
			return fmt.Errorf("NOT equal, the files replayed differ from the shop:\n  %s", strings.Join(diff[:min(len(diff), 10)], "\n  "))
		}
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Printf("\033[1;32mequal\033[0m\n")
	return nil
}

// throughFunctions is what the two functions make of a row, written once more and independently.
func throughFunctions(r row) (out row, big, keep bool) {
	out = maps.Clone(r)
	at := strings.IndexByte(*r["email"], '@')
	email := (*r["email"])[:1] + "***" + (*r["email"])[at:]
	out["email"] = &email
	if p := r["phone"]; p != nil {
		phone := strings.Repeat("*", len(*p)-2) + (*p)[len(*p)-2:]
		out["phone"] = &phone
	}
	quantity, _ := strconv.ParseInt(*r["quantity"], 10, 64)
	cents, _ := strconv.ParseInt(strings.Replace(*r["unit_price"], ".", "", 1), 10, 64)
	total := fmt.Sprintf("%d.%02d", quantity*cents/100, quantity*cents%100)
	out["total"] = &total
	customer, _ := strconv.Atoi(*r["customer_id"])
	return out, cents >= 80000, customer >= 100
}

func read(ctx context.Context, db *sql.DB, query string) (map[string]row, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out := map[string]row{}
	for rows.Next() {
		vals := make([]sql.NullString, len(names))
		ptrs := make([]any, len(names))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		if err := rows.Scan(ptrs...); err != nil {
			return nil, err
		}
		r := row{}
		for i, v := range vals {
			if v.Valid {
				r[names[i]] = &vals[i].String
			} else {
				r[names[i]] = nil
			}
		}
		out[*r["id"]] = r
	}
	return out, rows.Err()
}

// differences names what is missing, extra or different, in order of id.
func differences(want, got map[string]row) []string {
	var out []string
	ids := map[string]bool{}
	for id := range want {
		ids[id] = true
	}
	for id := range got {
		ids[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		w, g := want[id], got[id]
		switch {
		case w == nil:
			out = append(out, fmt.Sprintf("order %s is extra", id))
		case g == nil:
			out = append(out, fmt.Sprintf("order %s is missing", id))
		default:
			for _, c := range slices.Sorted(maps.Keys(w)) {
				if show(w[c]) != show(g[c]) {
					out = append(out, fmt.Sprintf("order %s: %s is %s, should be %s", id, c, show(g[c]), show(w[c])))
				}
			}
		}
	}
	return out
}

func show(s *string) string {
	if s == nil {
		return "NULL"
	}
	return strconv.Quote(*s)
}

// replay folds the archive's Canal JSON lines into the last state of each order, in the order of each partition's files.
func replay(dir string) (map[string]row, int, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look at the archive: %w", err)
	}
	slices.Sort(files)
	out, lines := map[string]row{}, 0
	for _, path := range files {
		n, err := replayFile(path, out)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", path, err)
		}
		lines += n
	}
	return out, lines, nil
}

func replayFile(path string, out map[string]row) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // renamed since it was listed: the next look sees it
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	n := 0
	for sc.Scan() {
		var m struct {
			Type string `json:"type"`
			Data []row  `json:"data"`
		}
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			return n, fmt.Errorf("line %d: %w", n+1, err)
		}
		n++
		for _, r := range m.Data {
			if m.Type == "DELETE" {
				delete(out, *r["id"])
			} else {
				out[*r["id"]] = normal(r)
			}
		}
	}
	return n, sc.Err()
}

// normal turns Canal's spelling of values into the server's: an enum is its index there.
func normal(r row) row {
	names := []string{"", "new", "paid", "shipped", "cancelled", "test"}
	if s := r["status"]; s != nil {
		if i, err := strconv.Atoi(*s); err == nil && i < len(names) {
			r["status"] = &names[i]
		}
	}
	return r
}
