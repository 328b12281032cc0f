package mysqlcdc

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// The names of the keys that are read.
const (
	keyHost           = "database.hostname"
	keyPort           = "database.port"
	keyUser           = "database.user"
	keyPassword       = "database.password"
	keyServerID       = "database.server.id"
	keyPrefix         = "topic.prefix"
	keyDBInclude      = "database.include.list"
	keyDBExclude      = "database.exclude.list"
	keyTableInclude   = "table.include.list"
	keyTableExclude   = "table.exclude.list"
	keyColInclude     = "column.include.list"
	keyColExclude     = "column.exclude.list"
	keySnapshotMode   = "snapshot.mode"
	keyThreads        = "snapshot.max.threads"
	keyChunkRows      = "incremental.snapshot.chunk.size"
	keyHeartbeat      = "heartbeat.interval.ms"
	keyConnectTimeout = "connect.timeout.ms"
	keySSLMode        = "database.ssl.mode"
	keySSLCA          = "database.ssl.ca"
	keySSLCert        = "database.ssl.cert"
	keySSLKey         = "database.ssl.key"
	keyTombstones     = "tombstones.on.delete"
	keySchemaChanges  = "include.schema.changes"
	keySkipped        = "skipped.operations"
	keyBatchRows      = "max.batch.size"
	keyQueueBytes     = "max.queue.size.in.bytes"
	keyDecimal        = "decimal.handling.mode"
	keyTimePrecision  = "time.precision.mode"
	keyUnsigned       = "bigint.unsigned.handling.mode"
	keyBinary         = "binary.handling.mode"
	keyKeyColumns     = "message.key.columns"
	keyKeyUpdates     = "key.update.mode"
	keyTxnMetadata    = "provide.transaction.metadata"
	keyTxnTopic       = "topic.transaction"
	keyBeatPrefix     = "topic.heartbeat.prefix"
	keyBeatQuery      = "heartbeat.action.query"
	keyHeaders        = "extended.headers.enabled"
	keyQuery          = "include.query"
	keyStatements     = "include.statements"
	keyUnchanged      = "skip.messages.without.change"
	keyTopicRegex     = "topic.regex"
	keyTopicReplace   = "topic.replacement"
	keyDelimiter      = "topic.delimiter"
	keySignals        = "signal.data.collection"
	keyNewTables      = "snapshot.new.tables"
	keyOverrides      = "snapshot.select.statement.overrides"
)

const (
	groupConnection = "Connection"
	groupFilters    = "Tables"
	groupSnapshot   = "Initial snapshot"
	groupEvents     = "Events"
	groupTopics     = "Topics"
	groupColumns    = "Values"
	groupIgnored    = "Accepted without effect"
)

func checkRegexes(list string) error {
	_, err := compileList(strings.Split(list, ","))
	return err
}

var spec = newSpec(nil)

// newSpec declares the keys. defaults replaces some of the defaults, for the classes that stand in for another connector.
func newSpec(defaults map[string]string) *configdef.Spec {
	keys := append(ownKeys(), ignoredKeys()...)
	for i, k := range keys {
		if d, ok := defaults[k.Name]; ok {
			keys[i].Default = d
		}
	}
	return configdef.New(keys...).Cross(checkTogether)
}

