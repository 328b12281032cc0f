package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// registryPair makes an encoder and a decoder; the options are name=value.
func registryPair(t *testing.T, converter, url string, opts ...string) (*Encoder, *Decoder) {
	t.Helper()
	o := map[string]string{"schema.registry.url": url}
	for _, x := range opts {
		k, v, _ := strings.Cut(x, "=")
		o[k] = v
	}
	c := Config{Key: converter, Value: converter, KeyOptions: o, ValueOptions: o}
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

// user is a small record with one of Kafka Connect's own types of each sort.
func user() *record.Struct {
	return &record.Struct{
		Schema: &record.Schema{Type: record.TypeStruct, Name: "shop.User", Version: 1, Fields: []record.Field{
			{Name: "id", Schema: &record.Schema{Type: record.TypeInt64}},
			{Name: "name", Schema: &record.Schema{Type: record.TypeString, Optional: true}},
			{Name: "age", Schema: &record.Schema{Type: record.TypeInt16, Optional: true, Default: int64(18)}},
			{Name: "worth", Schema: &record.Schema{Type: record.TypeBytes, Name: record.LogicalDecimal, Version: 1, Params: [][2]string{{"scale", "2"}}}},
			{Name: "at", Schema: &record.Schema{Type: record.TypeInt64, Name: record.LogicalTimestamp, Version: 1}},
		}},
		Values: []any{int64(1), "Ada", nil, []byte{0x30, 0x39}, int64(1700000000123)},
	}
}

const userAvro = `{"type":"record","name":"User","namespace":"shop","fields":[{"name":"id","type":"long"},{"name":"name","type":["null","string"],"default":null},` +
	`{"name":"age","type":[{"type":"int","connect.type":"int16","connect.default":18},"null"],"default":18},` +
	`{"name":"worth","type":{"type":"bytes","scale":2,"precision":64,"connect.version":1,"connect.parameters":{"scale":"2"},"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}},` +
	`{"name":"at","type":{"type":"long","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Timestamp","logicalType":"timestamp-millis"}}],` +
	`"connect.version":1,"connect.name":"shop.User"}`

const userProto = `syntax = "proto3";
package shop;

import "google/protobuf/timestamp.proto";

message User {
  int64 id = 1;
  optional string name = 2;
  optional int32 age = 3;
  string worth = 4;
  google.protobuf.Timestamp at = 5;
}
`

// The bytes that Confluent's clients expect: 0, the id in four bytes, for Protobuf the message's place, and the body. The bodies are what
// fastavro and Google's Python runtime write and read for the same values and schemas.
func TestRegistryGoldenBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ converter, schema, bytes string }{
		{"io.confluent.connect.avro.AvroConverter", userAvro, "\x00\x00\x00\x00\x01" + "\x02" + "\x02\x06Ada" + "\x02" + "\x04\x30\x39" + "\xf6\xa1\xab\xfe\xf9\x62"},
		{"io.confluent.connect.protobuf.ProtobufConverter", userProto, "\x00\x00\x00\x00\x01" + "\x00" + "\x08\x01" + "\x12\x03Ada" + "\x22\x06123.45" + "\x2a\x0b\x08\x80\xe2\xcf\xaa\x06\x10\xc0\xa9\xd3\x3a"},
	} {
		r := testkit.Registry(t, "", "")
		e, d := registryPair(t, c.converter, r.URL)
		b, ok, err := e.Value(nil, "users", user())
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if diff := cmp.Diff(c.schema, r.Schema("users-value")); diff != "" {
			t.Errorf("schema (-want +got):\n%s", diff)
		}
		if string(b) != c.bytes {
			t.Errorf("%s: bytes\n%q, want\n%q", c.converter, b, c.bytes)
		}
		// An equal schema of another instance is known by its text.
		asked := r.Requests()
		if _, _, err := e.Value(nil, "users", user()); err != nil || r.Requests() != asked {
			t.Errorf("%d requests for a schema that is known (%v)", r.Requests()-asked, err)
		}
		out, err := d.Decode(nil, kafka.Fetched{Topic: "users", Value: b})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = d.Decode(nil, kafka.Fetched{Topic: "users", Value: b}); err != nil || r.Requests() != asked+1 {
			t.Errorf("%d requests, want one for two messages (%v)", r.Requests()-asked, err)
		}
		st := out[0].Value.(*record.Struct)
		if st.Schema.Name != "shop.User" || st.Values[0] != int64(1) || st.Values[1] != "Ada" || st.Values[2] != nil || st.Values[4] != int64(1700000000123) {
			t.Errorf("%s: %v", c.converter, st.Values)
		}
		if v, ok, err := e.Value(nil, "users", nil); ok || err != nil || len(v) > 0 {
			t.Errorf("a tombstone is %q, %v", v, err)
		}
		for name, in := range map[string]string{
			"no magic byte": "x", "too short": "\x00\x00\x00", "no such schema": "\x00\x00\x00\x00\x63" + c.bytes[5:], "half a body": c.bytes[:len(c.bytes)-3],
		} {
			if _, err := d.Decode(nil, kafka.Fetched{Value: []byte(in)}); err == nil {
				t.Errorf("%s, %s: no error", c.converter, name)
			}
		}
	}
}

