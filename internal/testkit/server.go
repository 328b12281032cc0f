package testkit

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Server is a running database server.
type Server struct {
	Kind     string // mariadb or mysql
	DSN      string // of the Go driver, without a database: user:password@tcp(host:port)/
	Addr     string // host:port
	User     string
	Password string
}

// Host returns the host of Addr.
func (s Server) Host() string {
	host, _, _ := net.SplitHostPort(s.Addr)
	return host
}

// Port returns the port of Addr.
func (s Server) Port() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	return port
}

// WithDatabase returns the DSN with the database and the driver's parameters, for example "parseTime=true".
func (s Server) WithDatabase(database string, params ...string) string {
	dsn := s.DSN + database
	if len(params) > 0 {
		dsn += "?" + strings.Join(params, "&")
	}
	return dsn
}

// MariaDB returns the shared MariaDB (row binlog, full metadata), starting it on first use.
func MariaDB(t testing.TB) Server {
	t.Helper()
	return database(t, "mariadb", start(t, "mariadb"))
}

// MySQL returns the shared Oracle MySQL (GTIDs, full metadata), starting it on first use.
func MySQL(t testing.TB) Server {
	t.Helper()
	return database(t, "mysql", start(t, "mysql"))
}

// Kafka returns the shared broker's bootstrap address, host:port, starting it on first use. It does not make topics by itself.
func Kafka(t testing.TB) string {
	t.Helper()
	return start(t, "kafka")
}

// Connect returns the URL of the shared Kafka Connect with Debezium, which works on the broker that Kafka returns, starting it on first
// use. It returns "" where there is no Java, and the caller has what it once answered; where servers are promised it is there.
func Connect(t testing.TB) string {
	t.Helper()
	if !java("connect") {
		return ""
	}
	return start(t, "connect")
}

// NeedConnect is Connect for a test that has no recording to go by.
func NeedConnect(t testing.TB) string {
	t.Helper()
	url := Connect(t)
	if url == "" {
		t.Skip("SKIP: no Kafka Connect: there is no Java")
	}
	return url
}

// java reports whether a server of Java's can be had. Where servers are promised the script installs what is missing.
func java(kind string) bool {
	_, err := exec.LookPath("java")
	return err == nil || required() || os.Getenv(variables[kind]) != ""
}

// Instance starts a private database server of the kind (mariadb or mysql) with more lines for its configuration, such as
// "binlog_format=STATEMENT", and removes it when the test ends.
func Instance(t testing.TB, kind string, options ...string) Server {
	t.Helper()
	return database(t, kind, instance(t, kind, "", options))
}

// KafkaInstance is the same for a broker. options gets the port of its plain listener, so that it can name listeners; the next port is the
// controller's, and the one after that is free for another listener. It returns the port.
func KafkaInstance(t testing.TB, options func(port int) []string) int {
	t.Helper()
	port := freePorts(t, 3)
	instance(t, "kafka", strconv.Itoa(port), options(port))
	return port
}

// freePorts returns the first of n free ports in a row, below the range that the kernel hands out to clients.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	for range 100 {
		first, free := 20000+rand.N(12000), 0
		for ; free < n; free++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+free))
			if err != nil {
				break
			}
			_ = l.Close()
		}
		if free == n {
			return first
		}
	}
	t.Fatalf("no %d ports in a row are free", n)
	return 0
}

func instance(t testing.TB, kind, port string, options []string) (address string) {
	t.Helper()
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s %s %q", t.Name(), os.Args[0], options)
	name := fmt.Sprintf("t%08x", h.Sum32())
	args := []string{kind, "up", "--instance", name}
	if port != "" {
		args = append(args, "--port", port)
	}
	for _, o := range options {
		args = append(args, "--opt", o)
	}
	short(t, kind)
	out, err := script(args...)
	t.Cleanup(func() {
		if _, err := script(kind, "drop", "--instance", name); err != nil {
			t.Errorf("stop %s %s: %v", kind, name, err)
		}
	})
	if err != nil {
		missing(t, kind, err)
	}
	_, address, _ = strings.Cut(out, "=")
	return address
}

