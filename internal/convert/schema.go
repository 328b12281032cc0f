package convert

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/millrace/millrace/connectors/record"
)

// appendSchema writes a schema as Kafka Connect's JsonConverter does. field is its name within a struct; empty: it stands alone.
func appendSchema(dst []byte, s *record.Schema, field string, o *connectOptions) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(append(dst, s.Type...), '"')
	switch s.Type {
	case record.TypeArray:
		dst = appendSchema(append(dst, `,"items":`...), s.Items, "", o)
	case record.TypeMap:
		dst = appendSchema(append(dst, `,"keys":`...), s.Keys, "", o)
		dst = appendSchema(append(dst, `,"values":`...), s.Items, "", o)
	case record.TypeStruct:
		dst = append(dst, `,"fields":[`...)
		for i, f := range s.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendSchema(dst, f.Schema, f.Name, o)
		}
		dst = append(dst, ']')
	default:
	}
	dst = strconv.AppendBool(append(dst, `,"optional":`...), s.Optional)
	if s.Name != "" {
		dst = appendJSONString(append(dst, `,"name":`...), s.Name)
	}
	if s.Version != 0 {
		dst = strconv.AppendInt(append(dst, `,"version":`...), int64(s.Version), 10)
	}
	if s.Doc != "" {
		dst = appendJSONString(append(dst, `,"doc":`...), s.Doc)
	}
	if len(s.Params) > 0 {
		dst = append(dst, `,"parameters":{`...)
		for i, p := range s.Params {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(append(appendJSONString(dst, p[0]), ':'), p[1])
		}
		dst = append(dst, '}')
	}
	if s.Default != nil {
		dst = appendTyped(append(dst, `,"default":`...), s, s.Default, o)
	}
	if field != "" {
		dst = appendJSONString(append(dst, `,"field":`...), field)
	}
	return append(dst, '}')
}

// appendStruct writes a struct's values as JSON.
func appendStruct(dst []byte, s *record.Struct, o *connectOptions) []byte {
	dst = append(dst, '{')
	for i, f := range s.Schema.Fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendJSONString(dst, f.Name), ':')
		dst = appendTyped(dst, f.Schema, s.Values[i], o)
	}
	return append(dst, '}')
}

// appendTyped writes a value of a schema with the converter's options.
func appendTyped(dst []byte, s *record.Schema, v any, o *connectOptions) []byte {
	if v == nil && o.replaceNull {
		v = s.Default
	}
	switch x := v.(type) {
	case []byte:
		if o.numeric && s.Name == record.LogicalDecimal {
			return appendDecimalDigits(dst, x, decimalScale(s))
		}
	case float64:
		if s.Type == record.TypeFloat {
			return appendJavaFloat(dst, x, 32)
		}
	case *record.Struct:
		if x != nil {
			return appendStruct(dst, x, o)
		}
	case []any:
		if s.Items != nil {
			dst = append(dst, '[')
			for i, item := range x {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = appendTyped(dst, s.Items, item, o)
			}
			return append(dst, ']')
		}
	}
	return appendAny(dst, v)
}

// asIs writes a struct as it is.
var asIs connectOptions

// appendAny writes one of the values that a record.Struct may hold.
func appendAny(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case float64:
		return appendJavaFloat(dst, v, 64)
	case string:
		return appendJSONString(dst, v)
	case []byte:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v)
		return append(dst, '"')
	case *record.Struct:
		if v == nil {
			return append(dst, "null"...)
		}
		return appendStruct(dst, v, &asIs)
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendAny(append(appendJSONString(dst, k), ':'), v[k])
		}
		return append(dst, '}')
	case json.Number:
		return append(dst, v...)
	case rawJSON:
		return append(dst, v...)
	case []any:
		dst = append(dst, '[')
		for i, x := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendAny(dst, x)
		}
		return append(dst, ']')
	}
	panic(fmt.Sprintf("convert: a struct holds a %T", v)) // a connector's mistake
}

// withSchema wraps what body writes: {"schema":…,"payload":…}.
func withSchema(dst, schema []byte, body func([]byte) []byte) []byte {
	dst = append(append(dst, `{"schema":`...), schema...)
	dst = body(append(dst, `,"payload":`...))
	return append(dst, '}')
}

// rawJSON is a value that is written already.
type rawJSON []byte
