package convert

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/avro"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/registry"
)

// avroCoder reads and writes Avro. twmb/avro does the binary half: it needs no generated types, checks hostile input, and has no
// dependencies; the mapping of schemas is Confluent's AvroData.
type avroCoder struct {
	reg     *registered
	writers map[written]*avroWriter
	readers map[int]*avroReader
}

type avroWriter struct {
	id    int
	codec *avro.Schema
}

type avroReader struct {
	codec  *avro.Schema
	schema *record.Schema
}

func newAvro(r *registered) coder {
	return &avroCoder{reg: r, writers: map[written]*avroWriter{}, readers: map[int]*avroReader{}}
}

var errSchemaless = errors.New("the value has no schema, which a schema registry needs: plain JSON has none; use the json converter")

func (c *avroCoder) append(dst []byte, topic string, v any) ([]byte, bool, error) {
	if v == nil {
		return dst, false, nil
	}
	s, x := typedOf(v)
	if s == nil {
		return dst, false, errSchemaless
	}
	w, err := c.writer(topic, s)
	if err != nil {
		return dst, false, err
	}
	out, err := w.codec.AppendEncode(appendID(dst, w.id), avroValue(s, x))
	if err != nil {
		return dst, false, fmt.Errorf("write Avro: %w", err)
	}
	return out, true, nil
}

// typedOf takes a value with a schema apart; what plain values are is said by their Go type.
func typedOf(v any) (*record.Schema, any) {
	switch v := v.(type) {
	case *record.Struct:
		return v.Schema, v
	case *record.Typed:
		return v.Schema, v.Value
	case string:
		return stringSchema, v
	case []byte:
		return bytesSchema, v
	case int64:
		return int64Schema, v
	case float64:
		return doubleSchema, v
	case bool:
		return requiredBool, v
	}
	return nil, v
}

var (
	bytesSchema  = &record.Schema{Type: record.TypeBytes}
	doubleSchema = &record.Schema{Type: record.TypeDouble}
	requiredBool = &record.Schema{Type: record.TypeBoolean}
)

func (c *avroCoder) writer(topic string, s *record.Schema) (*avroWriter, error) {
	k := written{topic, s}
	if w := c.writers[k]; w != nil {
		return w, nil
	}
	p := avroPrinter{names: map[string]string{}}
	text, err := p.schema(nil, s)
	if err != nil {
		return nil, err
	}
	name := ""
	if s.Type == record.TypeStruct {
		name = avroName(s.Name)
	}
	subject, err := c.reg.subject(topic, name)
	if err != nil {
		return nil, err
	}
	id, used, err := c.reg.id(subject, registry.Schema{Type: "AVRO", Text: string(text)})
	if err != nil {
		return nil, err
	}
	codec, node, err := avroCodec(used.Text)
	if err != nil {
		return nil, fmt.Errorf("subject %s: %w", subject, err)
	}
	if used.Text != string(text) {
		if err := covers(node, s, ""); err != nil {
			return nil, fmt.Errorf("subject %s: its latest schema: %w", subject, err)
		}
	}
	if len(c.writers) >= cacheMax {
		clear(c.writers)
	}
	w := &avroWriter{id, codec}
	c.writers[k] = w
	return w, nil
}

// covers checks that a schema has all the fields of s (I5: none may be left out).
func covers(n *avro.SchemaNode, s *record.Schema, at string) error {
	n, _ = nonNull(n)
	if n == nil || s.Type != record.TypeStruct {
		return nil
	}
	for _, f := range s.Fields {
		found := false
		for i := range n.Fields {
			if n.Fields[i].Name == avroWord(f.Name) {
				found = true
				if err := covers(&n.Fields[i].Type, f.Schema, at+f.Name+"."); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("it has no field %s%s", at, f.Name)
		}
	}
	return nil
}

// avroCodec compiles a schema without its logical types, whose values we keep as they are written.
func avroCodec(text string) (*avro.Schema, *avro.SchemaNode, error) {
	parsed, err := avro.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("Avro schema: %w", err)
	}
	full := parsed.Root().ExpandReferences()
	raw := parsed.Root().ExpandReferences()
	bare(raw)
	codec, err := raw.Schema()
	if err != nil {
		return nil, nil, fmt.Errorf("Avro schema: %w", err)
	}
	return codec, full, nil
}

