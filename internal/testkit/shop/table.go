package shop

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// TablesEqual compares the orders of two databases row by row and value by value, in the server.
func TablesEqual(ctx context.Context, db *sql.DB, a, b string) error {
	var same []string
	for _, c := range []string{"id", "customer_id", "email", "phone", "status", "quantity", "unit_price", "note", "created_at", "updated_at", "seq"} {
		same = append(same, fmt.Sprintf("BINARY x.%s <=> BINARY y.%s", c, c))
	}
	var na, nb, differ int
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+a+".orders").Scan(&na); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+b+".orders").Scan(&nb); err != nil {
		return err
	}
	q := fmt.Sprintf("SELECT COUNT(*) FROM %s.orders x LEFT JOIN %s.orders y ON x.id=y.id WHERE y.id IS NULL OR NOT (%s)", a, b, strings.Join(same, " AND "))
	if err := db.QueryRowContext(ctx, q).Scan(&differ); err != nil {
		return err
	}
	if na != nb || differ > 0 {
		return fmt.Errorf("source has %d rows, sink %d; %d are missing or differ", na, nb, differ)
	}
	return nil
}