// A change event is written as the envelope's record, and read as the change event.
func TestRegistryEnvelope(t *testing.T) {
	t.Parallel()
	for _, converter := range []string{Avro, Protobuf} {
		r := testkit.Registry(t, "", "")
		e, d := registryPair(t, converter, r.URL)
		table, rows := nullable()
		for _, row := range rows[:2] {
			if !row[18].IsNull() {
				row[18] = record.Bytes(append([]byte{0, 0, 0, 0, 1, 1, 0, 0, 0}, make([]byte, 16)...))
			}
			c := &record.ChangeEvent{Table: table, Op: record.OpUpdate, Before: row, After: row}
			v, _, err := e.Value(nil, "p-1.shop.t", c)
			if err != nil {
				t.Fatalf("%s: %v", converter, err)
			}
			k, _, err := e.Key(nil, "p-1.shop.t", &record.KeyRow{Table: table, Row: row})
			if err != nil {
				t.Fatalf("%s: %v", converter, err)
			}
			out, err := d.Decode(nil, kafka.Fetched{Topic: "p-1.shop.t", Key: k, Value: v})
			if err != nil {
				t.Fatalf("%s: %v", converter, err)
			}
			if err := (&Folder{}).Fold(&out[0]); err != nil {
				t.Fatalf("%s: %v", converter, err)
			}
			got, ok := out[0].Value.(*record.ChangeEvent)
			if !ok || got.Op != record.OpUpdate || got.Table.Name != "t" || len(got.Table.Key) != 1 {
				t.Fatalf("%s: %+v", converter, out[0].Value)
			}
			if v := got.After[12]; row[12].IsNull() != v.IsNull() || string(v.B) != string(row[12].B) {
				t.Errorf("%s: %q became %q", converter, row[12].B, v.B)
			}
		}
		if !strings.Contains(r.Schema("p-1.shop.t-value"), "p_1.shop.t") {
			t.Errorf("schema %s", r.Schema("p-1.shop.t-value"))
		}
	}
}

func TestRegistrySettings(t *testing.T) {
	t.Parallel()
	r := testkit.Registry(t, "me", "secret")
	e, _ := registryPair(t, Avro, r.URL)
	if _, _, err := e.Value(nil, "users", user()); err == nil || !strings.Contains(err.Error(), "basic.auth.user.info") || connectors.IsRetriable(err) {
		t.Errorf("without password: %v", err)
	}
	auth := []string{"basic.auth.credentials.source=USER_INFO", "basic.auth.user.info=me:secret"}
	for strategy, subject := range map[string]string{
		"TopicNameStrategy": "users-value", "io.confluent.kafka.serializers.subject.RecordNameStrategy": "shop.User", "TopicRecordNameStrategy": "users-shop.User",
	} {
		e, _ := registryPair(t, Avro, r.URL, append(auth, "value.subject.name.strategy="+strategy)...)
		if _, _, err := e.Value(nil, "users", user()); err != nil || r.Schema(subject) == "" {
			t.Errorf("%s: %v", strategy, err)
		}
	}
	r.Refuse("Schema being registered is incompatible with an earlier schema")
	e, _ = registryPair(t, Avro, r.URL, auth...)
	if _, _, err := e.Value(nil, "users", &record.Typed{Schema: stringSchema, Value: "x"}); err == nil || !strings.Contains(err.Error(), "users-value") || !strings.Contains(err.Error(), "incompatible with an earlier") {
		t.Errorf("an incompatible schema: %v", err)
	}
	e, _ = registryPair(t, Avro, r.URL, append(auth, "auto.register.schemas=false")...)
	if _, _, err := e.Value(nil, "others", user()); err == nil || !strings.Contains(err.Error(), "auto.register.schemas=true") {
		t.Errorf("not registered: %v", err)
	}
	if _, _, err := e.Value(nil, "users", user()); err != nil {
		t.Errorf("registered before: %v", err)
	}
	// The latest version has one field more, with a default.
	wider := strings.Replace(userAvro, `"fields":[`, `"fields":[{"name":"extra","type":"int","default":5},`, 1)
	id := r.Put("wide-value", "", wider)
	latest, d := registryPair(t, Avro, r.URL, append(auth, "auto.register.schemas=false", "use.latest.version=true")...)
	b, _, err := latest.Value(nil, "wide", user())
	if err != nil || int(b[4]) != id || decodeOne(t, d, string(b)).(*record.Struct).Values[0] != int64(5) {
		t.Errorf("latest version: %x, %v", b, err)
	}
	r.Put("narrow-value", "", strings.Replace(userAvro, `{"name":"id","type":"long"},`, "", 1))
	if _, _, err = latest.Value(nil, "narrow", user()); err == nil || !strings.Contains(err.Error(), "no field id") {
		t.Errorf("a latest version that lacks a field: %v", err)
	}
	down, _ := registryPair(t, Avro, "http://127.0.0.1:1,http://127.0.0.1:2")
	if _, _, err := down.Value(nil, "users", user()); !connectors.IsRetriable(err) {
		t.Errorf("nobody answers: %v", err)
	}
	if _, _, err := e.Value(nil, "users", map[string]any{"a": 1}); err == nil {
		t.Error("a value without schema was written")
	}
	p := Check(Config{Value: Protobuf, ValueOptions: map[string]string{"schema.registry.url": "registry", "auto.register.schema": "true"}})
	if len(p) != 2 || p[0].Key != "value.converter.schema.registry.url" || !strings.Contains(p[1].Message, `"auto.register.schemas"`) {
		t.Errorf("problems %v", p)
	}
}

