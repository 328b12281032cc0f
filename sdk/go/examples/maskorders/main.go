// Command maskorders masks personal data of orders and adds each order's total.
package main

import (
	"context"
	"math/big"
	"strings"

	millrace "github.com/millrace/millrace/sdk/go"
)

func main() {
	millrace.Serve(millrace.Function{Name: "mask-orders", Version: "1.0.0", Handle: handle})
}

func handle(_ context.Context, r millrace.Record) ([]millrace.Record, error) {
	c, err := r.Change()
	if err != nil || len(c.Rows) == 0 {
		return []millrace.Record{r}, err
	}
	c.Update("email", func(s string) string { return s[:1] + "***" + s[strings.IndexByte(s, '@'):] })
	c.Update("phone", func(s string) string { return strings.Repeat("*", len(s)-2) + s[len(s)-2:] })
	c.AddColumn("total", "decimal(12,2)", 3, func(row *millrace.Row) string {
		quantity, _ := new(big.Rat).SetString(row.Text("quantity"))
		price, _ := new(big.Rat).SetString(row.Text("unit_price"))
		return price.Mul(price, quantity).FloatString(2)
	})
	return []millrace.Record{r.With(c)}, nil
}
