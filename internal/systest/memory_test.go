package systest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/fleet"
)

const (
	// memoryLimit is what a node may have resident.
	memoryLimit = 256 << 20
	// memoryTarget is what its runtime is told, which needs room for what it does not count.
	memoryTarget = "200MiB"
)

// transactionBytes of the big transaction; SYSTEST_TRANSACTION_MB=1024 makes the full run of it.
func transactionBytes(t *testing.T) (size int, whole bool) {
	if s := os.Getenv("SYSTEST_TRANSACTION_MB"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n << 20, true
	}
	return 200 << 20, false
}

// limited starts a node with little memory against the broker, and returns it with a check of its peak.
func limited(t *testing.T, broker string, limit int64) (fleet.Cluster, func(what string)) {
	t.Helper()
	t.Setenv("GOMEMLIMIT", memoryTarget)
	f, c := nodes(t, 1, "--brokers", broker)
	return c, func(what string) {
		t.Helper()
		peak, err := f.Nodes[0].PeakRSS()
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("%s: resident %d MB at most", what, peak>>20); peak > limit {
			t.Errorf("%s: %d MB were resident, and the limit is %d", what, peak>>20, limit>>20)
		}
	}
}

// I8: a transaction far bigger than the memory passes, each row once, from the log of each server and from a compressed one.
func TestBigTransaction(t *testing.T) {
	size, whole := transactionBytes(t)
	for _, c := range []struct {
		name   string
		server func(testing.TB) testkit.Server
		setup  string
	}{
		{"mysql", testkit.MySQL, "DO 0"},
		{"mysql, compressed", testkit.MySQL, "SET SESSION binlog_transaction_compression=ON"},
		{"mariadb", testkit.MariaDB, "DO 0"},
	} {
		if whole || c.name != "mysql" { // the compressed one goes the same way
			t.Run(c.name, func(t *testing.T) { bigTransaction(t, c.server(t), size, c.setup) })
		}
	}
}

func bigTransaction(t *testing.T, server testkit.Server, size int, setup string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	const width, step = 1000, 8192
	rows := size / width / step * step
	db, name := testkit.Database(t, server)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec := func(q string) {
		t.Helper()
		if _, err := conn.ExecContext(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	exec("CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(1000) CHARACTER SET latin1)")
	exec("CREATE TABLE n (i INT PRIMARY KEY)")
	exec("INSERT INTO n VALUES " + list(step, func(i int) string { return fmt.Sprintf("(%d)", i) }))
	broker, prefix := testkit.Kafka(t), testkit.UniqueName("big")
	cluster, check := limited(t, broker, memoryLimit)
	config := sourceConfig(server, name, prefix)
	config["snapshot.mode"], config["topic.creation.default.partitions"] = "no_data", "1"
	create(ctx, t, cluster, "s", config)
	running(ctx, t, cluster)
	exec(setup)
	exec("BEGIN")
	for i := 0; i < rows; i += step {
		exec(fmt.Sprintf("INSERT INTO orders SELECT i+%[1]d, RPAD(SHA2(i+%[1]d, 256), %[2]d, SHA2(i, 224)) FROM n", i, width))
	}
	began := time.Now()
	exec("COMMIT")
	committed := time.Since(began)
	await(ctx, t, cluster, "s", uint64(rows))
	took := time.Since(began)
	check(fmt.Sprintf("transaction of %d MB, %d rows, committed in %v and written in %v", rows*width>>20, rows, committed.Round(time.Millisecond), took.Round(time.Millisecond)))
	next := 0
	eachMessage(ctx, t, broker, prefix+"."+name+".orders", func(m kafka.Fetched) {
		if want := fmt.Sprintf(`"id":"%d"`, next); !strings.Contains(string(m.Value), want) && !t.Failed() {
			t.Errorf("message %d is %.300s, want %s", next, m.Value, want)
		}
		next++
	})
	if next != rows {
		t.Errorf("%d messages of %d rows", next, rows)
	}
}

// traceOf is why a connector's task failed.
func traceOf(ctx context.Context, t *testing.T, c fleet.Cluster, name string) string {
	t.Helper()
	all, err := c.Expanded(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s := all[name].Status; s != nil && len(s.Tasks) > 0 {
		return s.Tasks[0].Trace
	}
	return ""
}

func list(n int, item func(int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(i))
	}
	return b.String()
}

// await waits until a source has written n records.
func await(ctx context.Context, t *testing.T, c fleet.Cluster, source string, n uint64) {
	t.Helper()
	for {
		p, err := c.Progress(ctx, source)
		if err == nil && len(p.Tasks) > 0 {
			if p.Tasks[0].State == "FAILED" {
				t.Fatalf("the task failed: %s", traceOf(ctx, t, c, source))
			}
			if p.Tasks[0].RecordsOut >= n {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %d records: %+v, %v", n, p, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// I5, I8: a value of 64 MB passes where the topic takes it, and where it doesn't the task stops and says so; what comes after it waits.
func TestBigValue(t *testing.T) {
	server := testkit.Instance(t, "mysql", "max_allowed_packet=256M")
	for _, c := range []struct {
		name  string
		limit string // of the topic
		fits  bool
	}{
		{"fits", "100000000", true},
		{"refused", "1048588", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			const size = 64 << 20
			db, name := testkit.Database(t, server)
			sqlAll(ctx, t, db, "CREATE TABLE orders (id INT PRIMARY KEY, v LONGTEXT CHARACTER SET latin1)")
			broker, prefix := testkit.Kafka(t), testkit.UniqueName("value")
			cluster, check := limited(t, broker, memoryLimit)
			config := sourceConfig(server, name, prefix)
			config["snapshot.mode"], config["topic.creation.default.partitions"] = "no_data", "1"
			config["topic.creation.default.max.message.bytes"] = c.limit
			create(ctx, t, cluster, "s", config)
			running(ctx, t, cluster)
			db.SetMaxOpenConns(1) // the variable is the session's
			sqlAll(ctx, t, db, "INSERT INTO orders VALUES (1,'small')", "SET @v=''")
			for range 64 { // no compression makes it small
				b := make([]byte, size/64/4*3)
				_, _ = rand.Read(b)
				if _, err := db.ExecContext(ctx, "SET @v=CONCAT(@v, ?)", base64.StdEncoding.EncodeToString(b)); err != nil {
					t.Fatal(err)
				}
			}
			sqlAll(ctx, t, db, "INSERT INTO orders VALUES (2,@v)", "INSERT INTO orders VALUES (3,'small')")
			if c.fits {
				await(ctx, t, cluster, "s", 3)
			} else {
				testkit.Eventually(t, time.Minute, "the task fails", func() error {
					if trace := traceOf(ctx, t, cluster, "s"); !strings.Contains(trace, "message is larger than its topic takes") || !strings.Contains(trace, prefix+"."+name+".orders") {
						return fmt.Errorf("trace %q", trace)
					}
					return nil
				})
			}
			check("value of 64 MB, " + c.name)
			var sizes []int
			eachMessage(ctx, t, broker, prefix+"."+name+".orders", func(m kafka.Fetched) { sizes = append(sizes, len(m.Value)>>20) })
			if want := map[bool]string{true: "[0 64 0]", false: "[0]"}[c.fits]; fmt.Sprint(sizes) != want {
				t.Errorf("messages of %v MB, want %s", sizes, want)
			}
		})
	}
}

func sqlAll(ctx context.Context, t *testing.T, db *sql.DB, list ...string) {
	t.Helper()
	for _, s := range list {
		if _, err := db.ExecContext(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}