func ownKeys() []configdef.Key {
	return append([]configdef.Key{
		{Name: keyHost, Type: configdef.String, Required: true, Importance: configdef.High, Group: groupConnection, Doc: "Host name or address of the MySQL or MariaDB server."},
		{Name: keyPort, Type: configdef.Int, Default: "3306", HasMin: true, Min: 1, HasMax: true, Max: 65535, Importance: configdef.High, Group: groupConnection, Doc: "Port of the server."},
		{Name: keyUser, Type: configdef.String, Required: true, Importance: configdef.High, Group: groupConnection, Doc: "User with the privileges SELECT, REPLICATION SLAVE, REPLICATION CLIENT, and LOCK TABLES where tables without a primary key are read."},
		{Name: keyPassword, Type: configdef.Password, Default: "", Importance: configdef.High, Group: groupConnection, Doc: "Password of the user."},
		{Name: keyServerID, Type: configdef.Long, NoDefault: true, HasMin: true, Min: 1, HasMax: true, Max: 4294967295, Importance: configdef.Medium, Group: groupConnection, Doc: "Replica id that the connector shows to the server. No other replica may use it. Not given: a number made from the connector's name."},
		{Name: keySSLMode, Type: configdef.String, Default: "preferred", OneOf: []string{"disabled", "preferred", "required", "verify_ca", "verify_identity", "disable", "trust", "verify-ca", "verify-full"}, Group: groupConnection, Doc: "Whether to encrypt the connection: preferred encrypts where the server can, required insists on it, verify_ca checks the certificate too, and verify_identity the host name as well. disable, trust, verify-ca and verify-full are the MariaDB connector's words for disabled, required, verify_ca and verify_identity."},
		{Name: keySSLCA, Type: configdef.String, Default: "", Group: groupConnection, Doc: "File with the PEM certificates of the authorities to trust. Empty: the system's."},
		{Name: keySSLCert, Type: configdef.String, Default: "", Group: groupConnection, Doc: "File with the connector's own certificate, as PEM, for users that must show one (REQUIRE X509). Needs database.ssl.key."},
		{Name: keySSLKey, Type: configdef.String, Default: "", Group: groupConnection, DependsOn: []string{keySSLCert}, Doc: "File with the private key of database.ssl.cert, as PEM."},
		{Name: keyConnectTimeout, Type: configdef.Int, Default: "30000", HasMin: true, Min: 100, Importance: configdef.Low, Group: groupConnection, Doc: "Longest time to wait for a connection, in ms."},
		{
			Name: keyPrefix, Type: configdef.String, Required: true, Importance: configdef.High, Group: groupEvents, Doc: "First part of the names of all topics, and the key of the stored offsets. It must not change once the connector has run.",
			Check: func(v string) error {
				if v != topicName(v) {
					return fmt.Errorf("only letters, digits, dot, underscore and hyphen are allowed")
				}
				return nil
			},
		},
		{Name: keyDBInclude, Type: configdef.List, Default: "", Check: checkRegexes, Importance: configdef.High, Group: groupFilters, Doc: "Databases to capture, as regular expressions that match the whole name, whatever its case. Empty: all but the system's."},
		{Name: keyDBExclude, Type: configdef.List, Default: "", Check: checkRegexes, Group: groupFilters, Doc: "Databases to leave out. Not together with database.include.list."},
		{Name: keyTableInclude, Type: configdef.List, Default: "", Check: checkRegexes, Importance: configdef.High, Group: groupFilters, Doc: "Tables to capture, as regular expressions on db.table."},
		{Name: keyTableExclude, Type: configdef.List, Default: "", Check: checkRegexes, Group: groupFilters, Doc: "Tables to leave out, as regular expressions on db.table. Not together with table.include.list."},
		{Name: keyColInclude, Type: configdef.List, Default: "", Check: checkRegexes, Group: groupFilters, Doc: "Columns to capture, as regular expressions on db.table.column. Columns of the primary key are always captured."},
		{Name: keyColExclude, Type: configdef.List, Default: "", Check: checkRegexes, Group: groupFilters, Doc: "Columns to leave out, as regular expressions on db.table.column. Columns of the primary key stay. Not together with column.include.list."},
		{Name: keySnapshotMode, Type: configdef.String, Default: "initial", OneOf: []string{"initial", "initial_only", "no_data", "schema_only", "when_needed", "always", "never", "recovery", "schema_only_recovery"}, Importance: configdef.High, Group: groupSnapshot, Doc: "initial reads all rows once, then streams changes; initial_only stops after reading; no_data (also: schema_only, never) streams only; when_needed is initial, and reads anew when the server has purged the binlog to go on from; always reads anew at each start of the task; recovery (also: schema_only_recovery) streams from the stored offset, which must be there."},
		{
			Name: keySignals, Type: configdef.String, Default: "", Group: groupSnapshot, Doc: "Table, as db.table, whose inserted rows (id, type, data) are signals, as Debezium has them: execute-snapshot reads tables anew, stop-snapshot, pause-snapshot and resume-snapshot act on that, log writes a message. Its rows are events too where the filters capture it. Signals also come by REST.",
			Check: func(v string) error {
				if v != "" && !strings.Contains(v, ".") {
					return errors.New("it must be db.table")
				}
				return nil
			},
		},
		{Name: keyNewTables, Type: configdef.String, Default: "parallel", OneOf: []string{"parallel", "off"}, Group: groupSnapshot, Doc: "What to do with the rows of tables that a changed filter or a rename brings in: parallel reads them while the log is followed; off streams their changes only. Without effect with snapshot.mode=no_data."},
		{Name: keyOverrides, Type: configdef.List, Default: "", Group: groupSnapshot, Doc: "Tables, as db.table, whose rows the snapshot reads with a SELECT of their own, which is given by snapshot.select.statement.overrides.db.table. It must select all captured columns."},
		{Name: keyOverrides + ".", Type: configdef.String, Prefix: true, Group: groupSnapshot, Doc: "The SELECT for a table of snapshot.select.statement.overrides."},
		{Name: keyThreads, Type: configdef.Int, Default: "2", HasMin: true, Min: 1, HasMax: true, Max: 64, Group: groupSnapshot, Doc: "How many tables, and how many parts of one table, the snapshot reads at a time."},
		{Name: keyChunkRows, Type: configdef.Int, Default: "8192", HasMin: true, Min: 1, HasMax: true, Max: 1000000, Group: groupSnapshot, Doc: "How many rows the snapshot reads with one query; big rows make it fewer."},
		{Name: keyHeartbeat, Type: configdef.Int, Default: "0", HasMin: true, Min: 0, Group: groupEvents, Doc: "Writes a record to the heartbeat topic whenever this many ms have passed, and moves the stored offset on with it. 0: no records; the offset then stays at most 10 seconds behind the server's log while no captured table changes."},
		{Name: keyTombstones, Type: configdef.Boolean, Default: "false", Group: groupEvents, Doc: "Whether a delete is followed by a record with the same key and a null value, for compacted topics."},
		{Name: keySchemaChanges, Type: configdef.Boolean, Default: "false", Group: groupEvents, Doc: "Whether DDL statements are written to the topic that is named by topic.prefix."},
		{Name: keySkipped, Type: configdef.List, Default: "t", OneOf: []string{"c", "u", "d", "t", "none"}, Group: groupEvents, Doc: "Operations to leave out: c (create), u (update), d (delete), t (truncate), or none."},
		{Name: keyBatchRows, Type: configdef.Int, Default: "2048", HasMin: true, Min: 1, HasMax: true, Max: 100000, Importance: configdef.Low, Group: groupEvents, Doc: "Most rows in one batch of streamed changes; up to four times as many where they are of one row event of the log, which is divided only then."},
		{Name: keyQueueBytes, Type: configdef.Long, Default: "8388608", HasMin: true, Min: 0, Importance: configdef.Low, Group: groupEvents, Doc: "How many bytes of the binlog may wait to be decoded. 0: 8 MiB."},
	}, shapeKeys()...)
}

