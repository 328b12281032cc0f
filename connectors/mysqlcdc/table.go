package mysqlcdc

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/millrace/millrace/connectors/record"
)

// tableID names a table.
type tableID struct{ db, name string }

// String returns db.table.
func (t tableID) String() string { return t.db + "." + t.name }

func (t tableID) quoted() string { return quoteName(t.db) + "." + quoteName(t.name) }

func quoteName(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

func quoteText(s string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s) + "'"
}

// catalogTable is a table as information_schema has it now.
type catalogTable struct {
	columns []record.Column
	key     []int
	// engine tells if the snapshot can read it without a lock.
	engine           string
	rowBytes         int64 // about the size of a row; 0: not known
	uniques          []uniqueKey
	charset, comment string
}

var families = map[string]record.Family{
	"tinyint": record.FamilyTinyInt, "smallint": record.FamilySmallInt, "mediumint": record.FamilyMediumInt, "int": record.FamilyInt,
	"bigint": record.FamilyBigInt, "decimal": record.FamilyDecimal, "float": record.FamilyFloat, "double": record.FamilyDouble,
	"bit": record.FamilyBit, "char": record.FamilyChar, "varchar": record.FamilyVarchar, "tinytext": record.FamilyText,
	"text": record.FamilyText, "mediumtext": record.FamilyText, "longtext": record.FamilyText, "binary": record.FamilyBinary,
	"varbinary": record.FamilyVarbinary, "tinyblob": record.FamilyBlob, "blob": record.FamilyBlob, "mediumblob": record.FamilyBlob,
	"longblob": record.FamilyBlob, "enum": record.FamilyEnum, "set": record.FamilySet, "json": record.FamilyJSON,
	"geometry": record.FamilyGeometry, "point": record.FamilyGeometry, "linestring": record.FamilyGeometry, "polygon": record.FamilyGeometry,
	"multipoint": record.FamilyGeometry, "multilinestring": record.FamilyGeometry, "multipolygon": record.FamilyGeometry,
	"geomcollection": record.FamilyGeometry, "geometrycollection": record.FamilyGeometry, "vector": record.FamilyVector,
	"date": record.FamilyDate, "time": record.FamilyTime, "datetime": record.FamilyDateTime, "timestamp": record.FamilyTimestamp,
	"year": record.FamilyYear,
}

// parseMembers reads the members of enum('a','b') and set(…) from their declaration.
func parseMembers(typ string) []string {
	_, after, ok := strings.Cut(typ, "(")
	if !ok {
		return nil
	}
	var out []string
	var cur []byte
	in := false
	for s := after; len(s) > 0; s = s[1:] {
		switch {
		case !in && s[0] == '\'':
			in, cur = true, nil
		case in && s[0] == '\'' && len(s) > 1 && s[1] == '\'':
			cur = append(cur, '\'')
			s = s[1:]
		case in && s[0] == '\'':
			in = false
			out = append(out, string(cur))
		case in:
			cur = append(cur, s[0])
		}
	}
	return out
}

// schema makes shapes of table maps. Owned by the stream's goroutine.
type schema struct {
	filter   *filter
	prefix   string
	flavor   string
	shaping  *shaping
	envelope *record.Envelope
	collates map[uint64]string // collation id → character set
	catalog  func(tableID) (*catalogTable, error)
	charsets map[string]string // the databases' own
	signals  tableID
	tables   map[tableID]*catalogTable
	shapes   map[string]*shape // by the body of the table map
}

// change takes over what a DDL statement did. What could not be told is asked of the server when it is needed.
func (s *schema) change(sql, db string) ([]tableChange, error) {
	clear(s.shapes)
	h := &history{flavor: s.flavor, charsets: s.charsets, lookup: func(id tableID) (*catalogTable, error) {
		if !s.filter.table(id) && s.tables[id] == nil {
			return nil, nil // what is not captured is not followed
		}
		return s.lookup(id)
	}}
	changes, err := h.apply(sql, db)
	if err != nil {
		// Only the table that the statement names is doubtful, where it names one.
		switch q := classify(sql); {
		case q.table != "" && (q.ddlType == "CREATE" || q.ddlType == "ALTER" || q.ddlType == "CINDEX" || q.ddlType == "DINDEX"):
			delete(s.tables, tableID{cmp.Or(q.db, db), q.table})
		default:
			clear(s.tables)
		}
		return nil, err
	}
	for _, c := range changes {
		if c.old != (tableID{}) {
			delete(s.tables, c.old)
		}
		delete(s.tables, c.id)
		if c.table != nil {
			s.tables[c.id] = c.table
		}
	}
	return changes, nil
}