func bare(n *avro.SchemaNode) {
	n.LogicalType, n.Precision, n.Scale, n.Props = "", 0, 0, nil
	for i := range n.Fields {
		n.Fields[i].Props = nil
		bare(&n.Fields[i].Type)
	}
	for i := range n.Branches {
		bare(&n.Branches[i])
	}
	for _, inner := range []*avro.SchemaNode{n.Items, n.Values} {
		if inner != nil {
			bare(inner)
		}
	}
}

// avroValue is a value in the form that the codec takes.
func avroValue(s *record.Schema, v any) any {
	switch x := v.(type) {
	case *record.Struct:
		if x == nil {
			return nil
		}
		m := make(map[string]any, len(x.Values))
		for i, f := range x.Schema.Fields {
			v := x.Values[i]
			if v == nil && !f.Schema.Optional {
				v = f.Schema.Default
			}
			m[avroWord(f.Name)] = avroValue(f.Schema, v)
		}
		return m
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = avroValue(s.Items, x[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(x))
		for k := range x {
			out[k] = avroValue(s.Items, x[k])
		}
		return out
	case float64:
		if s.Type == record.TypeFloat {
			return float32(x)
		}
	}
	return v
}

func (c *avroCoder) read(b []byte) (any, error) {
	if b == nil {
		return nil, nil
	}
	id, body, err := cutID(b)
	if err != nil {
		return nil, err
	}
	r := c.readers[id]
	if r == nil {
		text, err := c.reg.schema(id, "AVRO")
		if err != nil {
			return nil, err
		}
		codec, node, err := avroCodec(text)
		if err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		s, err := schemaFromAvro(node)
		if err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		if len(c.readers) >= cacheMax {
			clear(c.readers)
		}
		r = &avroReader{codec, s}
		c.readers[id] = r
	}
	var v any
	rest, err := r.codec.Decode(body, &v)
	if err != nil {
		return nil, fmt.Errorf("read Avro with schema %d: %w", id, err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("read Avro with schema %d: %d bytes are left over", id, len(rest))
	}
	out, err := fromAvro(r.schema, v)
	if err != nil {
		return nil, fmt.Errorf("read Avro with schema %d: %w", id, err)
	}
	if st, ok := out.(*record.Struct); ok {
		return st, nil
	}
	return &record.Typed{Schema: r.schema, Value: out}, nil
}

// fromAvro makes of what the codec gives what a struct holds.
func fromAvro(s *record.Schema, v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, string, []byte, float64:
		return x, nil
	case int32:
		return int64(x), nil
	case int64:
		return x, nil
	case float32:
		return float64(x), nil
	case []any:
		if s.Items == nil {
			break
		}
		out := make([]any, len(x))
		for i := range x {
			var err error
			if out[i], err = fromAvro(s.Items, x[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		if s.Type == record.TypeMap {
			out := make(map[string]any, len(x))
			for k := range x {
				var err error
				if out[k], err = fromAvro(s.Items, x[k]); err != nil {
					return nil, err
				}
			}
			return out, nil
		}
		out := &record.Struct{Schema: s, Values: make([]any, len(s.Fields))}
		for i, f := range s.Fields {
			var err error
			if out.Values[i], err = fromAvro(f.Schema, x[f.Name]); err != nil {
				return nil, fmt.Errorf("field %s: %w", f.Name, err)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("a %T where the schema says %s", v, s.Type)
}

// nonNull returns the one branch of a union that is not null, or the node itself; nil: there are several.
func nonNull(n *avro.SchemaNode) (inner *avro.SchemaNode, optional bool) {
	if n.Type != "union" {
		return n, false
	}
	for i := range n.Branches {
		switch {
		case n.Branches[i].Type == "null":
			optional = true
		case inner != nil:
			return nil, optional
		default:
			inner = &n.Branches[i]
		}
	}
	return inner, optional
}

var avroTypes = map[string]record.Type{
	"boolean": record.TypeBoolean, "int": record.TypeInt32, "long": record.TypeInt64, "float": record.TypeFloat, "double": record.TypeDouble,
	"string": record.TypeString, "enum": record.TypeString, "bytes": record.TypeBytes, "fixed": record.TypeBytes,
	"array": record.TypeArray, "map": record.TypeMap, "record": record.TypeStruct, "error": record.TypeStruct,
}

var avroLogical = map[string]string{
	"date": record.LogicalDate, "time-millis": record.LogicalTime, "timestamp-millis": record.LogicalTimestamp,
}

// schemaFromAvro is Confluent's AvroData.toConnectSchema.
func schemaFromAvro(n *avro.SchemaNode) (*record.Schema, error) {
	inner, optional := nonNull(n)
	if inner == nil {
		return nil, errors.New("a union of more than null and one type is not supported")
	}
	s := &record.Schema{Type: avroTypes[inner.Type], Optional: optional, Doc: inner.Doc}
	if s.Type == "" {
		return nil, fmt.Errorf("the type %s is not supported (types that refer to themselves are not)", inner.Type)
	}
	switch inner.Props["connect.type"] {
	case "int8":
		s.Type = record.TypeInt8
	case "int16":
		s.Type = record.TypeInt16
	}
	var err error
	switch s.Type {
	case record.TypeStruct:
		if s.Name = inner.Name; inner.Namespace != "" && !strings.Contains(inner.Name, ".") {
			s.Name = inner.Namespace + "." + inner.Name
		}
		for i := range inner.Fields {
			f := &inner.Fields[i]
			fs, err := schemaFromAvro(&f.Type)
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", f.Name, err)
			}
			if f.HasDefault && f.Default != nil && fs.Type != record.TypeStruct {
				if fs.Default, err = fromAvro(fs, f.Default); err != nil {
					return nil, fmt.Errorf("default of field %s: %w", f.Name, err)
				}
			}
			s.Fields = append(s.Fields, record.Field{Name: f.Name, Schema: fs})
		}
	case record.TypeArray:
		s.Items, err = schemaFromAvro(inner.Items)
	case record.TypeMap:
		s.Keys = stringSchema
		s.Items, err = schemaFromAvro(inner.Values)
	default:
		if s.Name = avroLogical[inner.LogicalType]; s.Name != "" {
			s.Version = 1
		}
		if inner.LogicalType == "decimal" {
			s.Name, s.Version, s.Params = record.LogicalDecimal, 1, [][2]string{{"scale", strconv.Itoa(inner.Scale)}}
		}
	}
	if err != nil {
		return nil, err
	}
	if name, ok := inner.Props["connect.name"].(string); ok {
		s.Name = name
	}
	if v, ok := inner.Props["connect.version"].(int64); ok {
		s.Version = int(v)
	}
	if params, ok := inner.Props["connect.parameters"].(map[string]any); ok {
		s.Params = nil
		for _, k := range sortedNames(params) {
			s.Params = append(s.Params, [2]string{k, fmt.Sprint(params[k])})
		}
	}
	return s, nil
}

func sortedNames(m map[string]any) []string {
	f := objectFrom(m)
	return f.names
}

// avroPrinter writes schemas as Confluent's AvroData does.
type avroPrinter struct {
	names map[string]string // what each named type is
}

// schema writes the schema of s, as a union with null where it is optional.
func (p *avroPrinter) schema(dst []byte, s *record.Schema) ([]byte, error) {
	if !s.Optional {
		return p.plain(dst, s)
	}
	if s.Default != nil {
		dst, err := p.plain(append(dst, '['), s)
		return append(dst, `,"null"]`...), err
	}
	dst, err := p.plain(append(dst, `["null",`...), s)
	return append(dst, ']'), err
}

func (p *avroPrinter) plain(dst []byte, s *record.Schema) ([]byte, error) {
	switch s.Type {
	case record.TypeStruct:
		return p.record(dst, s)
	case record.TypeArray:
		dst, err := p.schema(append(dst, `{"type":"array","items":`...), s.Items)
		return append(p.meta(dst, s), '}'), err
	case record.TypeMap:
		dst, err := p.schema(append(dst, `{"type":"map","values":`...), s.Items)
		return append(p.meta(dst, s), '}'), err
	default:
	}
	var name, narrow string
	switch s.Type {
	case record.TypeBoolean, record.TypeString, record.TypeBytes, record.TypeFloat, record.TypeDouble:
		name = string(s.Type)
	case record.TypeInt8, record.TypeInt16:
		name, narrow = "int", string(s.Type)
	case record.TypeInt32:
		name = "int"
	case record.TypeInt64:
		name = "long"
	default:
		return dst, fmt.Errorf("the type %s has no form in Avro", s.Type)
	}
	if narrow == "" && s.Name == "" && s.Version == 0 && s.Default == nil && s.Doc == "" {
		return append(append(append(dst, '"'), name...), '"'), nil
	}
	dst = append(append(append(dst, `{"type":"`...), name...), '"')
	logical := map[string]string{
		record.LogicalDecimal: "decimal", record.LogicalDate: "date", record.LogicalTime: "time-millis", record.LogicalTimestamp: "timestamp-millis",
	}[s.Name]
	if logical == "decimal" {
		precision := "64"
		for _, x := range s.Params {
			if x[0] == "connect.decimal.precision" {
				precision = x[1]
			}
		}
		dst = strconv.AppendInt(append(dst, `,"scale":`...), int64(decimalScale(s)), 10)
		dst = append(append(dst, `,"precision":`...), precision...)
	}
	if narrow != "" {
		dst = appendJSONString(append(dst, `,"connect.type":`...), narrow)
	}
	dst = p.meta(dst, s)
	if logical != "" {
		dst = appendJSONString(append(dst, `,"logicalType":`...), logical)
	}
	return append(dst, '}'), nil
}

// meta writes what Avro itself has no place for.
func (p *avroPrinter) meta(dst []byte, s *record.Schema) []byte {
	if s.Doc != "" && s.Type != record.TypeStruct {
		dst = appendJSONString(append(dst, `,"connect.doc":`...), s.Doc)
	}
	if s.Version != 0 {
		dst = strconv.AppendInt(append(dst, `,"connect.version":`...), int64(s.Version), 10)
	}
	if len(s.Params) > 0 {
		dst = append(dst, `,"connect.parameters":{`...)
		for i, x := range s.Params {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(append(appendJSONString(dst, x[0]), ':'), x[1])
		}
		dst = append(dst, '}')
	}
	if d := avroDefault(s); d != nil {
		dst = append(append(dst, `,"connect.default":`...), d...)
	}
	if s.Name != "" {
		dst = appendJSONString(append(dst, `,"connect.name":`...), s.Name)
	}
	return dst
}

// avroDefault is a default as Avro writes it; nil: none.
func avroDefault(s *record.Schema) []byte {
	switch d := s.Default.(type) {
	case nil, *record.Struct, []any, map[string]any:
		return nil
	case []byte:
		return appendLatin1(nil, d)
	default:
		return appendTyped(nil, s, d, &asIs)
	}
}

func (p *avroPrinter) record(dst []byte, s *record.Schema) ([]byte, error) {
	full := avroName(s.Name)
	if full == "" {
		full = "io.confluent.connect.avro.ConnectDefault"
		for i := 2; p.names[full] != ""; i++ {
			full = "io.confluent.connect.avro.ConnectDefault" + strconv.Itoa(i)
		}
	}
	shape := string(appendSchema(nil, &record.Schema{Type: s.Type, Name: s.Name, Version: s.Version, Fields: s.Fields}, "", &asIs))
	switch p.names[full] {
	case shape:
		return appendJSONString(dst, full), nil
	case "":
		p.names[full] = shape
	default:
		return dst, fmt.Errorf("two different records have the name %s, which Avro does not allow", full)
	}
	space, name := "", full
	if dot := strings.LastIndexByte(full, '.'); dot >= 0 {
		space, name = full[:dot], full[dot+1:]
	}
	dst = appendJSONString(append(dst, `{"type":"record","name":`...), name)
	if space != "" {
		dst = appendJSONString(append(dst, `,"namespace":`...), space)
	}
	if s.Doc != "" {
		dst = appendJSONString(append(dst, `,"doc":`...), s.Doc)
	}
	dst = append(dst, `,"fields":[`...)
	for i, f := range s.Fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(append(dst, `{"name":`...), avroWord(f.Name))
		var err error
		if dst, err = p.schema(append(dst, `,"type":`...), f.Schema); err != nil {
			return dst, fmt.Errorf("field %s: %w", f.Name, err)
		}
		switch d := avroDefault(f.Schema); {
		case d != nil:
			dst = append(append(dst, `,"default":`...), d...)
		case f.Schema.Optional && f.Schema.Default == nil:
			dst = append(dst, `,"default":null`...)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, ']')
	return append(p.meta(dst, &record.Schema{Type: s.Type, Name: s.Name, Version: s.Version, Params: s.Params}), '}'), nil
}

// avroName makes a legal name of a schema's; its dots part the namespace.
func avroName(s string) string {
	parts := strings.Split(s, ".")
	for i := range parts {
		parts[i] = avroWord(parts[i])
	}
	return strings.Join(parts, ".")
}

// avroWord makes a legal word: what Avro does not allow becomes _, as with Debezium's schema.name.adjustment.mode=avro.
func avroWord(s string) string {
	legal := func(i int, c byte) bool {
		return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9'
	}
	for i := range len(s) {
		if !legal(i, s[i]) {
			b := []byte(s)
			for i := range b {
				if !legal(i, b[i]) {
					b[i] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}
