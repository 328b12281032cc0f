package convert

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/registry"
)

// protoCoder reads and writes Protobuf. A schema of the registry is the text of a .proto file, so it is compiled; what is written goes the
// same way, by the text that is registered for it.
type protoCoder struct {
	reg     *registered
	writers map[written]*protoWriter
	files   map[int]protoreflect.FileDescriptor
	schemas map[protoreflect.MessageDescriptor]*record.Schema
}

type protoWriter struct {
	id   int
	desc protoreflect.MessageDescriptor
}

func newProtobuf(r *registered) coder {
	return &protoCoder{
		reg: r, writers: map[written]*protoWriter{}, files: map[int]protoreflect.FileDescriptor{},
		schemas: map[protoreflect.MessageDescriptor]*record.Schema{},
	}
}

// imports are the files that Confluent's own converter refers to without registering them.
var imports = map[string]string{
	"confluent/meta.proto": `syntax = "proto3"; package confluent; import "google/protobuf/descriptor.proto";
message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
extend google.protobuf.FileOptions { Meta file_meta = 1088; }
extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }`,
	"confluent/type/decimal.proto": `syntax = "proto3"; package confluent.type;
message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }`,
	"google/type/date.proto": `syntax = "proto3"; package google.type;
message Date { int32 year = 1; int32 month = 2; int32 day = 3; }`,
	"google/type/timeofday.proto": `syntax = "proto3"; package google.type;
message TimeOfDay { int32 hours = 1; int32 minutes = 2; int32 seconds = 3; int32 nanos = 4; }`,
}

// compileProto compiles the text of a .proto file.
func compileProto(text string) (protoreflect.FileDescriptor, error) {
	const name = "schema.proto"
	sources := map[string]string{name: text}
	maps.Copy(sources, imports)
	c := protocompile.Compiler{
		MaxParallelism: 1,
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(sources)}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), registryLimit)
	defer cancel()
	files, err := c.Compile(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("Protobuf schema: %w", err)
	}
	return files[0], nil
}

func (c *protoCoder) append(dst []byte, topic string, v any) ([]byte, bool, error) {
	if v == nil {
		return dst, false, nil
	}
	st, ok := v.(*record.Struct)
	if !ok {
		if s, _ := typedOf(v); s == nil {
			return dst, false, errSchemaless
		}
		return dst, false, fmt.Errorf("the protobuf converter writes structs, not single values such as %v; use another converter for the key, or HoistField", v)
	}
	w, err := c.writer(topic, st.Schema)
	if err != nil {
		return dst, false, err
	}
	m := dynamicpb.NewMessage(w.desc)
	if err := fillProto(m, st); err != nil {
		return dst, false, fmt.Errorf("write Protobuf: %w", err)
	}
	dst = appendIndexes(appendID(dst, w.id), w.desc)
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
	return out, err == nil, err
}

func (c *protoCoder) writer(topic string, s *record.Schema) (*protoWriter, error) {
	k := written{topic, s}
	if w := c.writers[k]; w != nil {
		return w, nil
	}
	text, err := protoText(s)
	if err != nil {
		return nil, err
	}
	subject, err := c.reg.subject(topic, avroName(s.Name))
	if err != nil {
		return nil, err
	}
	id, used, err := c.reg.id(subject, registry.Schema{Type: "PROTOBUF", Text: text})
	if err != nil {
		return nil, err
	}
	f, err := compileProto(used.Text)
	if err == nil && f.Messages().Len() == 0 {
		err = errors.New("it has no message")
	}
	if err != nil {
		return nil, fmt.Errorf("subject %s: %w", subject, err)
	}
	if len(c.writers) >= cacheMax {
		clear(c.writers)
	}
	w := &protoWriter{id, f.Messages().Get(0)}
	c.writers[k] = w
	return w, nil
}

// appendIndexes writes which message of the file it is: how many steps, and each, as signed varints; [0] is a single 0.
func appendIndexes(dst []byte, d protoreflect.MessageDescriptor) []byte {
	var path []int64
	for at := protoreflect.Descriptor(d); ; at = at.Parent() {
		if _, ok := at.(protoreflect.FileDescriptor); ok {
			break
		}
		path = append([]int64{int64(at.Index())}, path...)
	}
	if len(path) == 1 && path[0] == 0 {
		return append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(len(path)))
	for _, i := range path {
		dst = binary.AppendVarint(dst, i)
	}
	return dst
}

