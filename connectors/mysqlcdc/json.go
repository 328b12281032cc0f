package mysqlcdc

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
)

var errJSON = errors.New("JSON value is damaged")

const maxJSONDepth = 128 // the server's own limit is 100

// appendJSON appends the text of a JSON column's binary form, as the server's own SELECT prints it.
func appendJSON(out, data []byte) ([]byte, error) {
	if len(data) == 0 {
		return append(out, "null"...), nil
	}
	return appendJSONValue(out, data[0], data[1:], limitJSON(out, len(data)))
}

// jsonLimit bounds the text of a document: a damaged one can lead to the same bytes again and again (I8).
type jsonLimit struct{ depth, size int }

// limitJSON is the limit of a document of n bytes whose text goes behind out. An escape makes six bytes of one.
func limitJSON(out []byte, n int) jsonLimit { return jsonLimit{size: len(out) + 8*n + 64} }

func (l jsonLimit) deeper() jsonLimit { return jsonLimit{l.depth + 1, l.size} }

func appendJSONValue(out []byte, typ byte, p []byte, l jsonLimit) ([]byte, error) {
	if l.depth > maxJSONDepth || len(out) > l.size {
		return nil, errJSON
	}
	need := func(n int) bool { return len(p) >= n }
	switch typ {
	case 0, 1, 2, 3:
		return appendJSONContainer(out, typ, p, l)
	case 4:
		if !need(1) {
			return nil, errJSON
		}
		switch p[0] {
		case 0:
			return append(out, "null"...), nil
		case 1:
			return append(out, "true"...), nil
		case 2:
			return append(out, "false"...), nil
		}
		return nil, errJSON
	case 5:
		if !need(2) {
			return nil, errJSON
		}
		return strconv.AppendInt(out, int64(int16(binary.LittleEndian.Uint16(p))), 10), nil
	case 6:
		if !need(2) {
			return nil, errJSON
		}
		return strconv.AppendUint(out, uint64(binary.LittleEndian.Uint16(p)), 10), nil
	case 7:
		if !need(4) {
			return nil, errJSON
		}
		return strconv.AppendInt(out, int64(int32(binary.LittleEndian.Uint32(p))), 10), nil
	case 8:
		if !need(4) {
			return nil, errJSON
		}
		return strconv.AppendUint(out, uint64(binary.LittleEndian.Uint32(p)), 10), nil
	case 9:
		if !need(8) {
			return nil, errJSON
		}
		return strconv.AppendInt(out, int64(binary.LittleEndian.Uint64(p)), 10), nil
	case 10:
		if !need(8) {
			return nil, errJSON
		}
		return strconv.AppendUint(out, binary.LittleEndian.Uint64(p), 10), nil
	case 11:
		if !need(8) {
			return nil, errJSON
		}
		f := math.Float64frombits(binary.LittleEndian.Uint64(p))
		if math.IsNaN(f) || math.IsInf(f, 0) { // JSON has neither
			return nil, errJSON
		}
		return appendJSONDouble(out, f), nil
	case 12:
		s, err := jsonBytes(p)
		if err != nil {
			return nil, err
		}
		return appendJSONString(out, s), nil
	case 15:
		if !need(1) {
			return nil, errJSON
		}
		s, err := jsonBytes(p[1:])
		if err != nil {
			return nil, err
		}
		return appendJSONOpaque(out, p[0], s)
	}
	return nil, errJSON
}

// jsonBytes reads bytes with their length in front: seven bits a byte, the highest says that more follow.
func jsonBytes(p []byte) ([]byte, error) {
	n, i := uint64(0), 0
	for ; ; i++ {
		if i >= len(p) || i > 4 {
			return nil, errJSON
		}
		n |= uint64(p[i]&0x7f) << (7 * i)
		if p[i]&0x80 == 0 {
			break
		}
	}
	if uint64(len(p)-i-1) < n {
		return nil, errJSON
	}
	return p[i+1 : i+1+int(n)], nil
}

func appendJSONContainer(out []byte, typ byte, p []byte, l jsonLimit) ([]byte, error) {
	open, end := byte('['), byte(']')
	if typ <= 1 {
		open, end = '{', '}'
	}
	out = append(out, open)
	first := true
	err := eachJSON(typ, p, func(key []byte, typ byte, body []byte) (err error) {
		if !first {
			out = append(out, ", "...)
		}
		if first = false; open == '{' {
			out = append(appendJSONString(out, key), ": "...)
		}
		out, err = appendJSONValue(out, typ, body, l.deeper())
		return err
	})
	return append(out, end), err
}

