package mysqlcdc

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/testkit"
)

// each runs a test on both servers.
func each(t *testing.T, f func(t *testing.T, srv testkit.Server)) {
	t.Run("mysql", func(t *testing.T) { f(t, testkit.MySQL(t)) })
	t.Run("mariadb", func(t *testing.T) { f(t, testkit.MariaDB(t)) })
}

func config(srv testkit.Server, db string, extra ...string) map[string]string {
	c := map[string]string{
		"database.hostname": srv.Host(), "database.port": fmt.Sprint(srv.Port()), "database.user": "cdc", "database.password": "cdc",
		"topic.prefix": "t", "database.include.list": db, "database.server.id": fmt.Sprint(100000 + rand.IntN(1<<30)), "database.ssl.mode": "disabled",
	}
	for i := 0; i < len(extra); i += 2 {
		c[extra[i]] = extra[i+1]
	}
	return c
}

// event is a change made comparable.
type event struct {
	Table, Op, Key string
	Before, After  string
}

func (e event) String() string { return fmt.Sprintf("%s %s %s->%s", e.Table, e.Op, e.Before, e.After) }

func show(t *record.Table, row record.Row) string {
	if row == nil {
		return "-"
	}
	var out []string
	for i, d := range row {
		var v string
		switch d.Kind {
		case record.KindNull:
			v = "NULL"
		case record.KindInt:
			v = fmt.Sprintf("i%d", d.Int())
		case record.KindUint:
			v = fmt.Sprintf("u%d", d.Uint())
		case record.KindFloat32:
			v = fmt.Sprintf("f%v", d.Float32())
		case record.KindFloat64:
			v = fmt.Sprintf("d%v", d.Float64())
		case record.KindText:
			v = fmt.Sprintf("%q", d.B)
		case record.KindBytes:
			v = fmt.Sprintf("x%x", d.B)
		default:
			v = "ABSENT"
		}
		out = append(out, t.Columns[i].Name+"="+v)
	}
	return strings.Join(out, " ")
}

func keyOf(t *record.Table, row record.Row) string {
	var out []string
	for _, k := range t.Key {
		out = append(out, show(&record.Table{Columns: t.Columns[k : k+1]}, row[k:k+1]))
	}
	return strings.Join(out, ",")
}

// step is a batch: its events and the offset after them, as it would come back from storage.
type step struct {
	events []event
	offset map[string]any
}

func open(t *testing.T, cfg map[string]string, offset map[string]any) *source {
	t.Helper()
	task := &source{}
	err := task.Open(t.Context(), connectors.SourceContext{
		TaskContext: connectors.TaskContext{Connector: "c", Config: cfg, Logger: testkit.Logger(t), Report: func(map[string]string) {}},
		Offset:      func(context.Context, map[string]any) (map[string]any, error) { return offset, nil },
	})
	if err != nil {
		_ = task.Close()
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = task.Close() })
	return task
}

func poll(t *testing.T, task *source, wait time.Duration) (step, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	b, err := task.Poll(ctx)
	if err != nil {
		return step{}, err
	}
	defer b.Release()
	var s step
	for _, r := range b.Records {
		ev, ok := r.Value.(*record.ChangeEvent)
		if !ok {
			s.events = append(s.events, event{Op: "tombstone"})
			continue
		}
		e := event{Table: ev.Table.Name, Op: ev.Op.String(), Before: show(ev.Table, ev.Before), After: show(ev.Table, ev.After)}
		if k, ok := r.Key.(*record.KeyRow); ok {
			e.Key = keyOf(k.Table, k.Row)
		}
		if ev.Op == record.OpDDL {
			e.Before, e.After = ev.DDLType, ev.SQL
		}
		s.events = append(s.events, e)
	}
	raw, err := json.Marshal(b.Offset.Position)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &s.offset); err != nil {
		t.Fatal(err)
	}
	return s, nil
}

// until polls until done says so.
func until(t *testing.T, task *source, done func(step) bool) []step {
	t.Helper()
	var out []step
	deadline := time.Now().Add(40 * time.Second)
	for {
		s, err := poll(t, task, time.Until(deadline))
		if err != nil {
			t.Fatalf("poll after %d batches: %v", len(out), err)
		}
		out = append(out, s)
		if done(s) {
			return out
		}
	}
}

