package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

// canalMessage is what is read of a Canal message, in any of the forms that its writers use.
type canalMessage struct {
	Data      []map[string]json.RawMessage `json:"data"`
	Old       []map[string]json.RawMessage `json:"old"`
	Database  *string                      `json:"database"`
	Table     *string                      `json:"table"`
	Type      *string                      `json:"type"`
	ES        int64                        `json:"es"`
	GTID      string                       `json:"gtid"`
	IsDDL     bool                         `json:"isDdl"`
	SQL       string                       `json:"sql"`
	MySQLType json.RawMessage              `json:"mysqlType"`
	PKNames   json.RawMessage              `json:"pkNames"`
}

// canal appends the records of a message: one for each row. A value that is JSON but no Canal message passes as it is.
func (d *Decoder) canal(dst []record.Record, r record.Record, value []byte) ([]record.Record, error) {
	var m canalMessage
	err := json.Unmarshal(value, &m)
	if err != nil || m.Type == nil || m.Database == nil || m.Table == nil {
		v, perr := d.connectJSON(&d.s.valueJSON, value)
		if perr != nil {
			return dst, fmt.Errorf("value: %w", perr)
		}
		r.Value = v
		return append(dst, r), nil
	}
	var op record.Op
	switch *m.Type {
	case "INSERT", "INIT", "ROW":
		op = record.OpCreate
	case "UPDATE":
		op = record.OpUpdate
	case "DELETE":
		op = record.OpDelete
	default:
		op = record.OpDDL
	}
	src := record.Source{TimeMS: m.ES, GTID: m.GTID}
	for _, h := range r.Headers {
		src.Snapshot = src.Snapshot || h.Key == "snapshot"
	}
	if m.IsDDL || op == record.OpDDL || len(m.Data) == 0 {
		if *m.Type == "TRUNCATE" {
			op = record.OpTruncate
		} else {
			op = record.OpDDL
		}
		r.Value = &record.ChangeEvent{
			Table: &record.Table{Database: *m.Database, Name: *m.Table}, Op: op, SQL: m.SQL, DDLType: *m.Type, Source: src,
		}
		return append(dst, r), nil
	}
	t, err := d.table(&m)
	if err != nil {
		return dst, err
	}
	for i, data := range m.Data {
		row, err := d.row(t, data)
		if err != nil {
			return dst, fmt.Errorf("row %d of table %s.%s: %w", i, t.Database, t.Name, err)
		}
		c := &record.ChangeEvent{Table: t, Op: op, Source: src}
		switch op {
		case record.OpDelete:
			c.Before = row
		case record.OpUpdate:
			c.After, c.Before = row, slices.Clone(row)
			if i < len(m.Old) {
				old, err := d.row(t, m.Old[i])
				if err != nil {
					return dst, fmt.Errorf("old row %d of table %s.%s: %w", i, t.Database, t.Name, err)
				}
				for at := range old {
					if old[at].Kind != record.KindAbsent {
						c.Before[at] = old[at]
					}
				}
			}
		default:
			c.After = row
		}
		r.Value = c
		dst = append(dst, r)
	}
	return dst, nil
}

// maxTables bounds the shapes that a decoder remembers (I8).
const maxTables = 1000

// table returns the table that a message's columns, types and keys describe; one instance for each shape.
func (d *Decoder) table(m *canalMessage) (*record.Table, error) {
	key := *m.Database + "\x00" + *m.Table + "\x00" + string(m.PKNames) + "\x00" + string(m.MySQLType)
	if t := d.tables[key]; t != nil {
		return t, nil
	}
	t := &record.Table{Database: *m.Database, Name: *m.Table}
	names, types, err := orderedStrings(m.MySQLType)
	if err != nil {
		return nil, fmt.Errorf("mysqlType of table %s.%s: %w", t.Database, t.Name, err)
	}
	for i, n := range names {
		c := record.ParseMySQLType(types[i])
		c.Name, c.Nullable = n, true
		t.Columns = append(t.Columns, c)
	}
	cache := len(names) > 0
	if !cache {
		// No types: the columns are those of the rows, as text, in order of name.
		seen := map[string]bool{}
		for _, row := range m.Data {
			for n := range row {
				if !seen[n] {
					seen[n] = true
					names = append(names, n)
				}
			}
		}
		slices.Sort(names)
		for _, n := range names {
			t.Columns = append(t.Columns, record.Column{Name: n, Nullable: true})
		}
	}
	var pk []string
	if len(m.PKNames) > 0 {
		if err := json.Unmarshal(m.PKNames, &pk); err != nil {
			return nil, fmt.Errorf("pkNames of table %s.%s: %w", t.Database, t.Name, err)
		}
	}
	for _, n := range pk {
		at := slices.IndexFunc(t.Columns, func(c record.Column) bool { return c.Name == n })
		if at < 0 {
			return nil, fmt.Errorf("table %s.%s has no column %q, which pkNames lists", t.Database, t.Name, n)
		}
		t.Columns[at].Nullable = false
		t.Key = append(t.Key, at)
	}
	if cache {
		if len(d.tables) >= maxTables {
			clear(d.tables)
		}
		d.tables[key] = t
	}
	return t, nil
}

