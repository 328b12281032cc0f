package systest

import (
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
)

var rewriteCanal = flag.Bool("canal", false, "write the expectations of TestCanal anew from the real Canal")

// TestCanal: the same statements, read by Millrace's mysql connector and by Alibaba Canal, give the same messages in the same order. What
// Canal gave is stored; where it can be had, it is asked again.
func TestCanal(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			likeCanal(t, kind)
		})
	}
}

func likeCanal(t *testing.T, kind string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var server []string
	if kind == "mysql" { // MariaDB logs statements by default
		server = append(server, "binlog_rows_query_log_events=1")
	}
	srv := testkit.Instance(t, kind, server...) // Canal stops at column types that it does not know, whosesoever they are
	db, name := testkit.Database(t, srv)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script(ctx, t, conn, "SET sql_mode='ALLOW_INVALID_DATES'", "SET time_zone='+00:00'", "SET NAMES utf8mb4", "USE "+name,
		"CREATE TABLE t_mark (what VARCHAR(20))")
	broker := embeddedBroker(t)
	_, cluster := nodes(t, 1, "--brokers", broker)
	ours := map[string]*system{}
	for form, options := range map[string]map[string]string{
		"readers": {},
		"exact":   {"value.converter.canal.compat": "exact", "value.converter.canal.rows": "event", "include.statements": "true"},
	} {
		s := &system{prefix: form + name, brokers: []string{broker}}
		ours[form] = s
		config := sourceConfig(srv, name, s.prefix)
		maps.Copy(config, options)
		maps.Copy(config, map[string]string{
			"table.include.list": "", "snapshot.mode": "no_data", "include.schema.changes": "true",
			"key.update.mode": "update", "topic.regex": ".*", "topic.replacement": s.prefix, "topic.creation.default.partitions": "1", // all in one topic, in the log's order
		})
		create(ctx, t, cluster, form, config)
	}
	running(ctx, t, cluster)
	canal := testkit.FollowCanal(t, srv, name+`\..*`)
	if canal == nil && *rewriteCanal {
		t.Fatal("-canal needs Java")
	}
	workload(ctx, t, conn, canal)
	want := answers(t, name, filepath.Join("testdata", "canal", kind+".json"), canal)
	for form, s := range ours {
		var values []string
		testkit.Eventually(t, time.Minute, "the last message of "+form, func() error {
			values = values[:0]
			for _, m := range s.fetch(ctx, t)[s.prefix] {
				values = append(values, string(m.Value))
			}
			if len(values) == 0 || !strings.Contains(values[len(values)-1], `"the end"`) {
				return fmt.Errorf("has %d messages", len(values))
			}
			return nil
		})
		got, want := flatMessages(t, name, values), want
		if form == "readers" {
			want = oneRowEach(without(want, statementMessage))
		}
		compareMessages(t, form, want, got, canal != nil)
	}
}

