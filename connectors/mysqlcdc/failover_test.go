package mysqlcdc

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/testkit"
)

// openError is what Open says to an offset.
func openError(t *testing.T, cfg map[string]string, offset map[string]any) error {
	t.Helper()
	task := &source{}
	err := task.Open(t.Context(), connectors.SourceContext{
		TaskContext: connectors.TaskContext{Connector: "c", Config: cfg, Logger: testkit.Logger(t), Report: func(map[string]string) {}},
		Offset:      func(context.Context, map[string]any) (map[string]any, error) { return offset, nil },
	})
	_ = task.Close()
	return err
}

// replicate makes a server follow another one, and returns a function that waits until it has all and then ends that.
func replicate(t *testing.T, from, to testkit.Server) (promote func()) {
	t.Helper()
	handle := func(s testkit.Server) *sql.DB {
		db, err := sql.Open("mysql", s.DSN)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	source, replica := handle(from), handle(to)
	do := func(db *sql.DB, stmts ...string) {
		t.Helper()
		for _, s := range stmts {
			if _, err := db.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	at := fmt.Sprintf("_HOST='%s', %%[1]s_PORT=%s, %%[1]s_USER='cdc', %%[1]s_PASSWORD='cdc'", from.Host(), from.Port())
	if from.Kind == "mariadb" {
		do(source, "RESET MASTER")
		do(replica, "RESET MASTER", "SET GLOBAL gtid_slave_pos=''", "CHANGE MASTER TO MASTER"+fmt.Sprintf(at, "MASTER")+", MASTER_USE_GTID=slave_pos", "START SLAVE")
		return func() {
			var pos string
			var n int
			if err := errors.Join(source.QueryRow("SELECT @@GLOBAL.gtid_binlog_pos").Scan(&pos), replica.QueryRow("SELECT MASTER_GTID_WAIT(?, 20)", pos).Scan(&n)); err != nil || n != 0 {
				t.Fatalf("the replica does not reach %s: %d, %v", pos, n, err)
			}
			do(replica, "STOP SLAVE", "RESET SLAVE ALL")
		}
	}
	do(source, "RESET BINARY LOGS AND GTIDS")
	do(replica, "RESET BINARY LOGS AND GTIDS", "CHANGE REPLICATION SOURCE TO SOURCE"+fmt.Sprintf(at, "SOURCE")+", SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1", "START REPLICA")
	return func() {
		var pos string
		var n int
		if err := errors.Join(source.QueryRow("SELECT @@GLOBAL.gtid_executed").Scan(&pos), replica.QueryRow("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 20)", pos).Scan(&n)); err != nil || n != 0 {
			t.Fatalf("the replica does not reach %s: %d, %v", pos, n, err)
		}
		do(replica, "STOP REPLICA", "RESET REPLICA ALL")
	}
}

// TestFailover: a connector that is pointed at a replica of its server goes on by GTID, also in the middle of a transaction, with nothing
// lost or doubled.
func TestFailover(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			old := testkit.Instance(t, kind, "server_id=11")
			extra := map[string]string{"mysql": "log_replica_updates=ON", "mariadb": "log_slave_updates=ON"}[kind]
			next := testkit.Instance(t, kind, "server_id=12", extra)
			promote := replicate(t, old, next)
			db, name := testkit.Database(t, old)
			run := session(t, db)
			run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(2000))", "CREATE TABLE b (id INT PRIMARY KEY)")
			before := config(old, name, "max.batch.size", "3", "snapshot.mode", "no_data")
			after := config(next, name, "max.batch.size", "3", "snapshot.mode", "no_data")
			task := open(t, before, nil)
			run("INSERT INTO a VALUES (0,'x')", "BEGIN")
			want := []string{"a 0"}
			for i := 1; i < 30; i++ {
				run(fmt.Sprintf("INSERT INTO a VALUES (%d,REPEAT('y',2000)), (%d,'')", i, i+100), fmt.Sprintf("INSERT INTO b VALUES (%d)", i))
				want = append(want, fmt.Sprintf("a %d", i), fmt.Sprintf("a %d", i+100), fmt.Sprintf("b %d", i))
			}
			run("COMMIT")
			var got []string
			take := func(s step) {
				for _, e := range s.events {
					got = append(got, e.Table+" "+strings.TrimPrefix(e.Key, "id=i"))
				}
			}
			var offset map[string]any
			for len(got) < len(want)/2 {
				s, err := poll(t, task, 20*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				take(s)
				offset = s.offset
			}
			if offset["event"] == nil {
				t.Fatalf("the offset is not within the transaction: %v", offset)
			}
			_ = task.Close()
			promote()
			there, err := sql.Open("mysql", next.WithDatabase(name))
			if err != nil {
				t.Fatal(err)
			}
			defer there.Close()
			run = session(t, there)
			run("INSERT INTO a VALUES (1000,'on the new one')", "INSERT INTO b VALUES (1000)")
			want = append(want, "a 1000", "b 1000")
			task = open(t, after, offset)
			for len(got) < len(want) {
				s, err := poll(t, task, 20*time.Second)
				if err != nil {
					t.Fatalf("after %v: %v", got, err)
				}
				take(s)
				offset = s.offset
			}
			if strings.Join(got, ",") != strings.Join(want, ",") {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			// Back to the old server, which lacks what the new one has since written.
			if err := openError(t, before, offset); kind == "mysql" && (err == nil || !strings.Contains(err.Error(), "does not have")) {
				t.Errorf("a server that lags: %v", err)
			}
			cut := map[string]any{"file": offset["file"], "pos": offset["pos"], "server_uuid": "another"}
			if err := openError(t, after, cut); kind == "mysql" && (err == nil || !strings.Contains(err.Error(), "use GTIDs for failover")) {
				t.Errorf("a place of another server: %v", err)
			}
			cut = map[string]any{"gtids": offset["gtids"], "server_uuid": "another", "event": 1.0, "row": 0.0, "millrace_txn": "t", "row_event_size": 4096.0}
			if err := openError(t, after, cut); err == nil || !strings.Contains(err.Error(), "binlog_row_event_max_size=4096") {
				t.Errorf("a server that cuts row events otherwise: %v", err)
			}
		})
	}
}

// TestPurged: where the log to go on from is gone the connector says so, and with when_needed it reads all anew.
func TestPurged(t *testing.T) {
	for _, c := range []struct{ kind, option string }{{"mysql", "server_id=21"}, {"mysql", "gtid_mode=OFF"}, {"mariadb", "server_id=21"}} {
		t.Run(c.kind+" "+c.option, func(t *testing.T) {
			options := []string{c.option}
			if c.option == "gtid_mode=OFF" {
				options = append(options, "enforce_gtid_consistency=OFF")
			}
			srv := testkit.Instance(t, c.kind, options...)
			db, name := testkit.Database(t, srv)
			run := session(t, db)
			run("CREATE TABLE a (id INT PRIMARY KEY)", "INSERT INTO a VALUES (1)")
			task := open(t, config(srv, name), nil)
			steps := until(t, task, snapshotDone)
			_ = task.Close()
			offset := steps[len(steps)-1].offset
			run("INSERT INTO a VALUES (2)", "FLUSH BINARY LOGS", "INSERT INTO a VALUES (3)", "FLUSH BINARY LOGS", "INSERT INTO a VALUES (4)")
			// MariaDB keeps what a replica reads, and takes until the next heartbeat to see that ours is gone.
			testkit.Eventually(t, 30*time.Second, "the log is purged", func() error {
				logs := binlogs(t, db)
				run("PURGE BINARY LOGS TO '" + logs[len(logs)-1] + "'")
				if n := len(binlogs(t, db)); n > 1 {
					return fmt.Errorf("%d logs are there", n)
				}
				return nil
			})
			err := openError(t, config(srv, name), offset)
			if err == nil || !strings.Contains(err.Error(), "snapshot.mode=when_needed") || connectors.IsRetriable(err) {
				t.Fatalf("purged: %v", err)
			}
			t.Log(err)
			got := flat(until(t, open(t, config(srv, name, "snapshot.mode", "when_needed"), offset), snapshotDone))
			if len(got) != 4 || got[3].Op != "read" {
				t.Errorf("when_needed: %v", got)
			}
		})
	}
}

// binlogs lists the server's binlogs.
func binlogs(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.Query("SHOW BINARY LOGS")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		var name string
		values[0] = &name
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestServerIDClash: of two connectors that are the same replica to the server the older stops, and names the key.
func TestServerIDClash(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY)")
		cfg := config(srv, name, "snapshot.mode", "no_data")
		var own string
		if err := db.QueryRow("SELECT @@server_id").Scan(&own); err != nil {
			t.Fatal(err)
		}
		if err := openError(t, config(srv, name, "database.server.id", own), nil); err == nil || !strings.Contains(err.Error(), "The server itself has this id") {
			t.Errorf("the server's own id: %v", err)
		}
		first := open(t, cfg, nil)
		run("INSERT INTO a VALUES (1)")
		until(t, first, sees("a"))
		second := open(t, cfg, nil) // the same name too: to the server it is the same replica
		run("INSERT INTO a VALUES (2)")
		until(t, second, sees("a"))
		for i := 3; ; i++ {
			run(fmt.Sprintf("INSERT INTO a VALUES (%d)", i))
			_, err := poll(t, first, 20*time.Second)
			if err == nil && i < 100 {
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "database.server.id") {
				t.Errorf("after %d rows: %v", i, err)
			}
			return
		}
	})
}
