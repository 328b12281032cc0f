package mysqlcdc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors/record"
)

var errShort = errors.New("row image ends inside a value")

// codec decodes one column of a row image. It is prepared once per shape of a table.
type codec struct {
	name     string
	typ      byte // the real type: ENUM and SET are themselves, not STRING
	family   record.Family
	unsigned bool
	lenBytes int // length prefix, or the width of ENUM, SET and BIT
	length   int // BINARY: bytes to pad to
	prec     int
	scale    int
	text     *charset // nil: bytes
	rule     *columnRule
	out      int // index in the emitted row; -1: the column is not captured
}

// shape is a table as the binlog describes it: how to decode its row images, and the Table that the events carry.
// Immutable once made.
type shape struct {
	table    *record.Table
	topic    string
	captured bool
	signals  bool // its rows are signals
	codecs   []codec
	// keyless tables need the other snapshot rule.
	id tableID
}

// decodeRow decodes one row image: null bitmap, then the values. present is the event's bitmap of the columns that the image has: with
// binlog_row_image=FULL all of them. The others stay absent, which is not null (I5).
func (s *shape) decodeRow(data, present []byte, b *rowBatch) (record.Row, int, error) {
	n := len(s.codecs)
	there := n
	if !full(present, n) {
		there = 0
		for i := range n {
			if present[i>>3]&(1<<(i&7)) != 0 {
				there++
			}
		}
	}
	pos := (there + 7) / 8
	if len(data) < pos {
		return nil, 0, errShort
	}
	nulls := data[:pos]
	row := record.Row(b.datums.take(len(s.table.Columns)))
	at := -1 // in nulls, which has bits for the columns that are there
	for i := range s.codecs {
		c := &s.codecs[i]
		if there < n && present[i>>3]&(1<<(i&7)) == 0 {
			continue
		}
		if at++; nulls[at>>3]&(1<<(at&7)) != 0 {
			if c.out >= 0 {
				if row[c.out] = record.Null(); c.rule != nil {
					row[c.out] = c.rule.apply(row[c.out], b)
				}
			}
			continue
		}
		d, w, err := c.decode(data[pos:], b)
		if err != nil {
			return nil, 0, fmt.Errorf("decode column %s of %s: %w", c.name, s.id, err)
		}
		pos += w
		if c.out >= 0 {
			row[c.out] = d
		}
	}
	return row, pos, nil
}

// full reports whether the first n bits are set.
func full(bits []byte, n int) bool {
	for _, b := range bits[:n/8] {
		if b != 0xff {
			return false
		}
	}
	return n%8 == 0 || bits[n/8]|^byte(1<<(n%8)-1) == 0xff
}

// complete fills what an after image lacks with what the before image has, and checks that the key is there.
func (s *shape) complete(before, after record.Row) error {
	row := after
	if row == nil {
		row = before
	} else if before != nil {
		for i := range after {
			if after[i].Kind == record.KindAbsent {
				after[i] = before[i]
			}
		}
	}
	for _, k := range s.table.RecordKey() {
		if row[k].Kind == record.KindAbsent {
			return fmt.Errorf("row image of %s has no column %s, which is part of the key: binlog_row_image must be FULL "+
				"(SET GLOBAL binlog_row_image='FULL', and end the sessions that still use another value)", s.id, s.table.Columns[k].Name)
		}
	}
	return nil
}

