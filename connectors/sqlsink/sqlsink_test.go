package sqlsink

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/testkit"
)

var tp0 = connectors.TopicPartition{Topic: "t", Partition: 0}

func servers(t *testing.T, f func(t *testing.T, s testkit.Server, db *sql.DB, name string)) {
	t.Helper()
	for kind, get := range map[string]func(testing.TB) testkit.Server{"mariadb": testkit.MariaDB, "mysql": testkit.MySQL} {
		t.Run(kind, func(t *testing.T) {
			s := get(t)
			db, name := testkit.Database(t, s)
			f(t, s, db, name)
		})
	}
}

func open2(t *testing.T, s testkit.Server, name string, epoch uint64, more ...string) *task {
	t.Helper()
	config := map[string]string{URL: fmt.Sprintf("mysql://%s:%s@%s/%s", s.User, s.Password, s.Addr, name)}
	for i := 0; i < len(more); i += 2 {
		config[more[i]] = more[i+1]
	}
	k := &task{}
	if err := k.Open(t.Context(), connectors.TaskContext{Connector: "c", Epoch: epoch, Config: config, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func put(t *testing.T, k *task, events ...*record.ChangeEvent) error {
	t.Helper()
	var list []record.Record
	for i, e := range events {
		list = append(list, record.Record{Topic: "t", Offset: int64(i), Value: e})
	}
	if err := k.Put(t.Context(), list); err != nil {
		return err
	}
	return k.Flush(t.Context())
}

func column(name, decl string) record.Column {
	c := record.ParseMySQLType(decl)
	c.Name = name
	return c
}

func text(s string) record.Datum { return record.Text([]byte(s)) }

// Values of each type arrive as they are.
func TestTypes(t *testing.T) {
	servers(t, func(t *testing.T, s testkit.Server, db *sql.DB, name string) {
		table := &record.Table{Database: "d", Name: "types", Key: []int{0}}
		var row record.Row
		var want []string
		add := func(decl string, d record.Datum, shown string) {
			table.Columns = append(table.Columns, column(fmt.Sprintf("c%d", len(row)), decl))
			row, want = append(row, d), append(want, shown)
		}
		add("bigint unsigned", record.Uint(math.MaxUint64), "18446744073709551615")
		add("tinyint", record.Int(-128), "-128")
		add("int(11)", record.Int(math.MinInt32), "-2147483648")
		add("decimal(65,30)", text("-0.000000000000000000000000000001"), "-0.000000000000000000000000000001")
		add("double", record.Float64(-1.5e-4), "-0.00015")
		add("bit(64)", record.Uint(math.MaxUint64), "\xff\xff\xff\xff\xff\xff\xff\xff")
		add("varchar(32)", text("héé 'q' \\ \n 🎁"), "héé 'q' \\ \n 🎁")
		add("binary(4)", record.Bytes([]byte{0, 255, 39, 0}), "\x00\xff'\x00")
		add("blob", record.Bytes([]byte{1, 0, 92}), "\x01\x00\\")
		add("enum('a','b''c')", record.Uint(2), "b'c")
		add("set('x','y','z')", record.Uint(5), "x,z")
		add("date", text("0000-00-00"), "0000-00-00")
		add("time(3)", text("-838:59:59.000"), "-838:59:59.000")
		add("datetime(6)", text("2024-02-29 10:11:12.000001"), "2024-02-29 10:11:12.000001")
		add("timestamp(3)", record.Int(1700000000123000), "2023-11-14 22:13:20.123")
		add("timestamp", record.Int(0), "0000-00-00 00:00:00")
		add("year", record.Int(2024), "2024")
		add("json", text(`{"a": 1}`), `{"a": 1}`)
		k := open2(t, s, name, 1)
		if _, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil {
			t.Fatal(err)
		}
		if err := put(t, k, &record.ChangeEvent{Table: table, Op: record.OpCreate, After: row}); err != nil {
			t.Fatal(err)
		}
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.ExecContext(t.Context(), "SET time_zone='+00:00'"); err != nil {
			t.Fatal(err)
		}
		for i, w := range want {
			var got string
			if err := conn.QueryRowContext(t.Context(), fmt.Sprintf("SELECT CONCAT(c%d, '') FROM %s.types", i, name)).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != w {
				t.Errorf("%s: %q, want %q", table.Columns[i].Type, got, w)
			}
		}
	})
}

func simple() *record.Table {
	return &record.Table{Database: "d", Name: "orders", Key: []int{0}, Columns: []record.Column{column("id", "int"), column("v", "varchar(20)")}}
}

func ev(t *record.Table, op record.Op, id int64, v string) *record.ChangeEvent {
	row := record.Row{record.Int(id), text(v)}
	e := &record.ChangeEvent{Table: t, Op: op, After: row}
	if op == record.OpDelete {
		e.Before, e.After = row, nil
	}
	if op == record.OpUpdate {
		e.Before = record.Row{record.Int(id), text("old")}
	}
	return e
}

func contents(t *testing.T, db *sql.DB) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT id, v FROM orders ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id, v string
		if err := rows.Scan(&id, &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, id+"="+v)
	}
	return strings.Join(out, " ")
}

// I3: the last change of each key wins, whatever a batch holds; a redelivery changes nothing; offsets go with the rows; I1: an older owner is
// fenced.
func TestUpsertsOffsetsAndFencing(t *testing.T) {
	servers(t, func(t *testing.T, s testkit.Server, db *sql.DB, name string) {
		tab := simple()
		k := open2(t, s, name, 5)
		if got, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil || len(got) != 0 {
			t.Fatalf("offsets of a fresh target: %v, %v", got, err)
		}
		batch := []*record.ChangeEvent{
			ev(tab, record.OpCreate, 1, "a"), ev(tab, record.OpCreate, 2, "b"), ev(tab, record.OpUpdate, 1, "a2"), ev(tab, record.OpDelete, 2, "b"), ev(tab, record.OpCreate, 3, "c"),
			ev(tab, record.OpDelete, 3, "c"), ev(tab, record.OpCreate, 3, "c2"),
		}
		for range 2 {
			if err := put(t, k, batch...); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, db); got != "1=a2 3=c2" {
				t.Errorf("table holds %q", got)
			}
		}
		moved := ev(tab, record.OpUpdate, 9, "m") // a key change in one update: 1 becomes 9
		moved.Before = record.Row{record.Int(1), text("a2")}
		if err := put(t, k, moved); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, db); got != "3=c2 9=m" {
			t.Errorf("after a key change the table holds %q", got)
		}

		next := open2(t, s, name, 6)
		got, err := next.Offsets(t.Context(), []connectors.TopicPartition{tp0})
		if err != nil || got[tp0] != 1 {
			t.Fatalf("offsets of the new owner: %v, %v", got, err)
		}
		if err := put(t, k, ev(tab, record.OpCreate, 100, "zombie")); !errors.Is(err, ErrFenced) {
			t.Errorf("the old owner writes: %v, want ErrFenced", err)
		}
		if got := contents(t, db); got != "3=c2 9=m" {
			t.Errorf("the fenced owner left something: %q", got)
		}
		if _, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); !errors.Is(err, ErrFenced) {
			t.Errorf("the old owner takes over again: %v, want ErrFenced", err)
		}
	})
}