// checkTogether looks at what keys mean for each other.
func checkTogether(v configdef.Values) []configdef.Problem {
	var out []configdef.Problem
	for _, pair := range [][2]string{{keyDBInclude, keyDBExclude}, {keyTableInclude, keyTableExclude}, {keyColInclude, keyColExclude}} {
		if v.OK(pair[0]) && v.OK(pair[1]) && len(v.List(pair[0])) > 0 && len(v.List(pair[1])) > 0 {
			out = append(out, configdef.Problem{
				Key: pair[1], Value: strings.Join(v.List(pair[1]), ","),
				Message: fmt.Sprintf("%s and %s exclude each other; give one of them.", pair[0], pair[1]),
			})
		}
	}
	if v.OK(keySSLCert) && v.OK(keySSLKey) && (v.String(keySSLCert) == "") != (v.String(keySSLKey) == "") {
		out = append(out, configdef.Problem{Key: keySSLKey, Value: v.String(keySSLKey), Message: "database.ssl.cert and database.ssl.key need each other."})
	}
	if v.OK(keyOverrides) {
		for _, name := range v.List(keyOverrides) {
			if v.Prefixed(keyOverrides + ".")[name] == "" {
				out = append(out, configdef.Problem{
					Key: keyOverrides, Value: name, Message: fmt.Sprintf("There is no SELECT for table %s; give it as %s.%s.", name, keyOverrides, name),
				})
			}
		}
	}
	return append(out, checkShape(v)...)
}

