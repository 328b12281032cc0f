package record

import (
	"encoding/json"
	"slices"
)

// Type is the type of a Schema, in Kafka Connect's words for JSON.
type Type string

// The types.
const (
	TypeBoolean Type = "boolean"
	TypeInt8    Type = "int8"
	TypeInt16   Type = "int16"
	TypeInt32   Type = "int32"
	TypeInt64   Type = "int64"
	TypeFloat   Type = "float"
	TypeDouble  Type = "double"
	TypeString  Type = "string"
	TypeBytes   Type = "bytes"
	TypeArray   Type = "array"
	TypeMap     Type = "map"
	TypeStruct  Type = "struct"
)

// Schema describes a value as Kafka Connect does. It is immutable once it is used.
type Schema struct {
	Type     Type
	Optional bool
	// Name is the value's meaning beyond its type ("io.debezium.time.Date"); empty: none. Version belongs to it; 0: none.
	Name    string
	Version int
	Doc     string
	// Params are name and value pairs in the order in which they are shown.
	Params [][2]string
	// Default is the value that stands for a missing one: bool, int64, float64, string or []byte; nil: none.
	Default any
	Fields  []Field
	// Items is of an array's items and of a map's values, Keys of a map's keys, which are strings.
	Items, Keys *Schema
}

// Index returns the place of a field, -1 without one of that name.
func (s *Schema) Index(field string) int {
	return slices.IndexFunc(s.Fields, func(f Field) bool { return f.Name == field })
}

// Field is one member of a struct.
type Field struct {
	Name   string
	Schema *Schema
}

// The names of the logical types that Kafka Connect itself has. Their values are those of the type beneath: unscaled bytes, days, and
// milliseconds.
const (
	LogicalDecimal   = "org.apache.kafka.connect.data.Decimal"
	LogicalDate      = "org.apache.kafka.connect.data.Date"
	LogicalTime      = "org.apache.kafka.connect.data.Time"
	LogicalTimestamp = "org.apache.kafka.connect.data.Timestamp"
)

// Typed is a value that is no struct, with its schema. Value is one of those that a Struct holds.
type Typed struct {
	Schema *Schema
	Value  any
}

// Struct is a value with its schema. Values are in the order of Schema.Fields: nil, bool, int64, float64, string, []byte, *Struct, []any
// or map[string]any.
type Struct struct {
	Schema *Schema
	Values []any
}

// Envelope says how a source wants its change events written where the format leaves it open: Debezium's envelope does. Immutable.
type Envelope struct {
	// Connector is the kind of database: mysql or mariadb. Name is the source's logical name, Version what wrote the event.
	Connector, Name, Version string
	// Decimal is how DECIMAL is written: precise (default), double or string.
	Decimal string
	// TimePrecision is how times are written: adaptive_time_microseconds (default), connect, microseconds, nanoseconds or isostring.
	TimePrecision string
	// UnsignedBigInt is how BIGINT UNSIGNED is written: long (default; wraps) or precise.
	UnsignedBigInt string
	// Binary is how binary columns are written: bytes (default), base64, base64-url-safe or hex.
	Binary string
	// Headers are those that each record has.
	Headers []Header
}

// MarshalJSON writes the fields in their order, without the schema.
func (s *Struct) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range s.Schema.Fields {
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(s.Values[i])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// MarshalJSON writes the value without the schema.
func (t *Typed) MarshalJSON() ([]byte, error) { return json.Marshal(t.Value) }