// answers are Canal's messages: those of now, or those of file where it can't be had.
func answers(t *testing.T, db, file string, canal *testkit.Canal) []map[string]any {
	t.Helper()
	if canal != nil {
		now := flatMessages(t, db, canal.Messages())
		if *rewriteCanal {
			storeMessages(t, file, now)
		}
		return now
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return flatMessages(t, db, strings.Split(strings.TrimSpace(string(b)), "\n"))
}

// workload runs the scripts. Before each statement that changes a table, Canal gets the time to read what was before.
func workload(ctx context.Context, t *testing.T, conn *sql.Conn, canal *testkit.Canal) {
	t.Helper()
	marks := 0
	mark := func(what string) {
		t.Helper()
		script(ctx, t, conn, "INSERT INTO t_mark VALUES ('"+what+"')")
		if canal != nil {
			canal.WaitFor(t, `"`+what+`"`)
		}
	}
	run := func(dir, file string) {
		t.Helper()
		for _, s := range statements(t, dir, file) {
			if changesTable.MatchString(s) {
				marks++
				mark(fmt.Sprintf("mark %d", marks))
			}
			script(ctx, t, conn, s)
		}
	}
	mark("the beginning")
	script(ctx, t, conn, "SET @k=0")
	run("debezium", "types.sql")
	run("debezium", "rows.sql")
	run("canal", "types.sql")
	run("canal", "more_types.sql")
	run("canal", "more.sql")
	script(ctx, t, conn, "SET @k=100")
	run("debezium", "work.sql")
	run("canal", "ddl.sql")
	mark("the end")
}

var changesTable = regexp.MustCompile(`(?i)^\s*(alter|drop|rename|truncate)\s`)

// flatMessages parses what follows the first mark, with the database's name made equal and without what no two runs have in common.
func flatMessages(t *testing.T, db string, lines []string) []map[string]any {
	t.Helper()
	var out []map[string]any
	begun := false
	for _, line := range lines {
		if begun = begun || strings.Contains(line, `the beginning`); !begun {
			continue
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(strings.ReplaceAll(line, db, "DB")), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		delete(m, "id")
		delete(m, "ts")
		out = append(out, m)
	}
	return out
}

// storeMessages writes the file, one message a line.
func storeMessages(t *testing.T, path string, messages []map[string]any) {
	t.Helper()
	var out strings.Builder
	for _, m := range messages {
		m = maps.Clone(m)
		delete(m, "es")
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// oneRowEach divides messages of several rows.
func oneRowEach(messages []map[string]any) []map[string]any {
	var out []map[string]any
	for _, m := range messages {
		data, _ := m["data"].([]any)
		old, _ := m["old"].([]any)
		if len(data) < 2 {
			out = append(out, m)
			continue
		}
		for i := range data {
			one := maps.Clone(m)
			if one["data"] = data[i : i+1]; old != nil {
				one["old"] = old[i : i+1]
			}
			if i < len(data)-1 {
				one["sqlType"] = "of another row"
			}
			out = append(out, one)
		}
	}
	return out
}

func compareMessages(t *testing.T, form string, want, got []map[string]any, live bool) {
	t.Helper()
	got = without(got, onlyMillrace)
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) {
			t.Errorf("%s: Canal wrote %d messages, we %d", form, len(want), len(got))
			return
		}
		w, g := want[i], got[i]
		if !live { // another day's
			delete(g, "es")
		}
		for _, d := range differences(nil, form, any(w), any(g)) {
			if d.justified(unlikeCanal) || form == "readers" && quirk(&d) {
				continue
			}
			b1, _ := json.Marshal(d.want)
			b2, _ := json.Marshal(d.got)
			t.Errorf("message %d (%v %v), %s: Canal %s, we %s", i, w["type"], w["table"], d.path, b1, b2)
		}
	}
}

func without(messages []map[string]any, out func(m map[string]any) bool) []map[string]any {
	return slices.DeleteFunc(slices.Clone(messages), out)
}

// statementMessage finds the statements that the log has beside their rows. Ours are an option.
func statementMessage(m map[string]any) bool { return m["type"] == "QUERY" && m["isDdl"] == false }

// onlyMillrace finds the statement that Canal parses, but has no word for, and writes no message of.
func onlyMillrace(m map[string]any) bool {
	return m["sql"] == "ALTER TABLE t_like ADD CONSTRAINT ck CHECK (a > 0)"
}

// quirk reports whether a value differs as values do that canal.compat=readers mends.
func quirk(d *difference) bool {
	want, ok1 := d.want.(string)
	got, ok2 := d.got.(string)
	if !ok1 || !ok2 || want == "" && !binaryColumn.MatchString(d.path) {
		return false
	}
	switch {
	case binaryColumn.MatchString(d.path): // without the zeros at its end
		return strings.TrimRight(got, "\x00") == want
	case decimalColumn.MatchString(d.path): // without zeros at the end of its fraction
		return strings.HasPrefix(got, want) && strings.Trim(got[len(want):], "0") == "" && strings.Contains(want, ".")
	}
	return false
}

var (
	binaryColumn  = regexp.MustCompile(`^readers\.(data|old)/[0-9]+\.(bn|bi)$`)
	decimalColumn = regexp.MustCompile(`^readers\.(data|old)/[0-9]+\.(d|d1|d9|d30|d65|dd|dz)$`)
)

// unlikeCanal are the differences on purpose. Paths begin with the form.
var unlikeCanal = []justification{
	{regexp.MustCompile(`^readers\.gtid$`), "", "", "the transaction's own GTID; Canal's is empty, or all that was executed so far"},
	{regexp.MustCompile(`^readers\.sqlType$`), "of another row", "", "Canal tells the last row's for all rows of a message"},
	{regexp.MustCompile(`^readers\.old/0\.[a-z0-9]+$`), "", "have none", "Canal repeats columns that have changed in a row before, in the same message"},
	{regexp.MustCompile(`/[0-9]+\.(l1|g|u2)$`), "", "", "text of other character sets than the connection's: Canal garbles it, and what is lost can't be made again"},
	{
		regexp.MustCompile(`/[0-9]+\.j$`), `{"b": [], "c": "\"q\" é \n", "d": -0.0, "e": 1.0E20, "f": 12345678901234567890, "g": false, "aa": {}}`,
		`{"b": [], "c": "\"q\" é \n", "d": -0.0, "e": 1e20, "f": 12345678901234567890, "g": false, "aa": {}}`,
		"a number in a JSON document is the server's text for it, Canal's is Java's",
	},
	{regexp.MustCompile(`^exact\.table$`), "", "t_uniq", "a statement's message names the table of the rows; Canal's parser does not know REPLACE"},
	{regexp.MustCompile(`\.type$`), "QUERY", "CREATE", "CREATE TABLE … SELECT: Canal's parser does not know MySQL's form of it"},
	{regexp.MustCompile(`\.(database|table)$`), "", "DB", "as above"},
	{regexp.MustCompile(`\.table$`), "", "t_sel", "as above"},
}

// TestCanalRowsThroughSink: messages of several rows, with Canal's quirks, keep each row's order and lead a sink to an equal table.
func TestCanalRowsThroughSink(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	srv := testkit.MariaDB(t)
	db, name := testkit.Database(t, srv)
	_, copyName := testkit.Database(t, srv)
	broker := embeddedBroker(t)
	_, cluster := nodes(t, 1, "--brokers", broker)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script(ctx, t, conn, "CREATE TABLE orders (id INT PRIMARY KEY, d DECIMAL(12,4), b BINARY(6), v VARCHAR(40))",
		"INSERT INTO orders SELECT seq, seq/4, UNHEX(LPAD(HEX(seq),12,'0')), 'snapshot' FROM seq_1_to_50")
	source := sourceConfig(srv, name, "p")
	maps.Copy(source, map[string]string{"value.converter.canal.rows": "event", "value.converter.canal.compat": "exact", "key.update.mode": "update", "max.batch.size": "100"})
	create(ctx, t, cluster, "source", source)
	create(ctx, t, cluster, "sink", map[string]string{
		"connector.class": "sql", "tasks.max": "2", "topics": "p." + name + ".orders", "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", srv.User, srv.Password, srv.Addr, copyName),
	})
	running(ctx, t, cluster)
	equal := func() error {
		var a, b, differ int
		q := fmt.Sprintf("SELECT (SELECT COUNT(*) FROM %[1]s.orders), (SELECT COUNT(*) FROM %[2]s.orders), (SELECT COUNT(*) FROM (SELECT * FROM %[1]s.orders EXCEPT SELECT * FROM %[2]s.orders) x)", name, copyName)
		if err := db.QueryRowContext(ctx, q).Scan(&a, &b, &differ); err != nil {
			return err
		}
		if a != b || differ > 0 {
			return fmt.Errorf("source has %d rows, sink %d; %d are missing or differ", a, b, differ)
		}
		return nil
	}
	testkit.Eventually(t, time.Minute, "the snapshot's rows", equal)
	script(ctx, t, conn, "INSERT INTO orders SELECT seq, seq/4, UNHEX(CONCAT(LPAD(HEX(seq),8,'0'),'0000')), 'stream' FROM seq_51_to_5000",
		"UPDATE orders SET d=d*2, v=REPEAT('u', id%40)", "UPDATE orders SET id=id+10000 WHERE id%3=0", "DELETE FROM orders WHERE id%7=0",
		"UPDATE orders SET v='last', b=NULL")
	testkit.Eventually(t, time.Minute, "all changes", equal)
	s := &system{prefix: "p", brokers: []string{broker}}
	messages, rows, biggest := 0, 0, 0
	for _, m := range s.fetch(ctx, t)["p."+name+".orders"] {
		var flat struct{ Data []json.RawMessage }
		if err := json.Unmarshal(m.Value, &flat); err != nil {
			t.Fatal(err)
		}
		if m.Key != nil || m.Partition != 0 {
			t.Fatalf("a message has the key %q and is in partition %d", m.Key, m.Partition)
		}
		messages, rows, biggest = messages+1, rows+len(flat.Data), max(biggest, len(flat.Data))
	}
	t.Logf("%d rows in %d messages, %d in the biggest", rows, messages, biggest)
	if rows < 15000 || messages > rows/20 || biggest <= 100 {
		t.Errorf("%d rows in %d messages, %d in the biggest: the rows of an event are not together", rows, messages, biggest)
	}
}
