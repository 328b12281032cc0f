package smt

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors/record"
)

// run puts r through one transform whose settings are given without transforms.t., and returns it; nil: dropped.
func run(t *testing.T, r record.Record, settings ...string) *record.Record {
	t.Helper()
	out, err := try(t, r, settings...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(t *testing.T, r record.Record, settings ...string) (*record.Record, error) {
	t.Helper()
	given := map[string]string{Transforms: "t"}
	for _, s := range settings {
		k, v, _ := strings.Cut(s, "=")
		if !strings.HasPrefix(k, Predicates) {
			k = "transforms.t." + k
		}
		given[k] = v
	}
	c, err := New(given, Options{})
	if err != nil {
		t.Fatal(err)
	}
	keep, err := c.Apply(&r)
	if err != nil || !keep {
		return nil, err
	}
	return &r, nil
}

// js is a value as JSON, with the schema of its fields where it has one: {"a":1} or {"a int32":1}.
func js(v any) string {
	b, err := json.Marshal(shown(v))
	if err != nil {
		panic(err)
	}
	return string(b)
}

func shown(v any) any {
	switch v := v.(type) {
	case *record.Struct:
		out := map[string]any{}
		for i, f := range v.Schema.Fields {
			name := f.Name + " " + string(f.Schema.Type)
			if f.Schema.Optional {
				name += "?"
			}
			if f.Schema.Name != "" && f.Schema.Type != record.TypeStruct {
				name += " " + f.Schema.Name[strings.LastIndexByte(f.Schema.Name, '.')+1:]
			}
			out[name] = shown(v.Values[i])
		}
		return out
	case *record.Typed:
		return []any{string(v.Schema.Type), v.Value}
	}
	return v
}

// parsed is JSON as the converter gives it.
func parsed(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func schema(t record.Type) *record.Schema { return &record.Schema{Type: t} }

// order is a struct with a field of each sort.
func order() *record.Struct {
	inner := &record.Schema{Type: record.TypeStruct, Name: "address", Optional: true, Fields: []record.Field{{Name: "city", Schema: schema(record.TypeString)}}}
	return &record.Struct{
		Schema: &record.Schema{Type: record.TypeStruct, Name: "order", Version: 1, Fields: []record.Field{
			{Name: "id", Schema: schema(record.TypeInt64)},
			{Name: "price", Schema: schema(record.TypeDouble)},
			{Name: "note", Schema: &record.Schema{Type: record.TypeString, Optional: true, Default: "none"}},
			{Name: "paid", Schema: schema(record.TypeBoolean)},
			{Name: "at", Schema: &record.Schema{Type: record.TypeInt64, Name: record.LogicalTimestamp, Version: 1}},
			{Name: "to", Schema: inner},
		}},
		Values: []any{int64(7), 2.75, nil, true, int64(1483425001864), &record.Struct{Schema: inner, Values: []any{"Rome"}}},
	}
}

func TestTransforms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		settings string // separated by ;
		value    string // JSON; empty: the order
		want     string // JSON of the value; a leading ! an error with this text; dropped
	}{
		// Cast: the cases of Apache's documentation.
		{"cast fields", "type=Cast$Value;spec=id:string,price:int32,paid:int8", "", `{"at int64 Timestamp":1483425001864,"id string":"7","note string?":"none","paid int8":1,"price int32":2,"to struct?":{"city string":"Rome"}}`},
		{"cast time to text", "type=Cast$Value;spec=at:string", `{"at":1}`, `{"at":"1"}`},
		{"cast without schema", "type=Cast$Value;spec=a:int64,b:float64,c:boolean,d:string,e:int8", `{"a":"42","b":"1.5","c":"true","d":1.5,"e":300,"f":1}`, `{"a":42,"b":1.5,"c":true,"d":"1.5","e":44,"f":1}`},
		{"cast out of range", "type=Cast$Value;spec=a:int8", `{"a":"300"}`, "!out of range"},
		{"cast null", "type=Cast$Value;spec=a:int8", `{"a":null}`, `{"a":null}`},
		{"cast whole", "type=Cast$Value;spec=int32", `"12"`, `12`},
		{"cast object", "type=Cast$Value;spec=a:int32", `{"a":{}}`, "!Unexpected type"},
		// ExtractField.
		{"extract", "type=ExtractField$Value;field=id", "", `["int64",7]`},
		{"extract default", "type=ExtractField$Value;field=note", "", `["string","none"]`},
		{"extract null", "type=ExtractField$Value;field=note;replace.null.with.default=false", "", `["string",null]`},
		{"extract struct", "type=ExtractField$Value;field=to", "", `{"city string":"Rome"}`},
		{"extract unknown", "type=ExtractField$Value;field=x", "", "!Unknown field: x"},
		{"extract path", "type=ExtractField$Value;field=to.city;field.syntax.version=V2", "", `["string","Rome"]`},
		{"extract dotted name", "type=ExtractField$Value;field=to.city", `{"to.city":1}`, `1`},
		{"extract quoted path", "type=ExtractField$Value;field=a.`b.c`;field.syntax.version=V2", `{"a":{"b.c":5}}`, `5`},
		{"extract missing", "type=ExtractField$Value;field=x", `{"a":1}`, `null`},
		{"extract from text", "type=ExtractField$Value;field=x", `"text"`, "!Only Map objects supported"},
		// Filter, HoistField.
		{"filter", "type=Filter", `1`, "dropped"},
		{"hoist", "type=HoistField$Value;field=line", `"text"`, `{"line":"text"}`},
		{"hoist struct", "type=HoistField$Value;field=o", "", `{"o struct":{"at int64 Timestamp":1483425001864,"id int64":7,"note string?":null,"paid boolean":true,"price double":2.75,"to struct?":{"city string":"Rome"}}}`},
		// Flatten.
		{"flatten", "type=Flatten$Value;delimiter=_", `{"a":{"b":{"c":1},"d":[{"x":1}]},"e":2}`, `{"a_b_c":1,"a_d":[{"x":1}],"e":2}`},
		{"flatten struct", "type=Flatten$Value", "", `{"at int64 Timestamp":1483425001864,"id int64":7,"note string?":null,"paid boolean":true,"price double":2.75,"to.city string?":"Rome"}`},
		{"flatten text", "type=Flatten$Value", `"x"`, "!Only Map objects supported"},
		// InsertField.
		{"insert static", "type=InsertField$Value;static.field=MessageSource;static.value=Kafka", `{"a":1}`, `{"MessageSource":"Kafka","a":1}`},
		{"insert all", "type=InsertField$Value;topic.field=t!;partition.field=p;offset.field=o?;timestamp.field=ts", `{}`, `{"o":9,"p":3,"t":"topic","ts":1483425001864}`},
		{"insert into struct", "type=InsertField$Value;topic.field=t!;timestamp.field=ts", "", `{"at int64 Timestamp":1483425001864,"id int64":7,"note string?":"none","paid boolean":true,"price double":2.75,"t string":"topic","to struct?":{"city string":"Rome"},"ts int64? Timestamp":1483425001864}`},
		{"insert into tombstone", "type=InsertField$Value;topic.field=t", `null`, `null`},
		// MaskField.
		{"mask", "type=MaskField$Value;fields=string_field,n,b,l,m", `{"string_field":"x","n":5,"b":true,"l":[1],"m":{"a":1},"k":1}`, `{"b":false,"k":1,"l":[],"m":{},"n":0,"string_field":""}`},
		{"mask with text", "type=MaskField$Value;fields=phone;replacement=<redacted>", `{"phone":"123"}`, `{"phone":"\u003credacted\u003e"}`},
		{"mask with number", "type=MaskField$Value;fields=n,f;replacement=42", `{"n":5,"f":1.5}`, `{"f":42,"n":42}`},
		{"mask with no number", "type=MaskField$Value;fields=n;replacement=x", `{"n":5}`, "!Unable to convert x to number"},
		{"mask struct", "type=MaskField$Value;fields=id,price,note,paid,at", "", `{"at int64 Timestamp":0,"id int64":0,"note string?":"","paid boolean":false,"price double":0,"to struct?":{"city string":"Rome"}}`},
		{"mask struct's struct", "type=MaskField$Value;fields=to", "", "!Cannot mask value of type: struct"},
		// ReplaceField.
		{"replace", "type=ReplaceField$Value;exclude=b;renames=a:x,c:y", `{"a":1,"b":2,"c":3}`, `{"x":1,"y":3}`},
		{"include", "type=ReplaceField$Value;include=a,b;exclude=b", `{"a":1,"b":2,"c":3}`, `{"a":1}`},
		{"replace in struct", "type=ReplaceField$Value;include=id,price;renames=id:key", "", `{"key int64":7,"price double":2.75}`},
		// TimestampConverter.
		{"time to text", "type=TimestampConverter$Value;field=at;target.type=string;format=yyyy-MM-dd'T'HH:mm:ss.SSS", `{"at":1483425001864}`, `{"at":"2017-01-03T06:30:01.864"}`},
		{"text to unix", "type=TimestampConverter$Value;field=at;target.type=unix;format=yyyy-MM-dd HH:mm:ss", `{"at":"2017-01-03 06:30:01"}`, `{"at":1483425001000}`},
		{"seconds", "type=TimestampConverter$Value;field=at;target.type=Timestamp;unix.precision=seconds", `{"at":1483425001}`, `{"at":1483425001000}`},
		{"microseconds", "type=TimestampConverter$Value;field=at;target.type=unix;unix.precision=microseconds", `{"at":1483425001864123}`, `{"at":1483425001864000}`},
		{"date", "type=TimestampConverter$Value;field=at;target.type=Date", "", `{"at int32 Date":17169,"id int64":7,"note string?":null,"paid boolean":true,"price double":2.75,"to struct?":{"city string":"Rome"}}`},
		{"time of day", "type=TimestampConverter$Value;field=at;target.type=Time", `{"at":-1}`, `{"at":86399999}`},
		{"whole", "type=TimestampConverter$Value;target.type=string;format=yyyy", `1483425001864`, `"2017"`},
		{"not the format", "type=TimestampConverter$Value;field=at;target.type=unix;format=yyyy-MM", `{"at":"x"}`, "!does not match pattern"},
		{"null time", "type=TimestampConverter$Value;field=at;target.type=unix", `{"at":null}`, `{"at":null}`},
		{"no time", "type=TimestampConverter$Value;field=at;target.type=unix", `{"at":true}`, "!does not support boolean"},
		// SetSchemaMetadata.
		{"metadata without schema", "type=SetSchemaMetadata$Value;schema.name=x", `{"a":1}`, "!Schema required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := record.Record{Topic: "topic", Partition: 3, Offset: 9, TimestampMS: 1483425001864, Value: order()}
			if c.value != "" {
				r.Value = parsed(t, c.value)
			}
			before := js(r.Value)
			was := r.Value
			got, err := try(t, r, strings.Split(c.settings, ";")...)
			if want, fails := strings.CutPrefix(c.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "transform t: ") {
					t.Fatalf("error %v, want %q", err, want)
				}
				return
			}
			switch {
			case err != nil:
				t.Fatal(err)
			case got == nil:
				if c.want != "dropped" {
					t.Fatal("dropped")
				}
			default:
				if diff := cmp.Diff(c.want, js(got.Value)); diff != "" {
					t.Errorf("value (-want +got):\n%s", diff)
				}
			}
			if js(was) != before {
				t.Errorf("the input was changed: it is %s", js(was))
			}
		})
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	r := run(t, record.Record{Value: order()}, "type=ValueToKey", "fields=id,note")
	if got := js(r.Key); got != `{"id int64":7,"note string?":"none"}` {
		t.Errorf("key %s", got)
	}
	if r = run(t, *r, "type=ExtractField$Key", "field=id"); js(r.Key) != `["int64",7]` {
		t.Errorf("key %s", js(r.Key))
	}
	if r = run(t, *r, "type=org.apache.kafka.connect.transforms.SetSchemaMetadata$Value", "schema.name=other", "schema.version=2"); r.Value.(*record.Struct).Schema.Name != "other" || r.Value.(*record.Struct).Schema.Version != 2 {
		t.Errorf("schema %+v", r.Value)
	}
	if _, err := try(t, record.Record{Value: order()}, "type=ValueToKey", "fields=nope"); err == nil || !strings.Contains(err.Error(), "Field does not exist: nope") {
		t.Errorf("error %v", err)
	}
	if _, err := try(t, record.Record{}, "type=ValueToKey", "fields=nope"); err == nil {
		t.Error("a tombstone has no fields")
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	shared := make([]record.Header, 1, 4)
	shared[0] = record.Header{Key: "a", Value: []byte("1")}
	r := record.Record{Value: order(), Headers: shared}
	show := func(r *record.Record) string {
		var b strings.Builder
		for _, h := range r.Headers {
			b.WriteString(h.Key + "=" + string(h.Value) + " ")
		}
		return b.String()
	}
	if got := run(t, r, "type=InsertHeader", "header=b", "value.literal=x y"); show(got) != "a=1 b=x y " {
		t.Errorf("headers %s", show(got))
	}
	got := run(t, r, "type=HeaderFrom$Value", "fields=id,at,to,price", "headers=h1,h2,h3,h4", "operation=move")
	if show(got) != `a=1 h1=7 h2=2017-01-03T06:30:01.864Z h3={"city":"Rome"} h4=2.75 ` {
		t.Errorf("headers %s", show(got))
	}
	if js(got.Value) != `{"note string?":null,"paid boolean":true}` {
		t.Errorf("value %s", js(got.Value))
	}
	if got = run(t, *got, "type=DropHeaders", "headers=a,h2,h3"); show(got) != "h1=7 h4=2.75 " {
		t.Errorf("headers %s", show(got))
	}
	if len(r.Headers) != 1 || shared[:2][1].Key != "" {
		t.Error("the headers that records share were changed")
	}
}

func TestRouters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ topic, regex, replacement, want string }{
		{"prefix-topic-suffix", "prefix-(.*)-suffix", "$1", "topic"},
		{"server.db.table", `([^.]+)\.([^.]+)\.([^.]+)`, "$3", "table"},
		{"orders", "(.*)", "acme-${1}x", ""},
		{"orders", "(?P<n>.*)", "acme-${n}x", "acme-ordersx"},
		{"orders", "o", "x", "orders"},
		{"ab", "a|ab", "x", "x"},
		{"orders", "(o)(.*)", "$10", "o0"},
		{"orders", ".*", `\$1`, "$1"},
	} {
		given := map[string]string{Transforms: "t", "transforms.t.type": "RegexRouter", "transforms.t.regex": c.regex, "transforms.t.replacement": c.replacement}
		chain, err := New(given, Options{})
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), "transforms.t.replacement") {
				t.Errorf("error %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r := record.Record{Topic: c.topic}
		if _, err := chain.Apply(&r); err != nil || r.Topic != c.want || r.From() != c.topic {
			t.Errorf("%+v: topic %q from %q, %v", c, r.Topic, r.From(), err)
		}
	}
	if got := run(t, record.Record{Topic: "foo", TimestampMS: 1483425001864}, "type=TimestampRouter", "topic.format=foo-${timestamp}", "timestamp.format=yyyyMM"); got.Topic != "foo-201701" {
		t.Errorf("topic %s", got.Topic)
	}
	if _, err := try(t, record.Record{Topic: "foo"}, "type=TimestampRouter"); err == nil {
		t.Error("a record without timestamp was routed")
	}
}

