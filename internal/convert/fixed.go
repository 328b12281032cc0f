package convert

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"github.com/millrace/millrace/connectors/record"
)

// fixedWidths are the bytes of Kafka's serializers for single values, the highest byte first.
var fixedWidths = map[string]int{Boolean: 1, Short: 2, Integer: 4, Long: 8, Float: 4, Double: 8}

var fixedTypes = map[string]record.Type{
	Boolean: record.TypeBoolean, Short: record.TypeInt16, Integer: record.TypeInt32, Long: record.TypeInt64, Float: record.TypeFloat, Double: record.TypeDouble,
}

func appendFixed(dst []byte, converter string, size int, v any) ([]byte, bool, error) {
	if t, ok := v.(*record.Typed); ok {
		v = t.Value
	}
	bad := func() ([]byte, bool, error) {
		return dst, false, fmt.Errorf("the %s converter can't write %v, a %T", converter, v, v)
	}
	if n, ok := v.(json.Number); ok {
		if i, err := n.Int64(); err == nil {
			v = i
		} else if f, err := n.Float64(); err == nil {
			v = f
		}
	}
	var bits uint64
	switch x := v.(type) {
	case nil:
		return dst, false, nil
	case bool:
		if converter != Boolean {
			return bad()
		}
		if x {
			bits = 1
		}
	case int64:
		low := int64(-1) << (8*size - 1)
		if converter != Short && converter != Integer && converter != Long || x < low || x > ^low {
			return bad()
		}
		bits = uint64(x)
	case float64:
		switch converter {
		case Float:
			bits = uint64(math.Float32bits(float32(x)))
		case Double:
			bits = math.Float64bits(x)
		default:
			return bad()
		}
	default:
		return bad()
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], bits)
	return append(dst, b[8-size:]...), true, nil
}

// readFixed reads a single value with its type, as an optional one.
func readFixed(converter string, size int, b []byte) (any, error) {
	if len(b) != size {
		return nil, fmt.Errorf("Size of data received by %s deserializer is not %d: it is %d", converter, size, len(b))
	}
	var full [8]byte
	copy(full[8-size:], b)
	bits := binary.BigEndian.Uint64(full[:])
	var v any
	switch converter {
	case Boolean:
		if bits > 1 {
			return nil, fmt.Errorf("Unexpected byte received by BooleanDeserializer: %d", bits)
		}
		v = bits == 1
	case Float:
		v = float64(math.Float32frombits(uint32(bits)))
	case Double:
		v = math.Float64frombits(bits)
	default:
		shift := 64 - 8*size
		v = int64(bits<<shift) >> shift
	}
	return &record.Typed{Schema: &record.Schema{Type: fixedTypes[converter], Optional: true}, Value: v}, nil
}
