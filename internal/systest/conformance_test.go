package systest

import (
	"bytes"
	"context"
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
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

var recordConnect = flag.Bool("connect", false, "write what TestConnectConformance expects anew, from the real Kafka Connect")

// request is one step of the suite. Texts may have placeholders: {c} and {s} are connectors' names, {t} a topic, {sink} and {source} the
// members of a config that suit the system.
type request struct {
	method, path, body string
	// header is one "Name: value"; a body has the content type application/json unless it says another.
	header string
	// until: asked again until the answer contains this.
	until string
	// shape: only the names and types of the body's members are compared.
	shape bool
	// errors: of the answer of a validation only the errors of each key are compared.
	errors bool
	// only: this member of the body is compared and no other, for lists of what others have made, too.
	only string
}

// answered is what came back, with what no two systems share made equal.
type answered struct {
	Request string            `json:"request"`
	Status  int               `json:"status"`
	Header  map[string]string `json:"header,omitempty"`
	Body    any               `json:"body,omitempty"`
}

// peer is one of the two systems.
type peer struct {
	url     string
	texts   map[string]string // of placeholders
	private []string          // config keys that only this system has
	api     *description      // nil: bodies are not checked against it
}

// TestConnectConformance asks Kafka Connect and Millrace the same things and compares status, headers, messages and bodies. What Connect
// answered is stored; where it can be had it is asked again. All differences are in conformance_differences_test.go, each with its reason.
func TestConnectConformance(t *testing.T) {
	id := testkit.UniqueName("rest")
	db := testkit.MySQL(t)
	ours, theirs := millracePeer(t, id, db), connectPeer(t, id, db)
	got := ours.run(t)
	path := filepath.Join("testdata", "connect-rest", "recording.json")
	var want []answered
	switch {
	case theirs != nil:
		want = theirs.run(t)
		if *recordConnect {
			writeRecording(t, path, want)
		}
	case *recordConnect:
		t.Fatal("-connect needs Java")
	default:
		b, err := os.ReadFile(path)
		if err == nil {
			err = decode(b, &want)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(want) != len(got) {
		t.Fatalf("the recording has %d answers, the suite %d requests: record it anew with -connect", len(want), len(got))
	}
	used := map[int]bool{}
	for i := range want {
		compareAnswers(t, conformanceRequests[i], want[i], got[i], used)
	}
	for i, d := range restDifferences {
		if !used[i] {
			t.Errorf("this difference is none any more: %s %s, Connect %s", d.request, d.what, d.want)
		}
	}
}

// Users are told of every difference.
func TestDifferencesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/rest-compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range restDifferences {
		if !strings.Contains(string(page), "| "+d.why+" |") {
			t.Errorf("docs/reference/rest-compatibility.md does not say: %s", d.why)
		}
	}
	if n := fmt.Sprintf("same %d requests", len(conformanceRequests)); !strings.Contains(string(page), n) {
		t.Errorf("docs/reference/rest-compatibility.md does not say %q", n)
	}
}

func millracePeer(t *testing.T, id string, db testkit.Server) *peer {
	f, cluster := nodes(t, 1, "--brokers", embeddedBroker(t))
	fill(t, f.Args[1], id)
	dir := t.TempDir()
	p := &peer{url: f.Nodes[0].REST, private: []string{"file.path"}, texts: placeholders(id, db), api: readDescription(t, cluster)}
	p.texts["{sink}"] = fmt.Sprintf(`"connector.class":"org.apache.kafka.connect.file.FileStreamSinkConnector","file.path":%q`, dir)
	p.texts["{source}"] = sourceMembers(id, db)
	return p
}

func connectPeer(t *testing.T, id string, db testkit.Server) *peer {
	url := testkit.Connect(t)
	if url == "" {
		return nil
	}
	broker := testkit.Kafka(t)
	fill(t, broker, id)
	p := &peer{url: url, texts: placeholders(id, db)}
	p.private = []string{"file", "schema.history.internal.kafka.bootstrap.servers", "schema.history.internal.kafka.topic", "database.ssl.mode", "database.allowPublicKeyRetrieval"}
	p.texts["{sink}"] = fmt.Sprintf(`"connector.class":"org.apache.kafka.connect.file.FileStreamSinkConnector","file":%q`, filepath.Join(t.TempDir(), "out"))
	p.texts["{source}"] = sourceMembers(id, db) + fmt.Sprintf(`,"schema.history.internal.kafka.bootstrap.servers":%q,"schema.history.internal.kafka.topic":"history.%s","database.ssl.mode":"disabled","database.allowPublicKeyRetrieval":"true"`, broker, id)
	t.Cleanup(func() {
		for _, name := range []string{"{c}", "{s}", "{c}%20put", "{c}-i", "{c}-g"} {
			req, _ := http.NewRequest(http.MethodDelete, url+"/connectors/"+p.fill(name), nil)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}
	})
	return p
}

func placeholders(id string, db testkit.Server) map[string]string {
	return map[string]string{"{c}": id + "-sink", "{s}": id + "-source", "{t}": id + "-topic", "{p}": id + "-prefix", "{user}": db.User}
}

func sourceMembers(id string, db testkit.Server) string {
	return fmt.Sprintf(`"connector.class":"io.debezium.connector.mysql.MySqlConnector","database.hostname":%q,"database.port":%q,"database.user":%q,"database.password":%q,"database.server.id":"54321","topic.prefix":"%s-prefix"`,
		db.Host(), db.Port(), db.User, db.Password, id)
}

// fill makes the topic, with three records in its one partition.
func fill(t *testing.T, broker, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := kafka.Config{Brokers: []string{broker}}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	topic := id + "-topic"
	if err := a.EnsureTopic(ctx, topic, kafka.TopicConfig{Partitions: 1, Replication: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a, err := kafka.NewAdmin(context.Background(), c); err == nil {
			_ = a.DeleteTopic(context.Background(), topic)
			_ = a.Close()
		}
	})
	p, err := kafka.NewProducer(ctx, c, "", kafka.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var msgs []kafka.Message
	for i := range 3 {
		msgs = append(msgs, kafka.Message{Topic: topic, Value: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	if err := p.Send(ctx, msgs); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(ctx); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) fill(s string) string {
	for _, k := range slices.Sorted(maps.Keys(p.texts)) {
		s = strings.ReplaceAll(s, k, p.texts[k])
	}
	return s
}

// run does all requests of the suite.
func (p *peer) run(t *testing.T) []answered {
	t.Helper()
	out := make([]answered, 0, len(conformanceRequests))
	for _, r := range conformanceRequests {
		out = append(out, p.do(t, r))
	}
	return out
}

// do asks until the answer is the awaited one. Connect answers 409 while its workers agree on who does what: that passes.
func (p *peer) do(t *testing.T, r request) answered {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status, header, body := p.once(t, r)
		passing := status == http.StatusConflict && strings.Contains(body, "rebalance") || strings.Contains(body, "stale configuration")
		if !passing && strings.Contains(body, p.fill(r.until)) {
			return p.level(t, r, status, header, body)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s %s never answered %q; now %d %s", p.url, r.method, p.fill(r.path), r.until, status, body)
		}
	}
}

func (p *peer) once(t *testing.T, r request) (int, http.Header, string) {
	t.Helper()
	sent := p.fill(r.body)
	req, err := http.NewRequestWithContext(t.Context(), r.method, p.url+p.fill(r.path), strings.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	if sent != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if name, value, ok := strings.Cut(r.header, ": "); ok {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if p.api != nil {
		p.api.check(t, req, sent, resp, b)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// level makes equal what no two systems share: ids, hosts, times, and each system's own settings.
func (p *peer) level(t *testing.T, r request, status int, header http.Header, body string) answered {
	t.Helper()
	a := answered{Request: r.method + " " + r.path, Status: status, Header: map[string]string{}}
	if r.body != "" {
		a.Request += " " + r.body
	}
	if r.header != "" {
		a.Request += " (" + r.header + ")"
	}
	body = strings.ReplaceAll(body, p.url, "{url}")
	for _, name := range []string{"Content-Type", "Location", "Allow"} {
		if v := header.Get(name); v != "" {
			a.Header[name] = p.names(strings.ReplaceAll(v, p.url, "{url}"))
		}
	}
	if list := a.Header["Allow"]; list != "" { // in no order, and the body says the same
		words := strings.Split(list, ",")
		slices.Sort(words)
		a.Header["Allow"], body = strings.Join(words, ","), ""
	}
	var v any
	if body = p.names(body); decode([]byte(body), &v) != nil {
		v = body // no JSON
		if body == "" {
			v = nil
		}
	}
	if strings.Contains(header.Get("Content-Type"), "html") {
		v = "a page"
	}
	if all, ok := v.(map[string]any); ok && r.only != "" {
		v = map[string]any{r.only: all[r.only]}
	}
	if config, ok := v.(map[string]any); ok && strings.HasSuffix(r.path, "/config") {
		p.ownKeysOut(config)
	}
	a.Body = p.plain(v)
	switch {
	case r.shape:
		a.Body = shapeOf(a.Body)
	case r.errors:
		a.Body = errorsByKey(t, a.Body)
	}
	return a
}

// names puts the placeholders of names back.
func (p *peer) names(s string) string {
	for _, k := range []string{"{c}", "{s}", "{t}", "{p}"} {
		s = strings.ReplaceAll(s, p.texts[k], k)
	}
	return s
}

var levelled = []string{"worker_id", "version", "commit", "kafka_cluster_id", "trace", "last_modified"}

func (p *peer) plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if slices.Contains(levelled, k) && x != nil {
				v[k] = "<" + k + ">"
				continue
			}
			if config, ok := x.(map[string]any); ok && k == "config" {
				p.ownKeysOut(config)
			}
			v[k] = p.plain(x)
		}
	case []any:
		for i := range v {
			v[i] = p.plain(v[i])
		}
	}
	return v
}

// errorsByKey is what a validation found wrong.
func errorsByKey(t *testing.T, v any) any {
	t.Helper()
	m, _ := v.(map[string]any)
	configs, _ := m["configs"].([]any)
	if len(configs) == 0 {
		t.Fatalf("no validation: %v", v)
	}
	out := map[string]any{"error_count": m["error_count"], "name": m["name"]}
	for _, c := range configs {
		c, _ := c.(map[string]any)
		value, _ := c["value"].(map[string]any)
		if list, _ := value["errors"].([]any); len(list) > 0 {
			out[fmt.Sprint(value["name"])] = list
		}
	}
	return out
}

// ownKeysOut takes out of a config what only this system has.
func (p *peer) ownKeysOut(config map[string]any) {
	maps.DeleteFunc(config, func(k string, _ any) bool { return slices.Contains(p.private, k) })
}

// shapeOf is a body with types for values. Of a list it is what all members have, taken together.
func shapeOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = shapeOf(x)
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		all := shapeOf(v[0])
		for _, x := range v[1:] {
			all = together(all, shapeOf(x))
		}
		return []any{all}
	case json.Number:
		return "number"
	case string:
		return "text"
	case bool:
		return "boolean"
	}
	return "null"
}

// together is a shape that two shapes fit.
func together(a, b any) any {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			for k, v := range y {
				if x[k] == nil {
					x[k] = v
				}
				x[k] = together(x[k], v)
			}
			return x
		}
	case []any:
		if y, ok := b.([]any); ok {
			if len(x) == 0 || len(y) == 0 {
				return append(x, y...)
			}
			return []any{together(x[0], y[0])}
		}
	case string:
		if y, ok := b.(string); ok {
			types := append(strings.Split(x, "|"), strings.Split(y, "|")...)
			slices.Sort(types)
			return strings.Join(slices.Compact(types), "|")
		}
	}
	if a == "null" {
		return b // an object or a list that may be missing
	}
	return a
}

// within: ours has no type that Connect's shape does not have.
func within(want, got any) bool {
	if list, ok := got.([]any); ok && len(list) == 0 {
		_, ok := want.([]any)
		return ok
	}
	w, ok := want.(string)
	g, also := got.(string)
	if !ok || !also {
		return false
	}
	for kind := range strings.SplitSeq(g, "|") {
		if !slices.Contains(strings.Split(w, "|"), kind) {
			return false
		}
	}
	return true
}

// restDifference is one place where Millrace answers otherwise on purpose.
type restDifference struct {
	// request is matched against "METHOD path body", what against the difference's place: status, header.X, or a path in the body.
	request, what string
	// want and got match both sides' values; empty: any.
	want, got string
	why       string
}

func compareAnswers(t *testing.T, r request, want, got answered, used map[int]bool) {
	t.Helper()
	plain := func(a answered) any {
		if a.Header == nil { // left out of the recording
			a.Header = map[string]string{}
		}
		b, err := json.Marshal(map[string]any{"status": a.Status, "header": a.Header, "body": a.Body})
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := decode(b, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if want.Request != got.Request {
		t.Fatalf("the recording asks %q, the suite %q: record it anew with -connect", want.Request, got.Request)
	}
	for _, d := range differences(nil, "", plain(want), plain(got)) {
		if r.shape && within(d.want, d.got) {
			continue
		}
		at := slices.IndexFunc(restDifferences, func(x restDifference) bool {
			return matches(x.request, want.Request) && matches(x.what, d.path) && matches(x.want, fmt.Sprint(d.want)) && matches(x.got, fmt.Sprint(d.got))
		})
		if at >= 0 {
			used[at] = true
			continue
		}
		t.Errorf("%s\n  %s\n  Connect  %v\n  Millrace %v", want.Request, d.path, d.want, d.got)
	}
}

func matches(pattern, s string) bool {
	return regexp.MustCompile("(?s)^(?:" + pattern + ")").MatchString(s)
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}

func writeRecording(t *testing.T, path string, list []answered) {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	out.WriteString("[\n")
	for i, a := range list {
		if i > 0 {
			out.WriteString(",")
		}
		if err := e.Encode(a); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString("]\n")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