func snapshotDone(s step) bool { return s.offset["snapshot_completed"] == true }

func sees(table string) func(step) bool {
	return func(s step) bool {
		return slices.ContainsFunc(s.events, func(e event) bool { return e.Table == table })
	}
}

func flat(steps []step) []event {
	var out []event
	for _, s := range steps {
		out = append(out, s.events...)
	}
	return out
}

// session gives a connection of its own with sql_mode off.
func session(t *testing.T, db *sql.DB) func(stmts ...string) {
	t.Helper()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	run := func(stmts ...string) {
		t.Helper()
		for _, s := range stmts {
			if _, err := c.ExecContext(context.Background(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	run("SET SESSION sql_mode='', time_zone='+05:00'")
	return run
}

var matrix = []string{
	"c1 TINYINT", "c2 TINYINT UNSIGNED", "c3 SMALLINT UNSIGNED", "c4 MEDIUMINT", "c5 MEDIUMINT UNSIGNED", "c6 INT", "c7 INT UNSIGNED ZEROFILL",
	"c8 BIGINT", "c9 BIGINT UNSIGNED", "c10 DECIMAL(65,30)", "c11 DECIMAL(10,2) ZEROFILL", "c12 FLOAT", "c13 DOUBLE", "c14 BIT(1)", "c15 BIT(64)",
	"c16 CHAR(255) CHARACTER SET utf8mb4", "c17 VARCHAR(255) CHARACTER SET latin1", "c18 VARCHAR(256) CHARACTER SET gbk", "c19 TEXT CHARACTER SET ucs2",
	"c20 BINARY(16)", "c21 VARBINARY(300)", "c22 TINYBLOB", "c23 LONGBLOB", "c24 ENUM('a','b''c','d,e')", "c25 SET('a','b','c')", "c26 YEAR",
	"c27 DATE", "c28 TIME", "c29 TIME(2)", "c30 TIME(6)", "c31 DATETIME", "c32 DATETIME(3)", "c33 DATETIME(6)", "c34 TIMESTAMP NULL", "c35 TIMESTAMP(6) NULL",
	"c36 JSON", "c37 GEOMETRY", "c38 CHAR(4) CHARACTER SET sjis", "c39 TEXT CHARACTER SET utf16", "c40 INT AS (c6+1) VIRTUAL", "c41 INT AS (c6+2) STORED",
	"c42 DECIMAL(5,0)", "c43 FLOAT(7,3)",
}

// rowsOf are literals for c1…c39, c42, c43.
var matrixRows = []string{
	"-128,255,65535,-8388608,16777215,-2147483648,4294967295,-9223372036854775808,18446744073709551615,-12345678901234567890123456789012345.012345678901234567890123456789,12.5,0.1,0.1,1,b'1111111111111111111111111111111111111111111111111111111111111111'," +
		"'héllo 😀  ','ÿ€é','中文','ΩЖ',X'0102000000000000000000000000FF00',X'00FF00',X'00',X'FF80','b''c','a,c',2155,'2024-02-29','-13:14:50','17:51:04.777','-838:59:58.999999','2024-02-29 10:11:12','2024-01-02 03:04:05.678','9999-12-31 23:59:59.999999','2038-01-19 08:14:07','1970-01-01 05:00:01.000001'," +
		`'{"b":1,"a":[1.0,1e20,-3,"x\\n\\"é",null,true,{}],"aa":18446744073709551615}',ST_GeomFromText('POINT(1 2)'),'ｱ表','𝄞x',-99999,1.234`,
	"127,0,0,8388607,0,2147483647,0,9223372036854775807,0,0.000000000000000000000000000001,0,-3.4028234e38,-1e-300,0,0,'','','','',X'00','','','','','',0,'0000-00-00','838:59:59','-00:00:00.5','-00:20:38.000000','0000-00-00 00:00:00','2024-00-10 00:00:00.5','0001-01-01 00:00:00.000001',0,0,'[]',NULL,'','',0,-0.5",
	"0,128,32768,-1,8388608,-1,2147483648,-1,9223372036854775808,-0.5,99999999.99,16777216,123456789.123456789,b'0',1,'x','a','a','a','abc','abc','abc','abc','d,e','a,b,c',1901,'2024-00-00','-00:00:01','00:00:00.01','00:00:00.000001','1000-01-01 00:00:00','1999-12-31 23:59:59.999','2000-01-01 00:00:00',20240310023000,'2024-11-03 01:30:00.5','3.14',ST_GeomFromText('LINESTRING(0 0,1 1)'),'ab','z',12345,-12.5",
	strings.Repeat("NULL,", 40) + "NULL",
}

func TestTwoPaths(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("SET NAMES utf8mb4", "CREATE TABLE m (id INT PRIMARY KEY,"+strings.Join(matrix, ",")+")")
		var cols []string
		for i := range 43 {
			if n := i + 1; n != 40 && n != 41 {
				cols = append(cols, fmt.Sprintf("c%d", n))
			}
		}
		insert := func(base int) {
			for i, r := range matrixRows {
				run(fmt.Sprintf("INSERT INTO m (id,%s) VALUES (%d,%s)", strings.Join(cols, ","), base+i, r))
			}
		}
		insert(0)
		task := open(t, config(srv, name), nil)
		snap := flat(until(t, task, snapshotDone))
		insert(100)
		run("CREATE TABLE z (a INT PRIMARY KEY)", "INSERT INTO z VALUES (1)")
		live := flat(until(t, task, sees("z")))
		if len(snap) != len(matrixRows) || len(live) != len(snap)+1 {
			t.Fatalf("snapshot has %d rows, stream %d", len(snap), len(live)-1)
		}
		for i := range snap {
			_, a, _ := strings.Cut(snap[i].After, " ")
			_, b, _ := strings.Cut(live[i].After, " ")
			if diff := cmp.Diff(strings.Split(a, " "), strings.Split(b, " ")); diff != "" {
				t.Errorf("row %d: snapshot(-) and stream(+) differ:\n%s", i, diff)
			}
			if snap[i].Op != "read" || live[i].Op != "create" {
				t.Errorf("row %d: ops %s, %s", i, snap[i].Op, live[i].Op)
			}
		}
		for _, want := range []string{
			"c1=i-128", "c9=u18446744073709551615", "c17=\"ÿ€é\"", "c28=\"-13:14:50\"", "c30=\"-838:59:58.999999\"",
			"c20=x0102000000000000000000000000ff00", "c15=u18446744073709551615", "c24=u2", "c25=u5", "c12=f0.1", "c35=i1000001", "c10=\"-12345678901234567890123456789012345.012345678901234567890123456789\"",
		} {
			if !strings.Contains(live[0].After+" ", want+" ") {
				t.Errorf("stream lacks %s in %s", want, live[0].After)
			}
		}
	})
}

// changes is a workload of all kinds of changes.
func changes(run func(...string)) {
	run("INSERT INTO a VALUES (1,'x'),(2,'y'),(3,'z')", "UPDATE a SET v='u' WHERE id<3", "BEGIN", "INSERT INTO b VALUES (1,1,'p'),(1,2,'q')",
		"UPDATE a SET id=id+10 WHERE id=3", "DELETE FROM b WHERE k2=1", "INSERT INTO n VALUES (7),(7)", "INSERT INTO n VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10),(11)", "COMMIT",
		"ALTER TABLE a ADD COLUMN w INT NOT NULL DEFAULT 5", "UPDATE a,b SET a.v='multi', b.v='multi' WHERE a.id=1 AND b.k1=1", "INSERT INTO a VALUES (20,'n',6)",
		"BEGIN", "INSERT INTO a VALUES (30,'rolled',1)", "SAVEPOINT s", "INSERT INTO a VALUES (31,'back',1)", "ROLLBACK TO s", "COMMIT",
		"CREATE TABLE d (id INT PRIMARY KEY) SELECT id FROM a", "TRUNCATE b", "INSERT INTO b VALUES (9,9,NULL)", "ALTER TABLE b CHANGE v vv VARCHAR(20)",
		"REPLACE INTO a VALUES (1,'r',1)", "DELETE FROM n LIMIT 1", "CREATE TABLE z (a INT PRIMARY KEY)", "INSERT INTO z VALUES (1)")
}

func tables(run func(...string)) {
	run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(10))", "CREATE TABLE b (k1 INT, k2 INT, v VARCHAR(10), PRIMARY KEY (k1,k2))", "CREATE TABLE n (x INT)")
}

func TestResumeFromEveryOffset(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		compression := []bool{false}
		if srv.Kind == "mysql" { // MariaDB compresses events, not transactions: TestCompressedEvents
			compression = append(compression, true)
		}
		for _, compressed := range compression {
			t.Run(fmt.Sprintf("compressed=%v", compressed), func(t *testing.T) {
				db, name := testkit.Database(t, srv)
				run := session(t, db)
				if compressed {
					run("SET SESSION binlog_transaction_compression=ON")
				}
				if strings.Contains(t.Name(), "/mysql/") {
					run("SET SESSION binlog_rows_query_log_events=ON")
				}
				tables(run)
				cfg := config(srv, name, "snapshot.mode", "no_data", "max.batch.size", "1", "include.schema.changes", "true", "include.statements", "true", "skipped.operations", "none")
				task := open(t, cfg, nil)
				changes(run)
				// Before the first change there is no batch: its place is the start of all.
				all := until(t, task, sees("z"))
				if !slices.ContainsFunc(flat(all), func(e event) bool { return e.Op == "create" && e.Table == "z" }) {
					all = append(all, until(t, task, func(s step) bool {
						return slices.ContainsFunc(s.events, func(e event) bool { return e.Op == "create" && e.Table == "z" })
					})...)
				}
				want := flat(all)
				if compressed {
					var n int
					if err := db.QueryRowContext(t.Context(), "SELECT COALESCE(SUM(transaction_counter),0) FROM performance_schema.binary_log_transaction_compression_stats WHERE compression_type='ZSTD'").Scan(&n); err != nil || n == 0 {
						t.Fatalf("no transaction was compressed: %v", err)
					}
				}
				_ = task.Close()
				got := map[string]int{}
				for _, e := range want {
					got[e.Op]++
				}
				t.Log(got)
				if got["create"] < 12 || got["update"] < 4 || got["delete"] < 3 || got["ddl"] < 5 || got["truncate"] != 1 || got["statement"] < 12 {
					t.Fatalf("events are missing: %v\n%v", got, want)
				}
				n := 0
				for i, s := range all[:len(all)-1] {
					n += len(s.events)
					task := open(t, cfg, s.offset)
					var rest []event
					for len(rest) < len(want)-n {
						s, err := poll(t, task, 10*time.Second)
						if err != nil {
							t.Fatalf("after offset %d %v: %v", i, s.offset, err)
						}
						rest = append(rest, s.events...)
					}
					_ = task.Close()
					if diff := cmp.Diff(want[n:], rest); diff != "" {
						t.Fatalf("after offset %d %v: wanted(-) got(+):\n%s", i, s.offset, diff)
					}
				}
			})
		}
	})
}

func TestSnapshotUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		tables(run)
		const rows = 6000
		for i := 0; i < rows; i += 500 {
			var va, vb []string
			for j := i; j < i+500; j++ {
				va = append(va, fmt.Sprintf("(%d,'s')", j))
				vb = append(vb, fmt.Sprintf("(%d,%d,'s')", j/7, j))
			}
			run("INSERT INTO a VALUES "+strings.Join(va, ","), "INSERT INTO b VALUES "+strings.Join(vb, ","))
		}
		run("INSERT INTO n VALUES (1),(1),(2)")
		var stop atomic.Bool
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(w), 1))
				for i := 0; !stop.Load(); i++ {
					id := rng.IntN(rows + 500)
					for _, s := range []string{
						fmt.Sprintf("INSERT INTO a VALUES (%d,'w%d') ON DUPLICATE KEY UPDATE v='w%d'", id, i%1000, i%1000),
						fmt.Sprintf("DELETE FROM a WHERE id=%d", rng.IntN(rows)),
						fmt.Sprintf("UPDATE IGNORE a SET id=id+100000 WHERE id=%d", rng.IntN(rows)),
						fmt.Sprintf("UPDATE b SET v='w%d' WHERE k2=%d", i%1000, rng.IntN(rows)),
						fmt.Sprintf("DELETE FROM b WHERE k2=%d", rng.IntN(rows)),
					} {
						_, _ = db.ExecContext(t.Context(), s) // a deadlock is fine
					}
				}
			})
		}
		state := map[string]map[string]string{"a": {}, "b": {}, "n": {}}
		apply := func(e event) {
			m := state[e.Table]
			if m == nil || e.Table == "n" {
				return
			}
			old, has := m[e.Key]
			switch e.Op {
			case "read":
				// A row that came by the stream before its chunk was read is read once more, never with another state.
				if has && old != e.After {
					t.Errorf("read of an older state: %v, have %s", e, old)
				}
				m[e.Key] = e.After
			case "create":
				if has {
					t.Errorf("%s of a row that is there: %v, have %s", e.Op, e, old)
				}
				m[e.Key] = e.After
			case "update":
				if has && old != e.Before {
					t.Errorf("update does not continue the row: have %s, event %v", old, e)
				}
				m[e.Key] = e.After
			case "delete":
				if has && old != e.Before {
					t.Errorf("delete does not continue the row: have %s, event %v", old, e)
				}
				delete(m, e.Key)
			}
		}
		cfg := config(srv, name, "incremental.snapshot.chunk.size", "300")
		var offset map[string]any
		keyless := 0
		kills, done := 0, false
		for deadline := time.Now().Add(60 * time.Second); !done; {
			if time.Now().After(deadline) {
				t.Fatal("the snapshot does not end")
			}
			task := open(t, cfg, offset)
			for n := 3 + rand.IntN(20); n > 0 || kills >= 8; n-- {
				s, err := poll(t, task, 20*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range s.events {
					apply(e)
					if e.Table == "n" {
						keyless++
					}
				}
				offset = s.offset
				if done = snapshotDone(s); done {
					break
				}
			}
			_ = task.Close()
			kills++
		}
		stop.Store(true)
		wg.Wait()
		t.Logf("%d kills, rows a %d b %d keyless %d", kills-1, len(state["a"]), len(state["b"]), keyless)
		run("CREATE TABLE z (a INT PRIMARY KEY)", "INSERT INTO z VALUES (1)")
		task := open(t, cfg, offset)
		for _, e := range flat(until(t, task, sees("z"))) {
			apply(e)
		}
		_ = task.Close()
		if keyless < 3 {
			t.Errorf("table without key: %d rows", keyless)
		}
		fresh := open(t, config(srv, name), nil)
		truth := map[string]map[string]string{"a": {}, "b": {}}
		for _, e := range flat(until(t, fresh, snapshotDone)) {
			if m := truth[e.Table]; m != nil {
				m[e.Key] = e.After
			}
		}
		for _, table := range []string{"a", "b"} {
			var n int
			if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != len(truth[table]) {
				t.Errorf("%s has %d rows, a snapshot at rest %d", table, n, len(truth[table]))
			}
			if !maps.Equal(truth[table], state[table]) {
				t.Errorf("%s: replayed state differs from the table: %s", table, cmp.Diff(truth[table], state[table]))
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		tables(run)
		t.Run("wrong password", func(t *testing.T) {
			p := validate(t.Context(), config(srv, name, "database.password", "no"))
			if len(p) != 2 || p[0].Key != keyUser || p[1].Key != keyPassword {
				t.Errorf("%v", p)
			}
		})
		t.Run("unreachable", func(t *testing.T) {
			p := validate(t.Context(), config(srv, name, "database.port", "1"))
			if len(p) != 1 || p[0].Key != keyHost {
				t.Errorf("%v", p)
			}
		})
		t.Run("good", func(t *testing.T) {
			if p := validate(t.Context(), config(srv, name)); len(p) > 0 {
				t.Errorf("%v", p)
			}
		})
		t.Run("privileges", func(t *testing.T) {
			user := "u" + name
			run("CREATE USER '"+user+"'@'%' IDENTIFIED BY 'p'", "GRANT SELECT ON "+name+".* TO '"+user+"'@'%'")
			t.Cleanup(func() { _, _ = db.ExecContext(context.Background(), "DROP USER '"+user+"'@'%'") })
			p := validate(t.Context(), config(srv, name, "database.user", user, "database.password", "p"))
			if len(p) != 1 || p[0].Key != keyUser || !strings.Contains(p[0].Message, "GRANT SELECT, REPLICATION SLAVE") {
				t.Errorf("%v", p)
			}
		})
		t.Run("statement", func(t *testing.T) {
			task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
			run("SET SESSION binlog_format='STATEMENT'", "INSERT INTO a VALUES (1,'s')", "SET SESSION binlog_format='ROW'")
			for {
				if _, err := poll(t, task, 20*time.Second); err != nil {
					if !strings.Contains(err.Error(), "INSERT was logged as a statement") {
						t.Errorf("error is %v", err)
					}
					return
				}
			}
		})
	})
}

