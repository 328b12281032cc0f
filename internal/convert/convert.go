// Package convert turns records into the bytes of messages and back: Canal JSON (the default), plain JSON, strings, bytes.
//
// An Encoder belongs to one goroutine, and so does a Decoder. Encoding a change event appends to the caller's buffer and
// allocates nothing per row.
package convert

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

// The converters' names.
const (
	CanalJSON = "canal-json"
	Debezium  = "debezium-json"
	JSON      = "json"
	String    = "string"
	Bytes     = "bytes"
	Boolean   = "boolean"
	Short     = "short"
	Integer   = "integer"
	Long      = "long"
	Float     = "float"
	Double    = "double"
	Avro      = "avro"
	Protobuf  = "protobuf"
)

// Version of the converters, as the list of plugins shows it.
const Version = "1.0.0"

// aliases are the classes of Kafka Connect's converters that mean the same.
var aliases = map[string]string{
	"org.apache.kafka.connect.json.JsonConverter": JSON,
	"JsonConverter": JSON,
	"org.apache.kafka.connect.storage.StringConverter": String,
	"StringConverter": String,
	"org.apache.kafka.connect.converters.ByteArrayConverter": Bytes,
	"ByteArrayConverter": Bytes,
	"org.apache.kafka.connect.converters.BooleanConverter": Boolean,
	"BooleanConverter": Boolean,
	"org.apache.kafka.connect.converters.ShortConverter": Short,
	"ShortConverter": Short,
	"org.apache.kafka.connect.converters.IntegerConverter": Integer,
	"IntegerConverter": Integer,
	"org.apache.kafka.connect.converters.LongConverter": Long,
	"LongConverter": Long,
	"org.apache.kafka.connect.converters.FloatConverter": Float,
	"FloatConverter": Float,
	"org.apache.kafka.connect.converters.DoubleConverter": Double,
	"DoubleConverter":                                 Double,
	"io.confluent.connect.avro.AvroConverter":         Avro,
	"AvroConverter":                                   Avro,
	"io.confluent.connect.protobuf.ProtobufConverter": Protobuf,
	"ProtobufConverter":                               Protobuf,
}

// Names lists the converters, for messages and forms.
func Names() []string {
	return []string{CanalJSON, Debezium, JSON, String, Bytes, Boolean, Short, Integer, Long, Float, Double, Avro, Protobuf}
}

