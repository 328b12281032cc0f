package convert

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/millrace/millrace/connectors/record"
)

func (c *protoCoder) read(b []byte) (any, error) {
	if b == nil {
		return nil, nil
	}
	id, body, err := cutID(b)
	if err != nil {
		return nil, err
	}
	f := c.files[id]
	if f == nil {
		text, err := c.reg.schema(id, "PROTOBUF")
		if err != nil {
			return nil, err
		}
		if f, err = compileProto(text); err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		if len(c.files) >= cacheMax {
			clear(c.files)
			clear(c.schemas)
		}
		c.files[id] = f
	}
	d, body, err := cutIndexes(f, body)
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	s := c.schemas[d]
	if s == nil {
		if s, err = schemaFromProto(d, nil); err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		c.schemas[d] = s
	}
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("read Protobuf with schema %d: %w", id, err)
	}
	out, err := structFromProto(s, m)
	if err != nil {
		return nil, fmt.Errorf("read Protobuf with schema %d: %w", id, err)
	}
	return out, nil
}

// schemaFromProto is the schema of a message; within are those that it is part of.
func schemaFromProto(d protoreflect.MessageDescriptor, within []protoreflect.FullName) (*record.Schema, error) {
	for _, name := range within {
		if name == d.FullName() {
			return nil, fmt.Errorf("the message %s refers to itself, which is not supported", name)
		}
	}
	within = append(within, d.FullName())
	s := &record.Schema{Type: record.TypeStruct, Name: string(d.FullName())}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		fs, err := fieldFromProto(fd, within)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", fd.Name(), err)
		}
		s.Fields = append(s.Fields, record.Field{Name: string(fd.Name()), Schema: fs})
	}
	return s, nil
}

func fieldFromProto(fd protoreflect.FieldDescriptor, within []protoreflect.FullName) (*record.Schema, error) {
	switch {
	case fd.IsMap():
		if fd.MapKey().Kind() != protoreflect.StringKind {
			return nil, errors.New("maps whose keys are no strings are not supported")
		}
		items, err := itemFromProto(fd.MapValue(), within)
		return &record.Schema{Type: record.TypeMap, Keys: stringSchema, Items: items}, err
	case fd.IsList():
		items, err := itemFromProto(fd, within)
		return &record.Schema{Type: record.TypeArray, Items: items}, err
	}
	s, err := itemFromProto(fd, within)
	if err == nil && fd.HasPresence() && !s.Optional {
		s = optional(s)
	}
	return s, err
}

var protoTypes = map[protoreflect.Kind]record.Type{
	protoreflect.BoolKind: record.TypeBoolean, protoreflect.Int32Kind: record.TypeInt32, protoreflect.Sint32Kind: record.TypeInt32,
	protoreflect.Sfixed32Kind: record.TypeInt32, protoreflect.Uint32Kind: record.TypeInt64, protoreflect.Fixed32Kind: record.TypeInt64,
	protoreflect.Int64Kind: record.TypeInt64, protoreflect.Sint64Kind: record.TypeInt64, protoreflect.Sfixed64Kind: record.TypeInt64,
	protoreflect.Uint64Kind: record.TypeInt64, protoreflect.Fixed64Kind: record.TypeInt64, protoreflect.FloatKind: record.TypeFloat,
	protoreflect.DoubleKind: record.TypeDouble, protoreflect.StringKind: record.TypeString, protoreflect.BytesKind: record.TypeBytes,
	protoreflect.EnumKind: record.TypeString,
}

// wrappers are the messages that stand for one optional value.
var wrappers = map[protoreflect.FullName]record.Type{
	"google.protobuf.BoolValue": record.TypeBoolean, "google.protobuf.Int32Value": record.TypeInt32, "google.protobuf.UInt32Value": record.TypeInt64,
	"google.protobuf.Int64Value": record.TypeInt64, "google.protobuf.UInt64Value": record.TypeInt64, "google.protobuf.FloatValue": record.TypeFloat,
	"google.protobuf.DoubleValue": record.TypeDouble, "google.protobuf.StringValue": record.TypeString, "google.protobuf.BytesValue": record.TypeBytes,
}

