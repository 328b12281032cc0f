package mysqlcdc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/testkit"
)

// TestXA: rows of XA transactions come when they commit, in their place, and not at all when they roll back; also when the task is killed
// between the two, and once only.
func TestXA(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		other := session(t, db)
		run("USE "+name, "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(20))")
		other("USE " + name)
		if srv.Kind == "mysql" {
			other("SET SESSION binlog_transaction_compression=ON")
		}
		cfg := config(srv, name, "snapshot.mode", "no_data", "max.batch.size", "2")
		task := open(t, cfg, nil)
		xid := func(s string) string { return "'" + name + s + "'" }
		prepare := func(run func(...string), id string, rows ...string) {
			run("XA START " + xid(id))
			for _, r := range rows {
				run("INSERT INTO a VALUES " + r)
			}
			run("XA END "+xid(id), "XA PREPARE "+xid(id))
		}
		run("INSERT INTO a VALUES (1,'first')")
		prepare(other, "1", "(10,'x')", "(11,'x'),(12,'x'),(13,'x')", "(14,'x')")
		run("INSERT INTO a VALUES (2,'between')")
		steps := until(t, task, func(s step) bool { return strings.Contains(fmt.Sprint(s.events), "between") })
		_ = task.Close()
		task = open(t, cfg, steps[len(steps)-1].offset)
		other("XA COMMIT " + xid("1"))
		prepare(other, "2", "(20,'never')")
		other("XA ROLLBACK " + xid("2"))
		prepare(other, "3", "(30,'y')")
		other("XA COMMIT " + xid("3"))
		run("XA START "+xid("4"), "INSERT INTO a VALUES (40,'one phase')", "XA END "+xid("4"), "XA COMMIT "+xid("4")+" ONE PHASE")
		run("INSERT INTO a VALUES (3,'last')")
		// Killed after each batch: nothing twice, nothing lost.
		var events []event
		for _, s := range steps {
			events = append(events, s.events...)
		}
		offset := steps[len(steps)-1].offset
		for !strings.Contains(fmt.Sprint(events), "last") {
			s, err := poll(t, task, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, s.events...)
			offset = s.offset
			_ = task.Close()
			task = open(t, cfg, offset)
		}
		var got []string
		for _, e := range events {
			got = append(got, strings.TrimPrefix(e.Key, "id=i"))
		}
		if want := "1 2 10 11 12 13 14 30 40 3"; strings.Join(got, " ") != want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
		}
		if offset["xa_prepared"] != nil {
			t.Errorf("the offset still has %v", offset["xa_prepared"])
		}
		// Prepared before the connector began: all is read anew, or the task stops where it may not read.
		prepare(other, "5", "(50,'early')")
		reading := open(t, config(srv, name), nil)
		until(t, reading, snapshotDone)
		silent := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
		other("XA COMMIT " + xid("5"))
		until(t, reading, func(s step) bool { return strings.Contains(fmt.Sprint(s.events), "early") })
		for {
			if _, err := poll(t, silent, 20*time.Second); err != nil {
				if !strings.Contains(err.Error(), "was prepared before the connector began") {
					t.Error(err)
				}
				break
			}
		}
	})
}

// TestRowImages: columns that the server does not log are absent, not null, and taken from the before image where it has them.
func TestRowImages(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(20), n INT, x TEXT, y INT)")
		task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
		run("INSERT INTO a VALUES (1,'one',1,'text',NULL)", "SET SESSION binlog_row_image='NOBLOB'", "UPDATE a SET n=2", "SET SESSION binlog_row_image='MINIMAL'",
			"UPDATE a SET n=NULL", "UPDATE a SET x='changed'", "DELETE FROM a", "INSERT INTO a (id, n) VALUES (2, 3)")
		var got []string
		for _, e := range flat(until(t, task, func(s step) bool { return strings.Contains(fmt.Sprint(s.events), "id=i2") })) {
			got = append(got, e.String())
		}
		want := []string{
			`a create -->id=i1 v="one" n=i1 x="text" y=NULL`,
			`a update id=i1 v="one" n=i1 x=ABSENT y=NULL->id=i1 v="one" n=i2 x=ABSENT y=NULL`,
			`a update id=i1 v=ABSENT n=ABSENT x=ABSENT y=ABSENT->id=i1 v=ABSENT n=NULL x=ABSENT y=ABSENT`,
			`a update id=i1 v=ABSENT n=ABSENT x=ABSENT y=ABSENT->id=i1 v=ABSENT n=ABSENT x="changed" y=ABSENT`,
			`a delete id=i1 v=ABSENT n=ABSENT x=ABSENT y=ABSENT->-`,
			`a create -->id=i2 v=ABSENT n=i3 x=ABSENT y=ABSENT`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestCompressedEvents: MariaDB's log_bin_compress.
func TestCompressedEvents(t *testing.T) {
	srv := testkit.Instance(t, "mariadb", "log_bin_compress=ON")
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	run("CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(2000))")
	task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
	run("INSERT INTO a VALUES (1, REPEAT('a', 1900)), (2, REPEAT('b', 1900))", "UPDATE a SET v=REPEAT('c', 1900) WHERE id=1", "DELETE FROM a WHERE id=1",
		"ALTER TABLE a ADD w INT COMMENT '"+strings.Repeat("x", 800)+"'", "INSERT INTO a VALUES (3,'end',1)")
	var ops []string
	for _, e := range flat(until(t, task, func(s step) bool { return strings.Contains(fmt.Sprint(s.events), "end") })) {
		ops = append(ops, e.Op+" "+e.Key)
	}
	if got := strings.Join(ops, ", "); got != "create id=i1, create id=i2, update id=i1, delete id=i1, create id=i3" {
		t.Error(got)
	}
	if n := eventsSince(t, db, "binlog.000001", 4, "Write_rows_compressed_v1"); n == 0 {
		t.Error("the log has no compressed events; the test tests nothing")
	}
}

// TestStatementText: include.query carries the statement where the server logs it.
func TestStatementText(t *testing.T) {
	each(t, func(t *testing.T, srv testkit.Server) {
		db, name := testkit.Database(t, srv)
		run := session(t, db)
		run("CREATE TABLE a (id INT PRIMARY KEY)")
		task := open(t, config(srv, name, "snapshot.mode", "no_data", "include.query", "true"), nil)
		if strings.HasSuffix(t.Name(), "/mysql") {
			run("SET SESSION binlog_rows_query_log_events=ON")
		}
		statements := []string{"INSERT INTO a VALUES (1),(2) /* trace 1 */", "UPDATE a SET id=id+10 WHERE id=2"}
		run(append([]string{"BEGIN"}, append(statements, "COMMIT")...)...)
		var got []string
		for len(got) < 4 {
			b, err := task.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Records {
				got = append(got, r.Value.(*record.ChangeEvent).Source.Query)
			}
			b.Release()
		}
		want := []string{statements[0], statements[0], statements[1], statements[1]}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("got %q", got)
		}
	})
}
