package mysqlcdc

import (
	"crypto/md5"  //nolint:gosec // what the user's config names
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var (
	truncateKey = regexp.MustCompile(`^column\.truncate\.to\.([0-9]+)\.chars$`)
	maskKey     = regexp.MustCompile(`^column\.mask\.with\.([0-9]+)\.chars$`)
	hashKey     = regexp.MustCompile(`^column\.mask\.hash\.(v2\.)?([^.]+)\.with\.salt\.(.+)$`)
)

var hashes = map[string]func() hash.Hash{
	"MD5": md5.New, "SHA-1": sha1.New, "SHA-224": sha256.New224, "SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New,
}

// shapeKeys declares what changes the form of the events.
func shapeKeys() []configdef.Key {
	family := func(name string, re *regexp.Regexp, doc string) configdef.Key {
		return configdef.Key{
			Name: name, Type: configdef.List, Pattern: re.MatchString, Group: groupColumns, Importance: configdef.Low,
			Doc: doc + " The value lists regular expressions on db.table.column. Columns of keys can't be changed.",
		}
	}
	return []configdef.Key{
		{Name: keyDecimal, Type: configdef.String, Default: "precise", OneOf: []string{"precise", "double", "string"}, Group: groupColumns, Doc: "How debezium-json writes DECIMAL: precise (bytes of the unscaled number), double (digits may be lost to the reader), or string. canal-json always writes text."},
		{Name: keyTimePrecision, Type: configdef.String, Default: "adaptive_time_microseconds", OneOf: []string{"adaptive_time_microseconds", "connect", "microseconds", "nanoseconds", "isostring"}, Group: groupColumns, Doc: "How debezium-json writes dates and times."},
		{Name: keyUnsigned, Type: configdef.String, Default: "long", OneOf: []string{"long", "precise"}, Group: groupColumns, Doc: "How debezium-json writes BIGINT UNSIGNED: long (negative from 2^63 on), or precise (bytes of the number)."},
		{Name: keyBinary, Type: configdef.String, Default: "bytes", OneOf: []string{"bytes", "base64", "base64-url-safe", "hex"}, Group: groupColumns, Doc: "How debezium-json writes binary columns."},
		family("column.truncate.to.${n}.chars", truncateKey, "Cuts text columns to n characters."),
		family("column.mask.with.${n}.chars", maskKey, "Replaces text by n asterisks; 0 leaves an empty text."),
		family("column.mask.hash.${algorithm}.with.salt.${salt}", hashKey, "Replaces text by the hexadecimal digest of salt and text, cut to the column's length. The algorithm is MD5, SHA-1, SHA-224, SHA-256, SHA-384 or SHA-512; write hash.v2 for digests of the bare text, where hash digests it as a serialised Java string."),
		{
			Name: keyKeyColumns, Type: configdef.String, Default: "", Group: groupEvents, Example: "shop.orders:customer_id;shop.(.*):id",
			Doc:   "Columns that make the records' keys, as table:column,column with a regular expression for db.table; several are separated by semicolons. Not given: the primary key, else the first unique index without nullable columns.",
			Check: func(v string) error { _, err := parseKeyRules(v); return err },
		},
		{Name: keyKeyUpdates, Type: configdef.String, Default: "split", OneOf: []string{"split", "update"}, Group: groupEvents, Doc: "What an update of key columns becomes: split writes a delete with the old key and a create with the new one, so that the partitions of both learn of it; update writes one update with the new key."},
		{Name: keyTxnMetadata, Type: configdef.Boolean, Default: "false", Group: groupEvents, Doc: "Whether debezium-json events tell their place in their transaction, and records at the begin and the end of each are written to the transaction topic."},
		{Name: keyQuery, Type: configdef.Boolean, Default: "false", Group: groupEvents, Doc: "Whether debezium-json events carry the statement that made the change. The server must log it: binlog_rows_query_log_events on MySQL, binlog_annotate_row_events on MariaDB."},
		{Name: keyStatements, Type: configdef.Boolean, Default: "false", Group: groupEvents, Importance: configdef.Low, Doc: "Whether the statements that the server logs beside the rows of captured tables are written, before those, to the topic that is named by topic.prefix: Canal's QUERY messages. The server must log them, as for include.query. debezium-json has no form for them."},
		{Name: keyUnchanged, Type: configdef.Boolean, Default: "false", Group: groupEvents, Doc: "Whether updates that change no captured column are left out."},
		{Name: keyHeaders, Type: configdef.Boolean, Default: "false", Group: groupEvents, Importance: configdef.Low, Doc: "Whether records have Debezium's headers that name the connector and the task."},
		{Name: keyBeatQuery, Type: configdef.String, Default: "", Group: groupEvents, Importance: configdef.Low, Doc: "SQL statement that is run on the server at each heartbeat, for example an update of a table that makes a quiet server write its log."},
		{Name: keyBeatPrefix, Type: configdef.String, Default: "__debezium-heartbeat", Group: groupTopics, Importance: configdef.Low, Doc: "First part of the heartbeat topic's name; topic.prefix follows."},
		{Name: keyTxnTopic, Type: configdef.String, Default: "transaction", Group: groupTopics, Importance: configdef.Low, Doc: "Last part of the transaction topic's name; topic.prefix precedes."},
		{Name: keyDelimiter, Type: configdef.String, Default: ".", Group: groupTopics, Importance: configdef.Low, Doc: "What stands between the parts of topic names."},
		{
			Name: keyTopicRegex, Type: configdef.String, Default: "", Group: groupTopics, Doc: "Regular expression on the names of data topics; those that it matches whole are named by topic.replacement. Several tables may share a topic.",
			Check: func(v string) error { _, err := regexp.Compile("^(?:" + v + ")$"); return err },
		},
		{Name: keyTopicReplace, Type: configdef.String, Default: "", Group: groupTopics, DependsOn: []string{keyTopicRegex}, Doc: "Name of the topic that topic.regex leads to; $1 stands for the first group.", Example: "$1.all_shards"},
	}
}

func checkShape(v configdef.Values) []configdef.Problem {
	var out []configdef.Problem
	if v.OK(keyTopicRegex) && (v.String(keyTopicRegex) == "") != (v.String(keyTopicReplace) == "") {
		out = append(out, configdef.Problem{Key: keyTopicReplace, Value: v.String(keyTopicReplace), Message: "topic.regex and topic.replacement need each other."})
	}
	for k, list := range v.Given() {
		m := hashKey.FindStringSubmatch(k)
		if m != nil && hashes[strings.ToUpper(m[2])] == nil {
			out = append(out, configdef.Problem{Key: k, Value: list, Message: fmt.Sprintf("%s names the unknown algorithm %s; known are MD5, SHA-1, SHA-224, SHA-256, SHA-384 and SHA-512.", k, m[2])})
		}
		if m != nil || truncateKey.MatchString(k) || maskKey.MatchString(k) {
			if err := checkRegexes(list); err != nil {
				out = append(out, configdef.Problem{Key: k, Value: list, Message: fmt.Sprintf("Invalid value %s for configuration %s: %v", list, k, err)})
			}
		}
	}
	return out
}

// shaping is what the config says on the form of events. Immutable.
type shaping struct {
	keys          []keyRule
	updateKeys    bool // an update of the key is one event
	columns       []columnRule
	topicRegex    *regexp.Regexp
	topicReplace  string
	delimiter     string
	headers       bool
	skipUnchanged bool
}

// keyRule gives the tables that it matches their key columns.
type keyRule struct {
	table   *regexp.Regexp
	columns []string
}

func parseKeyRules(text string) ([]keyRule, error) {
	var out []keyRule
	for item := range strings.SplitSeq(text, ";") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		at := strings.LastIndexByte(item, ':')
		if at <= 0 || at == len(item)-1 {
			return nil, fmt.Errorf("%q is not of the form table:column,column", item)
		}
		re, err := compileList([]string{item[:at]})
		if err != nil {
			return nil, err
		}
		r := keyRule{table: re[0]}
		for c := range strings.SplitSeq(item[at+1:], ",") {
			r.columns = append(r.columns, strings.TrimSpace(c))
		}
		out = append(out, r)
	}
	return out, nil
}