// ignoredKeys are keys of existing configs that have nothing to act on here. They are declared so that such configs are
// not refused and the docs say so.
func ignoredKeys() []configdef.Key {
	prefix := func(name, why string) configdef.Key {
		return configdef.Key{Name: name, Type: configdef.String, Prefix: true, Hidden: true, Importance: configdef.Low, Group: groupIgnored, Doc: why}
	}
	out := []configdef.Key{
		prefix("schema.history.internal.", "Accepted without effect: the connector needs no schema history."),
		prefix("database.jdbc.", "Accepted without effect: there is no JDBC driver."),
	}
	for name, why := range map[string]string{
		"schema.history.internal":                    "the connector needs no schema history",
		"signal.enabled.channels":                    "signals come by the signal table and by REST",
		"incremental.snapshot.watermarking.strategy": "watermarks are places of the log; nothing is written to the signal table",
		"incremental.snapshot.allow.schema.changes":  "a chunk whose table changes is read again",
		"read.only":                              "nothing is ever written to the server",
		"snapshot.locking.mode":                  "the snapshot takes no lock, but for a moment on tables without a primary key",
		"snapshot.fetch.size":                    "rows are streamed",
		"snapshot.lock.timeout.ms":               "the short lock of tables without a primary key waits 10 seconds",
		"min.row.count.to.stream.results":        "rows are always streamed",
		"max.queue.size":                         "the queue is bounded by max.queue.size.in.bytes",
		"poll.interval.ms":                       "changes are handed on at once",
		"connect.keep.alive":                     "the connector reconnects by itself",
		"connect.keep.alive.interval.ms":         "the connector reconnects by itself",
		"database.connectionTimeZone":            "times are read in UTC",
		"database.allowPublicKeyRetrieval":       "the key is asked for where it is needed",
		"database.protocol":                      "there is no JDBC driver",
		"table.ignore.builtin":                   "system databases are always left out",
		"enable.time.adjuster":                   "years are passed on as they are stored",
		"inconsistent.schema.handling.mode":      "a row that can't be decoded always stops the task",
		"event.processing.failure.handling.mode": "an event that can't be handled always stops the task",
		"gtid.source.filter.dml.events":          "events are not filtered by their origin",
		"include.schema.comments":                "comments are not passed on",
	} {
		out = append(out, configdef.Key{
			Name: name, Type: configdef.String, NoDefault: true, Hidden: true, Importance: configdef.Low,
			Group: groupIgnored, Doc: "Accepted without effect: " + why + ".",
		})
	}
	sortKeys(out)
	return out
}

// settings is the connector's config, parsed.
type settings struct {
	name                 string // the connector's
	host, user, password string
	port                 int
	serverID             uint32
	sslMode, sslCA       string
	sslCert, sslKey      string
	plain                atomic.Bool // preferred found that the server has no TLS
	connectTimeout       time.Duration
	prefix               string
	filter               *filter
	snapshotMode         string
	threads, chunkRows   int
	heartbeat            time.Duration // how long an offset may stay behind
	beats                bool          // heartbeats are records too
	beatTopic, beatQuery string
	shape                shaping
	txnTopic             string // empty: no transaction metadata
	query                bool
	statements           bool
	debezium             bool // the class stands in for Debezium's
	envelope             *record.Envelope
	tombstones           bool
	schemaChanges        bool
	skipCreate           bool
	skipUpdate           bool
	skipDelete           bool
	skipTruncate         bool
	batchRows            int
	queueBytes           int64
	newTables            bool
	signals              tableID           // none: empty
	overrides            map[string]string // SELECTs by table
}

// readsNew says whether the rows of tables that join are read.
func (s *settings) readsNew() bool { return s.newTables && s.snapshotMode != "no_data" }

