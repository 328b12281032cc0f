package mysqlcdc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
)

// Debezium's form of an offset within a transaction, by GTID and by file and position, leads to the same rest of it as ours: nothing is
// lost or doubled.
func TestGoesOnFromDebezium(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			srv := map[string]func(testing.TB) testkit.Server{"mysql": testkit.MySQL, "mariadb": testkit.MariaDB}[kind](t)
			db, name := testkit.Database(t, srv)
			run := session(t, db)
			run("CREATE TABLE a (id INT PRIMARY KEY)", "CREATE TABLE other (id INT PRIMARY KEY)")
			cfg := config(srv, name, "max.batch.size", "1", "snapshot.mode", "no_data", "table.include.list", name+".a")
			task := open(t, cfg, nil)
			var rows, want []string
			for i := range 10 {
				rows = append(rows, fmt.Sprintf("(%d)", 10+i))
			}
			// After a start by GTID the place in the log is known from the first transaction on.
			run("INSERT INTO a VALUES (0)")
			run("BEGIN", "INSERT INTO a VALUES (1)", "INSERT INTO other VALUES (1)", "INSERT INTO a VALUES "+strings.Join(rows, ","), "INSERT INTO a VALUES (30)", "COMMIT", "INSERT INTO a VALUES (40)")
			steps := keysUntil(t, task, "id=i40", &want)
			_ = task.Close()
			within := 0
			for _, s := range steps {
				if s.offset["event"] == nil || s.count == 1 { // of the first one it can be too early
					continue
				}
				within++
				for _, by := range []string{"gtids", "file"} {
					theirs := map[string]any{}
					for _, k := range []string{"server_id", "gtids", "file", "pos", "event", "row", "ts_sec"} {
						if v := s.offset[k]; v != nil && (k != "gtids" || by == "gtids") {
							theirs[k] = v
						}
					}
					got := append([]string{}, want[:s.count]...)
					again := open(t, cfg, theirs)
					keysUntil(t, again, "id=i40", &got)
					_ = again.Close()
					if strings.Join(got, " ") != strings.Join(want, " ") {
						t.Errorf("from %v:\ngot  %v\nwant %v", theirs, got, want)
					}
				}
			}
			if within < 3 {
				t.Errorf("only %d offsets lie within the transaction", within)
			}
		})
	}
}

// reachedOffset is an offset and how many records there were before it.
type reachedOffset struct {
	offset map[string]any
	count  int
}

// keysUntil adds the keys of the records that come to keys, up to the last one.
func keysUntil(t *testing.T, task *source, last string, keys *[]string) []reachedOffset {
	t.Helper()
	var out []reachedOffset
	for len(*keys) == 0 || (*keys)[len(*keys)-1] != last {
		s, err := poll(t, task, 20*time.Second)
		if err != nil {
			t.Fatalf("after %v: %v", *keys, err)
		}
		for _, e := range s.events {
			*keys = append(*keys, e.Key)
		}
		out = append(out, reachedOffset{s.offset, len(*keys)})
	}
	return out
}