func parseShape(v configdef.Values) shaping {
	s := shaping{
		updateKeys: v.String(keyKeyUpdates) == "update", topicReplace: v.String(keyTopicReplace), delimiter: v.String(keyDelimiter),
		headers: v.Bool(keyHeaders), skipUnchanged: v.Bool(keyUnchanged),
	}
	s.keys, _ = parseKeyRules(v.String(keyKeyColumns)) // checked by the spec, as all here
	if re := v.String(keyTopicRegex); re != "" {
		s.topicRegex = regexp.MustCompile("^(?:" + re + ")$")
	}
	for k, list := range v.Given() {
		r := columnRule{key: k}
		if m := truncateKey.FindStringSubmatch(k); m != nil {
			r.truncate, _ = strconv.Atoi(m[1])
			r.kind = ruleTruncate
		} else if m := maskKey.FindStringSubmatch(k); m != nil {
			n, _ := strconv.Atoi(m[1])
			r.kind, r.mask = ruleMask, []byte(strings.Repeat("*", n))
		} else if m := hashKey.FindStringSubmatch(k); m != nil {
			r.kind, r.hash, r.salt, r.bare = ruleHash, hashes[strings.ToUpper(m[2])], m[3], m[1] != ""
		} else {
			continue
		}
		r.match, _ = compileList(strings.Split(list, ","))
		s.columns = append(s.columns, r)
	}
	slices.SortFunc(s.columns, func(a, b columnRule) int { return strings.Compare(a.key, b.key) })
	return s
}