// decode decodes one value at the start of p and returns its width.
func (c *codec) decode(p []byte, b *rowBatch) (record.Datum, int, error) {
	switch c.typ {
	case mysql.MYSQL_TYPE_TINY:
		if len(p) < 1 {
			return record.Datum{}, 0, errShort
		}
		return c.integer(uint64(p[0]), 8), 1, nil
	case mysql.MYSQL_TYPE_SHORT:
		if len(p) < 2 {
			return record.Datum{}, 0, errShort
		}
		return c.integer(uint64(binary.LittleEndian.Uint16(p)), 16), 2, nil
	case mysql.MYSQL_TYPE_INT24:
		if len(p) < 3 {
			return record.Datum{}, 0, errShort
		}
		return c.integer(little(p[:3]), 24), 3, nil
	case mysql.MYSQL_TYPE_LONG:
		if len(p) < 4 {
			return record.Datum{}, 0, errShort
		}
		return c.integer(uint64(binary.LittleEndian.Uint32(p)), 32), 4, nil
	case mysql.MYSQL_TYPE_LONGLONG:
		if len(p) < 8 {
			return record.Datum{}, 0, errShort
		}
		return c.integer(binary.LittleEndian.Uint64(p), 64), 8, nil
	case mysql.MYSQL_TYPE_FLOAT:
		if len(p) < 4 {
			return record.Datum{}, 0, errShort
		}
		return record.Float32(math.Float32frombits(binary.LittleEndian.Uint32(p))), 4, nil
	case mysql.MYSQL_TYPE_DOUBLE:
		if len(p) < 8 {
			return record.Datum{}, 0, errShort
		}
		return record.Float64(math.Float64frombits(binary.LittleEndian.Uint64(p))), 8, nil
	case mysql.MYSQL_TYPE_YEAR:
		if len(p) < 1 {
			return record.Datum{}, 0, errShort
		}
		if p[0] == 0 {
			return record.Int(0), 1, nil
		}
		return record.Int(int64(p[0]) + 1900), 1, nil
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		return c.decimal(p, b)
	case mysql.MYSQL_TYPE_BIT:
		if len(p) < c.lenBytes {
			return record.Datum{}, 0, errShort
		}
		return record.Uint(big(p[:c.lenBytes])), c.lenBytes, nil
	case mysql.MYSQL_TYPE_ENUM, mysql.MYSQL_TYPE_SET:
		if len(p) < c.lenBytes {
			return record.Datum{}, 0, errShort
		}
		return record.Uint(little(p[:c.lenBytes])), c.lenBytes, nil
	case mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_BLOB, mysql.MYSQL_TYPE_GEOMETRY,
		mysql.MYSQL_TYPE_JSON, mysql.MYSQL_TYPE_VECTOR:
		if len(p) < c.lenBytes {
			return record.Datum{}, 0, errShort
		}
		n := little(p[:c.lenBytes])
		if uint64(len(p)-c.lenBytes) < n {
			return record.Datum{}, 0, errShort
		}
		end := c.lenBytes + int(n)
		d, err := c.variable(p[c.lenBytes:end:end], b)
		return d, end, err
	}
	return c.temporal(p, b)
}

func (c *codec) integer(v uint64, bits uint) record.Datum {
	if c.unsigned {
		return record.Uint(v)
	}
	return record.Int(int64(v<<(64-bits)) >> (64 - bits))
}

// variable makes the datum of a value of variable length in its stored form. v lives as long as the batch.
func (c *codec) variable(v []byte, b *rowBatch) (record.Datum, error) {
	switch c.family {
	case record.FamilyJSON:
		var err error
		if b.scratch, err = appendJSON(b.scratch[:0], v); err != nil {
			return record.Datum{}, err
		}
		return record.Text(b.copyBytes(b.scratch)), nil
	case record.FamilyBinary:
		return record.Bytes(c.pad(v, b)), nil
	case record.FamilyChar, record.FamilyVarchar, record.FamilyText:
		d, err := c.textOf(v, b)
		if c.rule != nil && err == nil {
			d = c.rule.apply(d, b)
		}
		return d, err
	default:
		return record.Bytes(v), nil
	}
}

// pad restores the zero bytes that the server cuts off BINARY values when it logs them.
func (c *codec) pad(v []byte, b *rowBatch) []byte {
	if len(v) >= c.length {
		return v
	}
	out := b.bytes.take(c.length)
	clear(out[copy(out, v):])
	return out
}

