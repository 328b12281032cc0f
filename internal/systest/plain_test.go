package systest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/internal/testkit"
)

// TestPlainRows: what a compacted topic of plain rows keeps is the table: a row's last state by its key, and nothing of what was deleted.
func TestPlainRows(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	srv := testkit.MariaDB(t)
	db, name := testkit.Database(t, srv)
	broker := embeddedBroker(t)
	_, cluster := nodes(t, 1, "--brokers", broker)
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script(ctx, t, conn, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20))", "INSERT INTO orders SELECT seq, 'snapshot' FROM seq_1_to_20")
	config := sourceConfig(srv, name, "p")
	maps.Copy(config, map[string]string{"value.converter": "json", "value.converter.add.fields": "op"})
	create(ctx, t, cluster, "source", config)
	running(ctx, t, cluster)
	s := &system{prefix: "p", brokers: []string{broker}}
	s.wait(ctx, t, name+".orders", 20)
	script(ctx, t, conn, "INSERT INTO orders SELECT seq, 'stream' FROM seq_21_to_40", "UPDATE orders SET v=NULL WHERE id%5=0",
		"UPDATE orders SET id=id+100 WHERE id%4=0", "DELETE FROM orders WHERE id%3=0", "INSERT INTO orders VALUES (3,'again')")
	want := map[int]any{}
	rows, err := conn.QueryContext(ctx, "SELECT id, v FROM orders")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int
		var v *string
		if err := rows.Scan(&id, &v); err != nil {
			t.Fatal(err)
		}
		if want[id] = nil; v != nil {
			want[id] = *v
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 30*time.Second, "the topic leads to the table", func() error {
		got := map[int]any{}
		for _, m := range s.fetch(ctx, t)["p."+name+".orders"] {
			var key, row struct {
				ID int    `json:"id"`
				V  *any   `json:"v"`
				Op string `json:"__op"`
			}
			if err := json.Unmarshal(m.Key, &key); err != nil {
				t.Fatalf("key %s: %v", m.Key, err)
			}
			if m.Value == nil {
				delete(got, key.ID)
				continue
			}
			if err := json.Unmarshal(m.Value, &row); err != nil || row.ID != key.ID || row.Op == "" || row.Op == "d" {
				t.Fatalf("key %s, row %s: %v", m.Key, m.Value, err)
			}
			if got[key.ID] = nil; row.V != nil {
				got[key.ID] = *row.V
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("table(-) and topic(+):\n%s", diff)
		}
		return nil
	})
}