func itemFromProto(fd protoreflect.FieldDescriptor, within []protoreflect.FullName) (*record.Schema, error) {
	if t := protoTypes[fd.Kind()]; t != "" {
		return &record.Schema{Type: t}, nil
	}
	if fd.Kind() != protoreflect.MessageKind {
		return nil, fmt.Errorf("the kind %s is not supported", fd.Kind())
	}
	name := fd.Message().FullName()
	switch name {
	case timestampMessage:
		return &record.Schema{Type: record.TypeInt64, Name: record.LogicalTimestamp, Version: 1, Optional: true}, nil
	case "google.type.Date":
		return &record.Schema{Type: record.TypeInt32, Name: record.LogicalDate, Version: 1, Optional: true}, nil
	case "google.type.TimeOfDay":
		return &record.Schema{Type: record.TypeInt32, Name: record.LogicalTime, Version: 1, Optional: true}, nil
	case "confluent.type.Decimal":
		return &record.Schema{Type: record.TypeString, Optional: true}, nil
	}
	if t := wrappers[name]; t != "" {
		return &record.Schema{Type: t, Optional: true}, nil
	}
	return schemaFromProto(fd.Message(), within)
}

func structFromProto(s *record.Schema, m protoreflect.Message) (*record.Struct, error) {
	out := &record.Struct{Schema: s, Values: make([]any, len(s.Fields))}
	for i, f := range s.Fields {
		fd := m.Descriptor().Fields().Get(i)
		if fd.HasPresence() && !m.Has(fd) {
			continue
		}
		var err error
		if out.Values[i], err = valueFromProto(f.Schema, fd, m.Get(fd)); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	return out, nil
}

func valueFromProto(s *record.Schema, fd protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch {
	case fd.IsMap():
		out := map[string]any{}
		var err error
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()], err = singleFromProto(s.Items, fd.MapValue(), v)
			return err == nil
		})
		return out, err
	case fd.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			var err error
			if out[i], err = singleFromProto(s.Items, fd, v.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return singleFromProto(s, fd, v)
}

func singleFromProto(s *record.Schema, fd protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return v.Bool(), nil
	case protoreflect.StringKind:
		return v.String(), nil
	case protoreflect.BytesKind:
		return v.Bytes(), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return v.Float(), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if v.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("%d does not fit into int64", v.Uint())
		}
		return int64(v.Uint()), nil
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name()), nil
		}
		return fmt.Sprint(v.Enum()), nil
	case protoreflect.MessageKind:
		return messageFromProto(s, v.Message())
	default:
		return v.Int(), nil
	}
}

func messageFromProto(s *record.Schema, m protoreflect.Message) (any, error) {
	d := m.Descriptor()
	if s.Type == record.TypeStruct {
		return structFromProto(s, m)
	}
	num := func(name protoreflect.Name) int64 { return m.Get(d.Fields().ByName(name)).Int() }
	switch d.FullName() {
	case timestampMessage:
		sec, nanos := num("seconds"), num("nanos")
		if sec > math.MaxInt64/1000-1 || sec < math.MinInt64/1000+1 {
			return nil, fmt.Errorf("the timestamp %d s is out of range", sec)
		}
		return time.Unix(sec, nanos).UnixMilli(), nil
	case "google.type.Date":
		t := time.Date(int(num("year")), time.Month(num("month")), int(num("day")), 0, 0, 0, 0, time.UTC)
		return t.Unix() / 86400, nil
	case "google.type.TimeOfDay":
		return (num("hours")*3600+num("minutes")*60+num("seconds"))*1000 + num("nanos")/1e6, nil
	case "confluent.type.Decimal":
		return string(appendDecimalDigits(nil, m.Get(d.Fields().ByName("value")).Bytes(), int(num("scale")))), nil
	}
	fd := d.Fields().ByName("value") // a wrapper
	return singleFromProto(s, fd, m.Get(fd))
}
