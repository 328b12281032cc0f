package convert

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// form is how a column is written in Debezium's envelope.
type form uint8

const (
	formInt       form = iota // KindInt, KindUint: a number
	formWrapped               // KindUint: a number, negative from 1<<63 on
	formUnscaled              // KindUint: the bytes of a Decimal with scale 0
	formDecimal               // KindText: the bytes of a Decimal
	formNumber                // KindText: as it is, a number
	formText                  // KindText: as it is, a string
	formFloat                 // KindFloat32
	formWide                  // KindFloat32 as a double
	formDouble                // KindFloat64
	formBool                  // KindUint of BIT(1)
	formBits                  // KindUint: bytes, the lowest first
	formBytes                 // KindBytes: base64
	formBase64URL             // KindBytes: base64, for URLs
	formHex                   // KindBytes
	formMember                // KindUint: ENUM or SET
	formJSON                  // KindText: JSON without spaces
	formGeometry              // KindBytes
	formPoint                 // KindBytes
	formVector                // KindBytes
	formDate                  // KindText: days
	formISODate               // KindText
	formTime                  // KindText: scaled by unit
	formISOTime               // KindText
	formDateTime              // KindText: scaled by unit
	formISOStamp              // KindText
	formZoned                 // KindInt, µs: ISO 8601 in UTC
	formInstant               // KindInt, µs: scaled by unit
)

// dbzColumn is a column of a table in the envelope.
type dbzColumn struct {
	name   []byte // "id":
	form   form
	unit   int64 // µs per step; 0 for ns
	scale  int
	bits   int
	schema *record.Schema
	// missing is what is written for null where nulls are replaced by the default; "null" without one. zero is what stands for a date
	// that does not exist.
	missing, zero []byte
	col           *record.Column
}

func (e *dbzColumn) named(t record.Type, name string, version int, params ...[2]string) {
	e.schema.Type, e.schema.Name, e.schema.Version, e.schema.Params = t, name, version, params
}

// dbzColumnOf decides how a column is written.
func dbzColumnOf(c *record.Column, env *record.Envelope, numeric bool) dbzColumn {
	e := dbzColumn{name: append(appendJSONString(nil, c.Name), ':'), col: c, scale: c.Scale, schema: &record.Schema{Optional: c.Nullable}}
	plain := func(t record.Type, f form) { e.schema.Type, e.form = t, f }
	decimal := func(precision, scale int, f form) {
		if e.form = f; numeric && f == formDecimal {
			e.form = formNumber
		} else if numeric {
			e.form = formInt
		}
		e.named(record.TypeBytes, "org.apache.kafka.connect.data.Decimal", 1, [2]string{"scale", strconv.Itoa(scale)})
		if precision > 0 {
			e.schema.Params = append(e.schema.Params, [2]string{"connect.decimal.precision", strconv.Itoa(precision)})
		}
	}
	switch c.Family {
	case record.FamilyTinyInt:
		plain(record.TypeInt16, formInt)
	case record.FamilySmallInt:
		plain(record.TypeInt16, formInt)
		if c.Unsigned {
			e.schema.Type = record.TypeInt32
		}
	case record.FamilyMediumInt:
		plain(record.TypeInt32, formInt)
	case record.FamilyInt:
		plain(record.TypeInt32, formInt)
		if c.Unsigned {
			e.schema.Type = record.TypeInt64
		}
	case record.FamilyBigInt:
		plain(record.TypeInt64, formInt)
		if c.Unsigned {
			e.form = formWrapped
			if env.UnsignedBigInt == "precise" {
				decimal(20, 0, formUnscaled)
			}
		}
	case record.FamilyDecimal:
		switch env.Decimal {
		case "double":
			plain(record.TypeDouble, formNumber)
		case "string":
			plain(record.TypeString, formText)
		default:
			decimal(c.Length, c.Scale, formDecimal)
		}
	case record.FamilyFloat:
		plain(record.TypeFloat, formFloat)
		if strings.Contains(c.Type, ",") {
			plain(record.TypeDouble, formWide)
		}
	case record.FamilyDouble:
		plain(record.TypeDouble, formDouble)
	case record.FamilyBit:
		if e.bits = max(c.Length, 1); e.bits == 1 {
			plain(record.TypeBoolean, formBool)
			break
		}
		e.form = formBits
		e.named(record.TypeBytes, "io.debezium.data.Bits", 1, [2]string{"length", strconv.Itoa(e.bits)})
	case record.FamilyBinary, record.FamilyVarbinary, record.FamilyBlob:
		switch env.Binary {
		case "base64":
			plain(record.TypeString, formBytes)
		case "base64-url-safe":
			plain(record.TypeString, formBase64URL)
		case "hex":
			plain(record.TypeString, formHex)
		default:
			plain(record.TypeBytes, formBytes)
		}
	case record.FamilyEnum, record.FamilySet:
		e.form = formMember
		name := "io.debezium.data.Enum"
		if c.Family == record.FamilySet {
			name = "io.debezium.data.EnumSet"
		}
		allowed := make([]string, len(c.Values))
		for i, v := range c.Values {
			allowed[i] = strings.ReplaceAll(v, ",", `\,`)
		}
		e.named(record.TypeString, name, 1, [2]string{"allowed", strings.Join(allowed, ",")})
	case record.FamilyJSON:
		e.form = formJSON
		e.named(record.TypeString, "io.debezium.data.Json", 1)
	case record.FamilyGeometry:
		e.geometry(c)
	case record.FamilyVector:
		e.form = formVector
		e.named(record.TypeArray, "io.debezium.data.FloatVector", 1)
		e.schema.Items = &record.Schema{Type: record.TypeFloat}
	case record.FamilyYear:
		e.form = formInt
		e.named(record.TypeInt32, "io.debezium.time.Year", 1)
	case record.FamilyDate, record.FamilyTime, record.FamilyDateTime, record.FamilyTimestamp:
		e.temporal(c, env.TimePrecision)
	default:
		plain(record.TypeString, formText)
	}
	e.defaults(c)
	return e
}

