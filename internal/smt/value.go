package smt

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// split takes a key or value apart: its schema, nil where it has none, and what it holds.
func split(v any) (*record.Schema, any) {
	switch v := v.(type) {
	case *record.Struct:
		return v.Schema, v
	case *record.Typed:
		return v.Schema, v.Value
	}
	return nil, v
}

// join is the inverse.
func join(s *record.Schema, v any) any {
	if st, ok := v.(*record.Struct); ok || s == nil {
		if ok && st == nil {
			return nil
		}
		return v
	}
	return &record.Typed{Schema: s, Value: v}
}

// object is a struct or a map, seen by its fields.
type object struct {
	st *record.Struct
	m  map[string]any
}

// objectOf reads v as an object; purpose is what the transform wants it for.
func objectOf(v any, purpose string) (object, error) {
	switch v := v.(type) {
	case *record.Struct:
		return object{st: v}, nil
	case map[string]any:
		return object{m: v}, nil
	case nil:
		return object{}, fmt.Errorf("Only Struct or Map objects supported for [%s], found: null", purpose)
	case *record.Typed:
		return object{}, fmt.Errorf("Only Struct objects supported for [%s], found: %s", purpose, v.Schema.Type)
	}
	return object{}, fmt.Errorf("Only Map objects supported in absence of schema for [%s], found: %s", purpose, typeName(v))
}

// get returns a field with its schema; a map has no schemas.
func (o object) get(name string) (*record.Schema, any, bool) {
	if o.st == nil {
		v, ok := o.m[name]
		return nil, v, ok
	}
	i := o.st.Schema.Index(name)
	if i < 0 {
		return nil, nil, false
	}
	return o.st.Schema.Fields[i].Schema, o.st.Values[i], true
}

// orDefault is v, or its schema's default where v is null and nulls are replaced.
func orDefault(s *record.Schema, v any, replace bool) any {
	if v == nil && replace && s != nil {
		return s.Default
	}
	return v
}

// withFields returns a struct's schema with other fields.
func withFields(s *record.Schema, fields []record.Field) *record.Schema {
	out := *s
	out.Fields = fields
	return &out
}

// schemas remembers what a transform made of a schema. It starts anew when it has seen too many (I8).
type schemas map[*record.Schema]*record.Schema

const schemasMax = 1000

func (c schemas) of(s *record.Schema, build func() *record.Schema) *record.Schema {
	out, ok := c[s]
	if !ok {
		if len(c) >= schemasMax {
			clear(c)
		}
		out = build()
		c[s] = out
	}
	return out
}

func cloneMap(m map[string]any) map[string]any {
	if out := maps.Clone(m); out != nil {
		return out
	}
	return map[string]any{}
}

// typeName is what a schemaless value is, for messages.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number, int64, uint64, float64:
		return "number"
	case string:
		return "string"
	case []byte:
		return "bytes"
	case []any:
		return "array"
	case map[string]any:
		return "map"
	}
	return fmt.Sprintf("%T", v)
}

// number reads a value that is a number.
func number(v any) (i int64, f float64, integral, ok bool) {
	switch v := v.(type) {
	case int64:
		return v, float64(v), true, true
	case uint64:
		return int64(v), float64(v), true, true
	case float64:
		return int64(v), v, false, true
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, float64(i), true, true
		}
		f, err := v.Float64()
		return int64(f), f, false, err == nil
	}
	return 0, 0, false, false
}

// text is a value as Kafka Connect's Values.convertToString writes it: what headers and casts to string have. false: null.
func text(s *record.Schema, v any) (string, bool) {
	if s != nil && v != nil {
		switch s.Name {
		case record.LogicalDecimal:
			if b, ok := v.([]byte); ok {
				return decimalText(s, b), true
			}
		case record.LogicalDate:
			if n, ok := v.(int64); ok {
				return time.Unix(n*86400, 0).UTC().Format("2006-01-02"), true
			}
		case record.LogicalTime:
			if n, ok := v.(int64); ok {
				return time.UnixMilli(n).UTC().Format("15:04:05.000Z"), true
			}
		case record.LogicalTimestamp:
			if n, ok := v.(int64); ok {
				return time.UnixMilli(n).UTC().Format("2006-01-02T15:04:05.000Z"), true
			}
		}
	}
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		bits := 64
		if s != nil && s.Type == record.TypeFloat {
			bits = 32
		}
		return strconv.FormatFloat(v, 'g', -1, bits), true
	case []byte:
		return base64.StdEncoding.EncodeToString(v), true
	}
	b, err := json.Marshal(plain(s, v))
	if err != nil {
		return fmt.Sprint(v), true
	}
	return string(b), true
}

// plain is a value without schemas.
func plain(s *record.Schema, v any) any {
	switch v := v.(type) {
	case *record.Struct:
		out := make(map[string]any, len(v.Values))
		for i, f := range v.Schema.Fields {
			out[f.Name] = plain(f.Schema, v.Values[i])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(nil, v[i])
		}
		return out
	case []byte:
		if s != nil && s.Name == record.LogicalDecimal {
			return decimalText(s, v)
		}
	}
	return v
}

// scaleOf is the number of fraction digits of a Decimal.
func scaleOf(s *record.Schema) int {
	for _, p := range s.Params {
		if p[0] == "scale" {
			n, _ := strconv.Atoi(p[1])
			return n
		}
	}
	return 0
}

// decimalText is a Decimal in digits.
func decimalText(s *record.Schema, unscaled []byte) string {
	n := new(big.Int).SetBytes(unscaled)
	if len(unscaled) > 0 && unscaled[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(unscaled))))
	}
	scale := scaleOf(s)
	if scale < -10000 {
		return n.String() + "E+" + strconv.Itoa(-scale)
	}
	if scale <= 0 {
		return n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-scale)), nil)).String()
	}
	if scale > 10000 {
		return n.String() + "E-" + strconv.Itoa(scale)
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
		n.Neg(n)
	}
	d := n.String()
	for len(d) <= scale {
		d = "0" + d
	}
	return sign + d[:len(d)-scale] + "." + d[len(d)-scale:]
}