// topic is the name of a table's topic.
func (s *shaping) topic(prefix string, id tableID) string {
	name := topicName(prefix + s.delimiter + id.db + s.delimiter + id.name)
	if s.topicRegex != nil && s.topicRegex.MatchString(name) {
		name = topicName(s.topicRegex.ReplaceAllString(name, s.topicReplace))
	}
	return name
}

// messageKey returns the indexes of the columns that make the records' keys, where that is not the primary key. unique is the first
// unique index without nullable columns.
func (s *shaping) messageKey(t *record.Table, unique []string) ([]int, error) {
	names := unique
	if t.HasKey() {
		names = nil
	}
	id := t.Database + "." + t.Name
	for _, r := range s.keys {
		if r.table.MatchString(id) {
			names = r.columns
			break
		}
	}
	var out []int
	for _, n := range names {
		at := slices.IndexFunc(t.Columns, func(c record.Column) bool { return strings.EqualFold(c.Name, n) })
		if at < 0 && slices.Equal(names, unique) {
			return nil, nil // a column of the index is not captured
		}
		if at < 0 {
			return nil, fmt.Errorf("%s: table %s has no captured column %s", keyKeyColumns, id, n)
		}
		out = append(out, at)
	}
	return out, nil
}

// rule finds what changes a column's values; nil: nothing.
func (s *shaping) rule(id tableID, c *record.Column) *columnRule {
	for i := range s.columns {
		if matches(s.columns[i].match, id.String()+"."+c.Name) {
			r := s.columns[i]
			r.length = c.Length
			return &r
		}
	}
	return nil
}

type ruleKind int

const (
	ruleTruncate ruleKind = iota
	ruleMask
	ruleHash
)

// columnRule changes the text of columns.
type columnRule struct {
	key      string
	match    []*regexp.Regexp
	kind     ruleKind
	truncate int
	mask     []byte
	hash     func() hash.Hash
	salt     string
	bare     bool // the digest is of the bare text
	length   int
}

func (r *columnRule) apply(d record.Datum, b *rowBatch) record.Datum {
	switch {
	case r.kind == ruleMask && d.Kind != record.KindAbsent: // null too: that there is no value may be what has to be hidden
		return record.Text(r.mask)
	case d.Kind != record.KindText:
		return d
	}
	switch r.kind {
	case ruleHash:
		h := r.hash()
		_, _ = h.Write([]byte(r.salt))
		if r.bare {
			_, _ = h.Write(d.B)
		} else {
			_, _ = h.Write(serialized(d.B))
		}
		out := b.bytes.take(2 * h.Size())
		hex.Encode(out, h.Sum(nil))
		if r.length > 0 {
			out = out[:min(len(out), r.length)]
		}
		return record.Text(out)
	case ruleTruncate:
		n := 0
		for i := range string(d.B) {
			if n == r.truncate {
				return record.Text(d.B[:i])
			}
			n++
		}
	default:
	}
	return d
}

// serialized is what Java's ObjectOutputStream makes of a string: characters beyond 16 bits are two surrogates, of three bytes each.
func serialized(text []byte) []byte {
	var body []byte
	for _, c := range string(text) {
		switch {
		case c == 0:
			body = append(body, 0xc0, 0x80)
		case c > 0xffff:
			for _, half := range utf16.AppendRune(nil, c) {
				body = append(body, 0xe0|byte(half>>12), 0x80|byte(half>>6)&0x3f, 0x80|byte(half)&0x3f)
			}
		default:
			body = utf8.AppendRune(body, c)
		}
	}
	out := []byte{0xac, 0xed, 0, 5}
	if len(body) > 0xffff {
		out = binary.BigEndian.AppendUint64(append(out, '|'), uint64(len(body)))
	} else {
		out = binary.BigEndian.AppendUint16(append(out, 't'), uint16(len(body)))
	}
	return append(out, body...)
}
