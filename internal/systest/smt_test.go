package systest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
)

// TestTransforms: a config of Debezium's with Kafka Connect's transforms routes and stamps change events, and a sink with unwrap makes the
// tables of them: inserts, updates and deletes, from JSON with schemas, and from Avro with a schema registry.
func TestTransforms(t *testing.T) {
	for _, converter := range []string{"org.apache.kafka.connect.json.JsonConverter", "io.confluent.connect.avro.AvroConverter", "io.confluent.connect.protobuf.ProtobufConverter"} {
		t.Run(converter, func(t *testing.T) {
			t.Parallel()
			throughTransforms(t, converter)
		})
	}
}

func throughTransforms(t *testing.T, converter string) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	srv := testkit.MariaDB(t)
	db, name := testkit.Database(t, srv)
	target, targetName := testkit.Database(t, srv)
	run := func(statements ...string) {
		t.Helper()
		for _, s := range statements {
			if _, err := db.ExecContext(ctx, s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	run("CREATE TABLE orders (id int PRIMARY KEY, price decimal(10,2), note varchar(20), at datetime(3))", "CREATE TABLE plain (id int PRIMARY KEY, v varchar(10))",
		"INSERT INTO orders VALUES (1, 1.50, 'a', '2024-02-29 10:11:12.123'), (2, -0.01, NULL, NULL), (3, 9, 'gone', NULL)", "INSERT INTO plain VALUES (1, 'x')")
	broker := embeddedBroker(t)
	_, cluster := nodes(t, 1, "--brokers", broker)
	config := map[string]string{
		"connector.class": "io.debezium.connector.mariadb.MariaDbConnector", "database.hostname": srv.Host(), "database.port": srv.Port(), "database.user": srv.User,
		"database.password": srv.Password, "database.include.list": name, "topic.prefix": "p" + name, "include.schema.changes": "false", "time.precision.mode": "connect",
		"transforms": "route,stamp", "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
		"transforms.route.regex": `([^.]+)\.([^.]+)\.([^.]+)`, "transforms.route.replacement": "$3",
		"transforms.stamp.type": "org.apache.kafka.connect.transforms.InsertField$Value", "transforms.stamp.static.field": "origin", "transforms.stamp.static.value": "here",
		"transforms.stamp.predicate": "isOrders", "predicates": "isOrders",
		"predicates.isOrders.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches", "predicates.isOrders.pattern": "orders",
		"topic.creation.default.partitions": "1", "topic.creation.default.replication.factor": "1",
	}
	sink := map[string]string{
		"connector.class": "sql", "topics": "orders,plain", "connection.url": fmt.Sprintf("mysql://%s:%s@%s/%s", srv.User, srv.Password, srv.Addr, targetName),
		"transforms": "unwrap", "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
	}
	plain := converter == "org.apache.kafka.connect.json.JsonConverter"
	registry := testkit.Registry(t, "me", "secret")
	for _, c := range []map[string]string{config, sink} {
		for _, half := range []string{"key.converter", "value.converter"} {
			c[half] = converter
			if !plain {
				c[half+".schema.registry.url"] = registry.URL
				c[half+".basic.auth.credentials.source"] = "USER_INFO"
				c[half+".basic.auth.user.info"] = "me:secret"
			}
		}
	}
	create(ctx, t, cluster, "src", config)
	create(ctx, t, cluster, "snk", sink)
	same := func() {
		t.Helper()
		for _, q := range []string{"SELECT id, price, note, at FROM orders ORDER BY id", "SELECT id, v, NULL, NULL FROM plain ORDER BY id"} {
			testkit.Eventually(t, 60*time.Second, q, func() error {
				want, err := rowsText(ctx, db, q)
				if err != nil {
					return err
				}
				got, err := rowsText(ctx, target, q)
				if err == nil && !slices.Equal(want, got) {
					err = fmt.Errorf("%v, want %v", got, want)
				}
				return err
			})
		}
	}
	same()
	run("UPDATE orders SET price=2, note='b' WHERE id=1", "DELETE FROM orders WHERE id=3", "INSERT INTO orders VALUES (4, 4, 'new', NULL)", "INSERT INTO plain VALUES (2, 'y')")
	same()
	if plain {
		stamped(ctx, t, broker, name)
	}
}

// stamped looks at the messages themselves.
func stamped(ctx context.Context, t *testing.T, broker, db string) {
	for topic, origin := range map[string]string{"orders": "here", "plain": ""} {
		n := 0
		eachMessage(ctx, t, broker, topic, func(m kafka.Fetched) {
			if m.Value == nil {
				return
			}
			n++
			var v struct {
				Schema  struct{ Name string }
				Payload struct{ Origin, Op string }
			}
			if err := json.Unmarshal(m.Value, &v); err != nil {
				t.Fatal(err)
			}
			if want := "p" + db + "." + db + "." + topic + ".Envelope"; v.Payload.Origin != origin || v.Payload.Op == "" || v.Schema.Name != want {
				t.Errorf("topic %s: %+v", topic, v)
			}
		})
		if n == 0 {
			t.Errorf("nothing in topic %s", topic)
		}
	}
}

func rowsText(ctx context.Context, db *sql.DB, query string) (out []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b, c, d sql.NullString
		if err := rows.Scan(&a, &b, &c, &d); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprint(a, b, c, d))
	}
	return out, rows.Err()
}
