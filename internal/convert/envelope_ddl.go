package convert

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

func optional(s *record.Schema) *record.Schema {
	out := *s
	out.Optional = true
	return &out
}

func list(items *record.Schema, opt bool) *record.Schema {
	return &record.Schema{Type: record.TypeArray, Items: items, Optional: opt}
}

var (
	int32Schema  = &record.Schema{Type: record.TypeInt32}
	boolSchema   = &record.Schema{Type: record.TypeBoolean, Optional: true}
	columnSchema = &record.Schema{Type: record.TypeStruct, Name: "io.debezium.connector.schema.Column", Version: 1, Fields: []record.Field{
		{Name: "name", Schema: stringSchema},
		{Name: "jdbcType", Schema: int32Schema},
		{Name: "nativeType", Schema: optional(int32Schema)},
		{Name: "typeName", Schema: stringSchema},
		{Name: "typeExpression", Schema: optionalString},
		{Name: "charsetName", Schema: optionalString},
		{Name: "length", Schema: optional(int32Schema)},
		{Name: "scale", Schema: optional(int32Schema)},
		{Name: "position", Schema: int32Schema},
		{Name: "optional", Schema: boolSchema},
		{Name: "autoIncremented", Schema: boolSchema},
		{Name: "generated", Schema: boolSchema},
		{Name: "comment", Schema: optionalString},
		{Name: "defaultValueExpression", Schema: optionalString},
		{Name: "enumValues", Schema: list(stringSchema, true)},
	}}
	tableSchema = &record.Schema{Type: record.TypeStruct, Optional: true, Name: "io.debezium.connector.schema.Table", Version: 1, Fields: []record.Field{
		{Name: "defaultCharsetName", Schema: optionalString},
		{Name: "primaryKeyColumnNames", Schema: list(stringSchema, true)},
		{Name: "columns", Schema: list(columnSchema, false)},
		{Name: "comment", Schema: optionalString},
	}}
	changeSchema = &record.Schema{Type: record.TypeStruct, Name: "io.debezium.connector.schema.Change", Version: 1, Fields: []record.Field{
		{Name: "type", Schema: stringSchema}, {Name: "id", Schema: stringSchema}, {Name: "table", Schema: tableSchema},
	}}
)

func schemaChangeSchema(connector string) *record.Schema {
	return &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector." + connector + ".SchemaChangeValue", Version: 1,
		Fields: []record.Field{
			{Name: "source", Schema: sourceSchema(connector)},
			{Name: "ts_ms", Schema: int64Schema},
			{Name: "databaseName", Schema: optionalString},
			{Name: "schemaName", Schema: optionalString},
			{Name: "ddl", Schema: optionalString},
			{Name: "tableChanges", Schema: list(changeSchema, false)},
		},
	}
}

// appendSchemaChange writes a DDL event as a record of Debezium's schema change topic.
func (e *Encoder) appendSchemaChange(dst []byte, c *record.ChangeEvent) []byte {
	env := c.Table.Envelope
	if env == nil {
		env = noEnvelope
	}
	body := func(dst []byte) []byte {
		first, afterDB := sourceParts(env, c.Table.Database)
		afterNS := append(appendOptional([]byte(`,"table":`), c.Table.Name), `,"server_id":`...)
		dst = appendSource(append(append(dst, '{'), first...), &c.Source, afterDB, afterNS, e.s.valueJSON.replaceNull)
		dst = appendAny(append(dst, `,"ts_ms":`...), time.Now().UnixMilli())
		dst = appendJSONString(append(dst, `,"databaseName":`...), c.Table.Database)
		dst = appendJSONString(append(dst, `,"schemaName":null,"ddl":`...), c.SQL)
		changes := make([]any, 0, len(c.Changes))
		for i := range c.Changes {
			changes = append(changes, changeOf(&c.Changes[i]))
		}
		return append(appendAny(append(dst, `,"tableChanges":`...), changes), '}')
	}
	if !e.s.valueJSON.schemas {
		return body(dst)
	}
	schema := appendSchema(nil, schemaChangeSchema(env.Connector), "", &asIs)
	return withSchema(dst, schema, body)
}

