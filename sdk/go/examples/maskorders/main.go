// Command maskorders masks personal data of orders and adds each order's total.
package main

import (
	"context"

	millrace "github.com/millrace/millrace/sdk/go"
)

func main() {
	millrace.Serve(millrace.Function{Name: "mask-orders", Version: "1.0.0", Description: "Masks e-mail and phone, adds the total.", Handle: handle})
}

func handle(_ context.Context, r millrace.Record) ([]millrace.Record, error) {
	change, err := r.Change()
	if err != nil || len(change.Rows) == 0 {
		return []millrace.Record{r}, err
	}
	for _, rows := range [][]millrace.Row{change.Rows, change.Old} {
		for i := range rows {
			mask(&rows[i])
		}
	}
	if err := addTotal(change); err != nil {
		return nil, err
	}
	r.Value = change.Bytes()
	return []millrace.Record{r}, nil
}
