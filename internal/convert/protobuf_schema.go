package convert

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

// protoText writes the schema of a struct as a .proto file: its fields in order, numbered from 1, and structs within as nested messages. What
// Protobuf has no type for is the type beneath, but for decimals, which are text, so that nothing is lost.
func protoText(s *record.Schema) (string, error) {
	full := avroName(s.Name)
	if full == "" {
		full = "ConnectDefault1"
	}
	space, name := "", full
	if dot := strings.LastIndexByte(full, '.'); dot >= 0 {
		space, name = full[:dot], full[dot+1:]
	}
	var body strings.Builder
	p := protoPrinter{out: &body}
	if err := p.message(s, name, ""); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("syntax = \"proto3\";\n")
	if space != "" {
		fmt.Fprintf(&b, "package %s;\n", space)
	}
	if p.timestamps {
		b.WriteString("\nimport \"google/protobuf/timestamp.proto\";\n")
	}
	b.WriteString("\n" + body.String())
	return b.String(), nil
}

type protoPrinter struct {
	out        *strings.Builder
	timestamps bool
}

func (p *protoPrinter) message(s *record.Schema, name, indent string) error {
	fmt.Fprintf(p.out, "%smessage %s {\n", indent, name)
	type nested struct {
		name  string
		shape string
	}
	var inner []nested
	var schemas []*record.Schema
	within := s
	// typeOf names a field's type; structs are remembered to be written below.
	typeOf := func(f record.Field, s *record.Schema) (string, error) {
		if s.Type != record.TypeStruct {
			return p.scalar(s)
		}
		own := *s
		own.Optional, own.Default, own.Doc = false, nil, ""
		shape := string(appendSchema(nil, &own, "", &asIs))
		name := avroWord(s.Name[strings.LastIndexByte(s.Name, '.')+1:])
		if name == "" || slices.ContainsFunc(within.Fields, func(f record.Field) bool { return avroWord(f.Name) == name }) {
			name = "Connect_" + avroWord(f.Name) // fields and messages share their names
		}
		for _, n := range inner {
			if n.shape == shape {
				return n.name, nil
			}
			if n.name == name {
				name += "_" + avroWord(f.Name)
			}
		}
		inner, schemas = append(inner, nested{name, shape}), append(schemas, s)
		return name, nil
	}
	for i, f := range s.Fields {
		label, of := "", f.Schema
		var typ string
		var err error
		switch f.Schema.Type {
		case record.TypeArray:
			label, of = "repeated ", f.Schema.Items
		case record.TypeMap:
			of = f.Schema.Items
		default:
			if f.Schema.Optional {
				label = "optional "
			}
		}
		if typ, err = typeOf(f, of); err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
		if f.Schema.Type == record.TypeMap {
			typ = "map<string, " + typ + ">"
		}
		fmt.Fprintf(p.out, "%s  %s%s %s = %d;\n", indent, label, typ, avroWord(f.Name), protoNumber(i))
	}
	for i, n := range inner {
		p.out.WriteString("\n")
		if err := p.message(schemas[i], n.name, indent+"  "); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.out, "%s}\n", indent)
	return nil
}

// protoNumber is the number of the field at i; those from 19000 on belong to Protobuf itself.
func protoNumber(i int) int {
	if i+1 >= 19000 {
		return i + 1001
	}
	return i + 1
}

func (p *protoPrinter) scalar(s *record.Schema) (string, error) {
	switch s.Name {
	case record.LogicalDecimal:
		return "string", nil
	case record.LogicalTimestamp:
		p.timestamps = true
		return timestampMessage, nil
	}
	switch s.Type {
	case record.TypeBoolean:
		return "bool", nil
	case record.TypeInt8, record.TypeInt16, record.TypeInt32:
		return "int32", nil
	case record.TypeInt64, record.TypeFloat, record.TypeDouble, record.TypeString, record.TypeBytes:
		return string(s.Type), nil
	default:
		return "", fmt.Errorf("a list or map of %s has no form in Protobuf", s.Type)
	}
}
