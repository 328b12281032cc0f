package convert

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"

	"github.com/millrace/millrace/connectors/record"
)

// jsonSchema is a schema as Kafka Connect's JsonConverter writes it.
type jsonSchema struct {
	Type       string          `json:"type"`
	Optional   bool            `json:"optional"`
	Name       string          `json:"name"`
	Version    int             `json:"version"`
	Doc        string          `json:"doc"`
	Parameters json.RawMessage `json:"parameters"`
	Default    any             `json:"default"`
	Field      string          `json:"field"`
	Fields     []jsonSchema    `json:"fields"`
	Items      *jsonSchema     `json:"items"`
	Keys       *jsonSchema     `json:"keys"`
	Values     *jsonSchema     `json:"values"`
}

var jsonTypes = map[string]record.Type{
	"boolean": record.TypeBoolean, "int8": record.TypeInt8, "int16": record.TypeInt16, "int32": record.TypeInt32, "int64": record.TypeInt64,
	"float": record.TypeFloat, "float32": record.TypeFloat, "double": record.TypeDouble, "float64": record.TypeDouble, "string": record.TypeString,
	"bytes": record.TypeBytes, "array": record.TypeArray, "map": record.TypeMap, "struct": record.TypeStruct,
}

// schema reads the schema of a message; one instance for each.
func (d *Decoder) schema(raw []byte) (*record.Schema, error) {
	if s := d.schemas[string(raw)]; s != nil {
		return s, nil
	}
	var j jsonSchema
	if err := unmarshalNumbers(raw, &j); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	s, err := schemaOf(&j)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	if d.schemas == nil || len(d.schemas) >= cacheMax {
		d.schemas = map[string]*record.Schema{}
	}
	d.schemas[string(raw)] = s
	return s, nil
}

func schemaOf(j *jsonSchema) (*record.Schema, error) {
	s := &record.Schema{Type: jsonTypes[j.Type], Optional: j.Optional, Name: j.Name, Version: j.Version, Doc: j.Doc}
	if s.Type == "" {
		return nil, fmt.Errorf("unknown type %q", j.Type)
	}
	names, values, err := orderedStrings(j.Parameters)
	if err != nil {
		return nil, fmt.Errorf("parameters: %w", err)
	}
	for i := range names {
		s.Params = append(s.Params, [2]string{names[i], values[i]})
	}
	inner := func(j *jsonSchema, what string) *record.Schema {
		if err == nil && j == nil {
			err = fmt.Errorf("%s without %s", s.Type, what)
		}
		if err != nil {
			return nil
		}
		var out *record.Schema
		out, err = schemaOf(j)
		return out
	}
	switch s.Type {
	case record.TypeArray:
		s.Items = inner(j.Items, "items")
	case record.TypeMap:
		s.Items, s.Keys = inner(j.Values, "values"), inner(j.Keys, "keys")
		if err == nil && s.Keys.Type != record.TypeString {
			err = errors.New("maps whose keys are no strings are not supported")
		}
	case record.TypeStruct:
		for i := range j.Fields {
			f := inner(&j.Fields[i], "fields")
			s.Fields = append(s.Fields, record.Field{Name: j.Fields[i].Field, Schema: f})
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", j.Fields[i].Field, err)
			}
		}
	default:
	}
	if err != nil {
		return nil, err
	}
	if j.Default != nil {
		if s.Default, err = readValue(s, j.Default, false); err != nil {
			return nil, fmt.Errorf("default: %w", err)
		}
	}
	return s, nil
}

// errEnvelope is Kafka Connect's text.
var errEnvelope = errors.New(`JsonConverter with schemas.enable requires "schema" and "payload" fields and may not contain additional fields. If you are trying to deserialize plain JSON data, set schemas.enable=false in your converter configuration.`)

// connectJSON reads JSON with or without a schema around it, as the options say.
func (d *Decoder) connectJSON(o *connectOptions, b []byte) (any, error) {
	if b == nil {
		return nil, nil
	}
	if o.schemas || !o.given && bytes.Contains(b, []byte(`"payload"`)) {
		var m map[string]json.RawMessage
		if err := unmarshalNumbers(b, &m); err != nil && o.schemas {
			return nil, fmt.Errorf("the bytes are no JSON object: %w", err)
		}
		schema, payload := m["schema"], m["payload"]
		if len(m) == 2 && schema != nil && payload != nil {
			return d.typed(o, schema, payload)
		}
		if o.schemas {
			return nil, errEnvelope
		}
	}
	return decodePlain(JSON, b)
}

func (d *Decoder) typed(o *connectOptions, schema, payload json.RawMessage) (any, error) {
	var v any
	if err := unmarshalNumbers(payload, &v); err != nil {
		return nil, err
	}
	if string(schema) == "null" {
		return v, nil
	}
	s, err := d.schema(schema)
	if err != nil {
		return nil, err
	}
	out, err := readValue(s, v, o.replaceNull)
	if err != nil {
		return nil, err
	}
	if st, ok := out.(*record.Struct); ok {
		return st, nil
	}
	return &record.Typed{Schema: s, Value: out}, nil
}

