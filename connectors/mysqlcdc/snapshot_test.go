package mysqlcdc

import (
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
)

// fill inserts n rows into a table (id, v).
func fill(run func(...string), table string, n int) {
	for i := 0; i < n; i += 500 {
		var rows []string
		for j := i; j < min(n, i+500); j++ {
			rows = append(rows, fmt.Sprintf("(%d,'s')", j))
		}
		run("INSERT INTO " + table + " VALUES " + strings.Join(rows, ","))
	}
}

// truth reads a table (id, v) as events show it.
func truth(t *testing.T, db *sql.DB, table string) map[string]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT id, v FROM "+table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var id int
		var v string
		if err := rows.Scan(&id, &v); err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprintf("id=i%d", id)] = fmt.Sprintf("id=i%d v=%q", id, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// replay keeps a table's state by events.
func replay(state map[string]string, table string, events []event) {
	for _, e := range events {
		if e.Table != table {
			continue
		}
		if e.Op == "delete" {
			delete(state, e.Key)
		} else {
			state[e.Key] = e.After
		}
	}
}

// TestReadOnDemand: tables are read anew on a signal, by REST's way and by the signal table, while writers go on and the task is killed
// again and again; in the end the state by key is the table's, and rows that never changed have come.
func TestReadOnDemand(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(20))", "CREATE TABLE n (x INT)", "CREATE TABLE sig (id VARCHAR(42) PRIMARY KEY, type VARCHAR(32), data TEXT)")
		fill(run, "a", 4000)
		run("INSERT INTO n VALUES (1),(2)")
		cfg := config(srv, name, "snapshot.mode", "no_data", "incremental.snapshot.chunk.size", "100", "signal.data.collection", name+".sig",
			"table.include.list", name+"\\.[an]")
		task := open(t, cfg, nil)
		run("INSERT INTO a VALUES (9000,'x')")
		steps := until(t, task, sees("a"))
		state := map[string]string{}
		replay(state, "a", flat(steps))
		if len(state) != 1 {
			t.Fatalf("no_data reads rows: %v", state)
		}
		for _, bad := range [][2]string{{"execute-snapshot", `{"data-collections":["nowhere.at_all"]}`}, {"execute-snapshot", "{"}, {"execute-snapshot", ""}, {"dance", ""}} {
			if err := task.Signal(t.Context(), bad[0], bad[1]); err == nil {
				t.Errorf("signal %v is taken", bad)
			}
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				id := rand.IntN(4200)
				_, _ = db.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO a VALUES (%d,'w%d') ON DUPLICATE KEY UPDATE v='w%d'", id, i, i))
				_, _ = db.ExecContext(t.Context(), fmt.Sprintf("DELETE FROM a WHERE id=%d", rand.IntN(4000)))
			}
		})
		var reads, keyless, kills int
		take := func(s step) {
			for _, e := range s.events {
				if e.Table == "sig" {
					t.Errorf("an event of the signal table, which is not captured: %v", e)
				}
				if e.Op == "read" && e.Table == "a" {
					reads++
				}
				if e.Op == "read" && e.Table == "n" {
					keyless++
				}
			}
			replay(state, "a", s.events)
		}
		offset := steps[len(steps)-1].offset
		finish := func() {
			deadline := time.Now().Add(30 * time.Second)
			for begun := false; !begun || offset["snapshot_requested"] != nil; {
				for n := 3 + rand.IntN(12); n > 0 || kills >= 5; n-- {
					if time.Now().After(deadline) {
						t.Fatalf("the read does not end: %v", offset)
					}
					s, err := poll(t, task, 20*time.Second)
					if err != nil {
						t.Fatal(err)
					}
					take(s)
					offset = s.offset
					begun = begun || offset["snapshot_requested"] != nil
					if begun && offset["snapshot_requested"] == nil {
						return
					}
				}
				_ = task.Close()
				kills++
				task = open(t, cfg, offset)
			}
		}
		run(`INSERT INTO sig VALUES ('1','execute-snapshot','{"data-collections": [".*[.]a", ".*[.]n"], "type": "incremental"}')`)
		finish()
		if reads < 500 || keyless < 2 || kills < 1 {
			t.Errorf("signal table: %d rows of a, %d of n, %d kills", reads, keyless, kills)
		}
		// By REST's way, with a condition.
		reads = 0
		kills = 5
		go func() {
			if err := task.Signal(t.Context(), "execute-snapshot", `{"data-collections":[".*[.]a"],"additional-conditions":[{"data-collection":".*[.]a","filter":"id < 100"}]}`); err != nil {
				t.Error(err)
			}
		}()
		finish()
		if reads > 100 {
			t.Errorf("with a condition: %d rows", reads)
		}
		stop.Store(true)
		wg.Wait()
		run("INSERT INTO n VALUES (77)")
		for _, s := range until(t, task, sees("n")) {
			take(s)
		}
		if want := truth(t, db, "a"); !maps.Equal(want, state) {
			t.Errorf("the replayed state has %d rows and differs from the table's %d", len(state), len(want))
		}
	})
}