// textOf turns text in the column's character set to UTF-8. v lives as long as the batch.
func (c *codec) textOf(v []byte, b *rowBatch) (record.Datum, error) {
	if c.text == nil || c.text.utf8 {
		if !utf8.Valid(v) {
			return record.Datum{}, fmt.Errorf("%x is no valid UTF-8; repair the row, or leave the column out with column.exclude.list", head(v))
		}
		return record.Text(v), nil
	}
	if c.text.ascii && isASCII(v) {
		return record.Text(v), nil
	}
	out, err := c.text.decode(v)
	if err != nil {
		return record.Datum{}, err
	}
	return record.Text(out), nil
}

func head(v []byte) []byte { return v[:min(len(v), 32)] }

func isASCII(v []byte) bool {
	for _, x := range v {
		if x >= 0x80 {
			return false
		}
	}
	return true
}

func little(p []byte) uint64 {
	var v uint64
	for _, v0 := range slices.Backward(p) {
		v = v<<8 | uint64(v0)
	}
	return v
}

func big(p []byte) uint64 {
	var v uint64
	for _, x := range p {
		v = v<<8 | uint64(x)
	}
	return v
}

func (c *codec) temporal(p []byte, b *rowBatch) (record.Datum, int, error) {
	fracBytes := (c.scale + 1) / 2
	switch c.typ {
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE:
		if len(p) < 3 {
			return record.Datum{}, 0, errShort
		}
		v := little(p[:3])
		out := appendDate(b.bytes.take(10)[:0], v>>9, v>>5&15, v&31)
		return record.Text(out), 3, nil
	case mysql.MYSQL_TYPE_DATETIME:
		if len(p) < 8 {
			return record.Datum{}, 0, errShort
		}
		v := binary.LittleEndian.Uint64(p)
		d, t := v/1000000, v%1000000
		out := appendDate(b.bytes.take(19)[:0], d/10000%10000, d/100%100, d%100)
		out = appendClock(append(out, ' '), t/10000, t/100%100, t%100)
		return record.Text(out), 8, nil
	case mysql.MYSQL_TYPE_DATETIME2:
		if len(p) < 5+fracBytes {
			return record.Datum{}, 0, errShort
		}
		v := big(p[:5]) - 0x8000000000
		ymd, hms := v>>17, v&(1<<17-1)
		ym := ymd >> 5
		out := appendDate(b.bytes.take(26)[:0], ym/13, ym%13, ymd&31)
		out = appendClock(append(out, ' '), hms>>12, hms>>6&63, hms&63)
		out = appendFraction(out, micros(p[5:5+fracBytes]), c.scale)
		return record.Text(out), 5 + fracBytes, nil
	case mysql.MYSQL_TYPE_TIMESTAMP:
		if len(p) < 4 {
			return record.Datum{}, 0, errShort
		}
		return record.Int(int64(binary.LittleEndian.Uint32(p)) * 1e6), 4, nil
	case mysql.MYSQL_TYPE_TIMESTAMP2:
		if len(p) < 4+fracBytes {
			return record.Datum{}, 0, errShort
		}
		us := int64(binary.BigEndian.Uint32(p))*1e6 + int64(micros(p[4:4+fracBytes]))
		return record.Int(us), 4 + fracBytes, nil
	case mysql.MYSQL_TYPE_TIME:
		if len(p) < 3 {
			return record.Datum{}, 0, errShort
		}
		v := int64(little(p[:3])<<40) >> 40
		out := b.bytes.take(10)[:0]
		if v < 0 {
			out, v = append(out, '-'), -v
		}
		u := uint64(v)
		return record.Text(appendClock(out, u/10000, u/100%100, u%100)), 3, nil
	case mysql.MYSQL_TYPE_TIME2:
		if len(p) < 3+fracBytes {
			return record.Datum{}, 0, errShort
		}
		// The value is one big-endian number with an offset: seconds and what follows share the sign.
		width := uint(fracBytes * 8)
		v := int64(big(p[:3+fracBytes])) - 0x800000<<width
		out := b.bytes.take(18)[:0]
		if v < 0 {
			out, v = append(out, '-'), -v
		}
		hms, frac := uint64(v)>>width, uint64(v)&(1<<width-1)
		switch fracBytes {
		case 1:
			frac *= 10000
		case 2:
			frac *= 100
		}
		out = appendClock(out, hms>>12&1023, hms>>6&63, hms&63)
		return record.Text(appendFraction(out, frac, c.scale)), 3 + fracBytes, nil
	}
	return record.Datum{}, 0, fmt.Errorf("binlog type %d is not known", c.typ)
}

