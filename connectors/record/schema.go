package record

// Type is the type of a Schema, in Kafka Connect's words for JSON.
type Type string

// The types.
const (
	TypeBoolean Type = "boolean"
	TypeInt16   Type = "int16"
	TypeInt32   Type = "int32"
	TypeInt64   Type = "int64"
	TypeFloat   Type = "float"
	TypeDouble  Type = "double"
	TypeString  Type = "string"
	TypeBytes   Type = "bytes"
	TypeArray   Type = "array"
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
	Items   *Schema
}

// Field is one member of a struct.
type Field struct {
	Name   string
	Schema *Schema
}

// Struct is a value with its schema. Values are in the order of Schema.Fields: nil, bool, int64, float64, string, []byte, *Struct or []any.
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