func parseSettings(connector string, config map[string]string) (*settings, []configdef.Problem) {
	v, problems := specOf(config).Parse(config)
	if len(problems) > 0 {
		return nil, problems
	}
	s := &settings{
		name: connector, host: v.String(keyHost), port: int(v.Int(keyPort)), user: v.String(keyUser), password: v.String(keyPassword),
		serverID: uint32(v.Int(keyServerID)), sslMode: v.String(keySSLMode), sslCA: v.String(keySSLCA), sslCert: v.String(keySSLCert), sslKey: v.String(keySSLKey),
		connectTimeout: v.Duration(keyConnectTimeout), prefix: v.String(keyPrefix),
		snapshotMode: v.String(keySnapshotMode), threads: int(v.Int(keyThreads)), chunkRows: int(v.Int(keyChunkRows)),
		heartbeat: v.Duration(keyHeartbeat), tombstones: v.Bool(keyTombstones), schemaChanges: v.Bool(keySchemaChanges),
		batchRows: int(v.Int(keyBatchRows)), queueBytes: v.Int(keyQueueBytes),
	}
	if m, ok := map[string]string{"disable": "disabled", "trust": "required", "verify-ca": "verify_ca", "verify-full": "verify_identity"}[s.sslMode]; ok {
		s.sslMode = m
	}
	switch s.snapshotMode {
	case "schema_only", "never":
		s.snapshotMode = "no_data"
	case "schema_only_recovery":
		s.snapshotMode = "recovery"
	}
	s.newTables = v.String(keyNewTables) == "parallel"
	if db, table, ok := strings.Cut(v.String(keySignals), "."); ok {
		s.signals = tableID{db, table}
	}
	s.overrides = map[string]string{}
	for _, name := range v.List(keyOverrides) {
		s.overrides[name] = strings.TrimSuffix(strings.TrimSpace(config[keyOverrides+"."+name]), ";")
	}
	if s.beats = s.heartbeat > 0; !s.beats {
		s.heartbeat = 10 * time.Second
	}
	s.beatTopic, s.beatQuery = topicName(v.String(keyBeatPrefix)+v.String(keyDelimiter)+s.prefix), v.String(keyBeatQuery)
	s.query, s.statements = v.Bool(keyQuery), v.Bool(keyStatements)
	if p, ok := connectors.Lookup(config["connector.class"]); ok {
		s.debezium = p.Class == debeziumClass
	}
	if v.Bool(keyTxnMetadata) {
		s.txnTopic = topicName(s.prefix + v.String(keyDelimiter) + v.String(keyTxnTopic))
	}
	s.envelope = &record.Envelope{
		Connector: "mysql", Name: s.prefix, Version: version, Decimal: v.String(keyDecimal), TimePrecision: v.String(keyTimePrecision),
		UnsignedBigInt: v.String(keyUnsigned), Binary: v.String(keyBinary),
	}
	s.shape = parseShape(v)
	if s.queueBytes == 0 {
		s.queueBytes = 8 << 20
	}
	if s.serverID == 0 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(connector + "\x00" + s.prefix))
		s.serverID = 1_000_000_000 + h.Sum32()%1_000_000_000
	}
	for _, op := range v.List(keySkipped) {
		switch strings.ToLower(op) {
		case "c":
			s.skipCreate = true
		case "u":
			s.skipUpdate = true
		case "d":
			s.skipDelete = true
		case "t":
			s.skipTruncate = true
		}
	}
	s.filter = &filter{}
	for key, to := range map[string]*[]*regexp.Regexp{keyColInclude: &s.filter.colIn, keyColExclude: &s.filter.colOut} {
		*to, _ = compileList(v.List(key)) // the spec's check compiled them already
	}
	text := map[string][]string{}
	for _, key := range tableFilters {
		if list := v.List(key); len(list) > 0 {
			text[key] = list
		}
	}
	b, _ := json.Marshal(text)
	s.filter.text = string(b)
	_ = s.filter.read(text) // as above
	return s, nil
}

// filter says what is captured. Immutable.
type filter struct {
	dbIn, dbOut, tableIn, tableOut, colIn, colOut []*regexp.Regexp
	// text is the part about tables, as JSON.
	text string
}

var tableFilters = []string{keyDBInclude, keyDBExclude, keyTableInclude, keyTableExclude}

// parseFilter reads a filter's text.
func parseFilter(text string) (*filter, error) {
	var lists map[string][]string
	if err := json.Unmarshal([]byte(text), &lists); err != nil {
		return nil, err
	}
	f := &filter{text: text}
	return f, f.read(lists)
}

func (f *filter) read(lists map[string][]string) error {
	for i, to := range []*[]*regexp.Regexp{&f.dbIn, &f.dbOut, &f.tableIn, &f.tableOut} {
		var err error
		if *to, err = compileList(lists[tableFilters[i]]); err != nil {
			return err
		}
	}
	return nil
}

func compileList(list []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, item := range list {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		re, err := regexp.Compile("(?i)^(?:" + item + ")$")
		if err != nil {
			return nil, fmt.Errorf("%q is no regular expression: %w", item, err)
		}
		out = append(out, re)
	}
	return out, nil
}

func matches(list []*regexp.Regexp, s string) bool {
	for _, re := range list {
		if re.MatchString(s) {
			return true
		}
	}
	return false
}

func (f *filter) database(db string) bool {
	switch strings.ToLower(db) {
	case "mysql", "information_schema", "performance_schema", "sys":
		return false
	}
	if len(f.dbIn) > 0 {
		return matches(f.dbIn, db)
	}
	return !matches(f.dbOut, db)
}

func (f *filter) table(id tableID) bool {
	if !f.database(id.db) {
		return false
	}
	if len(f.tableIn) > 0 {
		return matches(f.tableIn, id.String())
	}
	return !matches(f.tableOut, id.String())
}

func (f *filter) column(id tableID, name string) bool {
	full := id.String() + "." + name
	if len(f.colIn) > 0 {
		return matches(f.colIn, full)
	}
	return !matches(f.colOut, full)
}