// TestConnectionsCut kills all of the task's connections again and again: each change still comes once and in order.
func TestConnectionsCut(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} { // servers of its own: it kills all that reads the binlog
		srv := testkit.Instance(t, kind)
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, v INT)")
		task := open(t, config(srv, name, "snapshot.mode", "no_data", "max.batch.size", "7"), nil)
		const n = 600
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range n / 20 {
				var rows []string
				for j := range 20 {
					rows = append(rows, fmt.Sprintf("(%d)", i*20+j))
				}
				run("INSERT INTO a (v) VALUES " + strings.Join(rows, ","))
				time.Sleep(20 * time.Millisecond)
			}
		})
		cuts := 0
		var got []event
		for len(got) < n {
			s, err := poll(t, task, 20*time.Second)
			if err != nil {
				t.Fatalf("after %d rows and %d cuts: %v", len(got), cuts, err)
			}
			got = append(got, s.events...)
			if len(got)/100 > cuts {
				cuts++
				rows, err := db.QueryContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
				if err != nil {
					t.Fatal(err)
				}
				var ids []string
				for rows.Next() {
					var id string
					if err := rows.Scan(&id); err != nil {
						t.Fatal(err)
					}
					ids = append(ids, id)
				}
				_ = rows.Close()
				for _, id := range ids {
					_, _ = db.ExecContext(t.Context(), "KILL "+id)
				}
			}
		}
		wg.Wait()
		for i, e := range got {
			if want := fmt.Sprintf("v=i%d", i); !strings.HasSuffix(e.After, want) {
				t.Fatalf("event %d is %v", i, e)
			}
		}
		t.Logf("%s: %d rows, %d cuts", kind, len(got), cuts)
	}
}