func (s *schema) lookup(id tableID) (*catalogTable, error) {
	if t, ok := s.tables[id]; ok {
		return t, nil
	}
	t, err := s.catalog(id)
	if err != nil {
		return nil, err
	}
	if t != nil {
		s.tables[id] = t
	}
	return t, nil
}

// realType is what a column of a table map is: STRING hides CHAR, ENUM and SET.
func realType(typ byte, meta uint16) (byte, int) {
	if typ != mysql.MYSQL_TYPE_STRING || meta < 256 {
		return typ, int(meta)
	}
	b0, b1 := byte(meta>>8), int(meta&0xff)
	if b0&0x30 != 0x30 {
		return b0 | 0x30, b1 | int((b0&0x30)^0x30)<<4
	}
	return b0, b1
}

// fits reports whether a table map's column can be what the catalogue says.
func fits(c *record.Column, typ byte, meta uint16) bool {
	real, size := realType(typ, meta)
	switch c.Family {
	case record.FamilyTinyInt:
		return typ == mysql.MYSQL_TYPE_TINY
	case record.FamilySmallInt:
		return typ == mysql.MYSQL_TYPE_SHORT
	case record.FamilyMediumInt:
		return typ == mysql.MYSQL_TYPE_INT24
	case record.FamilyInt:
		return typ == mysql.MYSQL_TYPE_LONG
	case record.FamilyBigInt:
		return typ == mysql.MYSQL_TYPE_LONGLONG
	case record.FamilyDecimal:
		return typ == mysql.MYSQL_TYPE_NEWDECIMAL && int(meta&0xff) == c.Scale && (c.Length == 0 || int(meta>>8) == c.Length)
	case record.FamilyFloat:
		return typ == mysql.MYSQL_TYPE_FLOAT
	case record.FamilyDouble:
		return typ == mysql.MYSQL_TYPE_DOUBLE
	case record.FamilyBit:
		return typ == mysql.MYSQL_TYPE_BIT && int(meta>>8)*8+int(meta&0xff) == c.Length
	case record.FamilyChar:
		return real == mysql.MYSQL_TYPE_STRING
	case record.FamilyBinary:
		return real == mysql.MYSQL_TYPE_STRING && size == c.Length
	case record.FamilyVarchar:
		return typ == mysql.MYSQL_TYPE_VARCHAR || typ == mysql.MYSQL_TYPE_VAR_STRING
	case record.FamilyVarbinary:
		return (typ == mysql.MYSQL_TYPE_VARCHAR || typ == mysql.MYSQL_TYPE_VAR_STRING) && size == c.Length
	case record.FamilyText, record.FamilyBlob:
		want := map[byte]uint16{'t': 1, 'm': 3, 'l': 4}[c.Type[0]]
		if strings.HasPrefix(c.Type, "text") || strings.HasPrefix(c.Type, "blob") {
			want = 2
		}
		return typ == mysql.MYSQL_TYPE_BLOB && meta == want
	case record.FamilyEnum:
		return real == mysql.MYSQL_TYPE_ENUM
	case record.FamilySet:
		return real == mysql.MYSQL_TYPE_SET
	case record.FamilyJSON:
		return typ == mysql.MYSQL_TYPE_JSON
	case record.FamilyGeometry:
		return typ == mysql.MYSQL_TYPE_GEOMETRY
	case record.FamilyVector:
		return typ == mysql.MYSQL_TYPE_VECTOR
	case record.FamilyDate:
		return typ == mysql.MYSQL_TYPE_DATE || typ == mysql.MYSQL_TYPE_NEWDATE
	case record.FamilyTime:
		return typ == mysql.MYSQL_TYPE_TIME2 && int(meta) == c.Scale || typ == mysql.MYSQL_TYPE_TIME && c.Scale == 0
	case record.FamilyDateTime:
		return typ == mysql.MYSQL_TYPE_DATETIME2 && int(meta) == c.Scale || typ == mysql.MYSQL_TYPE_DATETIME && c.Scale == 0
	case record.FamilyTimestamp:
		return typ == mysql.MYSQL_TYPE_TIMESTAMP2 && int(meta) == c.Scale || typ == mysql.MYSQL_TYPE_TIMESTAMP && c.Scale == 0
	case record.FamilyYear:
		return typ == mysql.MYSQL_TYPE_YEAR
	case record.FamilyUnknown:
		// The type is not one we read; shape refuses it unless the column is left out.
		return true
	}
	return false
}

