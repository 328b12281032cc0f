package convert

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

// plainOptions say how the json converter writes change events: as the rows that they lead to, like Debezium's ExtractNewRecordState.
type plainOptions struct {
	rewrite bool // deletes are marked rows, not tombstones
	fields  []string
}

// plainFields are what add.fields may name.
var plainFields = map[string]func(dst []byte, c *record.ChangeEvent) []byte{
	"op":           appendOp,
	"db":           func(dst []byte, c *record.ChangeEvent) []byte { return appendJSONString(dst, c.Table.Database) },
	"table":        func(dst []byte, c *record.ChangeEvent) []byte { return appendJSONString(dst, c.Table.Name) },
	"source.ts_ms": func(dst []byte, c *record.ChangeEvent) []byte { return strconv.AppendInt(dst, c.Source.TimeMS, 10) },
	"source.gtid":  func(dst []byte, c *record.ChangeEvent) []byte { return appendOptional(dst, c.Source.GTID) },
	"source.file":  func(dst []byte, c *record.ChangeEvent) []byte { return appendJSONString(dst, c.Source.File) },
	"source.pos":   func(dst []byte, c *record.ChangeEvent) []byte { return strconv.AppendUint(dst, c.Source.Pos, 10) },
}

func plainFieldNames() []string { return slices.Sorted(maps.Keys(plainFields)) }

func appendOp(dst []byte, c *record.ChangeEvent) []byte {
	op := "c"
	switch c.Op {
	case record.OpRead:
		op = "r"
	case record.OpUpdate:
		op = "u"
	case record.OpDelete:
		op = "d"
	default:
	}
	return appendJSONString(dst, op)
}

// appendPlain writes a change event as a plain row; false means null.
func (e *Encoder) appendPlain(dst []byte, c *record.ChangeEvent) ([]byte, bool, error) {
	o := &e.s.plain
	row := c.After
	switch c.Op {
	case record.OpDDL, record.OpStatement:
		return appendPlainDDL(dst, c), true, nil
	case record.OpTruncate:
		return dst, false, errors.New("the json converter writes rows, and a truncated table is none: leave t in skipped.operations, or use canal-json or debezium-json")
	case record.OpDelete:
		if !o.rewrite {
			return dst, false, nil
		}
		row = c.Before
	default:
	}
	names := e.rendered(c.Table).names
	dst = append(dst, '{')
	n := 0
	for i := range row {
		if row[i].Kind == record.KindAbsent { // what the row image lacks is left out
			continue
		}
		dst = appendNatural(append(comma(dst, n), names[i]...), &c.Table.Columns[i], row[i])
		n++
	}
	for _, f := range o.fields {
		dst = append(appendJSONString(comma(dst, n), "__"+strings.ReplaceAll(f, ".", "_")), ':')
		dst = plainFields[f](dst, c)
		n++
	}
	if o.rewrite {
		dst = append(comma(dst, n), `"__deleted":"`...)
		dst = append(strconv.AppendBool(dst, c.Op == record.OpDelete), '"')
	}
	return append(dst, '}'), true, nil
}

// appendPlainDDL writes a DDL statement, for the topic of schema changes.
func appendPlainDDL(dst []byte, c *record.ChangeEvent) []byte {
	dst = appendJSONString(append(dst, `{"databaseName":`...), c.Table.Database)
	dst = appendJSONString(append(dst, `,"tableName":`...), c.Table.Name)
	dst = appendJSONString(append(dst, `,"type":`...), c.DDLType)
	dst = appendJSONString(append(dst, `,"ddl":`...), c.SQL)
	return append(strconv.AppendInt(append(dst, `,"ts_ms":`...), c.Source.TimeMS, 10), '}')
}