// eachJSON calls f for each value of an object or array.
func eachJSON(typ byte, p []byte, f func(key []byte, typ byte, body []byte) error) error {
	width := 2 // of counts and offsets
	if typ == 1 || typ == 3 {
		width = 4
	}
	object := typ == 0 || typ == 1
	if len(p) < 2*width {
		return errJSON
	}
	count, size := int(little(p[:width])), int(little(p[width:2*width]))
	entries, keyWidth := 2*width, 0
	if object {
		keyWidth = width + 2
	}
	values := entries + count*keyWidth
	if size > len(p) || values+count*(width+1) > size {
		return errJSON
	}
	p = p[:size]
	for i := range count {
		var key []byte
		if object {
			e := p[entries+i*keyWidth:]
			at, n := int(little(e[:width])), int(little(e[width:width+2]))
			if at+n > size {
				return errJSON
			}
			key = p[at : at+n]
		}
		v := p[values+i*(width+1):]
		t := v[0]
		body := v[1 : 1+width]
		if inline := t == 4 || t == 5 || t == 6 || width == 4 && (t == 7 || t == 8); !inline {
			at := int(little(body))
			if at >= size || at <= 0 {
				return errJSON
			}
			body = p[at:]
		}
		if err := f(key, t, body); err != nil {
			return err
		}
	}
	return nil
}

func appendJSONString(out, s []byte) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\b':
			out = append(out, `\b`...)
		case c == '\f':
			out = append(out, `\f`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c < 0x20:
			out = append(out, `\u00`...)
			out = append(out, hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// appendJSONDouble prints as the server does: the shortest digits that read back the same, plain between 1e-5 and 1e15,
// and ".0" where nothing else shows that it is no integer.
func appendJSONDouble(out []byte, f float64) []byte {
	if f == 0 {
		if math.Signbit(f) {
			return append(out, "-0.0"...)
		}
		return append(out, "0.0"...)
	}
	var tmp [32]byte
	e := strconv.AppendFloat(tmp[:0], f, 'e', -1, 64)
	i := len(e) - 1
	for e[i] != 'e' {
		i--
	}
	exp, _ := strconv.Atoi(string(e[i+1:]))
	if exp < -5 || exp >= 15 {
		out = append(out, e[:i]...)
		out = append(out, 'e')
		return strconv.AppendInt(out, int64(exp), 10)
	}
	start := len(out)
	out = strconv.AppendFloat(out, f, 'f', -1, 64)
	if slices.Contains(out[start:], '.') {
		return out
	}
	return append(out, ".0"...)
}

func appendJSONOpaque(out []byte, typ byte, s []byte) ([]byte, error) {
	switch typ {
	case 246: // NEWDECIMAL
		if len(s) < 2 {
			return nil, errJSON
		}
		prec, scale := int(s[0]), int(s[1])
		if prec > 81 || scale > prec || decimalSize(prec, scale) != len(s)-2 {
			return nil, errJSON
		}
		return appendDecimal(out, s[2:], prec, scale)
	case 10, 7, 12, 11: // DATE, TIMESTAMP, DATETIME, TIME
		if len(s) < 8 {
			return nil, errJSON
		}
		v := int64(binary.LittleEndian.Uint64(s))
		out = append(out, '"')
		if v < 0 {
			v = -v
			out = append(out, '-')
		}
		u := uint64(v) >> 24
		us := uint64(v) & (1<<24 - 1)
		if typ == 11 {
			out = appendClock(out, u>>12&1023, u>>6&63, u&63)
			return append(appendFraction(out, us, 6), '"'), nil
		}
		ymd, hms := u>>17, u&(1<<17-1)
		ym := ymd >> 5
		out = appendDate(out, ym/13, ym%13, ymd&31)
		if typ != 10 {
			out = appendClock(append(out, ' '), hms>>12, hms>>6&63, hms&63)
			out = appendFraction(out, us, 6)
		}
		return append(out, '"'), nil
	}
	out = append(out, `"base64:type`...)
	out = strconv.AppendUint(out, uint64(typ), 10)
	out = append(out, ':')
	out = base64.StdEncoding.AppendEncode(out, s)
	return append(out, '"'), nil
}