func TestPredicates(t *testing.T) {
	t.Parallel()
	header := []record.Header{{Key: "h"}}
	for _, c := range []struct {
		name, predicate string
		r               record.Record
		dropped         bool
	}{
		{"tombstone", "type=RecordIsTombstone", record.Record{}, true},
		{"null event", "type=RecordIsTombstone", record.Record{Value: (*record.ChangeEvent)(nil)}, true},
		{"value", "type=RecordIsTombstone", record.Record{Value: "x"}, false},
		{"header", "type=org.apache.kafka.connect.transforms.predicates.HasHeaderKey;name=h", record.Record{Headers: header}, true},
		{"no header", "type=HasHeaderKey;name=i", record.Record{Headers: header}, false},
		{"topic", "type=TopicNameMatches;pattern=my-.*", record.Record{Topic: "my-topic"}, true},
		{"part of a topic", "type=TopicNameMatches;pattern=my", record.Record{Topic: "my-topic"}, false},
	} {
		for _, negate := range []string{"false", "true"} {
			settings := []string{"type=Filter", "predicate=p", "negate=" + negate, "predicates=p"}
			for s := range strings.SplitSeq(c.predicate, ";") {
				settings = append(settings, "predicates.p."+s)
			}
			if got := run(t, c.r, settings...) == nil; got != (c.dropped != (negate == "true")) {
				t.Errorf("%s, negate %s: dropped %t", c.name, negate, got)
			}
		}
	}
}