// Whatever struct is written is read as the same values.
func TestRegistryRoundTrip(t *testing.T) {
	t.Parallel()
	r := testkit.Registry(t, "", "")
	for _, converter := range []string{Avro, Protobuf} {
		e, d := registryPair(t, converter, r.URL)
		rapid.Check(t, func(rt *rapid.T) {
			st := anyStruct(rt, 2, "r")
			b, _, err := e.Value(nil, "t", st)
			if err != nil {
				rt.Fatal(err)
			}
			out, err := d.Decode(nil, kafka.Fetched{Value: b})
			if err != nil {
				rt.Fatal(err)
			}
			got := out[0].Value.(*record.Struct)
			if diff := cmp.Diff(bareValues(converter, st), bareValues(converter, got)); diff != "" {
				rt.Fatalf("%s: %s", converter, diff)
			}
		})
	}
}

// bareValues are those of a struct, without what Protobuf can't tell: null lists are empty ones there, and decimals are text.
func bareValues(converter string, st *record.Struct) map[string]any {
	out := map[string]any{}
	for i, f := range st.Schema.Fields {
		v := st.Values[i]
		if inner, ok := v.(*record.Struct); ok && inner != nil {
			out[f.Name] = bareValues(converter, inner)
			continue
		}
		if converter == Protobuf {
			v = likeProto(f.Schema, v)
		}
		out[f.Name] = v
	}
	return out
}

func likeProto(s *record.Schema, v any) any {
	switch x := v.(type) {
	case nil:
		switch s.Type {
		case record.TypeArray:
			return []any{}
		case record.TypeMap:
			return map[string]any{}
		default:
		}
	case []byte:
		if s.Name == record.LogicalDecimal {
			return string(appendDecimalDigits(nil, x, 2))
		}
	case []any:
		out := []any{}
		for _, i := range x {
			out = append(out, likeProto(s.Items, i))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, i := range x {
			out[k] = likeProto(s.Items, i)
		}
		return out
	}
	return v
}

func FuzzRegistered(f *testing.F) {
	r := testkit.Registry(f, "", "")
	r.Put("a", "", userAvro)
	r.Put("p", "PROTOBUF", userProto)
	var decoders []*Decoder
	for _, converter := range []string{Avro, Protobuf} {
		d, err := NewDecoder(Config{Value: converter, ValueOptions: map[string]string{"schema.registry.url": r.URL}})
		if err != nil {
			f.Fatal(err)
		}
		decoders = append(decoders, d)
	}
	f.Add([]byte("\x00\x00\x00\x00\x01\x02\x02\x06Ada\x02\x04\x30\x39\xf6\xa1\xab\xfe\xf9\x62"))
	f.Add([]byte("\x00\x00\x00\x00\x02\x00\x08\x01\x12\x03Ada"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) > 5 { // the others are not there
			b[1], b[2], b[3], b[4] = 0, 0, 0, 1+b[4]%2
		}
		for _, d := range decoders {
			_, _ = d.Decode(nil, kafka.Fetched{Value: b})
		}
	})
}
