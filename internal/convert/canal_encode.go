package convert

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// The java.sql.Types codes that Canal writes.
const (
	sqlBit       = -7
	sqlTinyInt   = -6
	sqlBigInt    = -5
	sqlChar      = 1
	sqlDecimal   = 3
	sqlInteger   = 4
	sqlSmallInt  = 5
	sqlReal      = 7
	sqlDouble    = 8
	sqlVarchar   = 12
	sqlDate      = 91
	sqlTime      = 92
	sqlTimestamp = 93
	sqlBlob      = 2004
	sqlClob      = 2005
	sqlOther     = 1111
)

// rendered is what a table's messages have in common, made once for each shape of a table.
type rendered struct {
	database  []byte   // "database":"shop","es":
	mysqlType []byte   // {"id":"bigint unsigned",…}
	pkNames   []byte   // ["id"] or null
	names     [][]byte // "id":
	table     []byte   // "table":"t","ts":
	// sqlType is {"id":-5,…} of a row without surprises; whether a row has one is up to the columns of varying.
	sqlType []byte
	varying []varying
}

// varying is a column whose code depends on its values: it is another one from a number on, and for null.
type varying struct {
	column int
	from   uint64
	null   bool
}

func (e *Encoder) rendered(t *record.Table) *rendered {
	if r := e.rows.of(t); r != nil {
		return r
	}
	r := &rendered{}
	r.database = appendJSONString([]byte(`"database":`), t.Database)
	r.table = append(appendJSONString([]byte(`"table":`), t.Name), `,"ts":`...)
	r.mysqlType = []byte{'{'}
	for i := range t.Columns {
		if i > 0 {
			r.mysqlType = append(r.mysqlType, ',')
		}
		name := append(appendJSONString(nil, t.Columns[i].Name), ':')
		r.names = append(r.names, name)
		r.mysqlType = appendJSONString(append(r.mysqlType, name...), t.Columns[i].Type)
	}
	r.mysqlType = append(r.mysqlType, '}')
	r.pkNames = []byte("null")
	if t.HasKey() {
		r.pkNames = []byte{'['}
		for i, at := range slices.Sorted(slices.Values(t.Key)) { // Canal's are in the columns' order
			if i > 0 {
				r.pkNames = append(r.pkNames, ',')
			}
			r.pkNames = appendJSONString(r.pkNames, t.Columns[at].Name)
		}
		r.pkNames = append(r.pkNames, ']')
	}
	usual := make(record.Row, len(t.Columns))
	for i := range t.Columns {
		usual[i] = record.Uint(0)
		c := &t.Columns[i]
		code := sqlType(c, usual[i])
		v := varying{column: i, from: math.MaxUint64, null: sqlType(c, record.Null()) != code}
		for bits := 63; bits >= 7; bits-- {
			if sqlType(c, record.Uint(1<<bits)) != code {
				v.from = 1 << bits
			}
		}
		if v.null || v.from < math.MaxUint64 {
			r.varying = append(r.varying, v)
		}
	}
	r.sqlType = r.appendSQLTypes(nil, t.Columns, usual)
	return e.rows.put(t, r)
}

// appendSQLTypes writes the codes of the columns that the row has.
func (r *rendered) appendSQLTypes(dst []byte, cols []record.Column, row record.Row) []byte {
	dst = append(dst, '{')
	first := true
	for i := range row {
		if row[i].Kind == record.KindAbsent {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, r.names[i]...)
		dst = strconv.AppendInt(dst, int64(sqlType(&cols[i], row[i])), 10)
	}
	return append(dst, '}')
}

// isUsual reports whether r.sqlType holds for the row, which has all columns.
func (r *rendered) isUsual(row record.Row) bool {
	for _, v := range r.varying {
		if d := &row[v.column]; v.null && d.Kind == record.KindNull || d.Kind == record.KindUint && d.Uint() >= v.from {
			return false
		}
	}
	return true
}

