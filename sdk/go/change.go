package millrace

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Change is a change of rows in Canal JSON, as Millrace's sources write it. What the function does not touch stays as it is,
// order of columns included.
type Change struct {
	// Type is INSERT, UPDATE or DELETE; or a DDL type, with no rows.
	Type            string
	Database, Table string
	// Rows are the rows after the change, of a DELETE before it; Old the changed columns' earlier values, of an UPDATE.
	Rows, Old []Row

	fields []field
}

// field is one member of the message, in its order.
type field struct {
	name string
	raw  json.RawMessage
}

// Row is a row: columns with their values as text, in order. A nil value is NULL.
type Row struct{ columns []column }

type column struct {
	name  string
	value *string
}

// Get returns a column's text; false when it is NULL or not there.
func (r *Row) Get(name string) (string, bool) {
	for _, c := range r.columns {
		if c.name == name && c.value != nil {
			return *c.value, true
		}
	}
	return "", false
}

// Text returns a column's text, "" when it is NULL or not there.
func (r *Row) Text(name string) string {
	v, _ := r.Get(name)
	return v
}

// Has reports whether the row has the column, NULL or not.
func (r *Row) Has(name string) bool {
	for _, c := range r.columns {
		if c.name == name {
			return true
		}
	}
	return false
}

// Set changes a column's value, or adds the column at the end.
func (r *Row) Set(name, value string) { r.set(name, &value) }

// SetNull makes a column NULL.
func (r *Row) SetNull(name string) { r.set(name, nil) }

func (r *Row) set(name string, value *string) {
	for i := range r.columns {
		if r.columns[i].name == name {
			r.columns[i].value = value
			return
		}
	}
	r.columns = append(r.columns, column{name, value})
}

// Delete takes a column out of the row.
func (r *Row) Delete(name string) {
	for i := range r.columns {
		if r.columns[i].name == name {
			r.columns = append(r.columns[:i], r.columns[i+1:]...)
			return
		}
	}
}

// Names lists the columns in order.
func (r *Row) Names() []string {
	out := make([]string, len(r.columns))
	for i, c := range r.columns {
		out[i] = c.name
	}
	return out
}

// Change reads the record's value as Canal JSON.
func (r Record) Change() (*Change, error) {
	c := &Change{}
	err := object(r.Value, func(name string, raw json.RawMessage) error {
		c.fields = append(c.fields, field{name, raw})
		var err error
		switch name {
		case "type":
			err = json.Unmarshal(raw, &c.Type)
		case "database":
			err = json.Unmarshal(raw, &c.Database)
		case "table":
			err = json.Unmarshal(raw, &c.Table)
		case "data":
			c.Rows, err = rows(raw)
		case "old":
			c.Old, err = rows(raw)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the value is no Canal JSON: %w", err)
	}
	if c.Type == "" {
		return nil, fmt.Errorf("the value is no Canal JSON: it has no type")
	}
	return c, nil
}

// With returns the record with a changed change as its value.
func (r Record) With(c *Change) Record {
	r.Value = c.Bytes()
	return r
}

// Update changes a column's text in all rows, earlier values included, where it is not NULL.
func (c *Change) Update(name string, f func(string) string) {
	for _, list := range [][]Row{c.Rows, c.Old} {
		for i := range list {
			if v, ok := list[i].Get(name); ok {
				list[i].Set(name, f(v))
			}
		}
	}
}

// AddColumn adds a column to the rows, with its MySQL type ("decimal(12,2)") and its java.sql.Types code, so that sinks know what it is.
func (c *Change) AddColumn(name, mysqlType string, sqlType int, value func(*Row) string) {
	for i := range c.Rows {
		c.Rows[i].Set(name, value(&c.Rows[i]))
	}
	for i := range c.fields {
		var v any
		switch c.fields[i].name {
		case "mysqlType":
			v = mysqlType
		case "sqlType":
			v = sqlType
		default:
			continue
		}
		if raw := c.fields[i].raw; len(raw) >= 2 && raw[0] == '{' {
			b, _ := json.Marshal(map[string]any{name: v}) // text and numbers always encode
			out := append(bytes.Clone(raw[:len(raw)-1]), ',')
			if len(raw) == 2 {
				out = out[:1]
			}
			c.fields[i].raw = append(out, b[1:]...)
		}
	}
}

// Bytes writes the change as Canal JSON again.
func (c *Change) Bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range c.fields {
		if i > 0 {
			b.WriteByte(',')
		}
		text(&b, f.name)
		b.WriteByte(':')
		switch f.name {
		case "data":
			writeRows(&b, c.Rows, f.raw)
		case "old":
			writeRows(&b, c.Old, f.raw)
		default:
			b.Write(f.raw)
		}
	}
	b.WriteByte('}')
	return b.Bytes()
}

func writeRows(b *bytes.Buffer, list []Row, raw json.RawMessage) {
	if list == nil {
		b.Write(raw) // null
		return
	}
	b.WriteByte('[')
	for i, r := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		for n, c := range r.columns {
			if n > 0 {
				b.WriteByte(',')
			}
			text(b, c.name)
			b.WriteByte(':')
			if c.value == nil {
				b.WriteString("null")
			} else {
				text(b, *c.value)
			}
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
}

func text(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)         // text always encodes
	b.Truncate(b.Len() - 1) // without Encode's line break
}

func rows(raw json.RawMessage) ([]Row, error) {
	if bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	out := make([]Row, len(list))
	for i, item := range list {
		err := object(item, func(name string, raw json.RawMessage) error {
			var v *string
			if len(raw) > 0 && raw[0] == '"' {
				v = new(string)
				if err := json.Unmarshal(raw, v); err != nil {
					return err
				}
			} else if !bytes.Equal(raw, []byte("null")) {
				s := string(raw) // a number or boolean of another writer
				v = &s
			}
			out[i].columns = append(out[i].columns, column{name, v})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// object calls each for the members of a JSON object, in their order.
func object(raw []byte, each func(name string, raw json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	tok, err := d.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') {
		return fmt.Errorf("no object but %v", tok)
	}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return err
		}
		name, _ := tok.(string)
		if err := each(name, v); err != nil {
			return err
		}
	}
	return nil
}
