package systest

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

var rewriteDebezium = flag.Bool("debezium", false, "write the expectations of TestDebezium anew from the real Debezium")

// variants are the settings that the same workload is captured with.
var variants = map[string]map[string]string{
	"schemas": {"value.converter.schemas.enable": "true", "key.converter.schemas.enable": "true", "provide.transaction.metadata": "true"},
	"strings": {
		"decimal.handling.mode": "string", "bigint.unsigned.handling.mode": "precise", "binary.handling.mode": "base64", "time.precision.mode": "connect",
		"tombstones.on.delete": "false", "include.schema.changes": "false", "value.converter.schemas.enable": "true",
	},
	"shaped": {
		"decimal.handling.mode": "double", "binary.handling.mode": "hex", "time.precision.mode": "isostring", "skipped.operations": "none",
		"message.key.columns": "(.*).t_pair:v;(.*).t_nokey:a", "column.exclude.list": "(.*).t_int.ti,(.*).t_str.lb",
		"column.truncate.to.2.chars": "(.*).t_str.mt", "column.mask.with.3.chars": "(.*).t_str.lt,(.*).t_str.c", "include.schema.changes": "false",
		"column.mask.hash.SHA-256.with.salt.pepper": "(.*).t_str.v", "column.mask.hash.v2.MD5.with.salt.pepper": "(.*).t_str.tt",
		"value.converter.replace.null.with.default": "false", "value.converter.decimal.format": "NUMERIC",
	},
}

// captured is a record as both systems are compared by.
type captured struct {
	Key     any               `json:"key"`
	Value   any               `json:"value"`
	Headers map[string]string `json:"headers,omitempty"`
}

// TestDebezium: the same config, posted to Millrace and to Kafka Connect with Debezium, gives the same topics with the same records. What
// Debezium gave is stored; where it can be had, it is asked again.
func TestDebezium(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} {
		for _, v := range slices.Sorted(maps.Keys(variants)) {
			t.Run(kind+"/"+v, func(t *testing.T) {
				t.Parallel()
				likeDebezium(t, kind, v)
			})
		}
	}
}

func likeDebezium(t *testing.T, kind, variant string) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	srv, class := testkit.MySQL(t), "io.debezium.connector.mysql.MySqlConnector"
	if kind == "mariadb" {
		srv, class = testkit.MariaDB(t), "io.debezium.connector.mariadb.MariaDbConnector"
	}
	db, name := testkit.Database(t, srv)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script(ctx, t, conn, "SET sql_mode='ALLOW_INVALID_DATES'", "SET time_zone='+00:00'", "SET NAMES utf8mb4", "USE "+name, "SET @k=0")
	scriptFile(ctx, t, conn, "types.sql")
	scriptFile(ctx, t, conn, "rows.sql")
	config := map[string]string{
		"connector.class": class, "database.hostname": srv.Host(), "database.port": srv.Port(), "database.user": srv.User, "database.password": srv.Password,
		"database.include.list": name, "key.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter": "org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false", "poll.interval.ms": "50",
	}
	maps.Copy(config, variants[variant])
	broker := embeddedBroker(t)
	_, cluster := nodes(t, 1, "--brokers", broker)
	ours := system{prefix: "p" + name, brokers: []string{broker}, post: func(c map[string]string) { create(ctx, t, cluster, "dbz", c) }}
	all := []*system{&ours}
	if url := testkit.Connect(t); url != "" {
		all = append(all, connect(t, url, name, kind))
	} else if *rewriteDebezium {
		t.Fatal("-debezium needs Java")
	}
	for _, s := range all {
		c := maps.Clone(config)
		c["topic.prefix"] = s.prefix
		s.post(c)
	}
	for _, s := range all {
		s.wait(ctx, t, name+".t_uniq", 1)
	}
	script(ctx, t, conn, "SET @k=100")
	scriptFile(ctx, t, conn, "rows.sql")
	scriptFile(ctx, t, conn, "work.sql")
	for _, s := range all {
		s.wait(ctx, t, name+".t_pair", -1)
	}
	path := filepath.Join("testdata", "debezium", kind+"-"+variant+".json")
	got := ours.read(ctx, t, name)
	if len(all) > 1 {
		theirs := all[1].read(ctx, t, name)
		if *rewriteDebezium {
			storeExpected(t, path, theirs)
		}
		compareTopics(t, theirs, got)
		return
	}
	compareTopics(t, loadExpected(t, path), got)
}