// appendCanal writes a change event as one Canal JSON message: members sorted by name, one row, all values text or null.
func (e *Encoder) appendCanal(dst []byte, c *record.ChangeEvent) ([]byte, error) {
	id, o := e.id, &e.s.canal
	switch c.Op {
	case record.OpDDL, record.OpTruncate, record.OpStatement:
		return appendCanalDDL(dst, c, id), nil
	case record.OpRead, record.OpCreate, record.OpUpdate, record.OpDelete:
	default:
		return dst, fmt.Errorf("change event of table %s.%s has no operation that Canal JSON knows: %v", c.Table.Database, c.Table.Name, c.Op)
	}
	row := c.After
	if c.Op == record.OpDelete {
		row = c.Before
	}
	r := e.rendered(c.Table)
	if len(row) != len(r.names) {
		return dst, fmt.Errorf("row of table %s.%s has %d values for %d columns", c.Table.Database, c.Table.Name, len(row), len(r.names))
	}
	cols := c.Table.Columns
	dst = append(dst, `{"data":[{`...)
	dst, whole := appendCanalValues(dst, r, cols, row, nil, o)
	dst = append(dst, `}],`...)
	dst = append(dst, r.database...)
	dst = appendCanalMiddle(dst, c, id)
	dst = append(dst, `,"isDdl":false,"mysqlType":`...)
	dst = append(dst, r.mysqlType...)
	if c.Op == record.OpUpdate {
		dst = append(dst, `,"old":[{`...)
		dst, _ = appendCanalValues(dst, r, cols, c.Before, c.After, o)
		dst = append(dst, `}]`...)
	} else {
		dst = append(dst, `,"old":null`...)
	}
	dst = append(dst, `,"pkNames":`...)
	dst = append(dst, r.pkNames...)
	dst = append(dst, `,"sql":"","sqlType":`...)
	if whole && r.isUsual(row) {
		dst = append(dst, r.sqlType...)
	} else {
		dst = r.appendSQLTypes(dst, cols, row)
	}
	dst = append(dst, ',')
	dst = append(dst, r.table...)
	dst = strconv.AppendInt(dst, time.Now().UnixMilli(), 10)
	dst = append(dst, `,"type":"`...)
	switch c.Op {
	case record.OpUpdate:
		dst = append(dst, "UPDATE"...)
	case record.OpDelete:
		dst = append(dst, "DELETE"...)
	default:
		dst = append(dst, "INSERT"...)
	}
	return append(dst, `"}`...), nil
}

// appendCanalMiddle writes es, gtid and id.
func appendCanalMiddle(dst []byte, c *record.ChangeEvent, id int64) []byte {
	dst = append(dst, `,"es":`...)
	dst = strconv.AppendInt(dst, c.Source.TimeMS, 10)
	dst = append(dst, `,"gtid":`...)
	dst = appendJSONString(dst, c.Source.GTID)
	dst = append(dst, `,"id":`...)
	return strconv.AppendInt(dst, id, 10)
}

func appendCanalDDL(dst []byte, c *record.ChangeEvent, id int64) []byte {
	dst = append(dst, `{"data":null,`...)
	dst = appendJSONString(append(dst, `"database":`...), c.Table.Database)
	dst = appendCanalMiddle(dst, c, id)
	dst = strconv.AppendBool(append(dst, `,"isDdl":`...), c.Op != record.OpStatement)
	dst = append(dst, `,"mysqlType":null,"old":null,"pkNames":null,"sql":`...)
	dst = appendJSONString(dst, c.SQL)
	dst = append(dst, `,"sqlType":null,`...)
	dst = appendJSONString(append(dst, `"table":`...), c.Table.Name)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, time.Now().UnixMilli(), 10)
	typ := c.DDLType
	if typ == "" {
		typ = "QUERY"
		if c.Op == record.OpTruncate {
			typ = "TRUNCATE"
		}
	}
	dst = appendJSONString(append(dst, `,"type":`...), typ)
	return append(dst, '}')
}