// A transaction that the server rolls back for another one's sake is tried again, here and now.
func TestDeadlock(t *testing.T) {
	servers(t, func(t *testing.T, s testkit.Server, db *sql.DB, name string) {
		table := &record.Table{Database: "d", Name: "rows", Key: []int{0}, Columns: []record.Column{column("id", "int"), column("v", "int")}}
		change := func(id, v int64) *record.ChangeEvent {
			return &record.ChangeEvent{Table: table, Op: record.OpCreate, After: record.Row{record.Int(id), record.Int(v)}}
		}
		k := open2(t, s, name, 1)
		if _, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil {
			t.Fatal(err)
		}
		if err := put(t, k, change(1, 0), change(2, 0)); err != nil {
			t.Fatal(err)
		}
		other, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Rollback() }()
		// It is the bigger one: the server keeps it.
		values := make([]string, 500)
		for i := range values {
			values[i] = fmt.Sprintf("(%d,0)", 1000+i)
		}
		for _, q := range []string{"INSERT INTO `rows` VALUES " + strings.Join(values, ","), "UPDATE `rows` SET v=7 WHERE id=2"} {
			if _, err := other.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		flushed := make(chan error, 1)
		go func() { flushed <- put(t, k, change(1, 5), change(2, 5)) }()
		testkit.Eventually(t, 10*time.Second, "the sink waits for the other", func() error {
			time.Sleep(200 * time.Millisecond) // MariaDB looks again after a tenth of a second without questions
			var n int
			if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state='LOCK WAIT'").Scan(&n); err != nil || n == 0 {
				return fmt.Errorf("%d transactions wait, %w", n, err)
			}
			return nil
		})
		if _, err := other.ExecContext(t.Context(), "UPDATE `rows` SET v=7 WHERE id=1"); err != nil {
			t.Fatal(err)
		}
		if err := other.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		var sum int
		if err := db.QueryRowContext(t.Context(), "SELECT SUM(v) FROM `rows` WHERE id IN (1,2)").Scan(&sum); err != nil || sum != 10 {
			t.Errorf("the rows' sum is %d, want 10: %v", sum, err)
		}
	})
}