// Database creates an empty database with a name of its own, returns a handle that is connected to it, and drops it when the
// test ends.
func Database(t testing.TB, s Server) (db *sql.DB, name string) {
	t.Helper()
	name = fmt.Sprintf("t_%d_%d", os.Getpid(), time.Now().UnixNano())
	admin := open(t, s)
	// The test's own context has ended by the time of the clean-up.
	if _, err := admin.ExecContext(t.Context(), "create database "+name+" character set utf8mb4"); err != nil {
		_ = admin.Close()
		t.Fatalf("create database %s on %s: %v", name, s.Kind, err)
	}
	db, err := sql.Open("mysql", s.WithDatabase(name, "parseTime=true", "multiStatements=true"))
	if err != nil {
		t.Fatalf("open %s: %v", s.Kind, err)
	}
	t.Cleanup(func() {
		_ = db.Close()
		if _, err := admin.Exec("drop database if exists " + name); err != nil {
			t.Errorf("drop database %s on %s: %v", name, s.Kind, err)
		}
		_ = admin.Close()
	})
	return db, name
}

func open(t testing.TB, s Server) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN)
	if err != nil {
		t.Fatalf("open %s: %v", s.Kind, err)
	}
	return db
}

var variables = map[string]string{"mariadb": "MARIADB_DSN", "mysql": "MYSQL_DSN", "kafka": "KAFKA_BROKERS", "connect": "CONNECT_URL", "registry": "REGISTRY_URL"}

// started remembers what one process has asked the script, which takes some 50 ms.
var started struct {
	sync.Mutex // guards: addr
	addr       map[string]string
}

// start returns the value of the kind's variable, from the environment or from the script.
func start(t testing.TB, kind string) string {
	t.Helper()
	if v := os.Getenv(variables[kind]); v != "" {
		return v
	}
	short(t, kind)
	started.Lock()
	defer started.Unlock()
	if v, ok := started.addr[kind]; ok {
		return v
	}
	out, err := script(kind, "up")
	if err != nil {
		missing(t, kind, err)
	}
	_, v, _ := strings.Cut(out, "=")
	if started.addr == nil {
		started.addr = map[string]string{}
	}
	started.addr[kind] = v
	return v
}

func short(t testing.TB, kind string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("SKIP: needs %s, which -short leaves out", kind)
	}
}

// Program returns where a program is that `make test` installs: on the path, or in the Python environment of make venv.
func Program(t testing.TB, name string) string {
	t.Helper()
	if cache := os.Getenv("MILLRACE_CACHE"); cache != "" {
		if path, err := exec.LookPath(filepath.Join(cache, "venv", "bin", name)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, err)
	}
	return path
}

// missing skips the test, loudly; where servers are promised (CI, MILLRACE_REQUIRE_SERVERS=1) their absence is a failure.
func missing(t testing.TB, kind string, err error) {
	t.Helper()
	if required() {
		t.Fatalf("%s is required here (CI or MILLRACE_REQUIRE_SERVERS is set) and can't be had: %v", kind, err)
	}
	t.Skipf("SKIP: no %s: %v", kind, err)
}

func required() bool {
	on := func(key string) bool { v := os.Getenv(key); return v != "" && v != "0" && v != "false" }
	return on("CI") || on("MILLRACE_REQUIRE_SERVERS")
}

func script(args ...string) (string, error) {
	path, err := scriptPath()
	if err != nil {
		return "", err
	}
	// No context: killed half-way it would leave a server that nobody knows of. It has time limits of its own.
	cmd := exec.Command(path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("servers %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// scriptPath finds the script from the directory of the package under test, where `go test` runs: -trimpath takes away
// runtime.Caller's paths.
func scriptPath() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "internal", "testkit", "servers", "servers")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("internal/testkit/servers/servers is in no directory above the test's: run tests inside the source tree")
		}
		dir = parent
	}
}

func database(t testing.TB, kind, dsn string) Server {
	t.Helper()
	c, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatalf("%s %q: %v", variables[kind], dsn, err)
	}
	// Callers append a database: theirs must not end up behind another one, nor behind parameters.
	return Server{
		Kind: kind, Addr: c.Addr, User: c.User, Password: c.Passwd,
		DSN: fmt.Sprintf("%s:%s@tcp(%s)/", c.User, c.Passwd, c.Addr),
	}
}

// RealRegistry returns the URL of the shared schema registry, Apicurio's with the interface of Confluent's, starting it on first use. Where there is no
// Java the test is skipped, as without Kafka Connect.
func RealRegistry(t testing.TB) string {
	t.Helper()
	if !java("registry") {
		t.Skip("SKIP: no schema registry: there is no Java")
	}
	return start(t, "registry")
}
