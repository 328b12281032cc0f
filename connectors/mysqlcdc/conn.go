package mysqlcdc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/client"
	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// conn is one connection for queries. A context given to a call ends the connection when it ends.
type conn struct{ c *client.Conn }

const sessionSetup = "SET SESSION time_zone='+00:00', sql_mode='', lock_wait_timeout=10, net_write_timeout=3600, net_read_timeout=600, wait_timeout=86400"

// dial opens a connection whose session shows values as the binlog has them.
func (s *settings) dial(ctx context.Context) (*conn, error) {
	tlsConfig, err := s.tls()
	if err != nil {
		return nil, err
	}
	c, err := s.connect(ctx, tlsConfig)
	if err != nil && s.sslMode == "preferred" && strings.Contains(err.Error(), "does not support TLS") {
		s.plain.Store(true)
		c, err = s.connect(ctx, nil)
	}
	if err != nil {
		return nil, s.explain("connect to "+s.addr(), err)
	}
	out := &conn{c}
	if err := out.exec(ctx, sessionSetup); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

func (s *settings) addr() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

func (s *settings) connect(ctx context.Context, tlsConfig *tls.Config) (*client.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout)
	defer cancel()
	return client.ConnectWithDialer(ctx, "tcp", s.addr(), s.user, s.password, "", s.dialer(ctx), func(c *client.Conn) error {
		c.SetTLSConfig(tlsConfig)
		return nil
	})
}

// dialer bounds the handshake too: it closes the socket when ctx ends before the deadline is lifted.
func (s *settings) dialer(context.Context) client.Dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{Timeout: s.connectTimeout, KeepAlive: 15 * time.Second}
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if at, ok := ctx.Deadline(); ok {
			_ = c.SetDeadline(at)
		}
		return c, nil
	}
}

func (s *settings) tls() (*tls.Config, error) {
	if s.sslMode == "disabled" || s.plain.Load() {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: s.host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // preferred and required encrypt without verifying, as their names say
	if s.sslCA != "" {
		pem, err := os.ReadFile(s.sslCA)
		if err != nil {
			return nil, sslProblem(keySSLCA, s.sslCA, err.Error())
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, sslProblem(keySSLCA, s.sslCA, "it holds no PEM certificate")
		}
	}
	if s.sslCert != "" {
		pair, err := tls.LoadX509KeyPair(s.sslCert, s.sslKey)
		if err != nil {
			return nil, sslProblem(keySSLCert, s.sslCert, err.Error())
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	switch s.sslMode {
	case "verify_identity":
		cfg.InsecureSkipVerify = false
	case "verify_ca":
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: cfg.RootCAs, Intermediates: x509.NewCertPool()}
			for _, c := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			return err
		}
	}
	return cfg, nil
}

func sslProblem(key, value, problem string) error {
	return configdef.AsError([]configdef.Problem{{Key: key, Value: value, Message: fmt.Sprintf("Invalid value %s for configuration %s: %s.", value, key, problem)}})
}

// sslRefusal names the key behind a connection that fails over TLS; nil: TLS is not why.
func (s *settings) sslRefusal(err error) error {
	var host x509.HostnameError
	var my *mysql.MyError
	switch {
	case errors.As(err, &host):
		return sslProblem(keySSLMode, s.sslMode, fmt.Sprintf("the server's certificate is not for %s: %v; connect to a name that it has, or use verify_ca", s.host, host))
	case errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.CertificateInvalidError)):
		return sslProblem(keySSLCA, s.sslCA, fmt.Sprintf("the server's certificate is not trusted: %v; give the file of the authority that has signed it", err))
	case strings.Contains(err.Error(), "does not support TLS"):
		return sslProblem(keySSLMode, s.sslMode, "the server has no TLS; use preferred or disabled, or switch on TLS there")
	case errors.As(err, &my) && my.Code == secureTransportRequired:
		return sslProblem(keySSLMode, s.sslMode, "the server takes encrypted connections only; use required")
	}
	return nil
}