// cutIndexes is the inverse.
func cutIndexes(f protoreflect.FileDescriptor, b []byte) (protoreflect.MessageDescriptor, []byte, error) {
	bad := errors.New("the message's place in its schema can't be read")
	steps, n := binary.Varint(b)
	if n <= 0 || steps < 0 || steps > 32 {
		return nil, nil, bad
	}
	b = b[n:]
	path := []int64{0}
	if steps > 0 {
		path = path[:0]
	}
	for range steps {
		i, n := binary.Varint(b)
		if n <= 0 {
			return nil, nil, bad
		}
		path, b = append(path, i), b[n:]
	}
	var d protoreflect.MessageDescriptor
	list := f.Messages()
	for _, i := range path {
		if i < 0 || i >= int64(list.Len()) {
			return nil, nil, bad
		}
		d = list.Get(int(i))
		list = d.Messages()
	}
	return d, b, nil
}

func fillProto(m protoreflect.Message, st *record.Struct) error {
	for i, f := range st.Schema.Fields {
		v := st.Values[i]
		if v == nil && !f.Schema.Optional {
			v = f.Schema.Default
		}
		if v == nil {
			continue
		}
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(avroWord(f.Name)))
		if fd == nil {
			return fmt.Errorf("the schema has no field %s", f.Name) // I5
		}
		if err := setProto(m, fd, f.Schema, v); err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	return nil
}

func setProto(m protoreflect.Message, fd protoreflect.FieldDescriptor, s *record.Schema, v any) error {
	switch x := v.(type) {
	case []any:
		if !fd.IsList() {
			return errors.New("the schema says no repeated field")
		}
		list := m.Mutable(fd).List()
		for _, item := range x {
			p, err := toProto(fd, s.Items, item, list.NewElement)
			if err != nil {
				return err
			}
			list.Append(p)
		}
		return nil
	case map[string]any:
		if !fd.IsMap() || fd.MapKey().Kind() != protoreflect.StringKind {
			return errors.New("the schema says no map of strings")
		}
		dict := m.Mutable(fd).Map()
		for k, item := range x {
			p, err := toProto(fd.MapValue(), s.Items, item, dict.NewValue)
			if err != nil {
				return err
			}
			dict.Set(protoreflect.ValueOfString(k).MapKey(), p)
		}
		return nil
	}
	if fd.IsList() || fd.IsMap() {
		return errors.New("the schema says a repeated field")
	}
	p, err := toProto(fd, s, v, func() protoreflect.Value { return m.NewField(fd) })
	if err == nil {
		m.Set(fd, p)
	}
	return err
}

const timestampMessage = "google.protobuf.Timestamp"

func toProto(fd protoreflect.FieldDescriptor, s *record.Schema, v any, fresh func() protoreflect.Value) (protoreflect.Value, error) {
	switch x := v.(type) {
	case bool:
		if fd.Kind() == protoreflect.BoolKind {
			return protoreflect.ValueOfBool(x), nil
		}
	case string:
		if fd.Kind() == protoreflect.StringKind {
			return protoreflect.ValueOfString(x), nil
		}
	case []byte:
		switch {
		case fd.Kind() == protoreflect.BytesKind:
			return protoreflect.ValueOfBytes(x), nil
		case fd.Kind() == protoreflect.StringKind && s.Name == record.LogicalDecimal:
			return protoreflect.ValueOfString(string(appendDecimalDigits(nil, x, decimalScale(s)))), nil
		}
	case float64:
		switch fd.Kind() {
		case protoreflect.FloatKind:
			return protoreflect.ValueOfFloat32(float32(x)), nil
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(x), nil
		default:
		}
	case int64:
		switch {
		case fd.Kind() == protoreflect.Int32Kind && x >= math.MinInt32 && x <= math.MaxInt32:
			return protoreflect.ValueOfInt32(int32(x)), nil
		case fd.Kind() == protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(x), nil
		case fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() == timestampMessage:
			p := fresh()
			t := time.UnixMilli(x)
			fields := fd.Message().Fields()
			p.Message().Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(t.Unix()))
			p.Message().Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(t.Nanosecond())))
			return p, nil
		}
	case *record.Struct:
		if fd.Kind() == protoreflect.MessageKind && x != nil {
			p := fresh()
			return p, fillProto(p.Message(), x)
		}
	}
	return protoreflect.Value{}, fmt.Errorf("a %T does not fit the schema's %s", v, fd.Kind())
}
