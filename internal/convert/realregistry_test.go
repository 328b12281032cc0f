package convert

import (
	"slices"
	"testing"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// A real registry takes the schemas, gives them back to a reader that has never seen them, and keeps the versions of one that grows.
func TestRealRegistry(t *testing.T) {
	t.Parallel()
	url := testkit.RealRegistry(t)
	for _, converter := range []string{Avro, Protobuf} {
		t.Run(converter, func(t *testing.T) {
			topic := testkit.UniqueName("users")
			grown := user()
			grown.Schema = &record.Schema{Type: record.TypeStruct, Name: "shop.User", Version: 2, Fields: append(slices.Clone(grown.Schema.Fields),
				record.Field{Name: "city", Schema: &record.Schema{Type: record.TypeString, Optional: true}})}
			grown.Values = append(grown.Values, "Zürich")
			var messages [][]byte
			for _, u := range []*record.Struct{user(), grown, user()} {
				e, _ := registryPair(t, converter, url) // each writer registers anew
				b, ok, err := e.Value(nil, topic, u)
				if err != nil || !ok {
					t.Fatal(ok, err)
				}
				messages = append(messages, b)
			}
			if string(messages[0]) != string(messages[2]) || string(messages[0][1:5]) == string(messages[1][1:5]) {
				t.Errorf("ids of schemas: % x, % x, % x", messages[0][1:5], messages[1][1:5], messages[2][1:5])
			}
			_, d := registryPair(t, converter, url)
			for i, want := range []int{5, 6, 5} {
				out, err := d.Decode(nil, kafka.Fetched{Topic: topic, Value: messages[i]})
				if err != nil {
					t.Fatal(err)
				}
				st := out[0].Value.(*record.Struct)
				if len(st.Values) != want || st.Values[1] != "Ada" || want == 6 && st.Values[5] != "Zürich" {
					t.Errorf("message %d: %v", i, st.Values)
				}
			}
			if _, err := d.Decode(nil, kafka.Fetched{Topic: topic, Value: append([]byte{0, 0x7f, 0, 0, 0}, messages[0][5:]...)}); err == nil {
				t.Error("a schema that is not there: no error")
			}
			// A change event, with the schemas of its envelope and its key.
			table, rows := nullable()
			e, _ := registryPair(t, converter, url)
			v, _, err := e.Value(nil, topic+".t", &record.ChangeEvent{Table: table, Op: record.OpCreate, After: rows[0]})
			if err != nil {
				t.Fatal(err)
			}
			out, err := d.Decode(nil, kafka.Fetched{Topic: topic + ".t", Value: v})
			if err != nil {
				t.Fatal(err)
			}
			if err := (&Folder{}).Fold(&out[0]); err != nil {
				t.Fatal(err)
			}
			if c, ok := out[0].Value.(*record.ChangeEvent); !ok || c.Op != record.OpCreate || c.Table.Name != "t" {
				t.Errorf("%+v", out[0].Value)
			}
		})
	}
}