// expected is a file of what Debezium gave. Schemas stand in it once.
type expected struct {
	Schemas []any                 `json:"schemas"`
	Topics  map[string][]captured `json:"topics"`
}

// storeExpected writes the file, one record a line.
func storeExpected(t *testing.T, path string, topics map[string][]captured) {
	t.Helper()
	var schemas []string
	ref := func(v any) any {
		m, ok := v.(map[string]any)
		if !ok || m["schema"] == nil || len(m) != 2 {
			return v
		}
		b, err := json.Marshal(m["schema"])
		if err != nil {
			t.Fatal(err)
		}
		at := slices.Index(schemas, string(b))
		if at < 0 {
			at = len(schemas)
			schemas = append(schemas, string(b))
		}
		return map[string]any{"schema": at, "payload": m["payload"]}
	}
	var out bytes.Buffer
	lines := func(open string, n int, line func(i int) any, end string) {
		out.WriteString(open)
		for i := range n {
			if i > 0 {
				out.WriteByte(',')
			}
			b, err := json.Marshal(line(i))
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("\n  ")
			out.Write(b)
		}
		out.WriteString(end)
	}
	out.WriteString(`{"topics": {`)
	for i, name := range slices.Sorted(maps.Keys(topics)) {
		if i > 0 {
			out.WriteByte(',')
		}
		lines(fmt.Sprintf("\n %q: [", name), len(topics[name]), func(i int) any {
			c := topics[name][i]
			c.Key, c.Value = ref(c.Key), ref(c.Value)
			return c
		}, "]")
	}
	lines("},\n \"schemas\": [", len(schemas), func(i int) any { return json.RawMessage(schemas[i]) }, "]}\n")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func loadExpected(t *testing.T, path string) map[string][]captured {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var e expected
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&e); err != nil {
		t.Fatal(err)
	}
	whole := func(v any) {
		m, ok := v.(map[string]any)
		if !ok || len(m) != 2 {
			return
		}
		if n, ok := m["schema"].(json.Number); ok {
			at, _ := n.Int64()
			m["schema"] = e.Schemas[at]
		}
	}
	for _, list := range e.Topics {
		for i := range list {
			whole(list[i].Key)
			whole(list[i].Value)
		}
	}
	return e.Topics
}

func scriptFile(ctx context.Context, t *testing.T, c *sql.Conn, file string) {
	t.Helper()
	script(ctx, t, c, statements(t, "debezium", file)...)
}

func statements(t *testing.T, dir, file string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), ";\n")
}

func script(ctx context.Context, t *testing.T, c *sql.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		for part := range strings.SplitSeq(s, "; ") {
			if strings.TrimSpace(part) == "" {
				continue
			}
			if _, err := c.ExecContext(ctx, part); err != nil {
				t.Fatalf("%s: %v", part, err)
			}
		}
	}
}

// system is one of the two that are compared.
type system struct {
	prefix  string
	brokers []string
	post    func(config map[string]string)
}

