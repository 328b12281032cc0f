package main

import (
	"fmt"
	"strconv"
	"strings"

	millrace "github.com/millrace/millrace/sdk/go"
)

// mask leaves the first letter of an e-mail address and its domain, and the last two digits of a phone number.
func mask(row *millrace.Row) {
	if email, ok := row.Get("email"); ok {
		name, domain, _ := strings.Cut(email, "@")
		row.Set("email", name[:min(1, len(name))]+"***@"+domain)
	}
	if phone, ok := row.Get("phone"); ok {
		keep := max(0, len(phone)-2)
		row.Set("phone", strings.Repeat("*", keep)+phone[keep:])
	}
}

// addTotal adds quantity × unit_price to each row, exactly.
func addTotal(c *millrace.Change) error {
	if err := c.AddColumn("total", "decimal(12,2)", 3); err != nil {
		return err
	}
	for i := range c.Rows {
		quantity, _ := c.Rows[i].Get("quantity")
		price, _ := c.Rows[i].Get("unit_price")
		n, err := strconv.ParseInt(quantity, 10, 64)
		if err != nil {
			return fmt.Errorf("quantity: %w", err)
		}
		cents, err := strconv.ParseInt(strings.Replace(price, ".", "", 1), 10, 64)
		if err != nil {
			return fmt.Errorf("unit_price: %w", err)
		}
		c.Rows[i].Set("total", fmt.Sprintf("%d.%02d", n*cents/100, n*cents%100))
	}
	return nil
}