// make prepares the shape of a table map. meta is the map with its optional metadata decoded.
func (s *schema) make(m *replication.TableMapEvent) (*shape, error) {
	id := tableID{string(m.Schema), string(m.Table)}
	sh := &shape{id: id, captured: s.filter.table(id), signals: id == s.signals}
	if !sh.captured && !sh.signals {
		return sh, nil
	}
	_, known := s.tables[id]
	out, err := s.fit(sh, m)
	if err != nil && known { // what was followed in the log went wrong: the server knows better
		delete(s.tables, id)
		return s.fit(sh, m)
	}
	return out, err
}

func (s *schema) fit(sh *shape, m *replication.TableMapEvent) (*shape, error) {
	id := sh.id
	cat, err := s.lookup(id)
	if err != nil {
		return nil, err
	}
	full := len(m.ColumnName) > 0
	n := int(m.ColumnCount)
	columns := make([]record.Column, n)
	unsigned, collation := m.UnsignedMap(), m.CollationMap()
	enums, sets := m.EnumStrValueMap(), m.SetStrValueMap()
	if !full {
		if cat == nil {
			return nil, mismatch(id, "the table is gone from information_schema")
		}
		if len(cat.columns) != n {
			return nil, mismatch(id, fmt.Sprintf("the event has %d columns, the table has %d now", n, len(cat.columns)))
		}
	}
	for i := range n {
		typ, meta := m.ColumnType[i], m.ColumnMeta[i]
		var c *record.Column
		if cat != nil && i < len(cat.columns) {
			c = &cat.columns[i]
		}
		sign, known := unsigned[i], len(m.SignednessBitmap) > 0 && m.IsNumericColumn(i) && typ != mysql.MYSQL_TYPE_YEAR
		ok := c != nil && fits(c, typ, meta) && (!known || sign == c.Unsigned)
		if ok && full {
			ok = c.Name == string(m.ColumnName[i]) && (enums[i] == nil || slices.Equal(enums[i], c.Values)) &&
				(sets[i] == nil || slices.Equal(sets[i], c.Values))
		}
		switch {
		case ok:
			columns[i] = *c
		case full:
			// The event is older than the last change of the table: its own metadata says what it is.
			columns[i] = s.describe(m, i, sign, collation[i], enums[i], sets[i])
		default:
			return nil, mismatch(id, fmt.Sprintf("column %d (%s %s) does not fit the event's type %d", i+1, c.Name, c.Type, typ))
		}
		if cs := s.collates[collation[i]]; cs != "" && cs != "binary" && columns[i].Charset != "" {
			columns[i].Charset = cs
		}
	}
	var key []int
	if full {
		if !promoted(cat, m) {
			for _, k := range m.PrimaryKey {
				key = append(key, int(k))
			}
		}
	} else {
		key = cat.key
	}
	return s.build(sh, cat, columns, key, func(i int) (byte, uint16) { return m.ColumnType[i], m.ColumnMeta[i] })
}

// promoted reports whether what a table map calls the primary key is the unique index that MySQL takes for it where a table has none.
func promoted(cat *catalogTable, m *replication.TableMapEvent) bool {
	if cat == nil || len(cat.key) > 0 || len(m.PrimaryKey) == 0 {
		return false
	}
	names := make([]string, len(m.PrimaryKey))
	for i, k := range m.PrimaryKey {
		if k < uint64(len(m.ColumnName)) {
			names[i] = string(m.ColumnName[k])
		}
	}
	return slices.Equal(names, cat.unique())
}

func mismatch(id tableID, what string) error {
	return fmt.Errorf("table %s has changed since the binlog event was written, and the event does not name its columns: %s; "+
		"run SET GLOBAL binlog_row_metadata='FULL' on the server so that this can't happen again, and read this table anew", id, what)
}