func (e *dbzColumn) geometry(c *record.Column) {
	wkb := record.Field{Name: "wkb", Schema: &record.Schema{Type: record.TypeBytes}}
	srid := record.Field{Name: "srid", Schema: &record.Schema{Type: record.TypeInt32, Optional: true}}
	if strings.HasPrefix(strings.ToLower(c.Type), "point") {
		e.form = formPoint
		e.named(record.TypeStruct, "io.debezium.data.geometry.Point", 1)
		e.schema.Doc = "Geometry (POINT)"
		wkb.Schema.Optional = true
		xy := &record.Schema{Type: record.TypeDouble}
		e.schema.Fields = []record.Field{{Name: "x", Schema: xy}, {Name: "y", Schema: xy}, wkb, srid}
		return
	}
	e.form = formGeometry
	e.named(record.TypeStruct, "io.debezium.data.geometry.Geometry", 1)
	e.schema.Doc = "Geometry"
	e.schema.Fields = []record.Field{wkb, srid}
}

func (e *dbzColumn) temporal(c *record.Column, mode string) {
	const connect, dbz = "org.apache.kafka.connect.data.", "io.debezium.time."
	switch c.Family {
	case record.FamilyDate:
		e.form = formDate
		switch mode {
		case "connect":
			e.named(record.TypeInt32, connect+"Date", 1)
		case "isostring":
			e.form = formISODate
			e.named(record.TypeString, dbz+"IsoDate", 1)
		default:
			e.named(record.TypeInt32, dbz+"Date", 1)
		}
	case record.FamilyTime:
		e.form, e.unit = formTime, 1
		switch mode {
		case "connect":
			e.unit = 1000
			e.named(record.TypeInt32, connect+"Time", 1)
		case "nanoseconds":
			e.unit = 0
			e.named(record.TypeInt64, dbz+"NanoTime", 1)
		case "isostring":
			e.form = formISOTime
			e.named(record.TypeString, dbz+"IsoTime", 1)
		default:
			e.named(record.TypeInt64, dbz+"MicroTime", 1)
		}
	case record.FamilyDateTime:
		e.form, e.unit = formDateTime, 1
		switch mode {
		case "connect":
			e.unit = 1000
			e.named(record.TypeInt64, connect+"Timestamp", 1)
		case "nanoseconds":
			e.unit = 0
			e.named(record.TypeInt64, dbz+"NanoTimestamp", 1)
		case "microseconds":
			e.named(record.TypeInt64, dbz+"MicroTimestamp", 1)
		case "isostring":
			e.form = formISOStamp
			e.named(record.TypeString, dbz+"IsoTimestamp", 1)
		default:
			if c.Scale > 3 {
				e.named(record.TypeInt64, dbz+"MicroTimestamp", 1)
			} else {
				e.unit = 1000
				e.named(record.TypeInt64, dbz+"Timestamp", 1)
			}
		}
	default:
		e.form = formZoned
		e.named(record.TypeString, dbz+"ZonedTimestamp", 1)
	}
}

