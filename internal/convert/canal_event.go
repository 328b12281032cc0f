package convert

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// canalScratch is memory that an encoder's messages of several rows share.
type canalScratch struct {
	events  []*record.ChangeEvent
	changed []bool
}

// Groups reports whether several records may make one message.
func (e *Encoder) Groups() bool { return e.s.canal.byEvent }

// Together says how many of the records, from the first on, make one message: with canal.rows=event the rows of one row event.
func (e *Encoder) Together(records []record.Record) int {
	first, ok := records[0].Value.(*record.ChangeEvent)
	if !ok || first == nil || !e.s.canal.byEvent || first.Source.Snapshot || !rowOp(first.Op) {
		return 1
	}
	last := first
	for i := 1; i < len(records); i++ {
		c, ok := records[i].Value.(*record.ChangeEvent)
		if !ok || c == nil || c.Table != first.Table || c.Op != first.Op || records[i].Topic != records[0].Topic || len(records[i].Headers) > 0 ||
			c.Source.Pos != first.Source.Pos || c.Source.File != first.Source.File || c.Source.Row <= last.Source.Row {
			return i
		}
		last = c
	}
	return len(records)
}

// Values appends the records, which Together has found, as one message.
func (e *Encoder) Values(dst []byte, records []record.Record) ([]byte, error) {
	e.id++
	e.canal.events = e.canal.events[:0]
	for i := range records {
		e.canal.events = append(e.canal.events, records[i].Value.(*record.ChangeEvent))
	}
	return e.appendCanalRows(dst, e.canal.events)
}

// appendCanalExact writes an event with Canal's quirks.
func (e *Encoder) appendCanalExact(dst []byte, c *record.ChangeEvent) ([]byte, error) {
	if !rowOp(c.Op) {
		plain := *c
		plain.Source.GTID = ""
		return appendCanalDDL(dst, &plain, e.id), nil
	}
	e.canal.events = append(e.canal.events[:0], c)
	return e.appendCanalRows(dst, e.canal.events)
}

// appendCanalRows writes the rows of one row event as one message: appendCanal for more rows than one, and with Canal's quirks where they are
// asked for.
func (e *Encoder) appendCanalRows(dst []byte, events []*record.ChangeEvent) ([]byte, error) {
	first, o := *events[0], &e.s.canal
	r, cols := e.rendered(first.Table), first.Table.Columns
	for _, c := range events {
		if row := canalRow(c); len(row) != len(cols) {
			return dst, fmt.Errorf("row of table %s.%s has %d values for %d columns", c.Table.Database, c.Table.Name, len(row), len(cols))
		}
	}
	if o.exact {
		first.Source.GTID = "" // as Canal without canal.instance.gtidon, which is its default
	}
	dst = append(dst, `{"data":[`...)
	for i, c := range events {
		dst = appendCanalMembers(append(comma(dst, i), '{'), r, cols, canalRow(c), nil, o)
		dst = append(dst, '}')
	}
	dst = append(append(dst, `],`...), r.database...)
	dst = appendCanalMiddle(dst, &first, e.id)
	dst = append(append(dst, `,"isDdl":false,"mysqlType":`...), r.mysqlType...)
	dst = append(dst, `,"old":`...)
	if first.Op == record.OpUpdate {
		dst = e.appendCanalOld(append(dst, '['), r, events)
		dst = append(dst, ']')
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(append(dst, `,"pkNames":`...), r.pkNames...)
	dst = r.appendSQLTypes(append(dst, `,"sql":"","sqlType":`...), cols, canalRow(events[len(events)-1])) // Canal's are those of the last row, too
	dst = append(append(dst, ','), r.table...)
	dst = strconv.AppendInt(dst, time.Now().UnixMilli(), 10)
	dst = append(append(dst, `,"type":"`...), canalType(first.Op)...)
	return append(dst, `"}`...), nil
}

// appendCanalOld writes what the rows were before where they have changed. Canal notes which columns have changed for a whole message, not for
// each row: from the second row on, a column also stands there if it has changed in a row before.
func (e *Encoder) appendCanalOld(dst []byte, r *rendered, events []*record.ChangeEvent) []byte {
	cols := events[0].Table.Columns
	e.canal.changed = slices.Grow(e.canal.changed[:0], len(cols))[:len(cols)]
	clear(e.canal.changed)
	for i, c := range events {
		for at := range cols {
			differs := !c.Before[at].Equal(c.After[at])
			e.canal.changed[at] = differs || e.s.canal.exact && e.canal.changed[at]
		}
		dst = appendCanalMembers(append(comma(dst, i), '{'), r, cols, c.Before, e.canal.changed, &e.s.canal)
		dst = append(dst, '}')
	}
	return dst
}

// appendCanalMembers writes "name":value pairs of a row; with only, those that it marks.
func appendCanalMembers(dst []byte, r *rendered, cols []record.Column, row record.Row, only []bool, o *canalOptions) []byte {
	n := 0
	for i, d := range row {
		if d.Kind == record.KindAbsent || only != nil && !only[i] {
			continue
		}
		if o.exact {
			d = quirk(&cols[i], d)
		}
		dst = appendCanalValue(append(comma(dst, n), r.names[i]...), &cols[i], d, o)
		n++
	}
	return dst
}

// quirk is a value as Canal reads it from the log.
func quirk(c *record.Column, d record.Datum) record.Datum {
	switch {
	case c.Family == record.FamilyBinary && d.Kind == record.KindBytes:
		// The server cuts zeros off when it logs BINARY, and Canal does not put them back.
		d.B = bytes.TrimRight(d.B, "\x00")
	case c.Family == record.FamilyDecimal && d.Kind == record.KindText && c.Scale%9 > 0:
		// Digits are logged in groups of nine. Canal leaves out the last group of the fraction, the one that is not full, where it is zero.
		rest := len(d.B) - c.Scale%9
		if rest <= 0 || len(bytes.TrimRight(d.B[rest:], "0")) > 0 {
			break
		}
		if c.Scale < 9 {
			rest++ // one zero stays behind the point
		}
		d.B = d.B[:rest]
	}
	return d
}

// rowOp reports whether an event is a row's.
func rowOp(op record.Op) bool {
	switch op {
	case record.OpRead, record.OpCreate, record.OpUpdate, record.OpDelete:
		return true
	default:
		return false
	}
}

func canalRow(c *record.ChangeEvent) record.Row {
	if c.Op == record.OpDelete {
		return c.Before
	}
	return c.After
}

func canalType(op record.Op) string {
	switch op {
	case record.OpUpdate:
		return "UPDATE"
	case record.OpDelete:
		return "DELETE"
	default:
		return "INSERT"
	}
}

// comma separates the elements of a list, whose i-th comes next.
func comma(dst []byte, i int) []byte {
	if i > 0 {
		return append(dst, ',')
	}
	return dst
}
