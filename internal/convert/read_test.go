package convert

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

// The example of Kafka Connect's JsonConverter: a decimal and a date.
const orderJSON = `{"schema":{"type":"struct","fields":[{"type":"int64","optional":false,"field":"id"},` +
	`{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"},"field":"amount"},` +
	`{"type":"int32","optional":true,"name":"org.apache.kafka.connect.data.Date","version":1,"field":"day"}],"optional":false,"name":"order"},` +
	`"payload":{"id":7,"amount":"MDk=","day":18262}}`

func jsonPair(t *testing.T, opts map[string]string) (*Encoder, *Decoder) {
	t.Helper()
	c := Config{Key: JSON, Value: JSON, ValueOptions: opts}
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(c)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

func decodeOne(t *testing.T, d *Decoder, b string) any {
	t.Helper()
	out, err := d.Decode(nil, kafka.Fetched{Value: []byte(b)})
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return out[0].Value
}

func TestJSONWithSchema(t *testing.T) {
	t.Parallel()
	e, d := jsonPair(t, map[string]string{"schemas.enable": "true"})
	v := decodeOne(t, d, orderJSON)
	st, ok := v.(*record.Struct)
	if !ok {
		t.Fatalf("a %T", v)
	}
	if diff := cmp.Diff([]any{int64(7), []byte{0x30, 0x39}, int64(18262)}, st.Values); diff != "" {
		t.Error(diff)
	}
	if again := decodeOne(t, d, orderJSON).(*record.Struct); again.Schema != st.Schema {
		t.Error("the same schema became another one")
	}
	if b, _, err := e.Value(nil, "", v); err != nil || string(b) != orderJSON {
		t.Errorf("written again: %v\n%s", err, b)
	}
	numeric, _ := jsonPair(t, map[string]string{"schemas.enable": "false", "decimal.format": "NUMERIC"})
	if b, _, _ := numeric.Value(nil, "", v); string(b) != `{"id":7,"amount":123.45,"day":18262}` {
		t.Errorf("numeric: %s", b)
	}
	if n := decodeOne(t, d, strings.Replace(orderJSON, `"MDk="`, `-1.28`, 1)).(*record.Struct); string(n.Values[1].([]byte)) != "\x80" {
		t.Errorf("-1.28 is %x", n.Values[1])
	}
	for name, in := range map[string]string{
		"no envelope":       `{"a":1}`,
		"a third member":    strings.Replace(orderJSON, `{"schema"`, `{"x":1,"schema"`, 1),
		"no number":         strings.Replace(orderJSON, `"id":7`, `"id":"7"`, 1),
		"null":              strings.Replace(orderJSON, `"id":7`, `"id":null`, 1),
		"unknown type":      strings.Replace(orderJSON, `"int64"`, `"int65"`, 1),
		"too many digits":   strings.Replace(orderJSON, `"MDk="`, `1.234`, 1),
		"endless number":    strings.Replace(orderJSON, `"MDk="`, `1e999999999`, 1),
		"array, no items":   `{"schema":{"type":"array"},"payload":[]}`,
		"map of numbers":    `{"schema":{"type":"map","keys":{"type":"int32"},"values":{"type":"int32"}},"payload":[]}`,
		"default misfits":   `{"schema":{"type":"int32","default":"x"},"payload":1}`,
		"int8 out of range": `{"schema":{"type":"int8"},"payload":128}`,
	} {
		if _, err := d.Decode(nil, kafka.Fetched{Value: []byte(in)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if v := decodeOne(t, d, `{"schema":{"type":"string","optional":true,"default":"x"},"payload":null}`).(*record.Typed); v.Value != nil {
		t.Errorf("null is %v", v.Value)
	}
	if v := decodeOne(t, d, `{"schema":null,"payload":{"a":1}}`); v == nil {
		t.Error("no value")
	}
}

// Unless it is told, a reader takes both forms.
func TestJSONTellsBothForms(t *testing.T) {
	t.Parallel()
	_, d := jsonPair(t, nil)
	if _, ok := decodeOne(t, d, orderJSON).(*record.Struct); !ok {
		t.Error("the schema was not read")
	}
	if _, ok := decodeOne(t, d, `{"payload":1,"a":2}`).(map[string]any); !ok {
		t.Error("a plain object was not read")
	}
	_, off := jsonPair(t, map[string]string{"schemas.enable": "false"})
	if _, ok := decodeOne(t, off, orderJSON).(map[string]any); !ok {
		t.Error("schemas.enable=false was not heeded")
	}
}

func TestFixedWidths(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		converter string
		v         any
		want      string // empty: an error
	}{
		{"ShortConverter", int64(-2), "\xff\xfe"},
		{Short, int64(math.MaxInt16 + 1), ""},
		{"org.apache.kafka.connect.converters.IntegerConverter", int64(1), "\x00\x00\x00\x01"},
		{Integer, int64(math.MinInt32), "\x80\x00\x00\x00"},
		{Integer, 1.5, ""},
		{Long, int64(math.MinInt64), "\x80\x00\x00\x00\x00\x00\x00\x00"},
		{Float, 1.5, "\x3f\xc0\x00\x00"},
		{Double, -2.0, "\xc0\x00\x00\x00\x00\x00\x00\x00"},
		{Boolean, true, "\x01"},
		{Boolean, int64(1), ""},
	} {
		e, err := NewEncoder(Config{Value: c.converter})
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := e.Value(nil, "", c.v)
		if (err != nil) != (c.want == "") || string(b) != c.want {
			t.Errorf("%s of %v: %x, %v", c.converter, c.v, b, err)
		}
		if err != nil {
			continue
		}
		d, _ := NewDecoder(Config{Value: c.converter})
		if got := decodeOne(t, d, string(b)).(*record.Typed); got.Value != c.v {
			t.Errorf("%s: %v became %v", c.converter, c.v, got.Value)
		}
		if _, err := d.Decode(nil, kafka.Fetched{Value: append(b, 0)}); err == nil {
			t.Errorf("%s takes one byte more", c.converter)
		}
	}
}

// anyValue draws a schema and a value of it. Names are legal in all formats.
func anyValue(t *rapid.T, depth int, name string) (*record.Schema, any) {
	kinds := []record.Type{
		record.TypeBoolean, record.TypeInt8, record.TypeInt16, record.TypeInt32, record.TypeInt64, record.TypeFloat, record.TypeDouble, record.TypeString, record.TypeBytes,
	}
	if depth > 0 {
		kinds = append(kinds, record.TypeStruct, record.TypeArray, record.TypeMap)
	}
	s := &record.Schema{Type: rapid.SampledFrom(kinds).Draw(t, name+" type"), Optional: rapid.Bool().Draw(t, name+" optional")}
	var v any
	switch s.Type {
	case record.TypeBoolean:
		v = rapid.Bool().Draw(t, name)
	case record.TypeInt8:
		v = int64(rapid.Int8().Draw(t, name))
	case record.TypeInt16:
		v = int64(rapid.Int16().Draw(t, name))
	case record.TypeInt32:
		v = int64(rapid.Int32().Draw(t, name))
	case record.TypeInt64:
		v = rapid.Int64().Draw(t, name)
		if rapid.Bool().Draw(t, name+" time") {
			s.Name, s.Version, v = record.LogicalTimestamp, 1, rapid.Int64Range(-62135596800000, 253402300799999).Draw(t, name+" ms")
		}
	case record.TypeFloat:
		v = float64(rapid.Float32().Draw(t, name))
	case record.TypeDouble:
		v = rapid.Float64().Draw(t, name)
	case record.TypeString:
		v = rapid.String().Draw(t, name)
	case record.TypeBytes:
		v = rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, name)
		if rapid.Bool().Draw(t, name+" decimal") {
			s.Name, s.Version, s.Params = record.LogicalDecimal, 1, [][2]string{{"scale", "2"}}
		}
	case record.TypeArray, record.TypeMap:
		items, one := anyValue(t, 0, name+"_i")
		items.Optional = false
		list, dict := []any{}, map[string]any{}
		if one != nil {
			list, dict = []any{one, one}, map[string]any{"a": one, "b": one}
		}
		s.Items = items
		if v = list; s.Type == record.TypeMap {
			s.Keys, v = &record.Schema{Type: record.TypeString}, dict
		}
	case record.TypeStruct:
		st := anyStruct(t, depth-1, name)
		st.Schema.Optional, s = s.Optional, st.Schema
		v = st
	}
	if s.Optional && rapid.Bool().Draw(t, name+" null") {
		v = nil
	}
	return s, v
}

func anyStruct(t *rapid.T, depth int, name string) *record.Struct {
	st := &record.Struct{Schema: &record.Schema{Type: record.TypeStruct, Name: "shop." + name}}
	for i := range rapid.IntRange(1, 6).Draw(t, name+" fields") {
		f := name + "_" + string(rune('a'+i))
		s, v := anyValue(t, depth, f)
		st.Schema.Fields, st.Values = append(st.Schema.Fields, record.Field{Name: f, Schema: s}), append(st.Values, v)
	}
	return st
}

// Whatever struct is written as JSON with its schema is read as the same one.
func TestJSONRoundTrip(t *testing.T) {
	t.Parallel()
	e, d := jsonPair(t, map[string]string{"schemas.enable": "true"})
	rapid.Check(t, func(rt *rapid.T) {
		st := anyStruct(rt, 2, "r")
		b, _, err := e.Value(nil, "t", st)
		if err != nil {
			rt.Fatal(err)
		}
		out, err := d.Decode(nil, kafka.Fetched{Value: b})
		if err != nil {
			rt.Fatalf("%v\n%s", err, b)
		}
		if diff := cmp.Diff(any(st), out[0].Value); diff != "" {
			rt.Fatalf("%s\n%s", diff, b)
		}
	})
}

func FuzzJSONWithSchema(f *testing.F) {
	f.Add([]byte(orderJSON))
	f.Fuzz(func(_ *testing.T, b []byte) {
		d, _ := NewDecoder(Config{Key: JSON, Value: Debezium})
		if out, err := d.Decode(nil, kafka.Fetched{Value: b}); err == nil {
			_ = (&Folder{Rows: true}).Fold(&out[0])
		}
	})
}
