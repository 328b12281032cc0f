package convert

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/bits"
	"strconv"
	"time"
	"unicode/utf8"
	"unsafe"
)

const hexDigits = "0123456789abcdef"

// appendJSONString writes s as a JSON string.
func appendJSONString(dst []byte, s string) []byte {
	return appendJSONBytes(dst, unsafe.Slice(unsafe.StringData(s), len(s)))
}

// appendJSONBytes writes UTF-8 text as a JSON string. Only what JSON demands is escaped; what is no UTF-8 becomes U+FFFD.
func appendJSONBytes(dst, s []byte) []byte {
	dst = append(dst, '"')
	for {
		n := plainPrefix(s)
		dst = append(dst, s[:n]...)
		if s = s[n:]; len(s) == 0 {
			return append(dst, '"')
		}
		if s[0] < utf8.RuneSelf {
			dst = appendEscape(dst, s[0])
			s = s[1:]
			continue
		}
		n = 0
		for n < len(s) && s[n] >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		if n == 0 {
			dst = append(dst, `\ufffd`...)
			s = s[1:]
			continue
		}
		dst = append(dst, s[:n]...)
		s = s[n:]
	}
}

// plainPrefix is the number of bytes at the start of s that are ASCII and stand for themselves in a JSON string. It looks at eight at a
// time: in each of the four differences the top bit of the first byte that matches is set, and perhaps of others behind it.
func plainPrefix(s []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		w := binary.LittleEndian.Uint64(s[i:])
		quote, slash := w^ones*'"', w^ones*'\\'
		if m := (w | (w-ones*0x20)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & tops; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return i
		}
	}
	return i
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendLatin1 writes bytes as Canal does: each byte is the character of that number.
func appendLatin1(dst, b []byte) []byte {
	dst = append(dst, '"')
	for _, c := range b {
		switch {
		case c >= utf8.RuneSelf:
			dst = append(dst, 0xc0|c>>6, 0x80|c&0x3f)
		case c < 0x20 || c == '"' || c == '\\':
			dst = appendEscape(dst, c)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// latin1Bytes is the inverse; it fails on a character that is no byte.
func latin1Bytes(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return nil, errors.New("binary value holds a character above U+00FF")
		}
		out = append(out, byte(r))
	}
	return out, nil
}

// appendJavaFloat writes f as Java's Float.toString and Double.toString do, which Canal uses: always a fraction digit, exponent form
// below 1e-3 and from 1e7 on.
func appendJavaFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case f == 0:
		if math.Signbit(f) {
			dst = append(dst, '-')
		}
		return append(dst, "0.0"...)
	}
	if abs := math.Abs(f); abs >= 1e-3 && abs < 1e7 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, bits)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	var tmp [40]byte
	s := strconv.AppendFloat(tmp[:0], f, 'e', -1, bits) // d.ddde±dd
	e := bytes.IndexByte(s, 'e')
	dst = append(dst, s[:e]...)
	if bytes.IndexByte(s[:e], '.') < 0 {
		dst = append(dst, ".0"...)
	}
	dst = append(dst, 'E')
	exp := s[e+1:]
	if exp[0] == '-' {
		dst = append(dst, '-')
	}
	exp = bytes.TrimLeft(exp[1:], "0")
	return append(dst, exp...)
}

// appendTimestamp writes µs since the epoch as a date and time in zone, with scale fraction digits; 0 is MySQL's zero timestamp.
func appendTimestamp(dst []byte, us int64, scale int, zone *time.Location) []byte {
	if us == 0 {
		dst = append(dst, "0000-00-00 00:00:00"...)
		return appendFraction(dst, 0, scale)
	}
	t := time.UnixMicro(us).In(zone)
	year, month, day := t.Date()
	hour, minute, sec := t.Clock()
	dst = append2(append(dst, byte('0'+year/1000%10), byte('0'+year/100%10)), year%100)
	dst = append2(append(dst, '-'), int(month))
	dst = append2(append(dst, '-'), day)
	dst = append2(append(dst, ' '), hour)
	dst = append2(append(dst, ':'), minute)
	dst = append2(append(dst, ':'), sec)
	return appendFraction(dst, t.Nanosecond()/1000, scale)
}

func append2(dst []byte, v int) []byte { return append(dst, byte('0'+v/10), byte('0'+v%10)) }

func appendFraction(dst []byte, us, scale int) []byte {
	if scale <= 0 {
		return dst
	}
	dst = append(dst, '.')
	for i, div := 0, 100000; i < min(scale, 6); i, div = i+1, div/10 {
		dst = append(dst, byte('0'+us/div%10))
	}
	return dst
}

// parseTimestamp is the inverse of appendTimestamp.
func parseTimestamp(s string, zone *time.Location) (int64, error) {
	if len(s) >= 10 && s[:10] == "0000-00-00" {
		return 0, nil
	}
	t, err := time.ParseInLocation("2006-01-02 15:04:05.999999", s, zone)
	if err != nil {
		return 0, err
	}
	return t.UnixMicro(), nil
}

// unmarshalNumbers is json.Unmarshal that keeps numbers as they are written.
func unmarshalNumbers(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows after the first value")
	}
	return nil
}
