package mysqlcdc

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testkit"
)

// TestPartialJSON: with binlog_row_value_options=PARTIAL_JSON the documents of the events are those that SELECT shows, after random
// updates of which the log has the changes only.
func TestPartialJSON(t *testing.T) {
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	run("SET NAMES utf8mb4", "SET SESSION binlog_row_value_options='PARTIAL_JSON'", "CREATE TABLE a (id INT PRIMARY KEY, j JSON, n INT, k JSON, v VARCHAR(10))")
	task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
	doc := `'{"a": [1, 2.5, {"x": "y"}, null, [1, 2, 3]], "bb": {"c": {"d": true, "e f": [0]}, "é\\"q": 1}, "pad": "` + strings.Repeat("p", 300) + `"}'`
	run("INSERT INTO a VALUES (1," + doc + ",0,'[1, {\"z\": 2}, 3]','é')")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	value := func() string {
		return pick("1", "-70000", "'t'", "NULL", "2.5", "1e10", `CAST('{"k": [1, {"l": 2}]}' AS JSON)`, "CAST('[]' AS JSON)", "18446744073709551615", "TRUE",
			"CAST('2024-02-29' AS DATE)", "1.50", "'"+strings.Repeat("z", rnd.IntN(200))+"'", "X'00ff'")
	}
	path := func() string {
		return pick("$.a", "$.a[0]", "$.a[1]", "$.a[2].x", "$.a[2].new", "$.a[7]", "$.a[last]", "$.a[last-1]", "$.a[4][1]", "$.bb", "$.bb.c.d", `$.bb.c."e f"[0]`, `$.bb.c."e f"[2]`,
			`$.bb."é\\"q"`, "$.zz", "$.z", "$.zz.k[1].l", "$.zz.k[0]", "$.bb.c", "$.pad[0]", "$.bb[0].c", "$")
	}
	change := func(col string) string {
		switch f := pick("JSON_SET", "JSON_SET", "JSON_REPLACE", "JSON_REMOVE"); f {
		case "JSON_REMOVE":
			p := path()
			for p == "$" {
				p = path()
			}
			return fmt.Sprintf("%s=JSON_REMOVE(%s, '%s')", col, col, p)
		default:
			args := ""
			for range 1 + rnd.IntN(3) {
				p := path()
				if rnd.IntN(30) > 0 && p == "$" { // the whole document only at times
					p = "$.a[0]"
				}
				args += fmt.Sprintf(", '%s', %s", p, value())
			}
			return fmt.Sprintf("%s=%s(%s%s)", col, f, col, args)
		}
	}
	file, pos := logEnd(t, db)
	var want, stmts []string
	for i := range 400 {
		set := []string{fmt.Sprintf("n=%d", i+1)}
		set = append(set, change("j"))
		switch rnd.IntN(6) {
		case 0:
			set = append(set, change("k"))
		case 1:
			set = append(set, "v='w'", "k="+pick("NULL", "'[1, {\"z\": 2}, 3]'"))
		}
		if i%50 == 49 {
			set[1] = "j=" + doc
		}
		stmts = append(stmts, "UPDATE a SET "+strings.Join(set, ", "))
		run(stmts[i])
		var j, k *string
		if err := db.QueryRow("SELECT j, k FROM a").Scan(&j, &k); err != nil {
			t.Fatal(err)
		}
		text := func(s *string) string {
			if s == nil {
				return "NULL"
			}
			return fmt.Sprintf("%q", *s)
		}
		want = append(want, fmt.Sprintf("n=i%d k=%s", i+1, text(k)))
		want[i] = fmt.Sprintf("j=%s %s", text(j), want[i])
	}
	if n := eventsSince(t, db, file, pos, "Update_rows_partial"); n < len(want)/4 {
		t.Fatalf("the log has %d partial updates only; the test tests nothing", n)
	}
	var got []string
	for len(got) < len(want) {
		s, err := poll(t, task, 20*time.Second)
		if err != nil {
			t.Fatalf("after %d updates, before %s: %v", len(got), stmts[len(got)], err)
		}
		for _, e := range s.events {
			if e.Op != "update" {
				continue
			}
			row := strings.TrimPrefix(e.After, "id=i1 ")
			got = append(got, row[:strings.LastIndex(row, " v=")])
			if i := len(got) - 1; got[i] != want[i] {
				t.Fatalf("%s\ngot  %s\nwant %s", stmts[i], got[i], want[i])
			}
		}
	}
}

// logEnd is the end of the binlog.
func logEnd(t *testing.T, db *sql.DB) (file string, pos int) {
	t.Helper()
	var skip any
	if err := db.QueryRow("SHOW BINARY LOG STATUS").Scan(&file, &pos, &skip, &skip, &skip); err != nil {
		t.Fatal(err)
	}
	return file, pos
}

// eventsSince counts the events of a type behind a place in the binlog.
func eventsSince(t *testing.T, db *sql.DB, file string, pos int, typ string) (n int) {
	t.Helper()
	rows, err := db.Query(fmt.Sprintf("SHOW BINLOG EVENTS IN '%s' FROM %d", file, pos))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var skip any
		var got string
		if err := rows.Scan(&skip, &skip, &got, &skip, &skip, &skip); err != nil {
			t.Fatal(err)
		}
		if got == typ {
			n++
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPartialJSONWithoutDocument: where the log lacks the document before, the task stops.
func TestPartialJSONWithoutDocument(t *testing.T) {
	srv := testkit.MySQL(t)
	db, name := testkit.Database(t, srv)
	run := session(t, db)
	run("SET SESSION binlog_row_value_options='PARTIAL_JSON', binlog_row_image='MINIMAL'", "CREATE TABLE a (id INT PRIMARY KEY, j JSON)")
	task := open(t, config(srv, name, "snapshot.mode", "no_data"), nil)
	run(`INSERT INTO a VALUES (1,'{"a": 1, "pad": "`+strings.Repeat("p", 300)+`"}')`, "UPDATE a SET j=JSON_SET(j, '$.a', 2)")
	for {
		if _, err := poll(t, task, 20*time.Second); err != nil {
			if !strings.Contains(err.Error(), "column j") || !strings.Contains(err.Error(), "binlog_row_value_options=''") {
				t.Error(err)
			}
			return
		}
	}
}

func TestJSONPath(t *testing.T) {
	for path, want := range map[string]string{
		"$": "[]", "$.a": "[a]", `$.a."b \"c"[2][last-1].d`: `[a b "c 2 -1 d]`, "$[last]": "[-0]", `$."\u00e9"`: "[é]",
		"": "", "a": "", "$a": "", "$[x]": "", "$[1": "", `$."a`: "", "$[99999999999]": "",
	} {
		legs, err := parseJSONPath(path)
		var out []string
		for _, l := range legs {
			switch {
			case l.member:
				out = append(out, string(l.key))
			case l.fromEnd:
				out = append(out, fmt.Sprintf("-%d", l.index))
			default:
				out = append(out, fmt.Sprint(l.index))
			}
		}
		if got := fmt.Sprint(out); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}
