package convert

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/big"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// unavailable stands for a value that the row image lacks, as in Debezium's own events.
const unavailable = "__debezium_unavailable_value"

// append writes a value that is not null.
func (e *dbzColumn) append(dst []byte, d record.Datum) []byte {
	switch e.form {
	case formInt:
		if d.Kind == record.KindUint {
			return strconv.AppendUint(dst, d.Uint(), 10)
		}
		return strconv.AppendInt(dst, d.Int(), 10)
	case formWrapped:
		return strconv.AppendInt(dst, int64(d.Uint()), 10)
	case formUnscaled:
		return appendUnscaled(dst, d.Uint(), false)
	case formDecimal:
		return appendDecimalBytes(dst, d.B)
	case formNumber:
		return append(dst, d.B...)
	case formText:
		return appendJSONBytes(dst, d.B)
	case formFloat:
		return appendJavaFloat(dst, float64(d.Float32()), 32)
	case formWide:
		return appendJavaFloat(dst, float64(d.Float32()), 64)
	case formDouble:
		return appendJavaFloat(dst, d.Float64(), 64)
	case formBool:
		return strconv.AppendBool(dst, d.Uint() != 0)
	case formBits:
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], d.Uint())
		return appendBase64(dst, b[:(e.bits+7)/8])
	case formBytes:
		return appendBase64(dst, d.B)
	case formBase64URL:
		dst = base64.URLEncoding.AppendEncode(append(dst, '"'), d.B)
		return append(dst, '"')
	case formHex:
		dst = hex.AppendEncode(append(dst, '"'), d.B)
		return append(dst, '"')
	case formMember:
		return appendMembersJSON(dst, e.col, d.Uint())
	case formJSON:
		return appendJSONBytesCompact(dst, d.B)
	case formGeometry, formPoint:
		return e.appendGeometry(dst, d.B)
	case formVector:
		dst = append(dst, '[')
		for i := 0; i+4 <= len(d.B); i += 4 {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJavaFloat(dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(d.B[i:]))), 32)
		}
		return append(dst, ']')
	default:
		return e.appendTemporal(dst, d)
	}
}

func (e *dbzColumn) appendTemporal(dst []byte, d record.Datum) []byte {
	switch e.form {
	case formZoned:
		if d.Int() == 0 {
			return append(dst, e.zero...)
		}
		return append(appendISO(append(dst, '"'), d.Int(), e.scale), `Z"`...)
	case formDate, formISODate, formDateTime, formISOStamp:
		days, ok := parseDate(d.B)
		if !ok {
			return append(dst, e.zero...)
		}
		switch e.form {
		case formDate:
			return strconv.AppendInt(dst, days, 10)
		case formISODate:
			return append(append(append(dst, '"'), d.B...), `Z"`...)
		default:
		}
		us := days * 86_400_000_000
		if len(d.B) > 11 {
			us += parseClock(d.B[11:])
		}
		if e.form == formISOStamp {
			return append(trimZeros(appendISO(append(dst, '"'), us, e.scale), e.scale), `Z"`...)
		}
		return appendUnit(dst, us, e.unit)
	case formTime:
		return appendUnit(dst, parseClock(d.B), e.unit)
	case formISOTime:
		return append(trimZeros(append(append(dst, '"'), d.B...), e.scale), `Z"`...)
	default:
		return append(dst, "null"...)
	}
}

// appendUnit writes µs in steps of unit µs, or in ns.
func appendUnit(dst []byte, us, unit int64) []byte {
	switch {
	case unit == 0:
		if us > math.MaxInt64/1000 || us < math.MinInt64/1000 {
			return append(dst, "null"...) // beyond the years 1677 to 2262: no ns count of 64 bits has it
		}
		return strconv.AppendInt(dst, us*1000, 10)
	case us < 0 && us%unit != 0:
		return strconv.AppendInt(dst, us/unit-1, 10)
	}
	return strconv.AppendInt(dst, us/unit, 10)
}

// trimZeros cuts the zeros at the end of a fraction of scale digits.
func trimZeros(dst []byte, scale int) []byte {
	if scale <= 0 {
		return dst
	}
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
	}
	return bytes.TrimSuffix(dst, []byte("."))
}

// appendISO writes µs since the epoch as 2006-01-02T15:04:05 with scale fraction digits.
func appendISO(dst []byte, us int64, scale int) []byte {
	at := len(dst)
	if us == 0 {
		dst = append(dst, "1970-01-01T00:00:00"...)
		return appendFraction(dst, 0, scale)
	}
	dst = appendTimestamp(dst, us, scale, time.UTC)
	dst[at+10] = 'T'
	return dst
}