// TestWithoutGTID takes the other ways: file and position, locking chunk reads, and the default metadata.
func TestWithoutGTID(t *testing.T) {
	srv := testkit.Instance(t, "mysql", "gtid_mode=OFF", "enforce_gtid_consistency=OFF", "binlog_row_metadata=MINIMAL")
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	tables(run)
	run("INSERT INTO a VALUES (1,'x'),(2,'y')", "INSERT INTO n VALUES (1)")
	cfg := config(srv, name)
	task := open(t, cfg, nil)
	first := until(t, task, snapshotDone)
	if n := len(flat(first)); n != 3 {
		t.Errorf("snapshot has %d rows", n)
	}
	_ = task.Close()
	run("INSERT INTO a VALUES (3,'z')", "CREATE TABLE z (a INT PRIMARY KEY)", "INSERT INTO z VALUES (1)")
	last := first[len(first)-1]
	if last.offset["gtids"] != nil {
		t.Errorf("offset has GTIDs: %v", last.offset)
	}
	got := flat(until(t, open(t, cfg, last.offset), sees("z")))
	if len(got) != 2 || got[0].After != `id=i3 v="z"` {
		t.Errorf("after the snapshot: %v", got)
	}
	foreign := maps.Clone(last.offset)
	foreign["server_uuid"] = "other"
	bad := &source{}
	err := bad.Open(t.Context(), connectors.SourceContext{
		TaskContext: connectors.TaskContext{Config: cfg, Logger: testkit.Logger(t)},
		Offset:      func(context.Context, map[string]any) (map[string]any, error) { return foreign, nil },
	})
	if err == nil || !strings.Contains(err.Error(), "belongs to server other") {
		t.Errorf("another server's offset: %v", err)
	}
	_ = bad.Close()
}