func TestRefusals(t *testing.T) {
	s := testkit.MariaDB(t)
	_, name := testkit.Database(t, s)
	tab := simple()
	k := open2(t, s, name, 1)
	if _, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil {
		t.Fatal(err)
	}
	if err := put(t, k, ev(tab, record.OpCreate, 1, "a")); err != nil {
		t.Fatal(err)
	}
	wider := simple()
	wider.Columns = append(wider.Columns, column("extra", "int"))
	e := ev(wider, record.OpCreate, 2, "b")
	e.After = append(e.After, record.Int(7))
	var blamed *connectors.RecordError
	if err := put(t, k, e); !errors.As(err, &blamed) || !strings.Contains(err.Error(), "auto.evolve") || !strings.Contains(err.Error(), `"extra"`) {
		t.Errorf("a new column: %v", err)
	}
	evolving := open2(t, s, name, 2, AutoEvolve, "true")
	if _, err := evolving.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil {
		t.Fatal(err)
	}
	if err := put(t, evolving, e); err != nil {
		t.Errorf("a new column with auto.evolve: %v", err)
	}
	for what, bad := range map[string]*record.ChangeEvent{
		"no key":        {Table: &record.Table{Name: "x", Columns: tab.Columns}, Op: record.OpCreate, After: e.After[:2]},
		"evil type":     {Table: &record.Table{Name: "y", Key: []int{0}, Columns: []record.Column{{Name: "id", Type: "int, PRIMARY KEY(id)) -- "}}}, Op: record.OpCreate, After: record.Row{record.Int(1)}},
		"partial image": {Table: tab, Op: record.OpUpdate, Before: record.Row{record.Int(1), {}}, After: record.Row{record.Int(1), {}}},
		"truncate":      {Table: tab, Op: record.OpTruncate},
	} {
		if err := put(t, k, bad); !errors.As(err, &blamed) {
			t.Errorf("%s: %v, want the record to be blamed", what, err)
		}
	}
}