// parseDate reads 2006-01-02 as days since the epoch; false for dates that do not exist.
func parseDate(b []byte) (int64, bool) {
	if len(b) < 10 {
		return 0, false
	}
	y, m, d := num(b[:4]), num(b[5:7]), num(b[8:10])
	if m < 1 || m > 12 || d < 1 || d > monthDays(y, m) {
		return 0, false
	}
	// Days from civil: March is the first month, so that the leap day is the last of its year.
	if m <= 2 {
		y--
	}
	era := y / 400
	yoe := y - era*400
	doy := (153*((m+9)%12)+2)/5 + d - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468, true
}

func monthDays(y, m int64) int64 {
	switch m {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

func num(b []byte) int64 {
	var n int64
	for _, c := range b {
		n = n*10 + int64(c-'0')
	}
	return n
}

// parseClock reads [-]hh:mm:ss[.ffffff] as µs; hours may have three digits.
func parseClock(b []byte) int64 {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	var part, us int64
	i := 0
	for ; i < len(b) && b[i] != '.'; i++ {
		if b[i] == ':' {
			us, part = us*60+part, 0
			continue
		}
		part = part*10 + int64(b[i]-'0')
	}
	us = (us*60 + part) * 1_000_000
	unit := int64(100_000)
	for i++; i < len(b); i++ {
		us += int64(b[i]-'0') * unit
		unit /= 10
	}
	if neg {
		return -us
	}
	return us
}

// appendUnscaled writes an integer as base64 of its shortest two's complement, the highest byte first.
func appendUnscaled(dst []byte, v uint64, neg bool) []byte {
	var b [9]byte
	if neg {
		binary.BigEndian.PutUint64(b[1:], -v)
		if v != 0 {
			b[0] = 0xff
		}
	} else {
		binary.BigEndian.PutUint64(b[1:], v)
	}
	i := 0
	for i < 8 && (b[i] == 0 && b[i+1] < 0x80 || b[i] == 0xff && b[i+1] >= 0x80) {
		i++
	}
	return appendBase64(dst, b[i:])
}

// appendDecimalBytes writes the digits of a decimal as the bytes of Kafka Connect's Decimal.
func appendDecimalBytes(dst, text []byte) []byte {
	neg := len(text) > 0 && text[0] == '-'
	if neg {
		text = text[1:]
	}
	if len(text) <= 19 {
		var v uint64
		for _, c := range text {
			if c != '.' {
				v = v*10 + uint64(c-'0')
			}
		}
		return appendUnscaled(dst, v, neg)
	}
	digits := make([]byte, 0, len(text))
	for _, c := range text {
		if c != '.' {
			digits = append(digits, c)
		}
	}
	v, _ := new(big.Int).SetString(string(digits), 10)
	b := v.Bytes()
	if !neg || len(b) == 0 {
		if len(b) == 0 || b[0] >= 0x80 {
			b = append([]byte{0}, b...)
		}
		return appendBase64(dst, b)
	}
	// Two's complement: of as many bytes as -v needs.
	n := len(v.Sub(v, big.NewInt(1)).Bytes())
	b = make([]byte, max(n, 1))
	v.FillBytes(b)
	if b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	for i := range b {
		b[i] ^= 0xff
	}
	return appendBase64(dst, b)
}

// appendMembersJSON writes the names of an ENUM's index or a SET's mask as a JSON string.
func appendMembersJSON(dst []byte, c *record.Column, v uint64) []byte {
	var tmp [128]byte
	return appendJSONBytes(dst, appendMembers(tmp[:0], c, v))
}

// appendJSONBytesCompact writes JSON text as a JSON string, without the spaces that stand between its tokens.
func appendJSONBytesCompact(dst, text []byte) []byte {
	var tmp [512]byte
	out := tmp[:0]
	in := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case in && c == '\\' && i+1 < len(text):
			out = append(out, c)
			i++
			c = text[i]
		case c == '"':
			in = !in
		case !in && c == ' ':
			continue
		}
		out = append(out, c)
	}
	return appendJSONBytes(dst, out)
}

func (e *dbzColumn) appendGeometry(dst, b []byte) []byte {
	if len(b) < 4 {
		return append(dst, "null"...)
	}
	srid, wkb := binary.LittleEndian.Uint32(b), b[4:]
	dst = append(dst, '{')
	if e.form == formPoint {
		var x, y float64
		if len(wkb) >= 21 {
			var order binary.ByteOrder = binary.LittleEndian
			if wkb[0] == 0 {
				order = binary.BigEndian
			}
			x, y = math.Float64frombits(order.Uint64(wkb[5:])), math.Float64frombits(order.Uint64(wkb[13:]))
		}
		dst = appendJavaFloat(append(dst, `"x":`...), x, 64)
		dst = append(appendJavaFloat(append(dst, `,"y":`...), y, 64), ',')
	}
	dst = appendBase64(append(dst, `"wkb":`...), wkb)
	if srid == 0 {
		return append(dst, `,"srid":null}`...)
	}
	return append(strconv.AppendUint(append(dst, `,"srid":`...), uint64(srid), 10), '}')
}
