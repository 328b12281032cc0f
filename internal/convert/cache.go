package convert

import "github.com/millrace/millrace/connectors/record"

// cacheMax bounds a cache: one that has seen so many shapes of tables starts anew (I8).
const cacheMax = 1000

// cache keeps what an encoder prepares once for each shape of a table. Rows of one table come in runs, so the last one is at hand.
type cache[T any] struct {
	table *record.Table
	value *T
	all   map[*record.Table]*T
}

// of returns what is prepared for t, nil where nothing is yet.
func (c *cache[T]) of(t *record.Table) *T {
	if c.table != t {
		c.table, c.value = t, c.all[t]
	}
	return c.value
}

// put keeps v for t.
func (c *cache[T]) put(t *record.Table, v *T) *T {
	if c.all == nil || len(c.all) >= cacheMax {
		c.all = map[*record.Table]*T{}
	}
	c.all[t] = v
	c.table, c.value = t, v
	return v
}