// sameReplicaMariaDB is MariaDB's answer to the older of two replicas with one id.
const sameReplicaMariaDB = 4052

// sslHint is the other reason why a server may refuse a user.
func (s *settings) sslHint() string {
	switch {
	case s.sslMode == "disabled":
		return "; where it takes encrypted connections only, set database.ssl.mode"
	case s.sslCert == "":
		return "; where the user must show a certificate, set database.ssl.cert"
	}
	return ""
}

// secureTransportRequired is what MySQL with require_secure_transport answers; MariaDB says that it refuses the user.
const secureTransportRequired = 3159

// explain wraps an error of the server's or the network's: the way out where there is one, and Retriable where it may
// pass by itself.
func (s *settings) explain(doing string, err error) error {
	var my *mysql.MyError
	if refusal := s.sslRefusal(err); refusal != nil {
		return fmt.Errorf("%s: %w", doing, refusal)
	}
	if !errors.As(err, &my) {
		return connectors.Retriable(fmt.Errorf("%s: %w", doing, err))
	}
	switch my.Code {
	case 1045:
		return fmt.Errorf("%s: the server refuses user %q or its password (database.user, database.password)%s: %w", doing, s.user, s.sslHint(), err)
	case 1227, 1142, 1044:
		return fmt.Errorf("%s: user %q lacks a privilege: %w; run %s", doing, s.user, err, s.grant())
	case 1236, sameReplicaMariaDB:
		if my.Code == sameReplicaMariaDB || strings.Contains(my.Message, "server_uuid") || strings.Contains(my.Message, "server_id") || strings.Contains(my.Message, "same server") {
			return fmt.Errorf("%s: another replica uses server id %d; set database.server.id to a number that nothing else uses: %w", doing, s.serverID, err)
		}
		return &purgedError{fmt.Errorf("%s: the server no longer has the binlog that this connector has to go on from: %w; "+
			"keep binlogs longer (binlog_expire_logs_seconds), and reset the connector's offsets so that it makes a new snapshot, or set snapshot.mode=when_needed", doing, err)}
	case 1040, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1226, 1317, 3024, 4031:
		return connectors.Retriable(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (s *settings) grant() string {
	return fmt.Sprintf("GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT, LOCK TABLES ON *.* TO '%s'@'%%'", s.user)
}

// purgedError says that the log from the stored position on is gone.
type purgedError struct{ err error }

func (p *purgedError) Error() string { return p.err.Error() }
func (p *purgedError) Unwrap() error { return p.err }

func (c *conn) close() {
	if c != nil {
		_ = c.c.Close()
	}
}

// guard closes the connection when ctx ends, until the returned function is called.
func (c *conn) guard(ctx context.Context) func() bool {
	_ = c.c.Conn.Conn.SetDeadline(time.Time{})
	return context.AfterFunc(ctx, func() { _ = c.c.Conn.Conn.Close() })
}

func (c *conn) exec(ctx context.Context, sql string) error {
	defer c.guard(ctx)()
	_, err := c.c.Execute(sql)
	return wrapQuery(ctx, sql, err)
}

func wrapQuery(ctx context.Context, sql string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sql = sql[:min(len(sql), 200)]
	var my *mysql.MyError
	err = fmt.Errorf("run %q: %w", sql, err)
	if !errors.As(err, &my) || my.Code == 1205 || my.Code == 1213 || my.Code == 1317 {
		return connectors.Retriable(err)
	}
	return err
}

// query returns all rows as text; NULL is "".
func (c *conn) query(ctx context.Context, sql string) ([][]string, error) {
	defer c.guard(ctx)()
	r, err := c.c.Execute(sql)
	if err != nil {
		return nil, wrapQuery(ctx, sql, err)
	}
	defer r.Close()
	if !r.HasResultset() {
		return nil, nil
	}
	out := make([][]string, r.RowNumber())
	for i := range out {
		out[i] = make([]string, r.ColumnNumber())
		for j := range out[i] {
			v, err := r.GetString(i, j)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", sql, err)
			}
			out[i][j] = strings.Clone(v) // it points into a pooled buffer
		}
	}
	return out, nil
}

// stream calls row for each row; its slice is valid during the call.
func (c *conn) stream(ctx context.Context, sql string, row func([]mysql.FieldValue) error) error {
	defer c.guard(ctx)()
	var r mysql.Result
	return wrapQuery(ctx, sql, c.c.ExecuteSelectStreaming(sql, &r, row, nil))
}

// one returns the only row of sql, or nil.
func (c *conn) one(ctx context.Context, sql string) ([]string, error) {
	rows, err := c.query(ctx, sql)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return rows[0], nil
}

func (c *conn) variables(ctx context.Context, names ...string) (map[string]string, error) {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quoteText(n)
	}
	rows, err := c.query(ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ("+strings.Join(quoted, ",")+")")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range rows {
		out[strings.ToLower(r[0])] = r[1]
	}
	return out, nil
}

// catalog reads a table's columns and key, nil when there is no such table.
func (c *conn) catalog(ctx context.Context, id tableID) (*catalogTable, error) {
	all, err := c.catalogs(ctx, "table_schema="+quoteText(id.db)+" AND table_name="+quoteText(id.name), func(tableID) bool { return true })
	if err != nil {
		return nil, err
	}
	for _, t := range all { // one at most; its name may be written in another case
		return t, nil
	}
	return nil, nil
}

// catalogs reads the columns and keys of the tables that where selects and keep wants.
func (c *conn) catalogs(ctx context.Context, where string, keep func(tableID) bool) (map[tableID]*catalogTable, error) {
	rows, err := c.query(ctx, "SELECT table_schema, table_name, column_name, column_type, data_type, is_nullable, character_set_name, numeric_precision, "+
		"numeric_scale, datetime_precision, character_maximum_length, column_default IS NULL, column_default, extra, column_comment "+
		"FROM information_schema.columns WHERE "+where+" ORDER BY table_schema, table_name, ordinal_position")
	if err != nil {
		return nil, err
	}
	out := map[tableID]*catalogTable{}
	quotes := strings.Contains(strings.ToLower(c.c.GetServerVersion()), "mariadb")
	num := func(s string) int { n, _ := strconv.Atoi(s); return n }
	for _, r := range rows {
		id := tableID{r[0], r[1]}
		if !keep(id) {
			continue
		}
		t := out[id]
		if t == nil {
			t = &catalogTable{}
			out[id] = t
		}
		r = r[2:]
		col := record.Column{Name: r[0], Type: r[1], Family: families[strings.ToLower(r[2])], Nullable: r[3] == "YES", Charset: r[4]}
		col.Unsigned = strings.Contains(strings.ToLower(r[1]), " unsigned")
		switch col.Family {
		case record.FamilyDecimal:
			col.Length, col.Scale = num(r[5]), num(r[6])
		case record.FamilyBit:
			col.Length = num(r[5])
		case record.FamilyTime, record.FamilyDateTime, record.FamilyTimestamp:
			col.Scale = num(r[7])
		case record.FamilyEnum, record.FamilySet:
			col.Values, col.Charset = parseMembers(r[1]), ""
		case record.FamilyChar, record.FamilyVarchar, record.FamilyBinary, record.FamilyVarbinary:
			col.Length = num(r[8])
		case record.FamilyJSON:
			col.Charset = ""
		}
		describeDefault(&col, r[9] == "1", r[10], strings.ToLower(r[11]), quotes)
		col.Comment = r[12]
		t.columns = append(t.columns, col)
	}
	if err := c.keys(ctx, out, where); err != nil {
		return nil, err
	}
	rows, err = c.query(ctx, "SELECT table_schema, table_name, engine, table_collation, table_comment, avg_row_length FROM information_schema.tables WHERE "+where+
		" AND table_type='BASE TABLE'")
	if err != nil {
		return nil, err
	}
	base := map[tableID]bool{}
	for _, r := range rows {
		id := tableID{r[0], r[1]}
		if t := out[id]; t != nil {
			base[id] = true
			t.engine, t.comment, t.rowBytes = r[2], r[4], int64(num(r[5]))
			t.charset, _, _ = strings.Cut(r[3], "_")
		}
	}
	for id := range out { // views have columns too, and no rows in the log
		if !base[id] {
			delete(out, id)
		}
	}
	return out, nil
}

// keys reads the primary keys and the unique indexes.
func (c *conn) keys(ctx context.Context, tables map[tableID]*catalogTable, where string) error {
	rows, err := c.query(ctx, "SELECT table_schema, table_name, index_name, column_name FROM information_schema.statistics WHERE "+where+
		" AND non_unique=0 ORDER BY table_schema, table_name, index_name, seq_in_index")
	if err != nil {
		return err
	}
	bad := map[tableID]map[string]bool{}
	for _, k := range rows {
		id := tableID{k[0], k[1]}
		t := tables[id]
		if t == nil {
			continue
		}
		index, column := k[2], k[3]
		at := t.index(column)
		if index == "PRIMARY" && at >= 0 {
			t.key = append(t.key, at)
			continue
		}
		if at < 0 { // an expression
			if bad[id] == nil {
				bad[id] = map[string]bool{}
			}
			bad[id][index] = true
		}
		if n := len(t.uniques); n > 0 && t.uniques[n-1].name == index {
			t.uniques[n-1].columns = append(t.uniques[n-1].columns, column)
		} else {
			t.uniques = append(t.uniques, uniqueKey{index, []string{column}})
		}
	}
	for id, names := range bad {
		t := tables[id]
		t.uniques = slices.DeleteFunc(t.uniques, func(u uniqueKey) bool { return names[u.name] })
	}
	return nil
}

// databaseCharsets reads the character set that each database gives its new tables.
func (c *conn) databaseCharsets(ctx context.Context) (map[string]string, error) {
	rows, err := c.query(ctx, "SELECT schema_name, default_character_set_name FROM information_schema.schemata")
	out := map[string]string{}
	for _, r := range rows {
		out[r[0]] = r[1]
	}
	return out, err
}

// describeDefault fills a column's default from the catalogue. MariaDB shows it as SQL, MySQL as bare text.
func describeDefault(c *record.Column, null bool, def, extra string, quotes bool) {
	c.AutoIncrement = strings.Contains(extra, "auto_increment")
	c.Generated = strings.Contains(extra, "virtual generated") || strings.Contains(extra, "stored generated") || strings.Contains(extra, "persistent")
	lower := strings.ToLower(def)
	switch {
	case null, quotes && lower == "null", c.Generated:
	case strings.HasPrefix(lower, "current_timestamp"), strings.HasPrefix(lower, "now("):
		c.Default, c.HasDefault = record.DefaultNow, true
	case strings.Contains(extra, "default_generated"):
	case quotes && len(def) >= 2 && def[0] == '\'' && def[len(def)-1] == '\'':
		c.Default, c.HasDefault = unquoteText(def[1:len(def)-1]), true
	default:
		c.Default, c.HasDefault = def, true
	}
}

// unquoteText undoes the escapes of SQL text.
func unquoteText(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '\'' || c == '\\') && i+1 < len(s) {
			i++
			if c == '\\' {
				c = unescape(s[i])
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// unescape is the character that stands behind a backslash in SQL text.
func unescape(c byte) byte {
	switch c {
	case '0':
		return 0
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'Z':
		return 26
	}
	return c
}