func micros(p []byte) uint64 {
	switch len(p) {
	case 1:
		return uint64(p[0]) * 10000
	case 2:
		return big(p) * 100
	}
	return big(p)
}

func appendDate(b []byte, y, m, d uint64) []byte {
	b = append(b, byte('0'+y/1000%10), byte('0'+y/100%10), byte('0'+y/10%10), byte('0'+y%10), '-')
	b = append(b, byte('0'+m/10), byte('0'+m%10), '-')
	return append(b, byte('0'+d/10), byte('0'+d%10))
}

func appendClock(b []byte, h, m, s uint64) []byte {
	if h >= 100 {
		b = strconv.AppendUint(b, h, 10)
	} else {
		b = append(b, byte('0'+h/10), byte('0'+h%10))
	}
	return append(b, ':', byte('0'+m/10%10), byte('0'+m%10), ':', byte('0'+s/10%10), byte('0'+s%10))
}

func appendFraction(b []byte, us uint64, scale int) []byte {
	if scale == 0 {
		return b
	}
	b = append(b, '.')
	for div, i := uint64(100000), 0; i < scale; i++ {
		b = append(b, byte('0'+us/div%10))
		div /= 10
	}
	return b
}

var digitBytes = [10]int{0, 1, 1, 2, 2, 3, 3, 4, 4, 4}

func decimalSize(prec, scale int) int {
	intg := prec - scale
	return intg/9*4 + digitBytes[intg%9] + scale/9*4 + digitBytes[scale%9]
}

func (c *codec) decimal(p []byte, b *rowBatch) (record.Datum, int, error) {
	size := decimalSize(c.prec, c.scale)
	if len(p) < size {
		return record.Datum{}, 0, errShort
	}
	out, err := appendDecimal(b.bytes.take(c.prec + 3)[:0], p[:size], c.prec, c.scale)
	return record.Text(out), size, err
}

// appendDecimal appends the text of a packed decimal: groups of nine digits, big-endian, all bits turned over when
// it is negative, the first bit turned over always.
func appendDecimal(out, p []byte, prec, scale int) ([]byte, error) {
	var tmp [40]byte
	if len(p) > len(tmp) || len(p) == 0 {
		return nil, fmt.Errorf("decimal(%d,%d) is out of range", prec, scale)
	}
	v := tmp[:copy(tmp[:], p)]
	if v[0]&0x80 == 0 {
		for i := range v {
			v[i] ^= 0xff
		}
		out = append(out, '-')
	}
	v[0] ^= 0x80
	start := len(out)
	group := func(digits int) {
		n := digitBytes[digits]
		x := big(v[:n])
		v = v[n:]
		div := uint64(1)
		for range digits - 1 {
			div *= 10
		}
		for ; div > 0; div /= 10 {
			d := byte(x / div % 10)
			if d != 0 || len(out) > start {
				out = append(out, '0'+d)
			}
		}
	}
	intg := prec - scale
	if intg%9 > 0 {
		group(intg % 9)
	}
	for range intg / 9 {
		group(9)
	}
	if len(out) == start {
		out = append(out, '0')
	}
	if scale > 0 {
		out = append(out, '.')
		for range scale / 9 {
			group(9)
		}
		if scale%9 > 0 {
			group(scale % 9)
		}
	}
	return out, nil
}