// TestTablesJoin: rows of tables that a changed filter or a rename brings in are read while the log is followed.
func TestTablesJoin(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(20))", "CREATE TABLE b LIKE a", "CREATE TABLE x LIKE a", "CREATE TABLE ghost LIKE a")
		fill(run, "b", 1200)
		fill(run, "x", 700)
		run("INSERT INTO a VALUES (1,'one')", "INSERT INTO ghost VALUES (1,'one')")
		cfg := config(srv, name, "table.include.list", name+"\\.a", "incremental.snapshot.chunk.size", "100")
		task := open(t, cfg, nil)
		steps := until(t, task, snapshotDone)
		_ = task.Close()
		cfg["table.include.list"] = name + "\\.a," + name + "\\.b," + name + "\\.y"
		task = open(t, cfg, steps[len(steps)-1].offset)
		state := map[string]string{}
		for deadline := time.Now().Add(20 * time.Second); len(state) < 1200 && time.Now().Before(deadline); {
			s, err := poll(t, task, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			replay(state, "b", s.events)
		}
		if want := truth(t, db, "b"); !maps.Equal(want, state) {
			t.Errorf("b joined with %d rows of %d", len(state), len(want))
		}
		// An online schema change swaps a table that is captured: nothing is read. One that gets a captured name is.
		run("RENAME TABLE a TO a_old, ghost TO a", "RENAME TABLE x TO y", "INSERT INTO a VALUES (2,'two')")
		state = map[string]string{}
		var swapped []event
		for deadline := time.Now().Add(20 * time.Second); len(state) < 700 && time.Now().Before(deadline); {
			s, err := poll(t, task, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			replay(state, "y", s.events)
			swapped = append(swapped, slices.DeleteFunc(s.events, func(e event) bool { return e.Table != "a" })...)
		}
		if want := truth(t, db, "y"); !maps.Equal(want, state) {
			t.Errorf("y joined with %d rows of %d", len(state), len(want))
		}
		if len(swapped) != 1 || swapped[0].Op != "create" {
			t.Errorf("events of a after it was swapped: %v", swapped)
		}
	})
}

// TestBigRows: rows that are much bigger than the first guess make smaller chunks, and a chunk that grows too big is cut.
func TestBigRows(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY, v LONGTEXT)")
		fill(run, "a", 300)
		run("ANALYZE TABLE a") // the server's guess is: small rows
		for i := 300; i < 360; i++ {
			run(fmt.Sprintf("INSERT INTO a VALUES (%d, REPEAT('x', 1000000))", i))
		}
		task := open(t, config(srv, name), nil)
		total, biggest := 0, 0
		for {
			s, err := poll(t, task, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for _, e := range s.events {
				total++
				size += len(e.After)
			}
			biggest = max(biggest, size)
			if snapshotDone(s) {
				break
			}
		}
		if total != 360 {
			t.Errorf("%d rows of 360", total)
		}
		if biggest > 3*chunkBytes {
			t.Errorf("a chunk of %d bytes", biggest)
		}
	})
}

func TestSnapshotModes(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(20))")
		fill(run, "a", 10)
		count := func(offset map[string]any, extra ...string) (int, map[string]any) {
			task := open(t, config(srv, name, extra...), offset)
			defer task.Close()
			n := 0
			for {
				s, err := poll(t, task, 3*time.Second)
				if err != nil {
					return n, offset
				}
				offset = s.offset
				for _, e := range s.events {
					if e.Op == "read" {
						n++
					}
				}
				if snapshotDone(s) {
					return n, offset
				}
			}
		}
		n, offset := count(nil, "snapshot.mode", "always")
		if n != 10 {
			t.Errorf("always: %d rows", n)
		}
		if n, offset = count(offset, "snapshot.mode", "always"); n != 10 {
			t.Errorf("always, again: %d rows", n)
		}
		if n, _ := count(offset, "snapshot.mode", "recovery"); n != 0 {
			t.Errorf("recovery: %d rows", n)
		}
		if n, _ := count(nil, "snapshot.select.statement.overrides", name+".a", "snapshot.select.statement.overrides."+name+".a", "SELECT * FROM "+name+".a WHERE id >= 7;"); n != 3 {
			t.Errorf("override: %d rows", n)
		}
	})
}