// Classes lists all names that a converter can be given by, sorted, but for the short ones of Kafka Connect's classes.
func Classes() []string {
	out := Names()
	for name := range aliases {
		if strings.Contains(name, ".") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Config is what a pair of converters is made of.
type Config struct {
	// Key and Value are names or class names; empty: the defaults.
	Key, Value               string
	DefaultKey, DefaultValue string
	// JSONConverter is what the class JsonConverter stands for; empty: json.
	JSONConverter string
	// KeyOptions and ValueOptions are the settings without their prefix.
	KeyOptions, ValueOptions map[string]string
}

type settings struct {
	key, value         string
	canal              canalOptions
	plain              plainOptions
	keyJSON, valueJSON connectOptions
	// registry are the settings of the converters that have a schema registry, by the prefix of their keys.
	registry map[string]configdef.Values
}

type canalOptions struct {
	enumNames bool
	exact     bool // canal.compat=exact
	byEvent   bool // canal.rows=event
	zone      *time.Location
}

func parse(c Config) (settings, []configdef.Problem) {
	var s settings
	var problems []configdef.Problem
	pick := func(key, given, fallback, last string) string {
		name := given
		if name == "" {
			name = fallback
		}
		if name == "" {
			name = last
		}
		if a, ok := aliases[name]; ok {
			name = a
			if a == JSON && c.JSONConverter != "" {
				name = c.JSONConverter
			}
		}
		if slices.Contains(Names(), name) {
			return name
		}
		problems = append(problems, configdef.Problem{Key: key, Value: given, Message: fmt.Sprintf(
			"Invalid value %s for configuration %s: unknown converter; known are %s, and the classes of Kafka Connect's and Confluent's converters for the same", given, key, strings.Join(Names(), ", "))})
		return last
	}
	s.key = pick("key.converter", c.Key, c.DefaultKey, JSON)
	s.value = pick("value.converter", c.Value, c.DefaultValue, CanalJSON)
	// What Kafka Connect's class does unless it is told otherwise, so that an unchanged config gives unchanged bytes.
	like := func(name string) connectOptions {
		is := aliases[name] == JSON && c.JSONConverter == Debezium
		return connectOptions{schemas: is, replaceNull: is}
	}
	s.keyJSON, s.valueJSON = like(c.Key), like(c.Value)
	return s, append(problems, s.read(c)...)
}

// half returns the converter of a prefix, and its options.
func (s *settings) half(prefix string) (string, *connectOptions) {
	if prefix == valuePrefix {
		return s.value, &s.valueJSON
	}
	return s.key, &s.keyJSON
}

// Check returns what is wrong with a converter config.
func Check(c Config) []configdef.Problem {
	_, p := parse(c)
	return p
}

// Encoder turns keys and values into bytes.
type Encoder struct {
	s         settings
	id        int64
	rows      cache[rendered]
	envelopes cache[dbzTable]
	canal     canalScratch
	// written are the schemas of structs as JSON, with the member's name of the payload behind them.
	written map[inForm][]byte
	// coders are those of the converters with a schema registry, by prefix; unfold makes structs for them.
	coders map[string]coder
	unfold *Unfolder
}

// NewEncoder makes an encoder; its problems are those of Check.
func NewEncoder(c Config) (*Encoder, error) {
	s, problems := parse(c)
	if len(problems) > 0 {
		return nil, configdef.AsError(problems)
	}
	e := &Encoder{s: s, coders: s.coders()}
	if len(e.coders) > 0 {
		e.unfold = NewUnfolder()
	}
	return e, nil
}

// NamesSchemas reports whether what is written has schemas that are named for the record's topic.
func (e *Encoder) NamesSchemas() bool {
	return e.s.keyJSON.schemas || e.s.valueJSON.schemas || len(e.coders) > 0
}

// Key appends a key's bytes to dst; false means null.
func (e *Encoder) Key(dst []byte, topic string, key any) ([]byte, bool, error) {
	if e.s.canal.byEvent {
		return dst, false, nil
	}
	if c := e.coders[keyPrefix]; c != nil {
		if k, ok := key.(*record.KeyRow); ok {
			var err error
			if key, err = e.unfold.Key(topic, k); err != nil {
				return dst, false, err
			}
		}
		return c.append(dst, topic, key)
	}
	if k, ok := key.(*record.KeyRow); ok {
		return e.key(dst, topic, k, e.s.keyJSON.schemas)
	}
	return e.plain(dst, e.s.key, &e.s.keyJSON, key)
}

func (e *Encoder) key(dst []byte, topic string, k *record.KeyRow, schemas bool) ([]byte, bool, error) {
	switch {
	case k == nil || len(k.Table.RecordKey()) == 0:
		return dst, false, nil
	case e.s.key == Debezium || schemas:
		return e.appendDbzKey(dst, k, topic, schemas), true, nil
	}
	return e.appendKeyRow(dst, k), true, nil
}

// Header appends a key as the value of a header: as Key does, but never with its schema.
func (e *Encoder) Header(dst []byte, topic string, k *record.KeyRow) ([]byte, bool, error) {
	return e.key(dst, topic, k, false)
}

// Value appends a value's bytes to dst; false means null (a tombstone).
func (e *Encoder) Value(dst []byte, topic string, value any) ([]byte, bool, error) {
	if coder := e.coders[valuePrefix]; coder != nil {
		if c, ok := value.(*record.ChangeEvent); ok {
			var err error
			if value, err = e.unfold.Value(topic, c); err != nil {
				return dst, false, err
			}
		}
		return coder.append(dst, topic, value)
	}
	if c, ok := value.(*record.ChangeEvent); ok {
		if c == nil {
			return dst, false, nil
		}
		switch e.s.value {
		case CanalJSON:
			e.id++
			if e.s.canal.exact {
				out, err := e.appendCanalExact(dst, c)
				return out, err == nil, err
			}
			out, err := e.appendCanal(dst, c)
			return out, err == nil, err
		case Debezium:
			out, err := e.appendEnvelope(dst, c, topic)
			return out, err == nil, err
		case JSON:
			if e.s.valueJSON.schemas {
				return dst, false, errors.New("the json converter writes rows without their schema; set value.converter.schemas.enable=false, or use debezium-json")
			}
			return e.appendPlain(dst, c)
		}
		return dst, false, fmt.Errorf("the %s converter can't write change events; use canal-json or debezium-json", e.s.value)
	}
	return e.plain(dst, e.s.value, &e.s.valueJSON, value)
}

func (e *Encoder) plain(dst []byte, converter string, o *connectOptions, v any) ([]byte, bool, error) {
	if size, ok := fixedWidths[converter]; ok {
		return appendFixed(dst, converter, size, v)
	}
	var schema *record.Schema
	switch x := v.(type) {
	case *record.Struct:
		if x == nil {
			return dst, false, nil
		}
		schema = x.Schema
	case *record.Typed:
		if converter == String || converter == Bytes {
			return e.plain(dst, converter, o, x.Value)
		}
		schema, v = x.Schema, x.Value
	}
	if schema != nil {
		if !o.schemas {
			return appendTyped(dst, schema, v, o), true, nil
		}
		dst = append(dst, e.schema(schema, o)...)
		return append(appendTyped(dst, schema, v, o), '}'), true, nil
	}
	if v == nil {
		return dst, false, nil
	}
	switch converter {
	case String, Bytes:
		switch x := v.(type) {
		case string:
			return append(dst, x...), true, nil
		case []byte:
			return append(dst, x...), true, nil
		}
		if converter == Bytes {
			return dst, false, fmt.Errorf("the bytes converter can't write a %T", v)
		}
		return fmt.Append(dst, v), true, nil
	}
	if b, ok := v.([]byte); ok {
		if json.Valid(b) {
			return append(dst, b...), true, nil
		}
		v = base64.StdEncoding.EncodeToString(b)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return dst, false, fmt.Errorf("write JSON: %w", err)
	}
	if o.schemas && o.given {
		dst = append(append(append(dst, `{"schema":null,"payload":`...), b...), '}')
		return dst, true, nil
	}
	return append(dst, b...), true, nil
}

// inForm is a schema as one of the options' forms writes it.
type inForm struct {
	schema  *record.Schema
	numeric bool
}

// schema returns {"schema":…,"payload": for a schema.
func (e *Encoder) schema(s *record.Schema, o *connectOptions) []byte {
	k := inForm{s, o.numeric}
	b := e.written[k]
	if b == nil {
		if e.written == nil || len(e.written) >= cacheMax {
			e.written = map[inForm][]byte{}
		}
		b = opening(s, o)
		e.written[k] = b
	}
	return b
}

// appendKeyRow writes the key columns as a JSON object with natural types: {"id":1}.
func (e *Encoder) appendKeyRow(dst []byte, k *record.KeyRow) []byte {
	names := e.rendered(k.Table).names
	dst = append(dst, '{')
	for i, at := range k.Table.RecordKey() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendNatural(append(dst, names[at]...), &k.Table.Columns[at], k.Row[at])
	}
	return append(dst, '}')
}

func appendNatural(dst []byte, c *record.Column, d record.Datum) []byte {
	switch d.Kind {
	case record.KindInt:
		if c.Family == record.FamilyTimestamp {
			dst = append(dst, '"')
			dst = appendTimestamp(dst, d.Int(), c.Scale, time.UTC)
			return append(dst, '"')
		}
		return strconv.AppendInt(dst, d.Int(), 10)
	case record.KindUint:
		switch c.Family {
		case record.FamilyEnum, record.FamilySet:
			return appendJSONBytes(dst, appendMembers(nil, c, d.Uint()))
		}
		return strconv.AppendUint(dst, d.Uint(), 10)
	case record.KindFloat32:
		return strconv.AppendFloat(dst, float64(d.Float32()), 'g', -1, 32)
	case record.KindFloat64:
		return strconv.AppendFloat(dst, d.Float64(), 'g', -1, 64)
	case record.KindText:
		if c.Family == record.FamilyDecimal {
			return appendJSONBytes(dst, d.B)
		}
		return appendJSONBytes(dst, d.B)
	case record.KindBytes:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, d.B)
		return append(dst, '"')
	case record.KindAbsent, record.KindNull:
	}
	return append(dst, "null"...)
}