func changeOf(c *record.TableChange) *record.Struct {
	id := `"` + c.Database + `"."` + c.Name + `"`
	out := &record.Struct{Schema: changeSchema, Values: []any{c.Type, id, nil}}
	t := c.Table
	if t == nil {
		return out
	}
	key, columns := []any{}, []any{}
	for _, at := range t.RecordKey() {
		key = append(key, t.Columns[at].Name)
	}
	for i := range t.Columns {
		columns = append(columns, columnOf(&t.Columns[i], i+1, t.Charset))
	}
	out.Values[2] = &record.Struct{Schema: tableSchema, Values: []any{text(t.Charset), key, columns, text(t.Comment)}}
	return out
}

// text is s, or null when it is empty.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func columnOf(c *record.Column, position int, charset string) *record.Struct {
	name, jdbc, length, scale := jdbcType(c)
	var def, members any
	if c.HasDefault {
		def = plainDefault(c)
	}
	switch {
	case c.Charset != "":
		charset = c.Charset
	case c.Family != record.FamilyEnum && c.Family != record.FamilySet:
		charset = ""
	}
	if c.Family == record.FamilyEnum || c.Family == record.FamilySet {
		values := make([]any, len(c.Values))
		for i, v := range c.Values {
			values[i] = "'" + v + "'"
		}
		members = values
	}
	return &record.Struct{Schema: columnSchema, Values: []any{
		c.Name, jdbc, nil, name, name, text(charset), length, scale, int64(position), c.Nullable, c.AutoIncrement,
		c.AutoIncrement, nil, def, members,
	}}
}

// plainDefault is a default as Debezium shows it.
func plainDefault(c *record.Column) string {
	switch d := c.Default; {
	case d == record.DefaultNow:
		return "1970-01-01 00:00:00"
	case c.Family == record.FamilyBit && strings.HasPrefix(d, "b'"):
		return strings.Trim(d[1:], "'")
	case strings.HasPrefix(d, "0x") && (c.Family == record.FamilyBinary || c.Family == record.FamilyVarbinary):
		if b, err := hex.DecodeString(d[2:]); err == nil {
			return string(b)
		}
		return d
	default:
		return d
	}
}

// jdbcType is a column's type as Debezium tells it: name, java.sql.Types code, length and scale.
func jdbcType(c *record.Column) (name string, jdbc int64, length, scale any) {
	decl := c.Type
	if open := strings.IndexByte(decl, '('); open >= 0 {
		rest := ""
		if end := strings.LastIndexByte(decl, ')'); end > open {
			rest = decl[end+1:]
		}
		args := decl[open+1 : len(decl)-len(rest)-1]
		decl = decl[:open] + rest
		if c.Family != record.FamilyEnum && c.Family != record.FamilySet {
			a, b, two := strings.Cut(args, ",")
			length = rawJSON(strings.TrimSpace(a))
			if two {
				scale = rawJSON(strings.TrimSpace(b))
			}
		}
	}
	name = strings.ToUpper(decl)
	codes := map[record.Family]int64{
		record.FamilyTinyInt: 5, record.FamilySmallInt: 5, record.FamilyMediumInt: 4, record.FamilyInt: 4, record.FamilyBigInt: -5,
		record.FamilyDecimal: 3, record.FamilyFloat: 6, record.FamilyDouble: 8, record.FamilyBit: -7, record.FamilyChar: 1, record.FamilyVarchar: 12,
		record.FamilyText: 12, record.FamilyBinary: -2, record.FamilyVarbinary: -3, record.FamilyBlob: 2004, record.FamilyEnum: 1, record.FamilySet: 1,
		record.FamilyJSON: 1111, record.FamilyGeometry: 1111, record.FamilyVector: 1111, record.FamilyDate: 91, record.FamilyTime: 92,
		record.FamilyDateTime: 93, record.FamilyTimestamp: 2014, record.FamilyYear: 4, record.FamilyUnknown: 1111,
	}
	switch c.Family {
	case record.FamilyEnum:
		length = int64(1)
	case record.FamilySet:
		n := int64(max(0, len(c.Values)-1))
		for _, v := range c.Values {
			n += int64(len([]rune(v)))
		}
		length = n
	default:
	}
	return name, codes[c.Family], length, scale
}