// build makes the captured table and the codecs. wire is nil for a shape that only the snapshot uses.
func (s *schema) build(sh *shape, cat *catalogTable, columns []record.Column, key []int, wire func(i int) (byte, uint16)) (*shape, error) {
	out := make([]int, len(columns))
	table := &record.Table{Database: sh.id.db, Name: sh.id.name, Envelope: s.envelope}
	for i := range columns {
		out[i] = -1
		if !s.filter.column(sh.id, columns[i].Name) && !slices.Contains(key, i) {
			continue
		}
		out[i] = len(table.Columns)
		table.Columns = append(table.Columns, columns[i])
	}
	for _, k := range key {
		if k >= len(columns) {
			return nil, fmt.Errorf("table map of %s names column %d in its primary key", sh.id, k)
		}
		table.Key = append(table.Key, out[k])
	}
	var unique []string
	if cat != nil {
		unique, table.Charset = cat.unique(), cat.charset
	}
	var err error
	if table.MessageKey, err = s.shaping.messageKey(table, unique); err != nil {
		return nil, err
	}
	sh.table = table
	sh.topic = s.shaping.topic(s.prefix, sh.id)
	sh.codecs = make([]codec, len(columns))
	for i := range columns {
		var typ byte
		var meta uint16
		if wire != nil {
			typ, meta = wire(i)
		}
		if sh.codecs[i], err = newCodec(&columns[i], typ, meta, out[i]); err != nil {
			return nil, fmt.Errorf("table %s: %w", sh.id, err)
		}
		if out[i] < 0 {
			continue
		}
		r := s.shaping.rule(sh.id, &columns[i])
		if r != nil && (slices.Contains(key, i) || slices.Contains(table.RecordKey(), out[i])) {
			return nil, fmt.Errorf("%s matches column %s of table %s, which is part of its key and can't be changed", r.key, columns[i].Name, sh.id)
		}
		sh.codecs[i].rule = r
	}
	return sh, nil
}

func newCodec(c *record.Column, typ byte, meta uint16, out int) (codec, error) {
	real, size := realType(typ, meta)
	k := codec{name: c.Name, typ: real, family: c.Family, unsigned: c.Unsigned, scale: c.Scale, length: c.Length, out: out}
	if c.Family == record.FamilyUnknown && out >= 0 {
		return k, fmt.Errorf("column %s has type %s, which is not supported; leave it out with column.exclude.list", c.Name, c.Type)
	}
	switch real {
	case mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING:
		k.lenBytes = 1
		if size > 255 {
			k.lenBytes = 2
		}
		if real == mysql.MYSQL_TYPE_VAR_STRING {
			k.typ = mysql.MYSQL_TYPE_VARCHAR
		}
	case mysql.MYSQL_TYPE_BLOB, mysql.MYSQL_TYPE_GEOMETRY, mysql.MYSQL_TYPE_JSON, mysql.MYSQL_TYPE_VECTOR:
		k.lenBytes = int(meta)
		if meta < 1 || meta > 4 {
			return k, fmt.Errorf("column %s has a length of %d bytes", c.Name, meta)
		}
	case mysql.MYSQL_TYPE_ENUM, mysql.MYSQL_TYPE_SET:
		k.lenBytes = size
		if size < 1 || size > 8 {
			return k, fmt.Errorf("column %s has a width of %d bytes", c.Name, size)
		}
	case mysql.MYSQL_TYPE_BIT:
		k.lenBytes = (int(meta>>8)*8 + int(meta&0xff) + 7) / 8
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		k.prec, k.scale = int(meta>>8), int(meta&0xff)
		if k.prec > 65 || k.scale > k.prec || k.prec == 0 {
			return k, fmt.Errorf("column %s is decimal(%d,%d)", c.Name, k.prec, k.scale)
		}
	case mysql.MYSQL_TYPE_TIME2, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIMESTAMP2:
		k.scale = int(meta)
		if k.scale > 6 {
			return k, fmt.Errorf("column %s has %d fraction digits", c.Name, k.scale)
		}
	case 0, mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_SHORT, mysql.MYSQL_TYPE_INT24, mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_LONGLONG,
		mysql.MYSQL_TYPE_FLOAT, mysql.MYSQL_TYPE_DOUBLE, mysql.MYSQL_TYPE_YEAR, mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE,
		mysql.MYSQL_TYPE_TIME, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_TIMESTAMP:
	default:
		// Widths of unknown types are unknown: the columns after it could not be found.
		return k, fmt.Errorf("column %s is logged as type %d, which is not supported (compressed columns are not)", c.Name, real)
	}
	switch c.Family {
	case record.FamilyChar, record.FamilyVarchar, record.FamilyText:
		cs, ok := charsets[c.Charset]
		if !ok && out >= 0 {
			return k, fmt.Errorf("column %s has character set %s, which is not supported; leave it out with column.exclude.list", c.Name, c.Charset)
		}
		k.text = cs
	}
	return k, nil
}