// appendCanalValues writes "name":value pairs of a row. With other, only those that differ from it: the old values of an update,
// where absent means unchanged and null means it was NULL. It reports whether the row has all columns.
func appendCanalValues(dst []byte, r *rendered, cols []record.Column, row, other record.Row, o *canalOptions) (out []byte, whole bool) {
	first, whole := true, true
	for i := range row {
		d := &row[i]
		if d.Kind == record.KindAbsent {
			whole = false
			continue
		}
		if other != nil && d.Equal(other[i]) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendCanalValue(append(dst, r.names[i]...), &cols[i], *d, o)
	}
	return dst, whole
}

func appendCanalValue(dst []byte, c *record.Column, d record.Datum, o *canalOptions) []byte {
	switch d.Kind {
	case record.KindText:
		return appendJSONBytes(dst, d.B)
	case record.KindBytes:
		return appendLatin1(dst, d.B)
	case record.KindAbsent, record.KindNull:
		return append(dst, "null"...)
	case record.KindInt, record.KindUint, record.KindFloat32, record.KindFloat64:
	}
	dst = append(dst, '"')
	switch d.Kind {
	case record.KindInt:
		switch c.Family {
		case record.FamilyTimestamp:
			dst = appendTimestamp(dst, d.Int(), c.Scale, o.zone)
		case record.FamilyYear:
			if d.Int() == 0 {
				dst = append(dst, "0000"...)
			} else {
				dst = strconv.AppendInt(dst, d.Int(), 10)
			}
		default:
			dst = strconv.AppendInt(dst, d.Int(), 10)
		}
	case record.KindUint:
		if o.enumNames && (c.Family == record.FamilyEnum || c.Family == record.FamilySet) {
			b := appendJSONBytes(nil, appendMembers(nil, c, d.Uint()))
			dst = append(dst, b[1:len(b)-1]...)
		} else {
			dst = strconv.AppendUint(dst, d.Uint(), 10)
		}
	case record.KindFloat32:
		dst = appendJavaFloat(dst, float64(d.Float32()), 32)
	case record.KindFloat64:
		dst = appendJavaFloat(dst, d.Float64(), 64)
	case record.KindAbsent, record.KindNull, record.KindText, record.KindBytes:
	}
	return append(dst, '"')
}

// sqlType is Canal's code for a value. For unsigned integers it is that of the next larger type once the high bit is set, and for
// SET and JSON that of null differs: readers parse by it, so the quirk is kept.
func sqlType(c *record.Column, d record.Datum) int {
	null := d.IsNull()
	promoted := func(bits uint, code, larger int) int {
		if d.Kind == record.KindUint && d.Uint()>>(bits-1) != 0 {
			return larger
		}
		return code
	}
	switch c.Family {
	case record.FamilyTinyInt:
		return promoted(8, sqlTinyInt, sqlSmallInt)
	case record.FamilySmallInt:
		return promoted(16, sqlSmallInt, sqlInteger)
	case record.FamilyMediumInt:
		return sqlInteger
	case record.FamilyInt:
		return promoted(32, sqlInteger, sqlBigInt)
	case record.FamilyBigInt:
		return promoted(64, sqlBigInt, sqlDecimal)
	case record.FamilyDecimal:
		return sqlDecimal
	case record.FamilyFloat:
		return sqlReal
	case record.FamilyDouble:
		return sqlDouble
	case record.FamilyBit:
		return sqlBit
	case record.FamilyChar:
		return sqlChar
	case record.FamilyVarchar, record.FamilyYear:
		return sqlVarchar
	case record.FamilyText:
		return sqlClob
	case record.FamilyBinary, record.FamilyVarbinary, record.FamilyBlob, record.FamilyGeometry:
		return sqlBlob
	case record.FamilyEnum:
		return sqlInteger
	case record.FamilySet:
		if null {
			return sqlBlob
		}
		return sqlBit
	case record.FamilyJSON:
		if null {
			return sqlOther
		}
		return sqlVarchar
	case record.FamilyDate:
		return sqlDate
	case record.FamilyTime:
		return sqlTime
	case record.FamilyDateTime, record.FamilyTimestamp:
		return sqlTimestamp
	case record.FamilyUnknown, record.FamilyVector:
	}
	return sqlOther
}