// defaults fills the schema's default and what stands for null and for dates that do not exist.
func (e *dbzColumn) defaults(c *record.Column) {
	e.missing = []byte("null")
	if d, ok := defaultDatum(c); ok {
		if e.form == formWrapped { // a default does not wrap
			d = record.Uint(min(d.Uint(), math.MaxInt64))
		}
		var raw []byte
		if d.Kind == record.KindInt && d.Int() == 0 && c.Family == record.FamilyTimestamp {
			raw = []byte(`"1970-01-01T00:00:00Z"`)
		} else {
			e.zero = []byte("0")
			raw = e.append(nil, d)
		}
		if string(raw) != "null" {
			e.schema.Default, e.missing = rawJSON(raw), raw
		}
	}
	switch {
	case c.Nullable:
		e.zero = []byte("null")
	case string(e.missing) != "null":
		e.zero = e.missing
	case e.form == formZoned:
		e.zero = []byte(`"1970-01-01T00:00:00Z"`)
	case e.form == formISODate:
		e.zero = []byte(`"1970-01-01Z"`)
	case e.form == formISOStamp:
		e.zero = []byte(`"1970-01-01T00:00:00Z"`)
	default:
		e.zero = []byte("0")
	}
}

// defaultDatum parses a column's declared default. Defaults that can't be a constant of the column's type are left out.
func defaultDatum(c *record.Column) (record.Datum, bool) {
	s := c.Default
	if !c.HasDefault {
		return record.Datum{}, false
	}
	switch c.Family {
	case record.FamilyTinyInt, record.FamilySmallInt, record.FamilyMediumInt, record.FamilyInt, record.FamilyBigInt, record.FamilyYear:
		if c.Unsigned {
			n, err := strconv.ParseUint(s, 10, 64)
			return record.Uint(n), err == nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		return record.Int(n), err == nil
	case record.FamilyDecimal:
		v, ok := new(big.Rat).SetString(s)
		if !ok {
			return record.Datum{}, false
		}
		return record.Text([]byte(v.FloatString(c.Scale))), true
	case record.FamilyFloat:
		f, err := strconv.ParseFloat(s, 32)
		return record.Float32(float32(f)), err == nil
	case record.FamilyDouble:
		f, err := strconv.ParseFloat(s, 64)
		return record.Float64(f), err == nil
	case record.FamilyBit:
		if b, ok := strings.CutPrefix(s, "b'"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(b, "'"), 2, 64)
			return record.Uint(n), err == nil
		}
		n, err := strconv.ParseUint(s, 10, 64)
		return record.Uint(n), err == nil
	case record.FamilyChar, record.FamilyVarchar:
		return record.Text([]byte(s)), true
	case record.FamilyEnum:
		i := slices.Index(c.Values, s)
		return record.Uint(uint64(i + 1)), i >= 0
	case record.FamilySet:
		var mask uint64
		for m := range strings.SplitSeq(s, ",") {
			if i := slices.Index(c.Values, m); i >= 0 {
				mask |= 1 << i
			}
		}
		return record.Uint(mask), true
	case record.FamilyDate, record.FamilyTime:
		return record.Text([]byte(s)), s != record.DefaultNow
	case record.FamilyDateTime:
		if s == record.DefaultNow {
			s = "1970-01-01 00:00:00"
		}
		return record.Text([]byte(s)), true
	case record.FamilyTimestamp:
		if s == record.DefaultNow {
			return record.Int(0), !c.Nullable // as Debezium has it
		}
		us, err := parseTimestamp(s, time.UTC)
		return record.Int(us), err == nil
	case record.FamilyBinary, record.FamilyVarbinary:
		b := []byte(s)
		if h, ok := strings.CutPrefix(s, "0x"); ok {
			if raw, err := hex.DecodeString(h); err == nil {
				b = raw
			}
		}
		if c.Family == record.FamilyBinary && len(b) < c.Length {
			b = append(b, make([]byte, c.Length-len(b))...)
		}
		return record.Bytes(b), true
	case record.FamilyUnknown, record.FamilyText, record.FamilyBlob, record.FamilyJSON, record.FamilyGeometry, record.FamilyVector:
	}
	return record.Datum{}, false
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}