// connect is Kafka Connect with Debezium.
func connect(t *testing.T, url, db, kind string) *system {
	s := &system{prefix: "d" + db, brokers: []string{testkit.Kafka(t)}}
	name := "diff-" + db
	s.post = func(c map[string]string) {
		c["schema.history.internal.kafka.bootstrap.servers"], c["schema.history.internal.kafka.topic"] = s.brokers[0], "history."+s.prefix
		c["database.server.id"] = fmt.Sprint(50000 + time.Now().UnixNano()%100000)
		if c["database.ssl.mode"] = "disabled"; kind == "mariadb" {
			c["database.ssl.mode"] = "disable"
		}
		c["database.allowPublicKeyRetrieval"] = "true"
		c["topic.creation.default.partitions"], c["topic.creation.default.replication.factor"] = "1", "1"
		b, _ := json.Marshal(map[string]any{"name": name, "config": c})
		resp, err := http.Post(url+"/connectors", "application/json", bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
			t.Fatalf("Kafka Connect: %s", body)
		}
	}
	t.Cleanup(func() {
		req, _ := http.NewRequest(http.MethodDelete, url+"/connectors/"+name, nil)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	return s
}

// wait waits until a table's topic has n records, or for n < 0 until it has the workload's last row; then until nothing comes any more.
func (s *system) wait(ctx context.Context, t *testing.T, table string, n int) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "records of "+table+" from "+s.prefix, func() error {
		msgs := s.fetch(ctx, t)[s.prefix+"."+table]
		if n >= 0 && len(msgs) >= n {
			return nil
		}
		for _, m := range msgs {
			if n < 0 && strings.Contains(string(m.Value), `"b":"end"`) {
				return nil
			}
		}
		return fmt.Errorf("has %d", len(msgs))
	})
	for last := -1; ; {
		total := 0
		for _, msgs := range s.fetch(ctx, t) {
			total += len(msgs)
		}
		if total == last {
			return
		}
		last = total
		time.Sleep(time.Second)
	}
}