// appendMembers writes the names of an ENUM's index or a SET's mask.
func appendMembers(dst []byte, c *record.Column, v uint64) []byte {
	if c.Family == record.FamilyEnum {
		if v >= 1 && v <= uint64(len(c.Values)) {
			dst = append(dst, c.Values[v-1]...)
		}
		return dst
	}
	first := true
	for i, name := range c.Values {
		if v&(1<<i) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, name...)
	}
	return dst
}

// Decoder turns messages into records.
type Decoder struct {
	s       settings
	tables  map[string]*record.Table
	schemas map[string]*record.Schema // by their JSON
	coders  map[string]coder
}

// NewDecoder makes a decoder; its problems are those of Check.
func NewDecoder(c Config) (*Decoder, error) {
	s, problems := parse(c)
	if len(problems) > 0 {
		return nil, configdef.AsError(problems)
	}
	return &Decoder{s: s, tables: map[string]*record.Table{}, coders: s.coders()}, nil
}

// Debezium reports whether values are said to be Debezium's envelopes.
func (d *Decoder) Debezium() bool { return d.s.value == Debezium }

// Decode appends the records of a message to dst: several where a Canal message holds several rows. All have the message's offset.
func (d *Decoder) Decode(dst []record.Record, m kafka.Fetched) ([]record.Record, error) {
	r := record.Record{Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, TimestampMS: m.TimestampMS}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, record.Header{Key: h.Key, Value: h.Value})
	}
	var err error
	if r.Key, err = d.half(keyPrefix, m.Key); err != nil {
		return dst, fmt.Errorf("key: %w", err)
	}
	if m.Value == nil {
		return append(dst, r), nil
	}
	if d.s.value == CanalJSON {
		return d.canal(dst, r, m.Value)
	}
	if r.Value, err = d.half(valuePrefix, m.Value); err != nil {
		return dst, fmt.Errorf("value: %w", err)
	}
	return append(dst, r), nil
}

// half reads a key or value that is no Canal message.
func (d *Decoder) half(prefix string, b []byte) (any, error) {
	if c := d.coders[prefix]; c != nil {
		return c.read(b)
	}
	name, o := d.s.half(prefix)
	switch name {
	case JSON, Debezium, CanalJSON:
		return d.connectJSON(o, b)
	}
	return decodePlain(name, b)
}

func decodePlain(converter string, b []byte) (any, error) {
	if b == nil {
		return nil, nil
	}
	switch converter {
	case String:
		return string(b), nil
	case Bytes:
		return b, nil
	}
	if size, ok := fixedWidths[converter]; ok {
		return readFixed(converter, size, b)
	}
	var v any
	if err := unmarshalNumbers(b, &v); err != nil {
		return nil, fmt.Errorf("the bytes are no JSON (set the converter to string or bytes to pass them as they are): %w", err)
	}
	return v, nil
}