// readValue makes of parsed JSON what a struct holds.
func readValue(s *record.Schema, v any, replaceNull bool) (any, error) {
	if v == nil {
		if s.Default != nil && replaceNull {
			return s.Default, nil
		}
		if !s.Optional && s.Default == nil {
			return nil, fmt.Errorf("Invalid null value for required %s field", s.Type)
		}
		return nil, nil
	}
	switch x := v.(type) {
	case bool:
		if s.Type == record.TypeBoolean {
			return x, nil
		}
	case json.Number:
		return readNumber(s, x)
	case string:
		switch s.Type {
		case record.TypeString:
			return x, nil
		case record.TypeBytes:
			return base64.StdEncoding.DecodeString(x)
		default:
		}
	case []any:
		if s.Type == record.TypeArray {
			out := make([]any, len(x))
			for i := range x {
				var err error
				if out[i], err = readValue(s.Items, x[i], replaceNull); err != nil {
					return nil, err
				}
			}
			return out, nil
		}
	case map[string]any:
		return readObject(s, x, replaceNull)
	}
	return nil, fmt.Errorf("a JSON %T is no %s", v, s.Type)
}

func readObject(s *record.Schema, m map[string]any, replaceNull bool) (any, error) {
	var err error
	switch s.Type {
	case record.TypeMap:
		out := make(map[string]any, len(m))
		for k, v := range m {
			if out[k], err = readValue(s.Items, v, replaceNull); err != nil {
				return nil, fmt.Errorf("key %s: %w", k, err)
			}
		}
		return out, nil
	case record.TypeStruct:
		out := &record.Struct{Schema: s, Values: make([]any, len(s.Fields))}
		for i, f := range s.Fields {
			if out.Values[i], err = readValue(f.Schema, m[f.Name], replaceNull); err != nil {
				return nil, fmt.Errorf("field %s: %w", f.Name, err)
			}
		}
		return out, nil
	default:
		return nil, fmt.Errorf("a JSON object is no %s", s.Type)
	}
}

func readNumber(s *record.Schema, n json.Number) (any, error) {
	bits := 64
	switch s.Type {
	case record.TypeInt8:
		bits = 8
	case record.TypeInt16:
		bits = 16
	case record.TypeInt32:
		bits = 32
	case record.TypeInt64:
	case record.TypeFloat:
		f, err := strconv.ParseFloat(n.String(), 32)
		return f, err
	case record.TypeDouble:
		return n.Float64()
	case record.TypeBytes:
		if s.Name == record.LogicalDecimal {
			return unscaledOf(n.String(), decimalScale(s))
		}
		return nil, errors.New("a JSON number is no bytes")
	default:
		return nil, fmt.Errorf("a JSON number is no %s", s.Type)
	}
	return strconv.ParseInt(n.String(), 10, bits)
}

// decimalScale is the number of fraction digits of a Decimal.
func decimalScale(s *record.Schema) int {
	for _, p := range s.Params {
		if p[0] == "scale" {
			n, _ := strconv.Atoi(p[1])
			return n
		}
	}
	return 0
}

// scaleMax bounds the digits that a message can make us write.
const scaleMax = 1000

// unscaledOf makes the bytes of a Decimal of its digits.
func unscaledOf(text string, scale int) ([]byte, error) {
	if len(text) > scaleMax || scale > scaleMax || scale < -scaleMax {
		return nil, fmt.Errorf("a decimal of more than %d digits", scaleMax)
	}
	f, _, err := big.ParseFloat(text, 10, 8192, big.ToNearestEven)
	if err != nil || f.MantExp(nil) > 8*scaleMax || f.MantExp(nil) < -8*scaleMax {
		return nil, fmt.Errorf("%q is no decimal that can be read", text)
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, fmt.Errorf("%q is no number", text)
	}
	ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(scale, -scale))), nil)
	if scale >= 0 {
		r.Mul(r, new(big.Rat).SetInt(ten))
	} else {
		r.Quo(r, new(big.Rat).SetInt(ten))
	}
	if !r.IsInt() {
		return nil, fmt.Errorf("%s has more than the schema's %d fraction digits", text, scale)
	}
	return twosComplement(r.Num()), nil
}

// twosComplement writes an integer as BigInteger.toByteArray does: as short as it can be, the highest byte first.
func twosComplement(v *big.Int) []byte {
	if v.Sign() >= 0 {
		b := v.Bytes()
		if len(b) == 0 || b[0] >= 0x80 {
			b = append([]byte{0}, b...)
		}
		return b
	}
	n := new(big.Int).Not(v) // -v-1
	b := n.Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	for i := range b {
		b[i] ^= 0xff
	}
	return b
}

// bigOf is the inverse.
func bigOf(b []byte) *big.Int {
	v := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return v
}

// appendDecimalDigits writes a Decimal as digits.
func appendDecimalDigits(dst, unscaled []byte, scale int) []byte {
	v := bigOf(unscaled)
	if scale < 0 || scale > scaleMax {
		return strconv.AppendInt(append(append(dst, v.String()...), 'E'), int64(-scale), 10)
	}
	if v.Sign() < 0 {
		dst = append(dst, '-')
		v.Neg(v)
	}
	digits := v.String()
	for len(digits) <= scale {
		digits = "0" + digits
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[len(digits)-scale:]...)
	}
	return dst
}
