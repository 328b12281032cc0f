package record

import "math"

// Kind says what a Datum holds.
type Kind uint8

// The kinds of a Datum.
const (
	// KindAbsent: the row image does not have the column. Not the same as null.
	KindAbsent Kind = iota
	KindNull
	KindInt
	KindUint
	KindFloat32
	KindFloat64
	// KindText is UTF-8 text, whatever the column's character set was.
	KindText
	KindBytes
)

// Datum is the value of one column. It owns nothing: B points into its batch's memory.
type Datum struct {
	// B holds text and bytes.
	B    []byte
	n    uint64
	Kind Kind
}

// Null is SQL's NULL.
func Null() Datum { return Datum{Kind: KindNull} }

// Int makes a signed integer.
func Int(v int64) Datum { return Datum{Kind: KindInt, n: uint64(v)} }

// Uint makes an unsigned integer.
func Uint(v uint64) Datum { return Datum{Kind: KindUint, n: v} }

// Float32 makes a single-precision number.
func Float32(v float32) Datum { return Datum{Kind: KindFloat32, n: uint64(math.Float32bits(v))} }

// Float64 makes a double-precision number.
func Float64(v float64) Datum { return Datum{Kind: KindFloat64, n: math.Float64bits(v)} }

// Text makes text of UTF-8 bytes, which it does not copy.
func Text(b []byte) Datum { return Datum{Kind: KindText, B: b} }

// Bytes makes a binary value of b, which it does not copy.
func Bytes(b []byte) Datum { return Datum{Kind: KindBytes, B: b} }

// Int returns the value of a KindInt.
func (d Datum) Int() int64 { return int64(d.n) }

// Uint returns the value of a KindUint.
func (d Datum) Uint() uint64 { return d.n }

// Float32 returns the value of a KindFloat32.
func (d Datum) Float32() float32 { return math.Float32frombits(uint32(d.n)) }

// Float64 returns the value of a KindFloat64.
func (d Datum) Float64() float64 { return math.Float64frombits(d.n) }

// IsNull reports whether the value is NULL.
func (d Datum) IsNull() bool { return d.Kind == KindNull }

// Equal reports whether both hold the same kind and value.
func (d Datum) Equal(o Datum) bool {
	if d.Kind != o.Kind {
		return false
	}
	switch d.Kind {
	case KindText, KindBytes:
		return string(d.B) == string(o.B)
	case KindAbsent, KindNull:
		return true
	case KindInt, KindUint, KindFloat32, KindFloat64:
		return d.n == o.n
	}
	return false
}