// orderedStrings reads a JSON object of strings in the order in which it is written; null is empty.
func orderedStrings(raw json.RawMessage) (names, values []string, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, nil, fmt.Errorf("no object: %v (%w)", tok, err)
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		var v string
		if err := dec.Decode(&v); err != nil {
			return nil, nil, err
		}
		name, _ := tok.(string)
		names, values = append(names, name), append(values, v)
	}
	return names, values, nil
}

func (d *Decoder) row(t *record.Table, data map[string]json.RawMessage) (record.Row, error) {
	row := make(record.Row, len(t.Columns))
	found := 0
	for i := range t.Columns {
		raw, ok := data[t.Columns[i].Name]
		if !ok {
			continue
		}
		found++
		v, err := d.datum(&t.Columns[i], raw)
		if err != nil {
			return nil, fmt.Errorf("column %s (%s): %w", t.Columns[i].Name, t.Columns[i].Type, err)
		}
		row[i] = v
	}
	if found < len(data) {
		for n := range data {
			if !slices.ContainsFunc(t.Columns, func(c record.Column) bool { return c.Name == n }) {
				// I5: a value that no type is given for would be lost.
				return nil, fmt.Errorf("column %q has a value but mysqlType does not list it", n)
			}
		}
	}
	return row, nil
}

// datum reads a value: Canal's text, or a typed JSON value as other writers have it.
func (d *Decoder) datum(c *record.Column, raw json.RawMessage) (record.Datum, error) {
	if string(raw) == "null" {
		return record.Null(), nil
	}
	text := string(raw)
	switch {
	case raw[0] == '"':
		if err := json.Unmarshal(raw, &text); err != nil {
			return record.Datum{}, err
		}
	case text == "true" && c.Family != record.FamilyJSON:
		text = "1"
	case text == "false" && c.Family != record.FamilyJSON:
		text = "0"
	}
	switch c.Family {
	case record.FamilyTinyInt, record.FamilySmallInt, record.FamilyMediumInt, record.FamilyInt, record.FamilyBigInt:
		if c.Unsigned {
			v, err := strconv.ParseUint(text, 10, 64)
			return record.Uint(v), err
		}
		v, err := strconv.ParseInt(text, 10, 64)
		return record.Int(v), err
	case record.FamilyYear:
		v, err := strconv.ParseInt(text, 10, 64)
		return record.Int(v), err
	case record.FamilyBit:
		v, err := strconv.ParseUint(text, 10, 64)
		return record.Uint(v), err
	case record.FamilyEnum, record.FamilySet:
		return members(c, text)
	case record.FamilyFloat:
		v, err := strconv.ParseFloat(text, 32)
		return record.Float32(float32(v)), err
	case record.FamilyDouble:
		v, err := strconv.ParseFloat(text, 64)
		return record.Float64(v), err
	case record.FamilyBinary: // Canal leaves out the zeros at its end
		b, err := latin1Bytes(text)
		return record.Bytes(append(b, make([]byte, max(0, c.Length-len(b)))...)), err
	case record.FamilyDecimal: // and those at the end of a fraction
		if point := strings.IndexByte(text, '.'); point >= 0 {
			text += strings.Repeat("0", max(0, c.Scale-(len(text)-point-1)))
		}
	case record.FamilyVarbinary, record.FamilyBlob, record.FamilyGeometry, record.FamilyVector:
		b, err := latin1Bytes(text)
		return record.Bytes(b), err
	case record.FamilyTimestamp:
		v, err := parseTimestamp(text, d.s.canal.zone)
		return record.Int(v), err
	case record.FamilyUnknown, record.FamilyChar, record.FamilyVarchar, record.FamilyText, record.FamilyJSON,
		record.FamilyDate, record.FamilyTime, record.FamilyDateTime:
	}
	return record.Text([]byte(text)), nil
}

// members reads an ENUM's index or a SET's mask, or the names that some writers put.
func members(c *record.Column, text string) (record.Datum, error) {
	if v, err := strconv.ParseUint(text, 10, 64); err == nil {
		return record.Uint(v), nil
	}
	if text == "" {
		return record.Uint(0), nil
	}
	var mask uint64
	for name := range strings.SplitSeq(text, ",") {
		at := slices.Index(c.Values, name)
		if c.Family == record.FamilyEnum {
			at = slices.Index(c.Values, text)
		}
		if at < 0 {
			return record.Datum{}, fmt.Errorf("%q is no member", name)
		}
		if c.Family == record.FamilyEnum {
			return record.Uint(uint64(at + 1)), nil
		}
		mask |= 1 << at
	}
	return record.Uint(mask), nil
}