func (s *system) fetch(ctx context.Context, t *testing.T) map[string][]kafka.Fetched {
	t.Helper()
	c := kafka.Config{Brokers: s.brokers, ClientID: "systest"}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	topics, err := a.Topics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]kafka.Fetched{}
	var g errgroup.Group
	var mu sync.Mutex
	for _, topic := range topics {
		if topic != s.prefix && !strings.HasPrefix(topic, s.prefix+".") {
			continue
		}
		g.Go(func() error {
			var list []kafka.Fetched
			err := kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error {
				m.Key, m.Value = bytes.Clone(m.Key), bytes.Clone(m.Value)
				list = append(list, m)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			out[topic] = list
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return out
}

// read returns all records by topic, with what differs from run to run made equal.
func (s *system) read(ctx context.Context, t *testing.T, db string) map[string][]captured {
	t.Helper()
	plain := strings.NewReplacer(s.prefix, "PREFIX", db, "DB")
	out := map[string][]captured{}
	for topic, msgs := range s.fetch(ctx, t) {
		name := plain.Replace(topic)
		for _, m := range msgs {
			c := captured{Key: parsed(t, plain, m.Key), Value: parsed(t, plain, m.Value), Headers: map[string]string{}}
			for _, h := range m.Headers {
				if h.Key != "__debezium.context.runId" { // a new one each time
					c.Headers[h.Key] = plain.Replace(string(h.Value))
				}
			}
			if v, ok := c.Value.(map[string]any); ok && name == "PREFIX" {
				p := payload(v)
				if p["databaseName"] != "DB" {
					continue // Debezium tells of databases that are not captured, too
				}
				ddl, _ := p["ddl"].(string)
				if src, _ := p["source"].(map[string]any); src["snapshot"] == "true" && !strings.HasPrefix(ddl, "CREATE TABLE") {
					continue // Debezium tells the whole story of the database as statements; the tables' own are compared
				}
			}
			out[name] = append(out[name], c)
		}
	}
	// On MariaDB Debezium begins a transaction for each DDL statement and never ends it. Transactions of other databases, which have no
	// events here, are those of the tests beside this one.
	ended := map[string]bool{}
	status := func(c captured) (id, what string) {
		m, _ := c.Value.(map[string]any)
		key, _ := c.Key.(map[string]any)
		return fmt.Sprint(payload(key)["id"]), fmt.Sprint(payload(m)["status"])
	}
	for _, c := range out["PREFIX.transaction"] {
		id, what := status(c)
		if m, _ := c.Value.(map[string]any); what == "END" && payload(m)["event_count"] != json.Number("0") {
			ended[id] = true
		}
	}
	out["PREFIX.transaction"] = slices.DeleteFunc(out["PREFIX.transaction"], func(c captured) bool {
		id, _ := status(c)
		return !ended[id]
	})
	for _, c := range out["PREFIX.transaction"] {
		key, _ := c.Key.(map[string]any)
		payload(key)["id"] = "<id>"
		m, _ := c.Value.(map[string]any)
		if list, ok := payload(m)["data_collections"].([]any); ok { // in the order of a hash map
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	if len(out["PREFIX.transaction"]) == 0 {
		delete(out, "PREFIX.transaction")
	}
	// Tables are read side by side: the order of their statements means nothing.
	slices.SortStableFunc(out["PREFIX"], func(a, b captured) int { return strings.Compare(snapshotTable(a), snapshotTable(b)) })
	return out
}

// snapshotTable is the table that a snapshot's statement is of; what is streamed comes last.
func snapshotTable(c captured) string {
	if m, ok := c.Value.(map[string]any); ok {
		if src, ok := payload(m)["source"].(map[string]any); ok && src["snapshot"] == "true" {
			return fmt.Sprint(src["table"])
		}
	}
	return "~"
}

func parsed(t *testing.T, plain *strings.Replacer, b []byte) any {
	if b == nil {
		return nil
	}
	var v any
	d := json.NewDecoder(strings.NewReader(plain.Replace(string(b))))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if m, ok := v.(map[string]any); ok {
		level(payload(m))
	}
	return v
}

func payload(m map[string]any) map[string]any {
	if p, ok := m["payload"].(map[string]any); ok {
		return p
	}
	return m
}

// level replaces what no two runs have in common by whether it is there.
func level(p map[string]any) {
	mark := func(m map[string]any, names ...string) {
		for _, n := range names {
			if v, ok := m[n]; ok && v != nil && v != json.Number("0") {
				m[n] = "<" + n + ">"
			}
		}
	}
	mark(p, "ts_ms", "ts_us", "ts_ns")
	if p["status"] == "BEGIN" || p["status"] == "END" {
		mark(p, "id")
	}
	if src, ok := p["source"].(map[string]any); ok {
		mark(src, "version", "ts_ms", "ts_us", "ts_ns", "server_id", "gtid", "file", "pos", "thread")
	}
	if txn, ok := p["transaction"].(map[string]any); ok {
		mark(txn, "id")
	}
}

func compareTopics(t *testing.T, want, got map[string][]captured) {
	t.Helper()
	names := slices.Sorted(maps.Keys(want))
	for _, n := range slices.Sorted(maps.Keys(got)) {
		if want[n] == nil {
			t.Errorf("topic %s: Debezium has no such topic", n)
		}
	}
	for _, n := range names {
		if len(want[n]) != len(got[n]) {
			t.Errorf("topic %s: Debezium wrote %d records, we %d", n, len(want[n]), len(got[n]))
		}
		said := map[string]int{}
		for i := range min(len(want[n]), len(got[n])) {
			w, g := plainValue(t, want[n][i]), plainValue(t, got[n][i])
			for _, d := range differences(nil, "", w, g) {
				if d.justified(justifications) {
					continue
				}
				if said[d.path]++; said[d.path] <= 3 {
					t.Errorf("topic %s, record %d, %s: Debezium %v, we %v", n, i, d.path, d.want, d.got)
				}
			}
		}
	}
}

// plainValue turns a record into maps and lists.
func plainValue(t *testing.T, c captured) any {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// difference is one value that is not the same.
type difference struct {
	path      string
	want, got any
}

func differences(out []difference, path string, want, got any) []difference {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		keys := maps.Clone(w)
		maps.Copy(keys, g)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			wv, wok := w[k]
			gv, gok := g[k]
			switch {
			case !wok:
				out = append(out, difference{path + "." + k, "has none", gv})
			case !gok:
				out = append(out, difference{path + "." + k, wv, "have none"})
			default:
				out = differences(out, path+"."+k, wv, gv)
			}
		}
		return out
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			break
		}
		for i := range w {
			name := fmt.Sprint(i)
			if m, ok := w[i].(map[string]any); ok {
				if f, ok := m["field"].(string); ok {
					name = f
				}
			}
			out = differences(out, path+"/"+name, w[i], g[i])
		}
		return out
	}
	if !same(want, got) {
		out = append(out, difference{path, want, got})
	}
	return out
}

// same compares values; numbers by what they are, not by how they are written.
func same(a, b any) bool {
	x, ok := a.(json.Number)
	y, also := b.(json.Number)
	if ok && also {
		f, err1 := x.Float64()
		g, err2 := y.Float64()
		return x == y || err1 == nil && err2 == nil && f == g && strings.ContainsAny(x.String()+y.String(), ".eE")
	}
	return cmp.Equal(a, b)
}

// justified tells the differences that are on purpose, each with its reason.
func (d *difference) justified(list []justification) bool {
	for _, j := range list {
		if j.path.MatchString(d.path) && (j.want == "" || fmt.Sprint(d.want) == j.want) && (j.got == "" || fmt.Sprint(d.got) == j.got) {
			return true
		}
	}
	return false
}

// justification is a difference on purpose: want and got say which values are meant; empty: all.
type justification struct {
	path            *regexp.Regexp
	want, got, text string
}

var justifications = []justification{
	{regexp.MustCompile(`\.source\.snapshot$`), "first", "true", "tables are read side by side and in parts: which row is the first or the last is not known when it is written"},
	{regexp.MustCompile(`\.source\.snapshot$`), "first_in_data_collection", "true", "as above"},
	{regexp.MustCompile(`\.source\.snapshot$`), "last_in_data_collection", "true", "as above"},
	{regexp.MustCompile(`\.source\.snapshot$`), "last", "true", "as above"},
	{regexp.MustCompile(`\.(v\.default|after\.v|before\.v|defaultValueExpression)$|/v\.default$`), "x''y", "x'y", "Debezium leaves escapes in defaults"},
	{regexp.MustCompile(`/bi\.default$|\.after\.bi$`), "YWJcMFww", "YWIAAA==", "as above"},
	{regexp.MustCompile(`\.e$`), `c\,d`, "c,d", "Debezium escapes commas of members in streamed rows and not in snapshots"},
	{regexp.MustCompile(`\.j$`), `{"a": [1, 2.5, "x", null, true], "bb": {"c": "é"}}`, `{"a":[1,2.5,"x",null,true],"bb":{"c":"é"}}`, "Debezium's snapshot writes JSON with spaces, its stream without: ours is the stream's in both"},
	{regexp.MustCompile(`\.ts6$`), "2024-02-29T10:11:12.12Z", "2024-02-29T10:11:12.120000Z", "Debezium's snapshot cuts zeros off, its stream does not: ours is the stream's in both"},
	{regexp.MustCompile(`\.ts0$`), "1970-01-01T00:00:00Z", "<nil>", "Debezium's snapshot writes null for a zero timestamp, its stream the epoch: ours is null in both"},
	{regexp.MustCompile(`/bi\.default$|/16\.defaultValueExpression$`), "ab\\0\\0", "", "Debezium leaves escapes in defaults"},
	{regexp.MustCompile(`\.ddl$`), "DROP TABLE `DB`.`t_renamed`", "", "Debezium writes a DROP anew for each of its tables; ours is the statement in the log"},
	{regexp.MustCompile(`/[0-9]+\.length$`), "<nil>", "", "MariaDB gives integers a width that the statement need not tell; Debezium tells the statement's"},
	{regexp.MustCompile(`\.after\.t[036]$`), "<nil>", "", "Debezium loses times that are negative or beyond a day in the modes connect and isostring"},
	{regexp.MustCompile(`^\.value(\.payload)?\.source\.row$`), "1", "0", "Debezium leaves the last row event's number in a statement's source"},
	{regexp.MustCompile(`\.table\.comment$`), "<nil>", "later", "Debezium forgets the comment of a renamed table on MySQL; on MariaDB it does not"},
	{regexp.MustCompile(`^\.value(\.payload)?\.source\.table$`), "", "t_renamed", "Debezium does not tell the table of CREATE INDEX"},
}