// describe makes a column from the event's metadata alone.
func (s *schema) describe(m *replication.TableMapEvent, i int, unsigned bool, collation uint64, enum, set []string) record.Column {
	typ, meta := m.ColumnType[i], m.ColumnMeta[i]
	real, size := realType(typ, meta)
	c := record.Column{Name: string(m.ColumnName[i]), Unsigned: unsigned}
	_, c.Nullable = m.Nullable(i)
	charset := s.collates[collation]
	binary := charset == "binary" || collation == 0
	width := 4
	switch charset {
	case "utf8mb3", "utf8":
		width = 3
	case "ucs2", "gbk", "sjis", "cp932", "big5", "euckr", "gb2312":
		width = 2
	case "utf8mb4", "utf16", "utf16le", "utf32", "gb18030":
	case "ujis", "eucjpms":
		width = 3
	default:
		width = 1
	}
	text := func(family record.Family, name string) {
		c.Family, c.Charset, c.Type = family, charset, name
	}
	set1 := func(family record.Family, name string) {
		c.Family, c.Type = family, name
		if unsigned {
			c.Type += " unsigned"
		}
	}
	frac := func(family record.Family, name string) {
		c.Family, c.Type, c.Scale = family, name, int(meta)
		if meta > 0 {
			c.Type += "(" + strconv.Itoa(int(meta)) + ")"
		}
	}
	switch real {
	case mysql.MYSQL_TYPE_TINY:
		set1(record.FamilyTinyInt, "tinyint")
	case mysql.MYSQL_TYPE_SHORT:
		set1(record.FamilySmallInt, "smallint")
	case mysql.MYSQL_TYPE_INT24:
		set1(record.FamilyMediumInt, "mediumint")
	case mysql.MYSQL_TYPE_LONG:
		set1(record.FamilyInt, "int")
	case mysql.MYSQL_TYPE_LONGLONG:
		set1(record.FamilyBigInt, "bigint")
	case mysql.MYSQL_TYPE_FLOAT:
		set1(record.FamilyFloat, "float")
	case mysql.MYSQL_TYPE_DOUBLE:
		set1(record.FamilyDouble, "double")
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		c.Length, c.Scale = int(meta>>8), int(meta&0xff)
		set1(record.FamilyDecimal, fmt.Sprintf("decimal(%d,%d)", c.Length, c.Scale))
	case mysql.MYSQL_TYPE_BIT:
		c.Family, c.Length = record.FamilyBit, int(meta>>8)*8+int(meta&0xff)
		c.Type = fmt.Sprintf("bit(%d)", c.Length)
	case mysql.MYSQL_TYPE_YEAR:
		c.Family, c.Type = record.FamilyYear, "year"
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE:
		c.Family, c.Type = record.FamilyDate, "date"
	case mysql.MYSQL_TYPE_TIME, mysql.MYSQL_TYPE_TIME2:
		frac(record.FamilyTime, "time")
	case mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_DATETIME2:
		frac(record.FamilyDateTime, "datetime")
	case mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_TIMESTAMP2:
		frac(record.FamilyTimestamp, "timestamp")
	case mysql.MYSQL_TYPE_STRING:
		c.Length = size
		if binary {
			c.Family, c.Type = record.FamilyBinary, fmt.Sprintf("binary(%d)", size)
		} else {
			c.Length = size / width
			text(record.FamilyChar, fmt.Sprintf("char(%d)", c.Length))
		}
	case mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING:
		c.Length = size
		if binary {
			c.Family, c.Type = record.FamilyVarbinary, fmt.Sprintf("varbinary(%d)", size)
		} else {
			c.Length = size / width
			text(record.FamilyVarchar, fmt.Sprintf("varchar(%d)", c.Length))
		}
	case mysql.MYSQL_TYPE_BLOB:
		size := [...]string{"", "tiny", "", "medium", "long"}[min(int(meta), 4)]
		if binary {
			c.Family, c.Type = record.FamilyBlob, size+"blob"
		} else {
			text(record.FamilyText, size+"text")
		}
	case mysql.MYSQL_TYPE_ENUM:
		c.Family, c.Values, c.Type = record.FamilyEnum, enum, membersType("enum", enum)
	case mysql.MYSQL_TYPE_SET:
		c.Family, c.Values, c.Type = record.FamilySet, set, membersType("set", set)
	case mysql.MYSQL_TYPE_JSON:
		c.Family, c.Type = record.FamilyJSON, "json"
	case mysql.MYSQL_TYPE_GEOMETRY:
		c.Family, c.Type = record.FamilyGeometry, "geometry"
	case mysql.MYSQL_TYPE_VECTOR:
		c.Family, c.Type = record.FamilyVector, "vector"
	default:
		c.Type = fmt.Sprintf("binlog type %d", real)
	}
	return c
}

func membersType(name string, values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = "'" + strings.ReplaceAll(v, "'", "''") + "'"
	}
	return name + "(" + strings.Join(quoted, ",") + ")"
}

// topicName replaces what Kafka does not allow in the name of a topic.
func topicName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 249)])
}