func BenchmarkUpsert(b *testing.B) {
	s := testkit.MariaDB(b)
	_, name := testkit.Database(b, s)
	k := &task{}
	err := k.Open(b.Context(), connectors.TaskContext{Connector: "b", Epoch: 1, Config: map[string]string{URL: fmt.Sprintf("mysql://%s:%s@%s/%s", s.User, s.Password, s.Addr, name)}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Offsets(b.Context(), []connectors.TopicPartition{tp0}); err != nil {
		b.Fatal(err)
	}
	tab := simple()
	list := make([]record.Record, 5000)
	at := int64(0)
	for b.Loop() {
		for i := range list {
			at++
			list[i] = record.Record{Topic: "t", Offset: at, Value: ev(tab, record.OpCreate, at%1000000, "some text")}
		}
		if err := k.Put(b.Context(), list); err != nil {
			b.Fatal(err)
		}
		if err := k.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(5000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// The server refuses some rows of a batch: each is blamed by its index, nothing of the batch is kept, and all the others pass without them. A
// change that a refused one of the same key had replaced is written then.
func TestBlame(t *testing.T) {
	servers(t, func(t *testing.T, s testkit.Server, db *sql.DB, name string) {
		if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (id int PRIMARY KEY, v varchar(5), CHECK (v <> 'evil'));"+
			"CREATE TABLE child (id int PRIMARY KEY, parent int, FOREIGN KEY (parent) REFERENCES t(id));"+
			"INSERT INTO t VALUES (900,'x'),(901,'y'); INSERT INTO child VALUES (1,900)"); err != nil {
			t.Fatal(err)
		}
		table := &record.Table{Database: "d", Name: "t", Columns: []record.Column{column("id", "int"), column("v", "varchar(50)")}, Key: []int{0}}
		row := func(id int64, v string) record.Row { return record.Row{record.Int(id), text(v)} }
		var list []record.Record
		add := func(op record.Op, r record.Row) int {
			e := &record.ChangeEvent{Table: table, Op: op, After: r}
			if op == record.OpDelete {
				e.Before, e.After = r, nil
			}
			list = append(list, record.Record{Topic: "t", Offset: int64(len(list)), Value: e})
			return len(list) - 1
		}
		want := map[int]string{}
		for i := range 700 {
			switch i {
			case 3, 555:
				want[add(record.OpCreate, row(int64(i), "too long a text"))] = "'v'"
			case 600:
				want[add(record.OpCreate, row(3_000_000_000, "ok"))] = "'id'"
			case 601:
				want[add(record.OpCreate, row(601, "evil"))] = ""
			default:
				add(record.OpCreate, row(int64(i), "ok"))
			}
		}
		want[add(record.OpUpdate, row(10, "much too long"))] = "'v'"
		want[add(record.OpDelete, row(900, "x"))] = "child"
		add(record.OpDelete, row(901, "y"))

		k := open2(t, s, name, 1, BatchSize, "200")
		if _, err := k.Offsets(t.Context(), []connectors.TopicPartition{tp0}); err != nil {
			t.Fatal(err)
		}
		if err := k.Put(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		blamed := connectors.Blamed(k.Flush(t.Context()))
		if len(blamed) != len(want) {
			t.Fatalf("%d blamed, want %d: %v", len(blamed), len(want), blamed)
		}
		for _, b := range blamed {
			if says, ok := want[b.Index]; !ok || !strings.Contains(b.Err.Error(), says) {
				t.Errorf("record %d is blamed for %v, want %q", b.Index, b.Err, says)
			}
		}
		count := func(where string) (n int) {
			if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM t WHERE "+where).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count("id<900"); n != 0 {
			t.Errorf("%d rows of the refused batch were kept", n)
		}
		for _, b := range slices.Backward(blamed) {
			list = slices.Delete(list, b.Index, b.Index+1)
		}
		if err := k.Put(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		if err := k.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := count("id<900"); n != 696 {
			t.Errorf("%d rows, want the 696 good ones", n)
		}
		if n := count("id=10 AND v='ok' OR id=900"); n != 2 {
			t.Errorf("the earlier change of row 10 and the row with a child: %d of 2 are there", n)
		}
		if n := count("id=901"); n != 0 {
			t.Error("the good delete was not carried out")
		}
		// What is wrong with the table is no row's fault.
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE t DROP COLUMN v"); err != nil {
			t.Fatal(err)
		}
		if err := k.Put(t.Context(), list[:1]); err != nil {
			t.Fatal(err)
		}
		if err := k.Flush(t.Context()); err == nil || connectors.Blamed(err) != nil {
			t.Errorf("a column that is gone: %v", err)
		}
	})
}