// BenchmarkStream measures binlog to batches, and the snapshot, with a real server.
func BenchmarkStream(b *testing.B) {
	srv := testkit.MySQL(b)
	db, name := testkit.Database(b, srv)
	exec := func(s string) {
		if _, err := db.ExecContext(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	exec("CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(40), n INT, d DECIMAL(10,2), t DATETIME)")
	const rows = 200000
	measure := func(what string, mode string, ready chan struct{}) {
		task := &source{}
		defer func() { _ = task.Close() }()
		err := task.Open(b.Context(), connectors.SourceContext{
			TaskContext: connectors.TaskContext{Config: config(srv, name, "snapshot.mode", mode), Logger: testkit.Logger(b)},
			Offset:      func(context.Context, map[string]any) (map[string]any, error) { return nil, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		if ready != nil {
			for i := 0; i < rows; i += 1000 {
				exec("INSERT INTO a (v,n,d,t) VALUES " + strings.Repeat("('some text of usual length',5,12.34,'2024-01-01 10:11:12'),", 999) + "('x',1,1,'2024-01-01')")
			}
		}
		start := time.Now()
		for n := 0; n < rows; {
			batch, err := task.Poll(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			n += len(batch.Records)
			batch.Release()
		}
		b.ReportMetric(rows/time.Since(start).Seconds(), what+"-rows/s")
	}
	for b.Loop() {
		measure("stream", "no_data", make(chan struct{}))
		measure("snapshot", "initial", nil)
		exec("TRUNCATE a")
	}
}

// TestSnapshotKeys reads tables with keys of many types in chunks of two rows: each row comes once.
func TestSnapshotKeys(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("SET NAMES utf8mb4")
		for i, k := range []struct{ typ, values string }{
			{"VARCHAR(20) CHARACTER SET latin1", "(''),('a'),('B'),('é'),('z'),('it''s')"},
			{"VARCHAR(20) CHARACTER SET gbk", "('中'),('a'),('文'),('z'),('0')"},
			{"VARCHAR(20) CHARACTER SET utf8mb4", "('😀'),('ß'),('A'),('b'),('\\\\')"},
			{"DECIMAL(20,5)", "(-1.5),(0),(1.5),(99999999.12345),(2)"},
			{"BINARY(4)", "(X'00'),(X'01000000'),(X'FF'),(X'FFFF'),(X'02')"},
			{"BIGINT UNSIGNED", "(0),(18446744073709551615),(9223372036854775808),(5),(6)"},
			{"ENUM('z','y','x','w','a')", "('z'),('y'),('x'),('w'),('a')"},
			{"DOUBLE", "(-1e300),(0.1),(1e-300),(5),(6)"},
			{"FLOAT", "(-1e30),(0.1),(0.2),(5),(16777216)"},
			{"TIMESTAMP(6)", "('2024-01-01'),('2024-01-01 00:00:00.000001'),('2024-03-10 02:30:00'),('2001-01-01'),('2030-01-01')"},
			{"DATETIME(3)", "('0000-00-00'),('2024-01-01 00:00:00.001'),('2024-03-10 02:30:00'),('2001-01-01'),('2030-01-01')"},
			{"TIME(2)", "('-800:00:00'),('-00:00:00.5'),('0'),('00:00:00.5'),('800:00:00')"},
			{"DATE", "('0000-00-00'),('2024-00-00'),('2024-01-01'),('2025-01-01'),('9999-12-31')"},
			{"BIT(40)", "(0),(1),(b'1111111111111111111111111111111111111111'),(7),(9)"},
		} {
			run(fmt.Sprintf("CREATE TABLE k%d (k %s NOT NULL PRIMARY KEY)", i, k.typ), fmt.Sprintf("INSERT INTO k%d VALUES %s", i, k.values))
		}
		run("CREATE TABLE kk (a VARCHAR(5), b INT, c DATE, PRIMARY KEY (c,a,b))", "INSERT INTO kk VALUES ('a',1,'2024-01-01'),('a',2,'2024-01-01'),('b',1,'2024-01-01'),('a',1,'2024-01-02'),('b',0,'2023-01-01')")
		got := map[string]int{}
		for _, e := range flat(until(t, open(t, config(srv, name, "incremental.snapshot.chunk.size", "2"), nil), snapshotDone)) {
			if got[e.Table+e.Key]++; got[e.Table+e.Key] > 1 {
				t.Errorf("%v comes twice", e)
			}
			got[e.Table]++
		}
		for table, want := range map[string]int{"k0": 6, "kk": 5} {
			if got[table] != want {
				t.Errorf("%s: %d rows, want %d", table, got[table], want)
			}
		}
		for i := 1; i < 14; i++ {
			if n := got[fmt.Sprintf("k%d", i)]; n != 5 {
				t.Errorf("k%d: %d rows, want 5", i, n)
			}
		}
	})
}