// Every problem comes at once, each with its key as the config has it.
func TestCheck(t *testing.T) {
	t.Parallel()
	given := map[string]string{
		Transforms: "a,b,c,d,e,f,a", Predicates: "p,q",
		"transforms.a.type": "ExtractField$Value", "transforms.a.feild": "x",
		"transforms.b.type": "RegexRouter", "transforms.b.regex": "(?=x)", "transforms.b.replacement": "x", "transforms.b.predicate": "nope",
		"transforms.c.type": "Nope", "transforms.d.spec": "x",
		"transforms.e.type": "Cast$Key", "transforms.e.spec": "a:int128",
		"transforms.f.type": "InsertField$Value", "transforms.f.offset.field": "o", "transforms.f.negate": "true",
		"predicates.p.type": "TopicNameMatches", "predicates.p.pattern": "(", "predicates.q.type": "RegexRouter", "transforms.x.type": "Filter",
	}
	want := []string{
		"predicates.p.pattern", "predicates.q.type", "transforms", "transforms.a.feild", "transforms.a.field", "transforms.b.regex", "transforms.c.type",
		"transforms.d.type", "transforms.e.spec", "transforms.f.negate", "transforms.f.offset.field", "transforms.x.type",
	}
	problems := Check(given, true)
	var got []string
	for _, p := range problems {
		got = append(got, p.Key)
		if !strings.Contains(p.Message, p.Key) {
			t.Errorf("the message does not name the key %s: %s", p.Key, p.Message)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if problems := Check(map[string]string{Transforms: "a", "transforms.a.type": "Filter", "transforms.a.predicate": "nope"}, true); len(problems) != 1 || problems[0].Key != "transforms.a.predicate" {
		t.Errorf("problems %v", problems)
	}
	keys := SpecOf(given)
	for _, k := range []string{"transforms.a.field", "transforms.b.regex", "transforms.c.type", "predicates.p.pattern"} {
		if _, ok := keys.Lookup(k); !ok {
			t.Errorf("no %s among %v", k, slices.Sorted(maps.Keys(given)))
		}
	}
}

func TestNoTransforms(t *testing.T) {
	t.Parallel()
	if c, err := New(map[string]string{"transforms": ""}, Options{}); c != nil || err != nil {
		t.Errorf("chain %v, %v", c, err)
	}
}
