package sqlsink

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// target is a table that is written to.
type target struct {
	name    string
	columns map[string]bool // lower-case names
	key     []string        // lower-case names of the primary key's columns, sorted
	fitted  *record.Table   // the shape that was last found to fit
	// tombstone is the last shape of a tombstone's key that was found to be the table's key.
	tombstone *owned
}

// owned is a key's shape, and that of the table's key made of it.
type owned struct{ of, table *record.Table }

// target finds the table, or creates it.
func (t *task) target(ctx context.Context, name string, src *record.Table) (*target, error) {
	if tgt := t.tables[name]; tgt != nil {
		return tgt, nil
	}
	tgt := &target{name: name}
	if err := t.columns(ctx, tgt); err != nil {
		return nil, err
	}
	if len(tgt.columns) == 0 {
		if !t.v.Bool(AutoCreate) {
			return nil, fmt.Errorf("table %s does not exist in database %s: create it, or set auto.create=true", name, t.conf.DBName)
		}
		q, err := createSQL(name, src)
		if err != nil {
			return nil, err
		}
		if _, err := t.db.ExecContext(ctx, q); err != nil {
			return nil, t.failure("create table "+name, err)
		}
		t.tc.Logger.Info("created table", "table", name)
		if err := t.columns(ctx, tgt); err != nil {
			return nil, err
		}
	}
	t.tables[name] = tgt
	return tgt, nil
}

// owns returns the shape of a tombstone's key as that of a table's key, nil where they differ or there is no such table.
func (t *task) owns(ctx context.Context, name string, src *record.Table) (*record.Table, error) {
	tgt := t.tables[name]
	if tgt == nil {
		tgt = &target{name: name}
		if err := t.columns(ctx, tgt); err != nil {
			return nil, err
		}
		if len(tgt.columns) == 0 {
			return nil, nil // nothing was ever written
		}
		t.tables[name] = tgt
	}
	names := make([]string, len(src.Columns))
	for i := range src.Columns {
		names[i] = strings.ToLower(src.Columns[i].Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, tgt.key) {
		return nil, nil
	}
	if tgt.tombstone == nil || tgt.tombstone.of != src {
		own := *src
		own.Key, own.MessageKey = src.MessageKey, nil
		tgt.tombstone = &owned{src, &own}
	}
	return tgt.tombstone.table, nil
}

func (t *task) columns(ctx context.Context, tgt *target) error {
	tgt.columns, tgt.key, tgt.fitted = map[string]bool{}, nil, nil
	rows, err := t.db.QueryContext(ctx, "SELECT column_name, column_key='PRI' FROM information_schema.columns WHERE table_schema=DATABASE() AND table_name=?", tgt.name)
	if err != nil {
		return t.failure("read columns of "+tgt.name, err)
	}
	defer rows.Close()
	for rows.Next() {
		var c string
		var inKey bool
		if err := rows.Scan(&c, &inKey); err != nil {
			return t.failure("read columns of "+tgt.name, err)
		}
		c = strings.ToLower(c)
		tgt.columns[c] = true
		if inKey {
			tgt.key = append(tgt.key, c)
		}
	}
	slices.Sort(tgt.key)
	if err := rows.Err(); err != nil {
		return t.failure("read columns of "+tgt.name, err)
	}
	return nil
}

// fit makes sure that the table has the source's columns.
func (t *task) fit(ctx context.Context, tgt *target, src *record.Table) error {
	if tgt.fitted == src {
		return nil
	}
	for i := range src.Columns {
		c := &src.Columns[i]
		if tgt.columns[strings.ToLower(c.Name)] {
			continue
		}
		// Somebody may have added it meanwhile.
		if err := t.columns(ctx, tgt); err != nil {
			return err
		}
		if tgt.columns[strings.ToLower(c.Name)] {
			continue
		}
		if !t.v.Bool(AutoEvolve) {
			return fmt.Errorf("table %s has no column %q, which the source has (%s): add it, or set auto.evolve=true", tgt.name, c.Name, c.Type)
		}
		typ, err := columnType(c)
		if err != nil {
			return err
		}
		if _, err := t.db.ExecContext(ctx, "ALTER TABLE "+quote(tgt.name)+" ADD COLUMN "+quote(c.Name)+" "+typ+" NULL DEFAULT NULL"); err != nil {
			return t.failure("add column "+c.Name+" to "+tgt.name, err)
		}
		t.tc.Logger.Info("added column", "table", tgt.name, "column", c.Name)
		tgt.columns[strings.ToLower(c.Name)] = true
	}
	tgt.fitted = src
	return nil
}

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// declaration is the only form in which a type's text from a message goes into a statement: a word, sizes or quoted members, and the known
// attributes.
var declaration = regexp.MustCompile(`(?i)^[a-z][a-z0-9]*( precision)?(\s*\(\s*(\d+(\s*,\s*\d+)?|'([^'\\]|'')*'(\s*,\s*'([^'\\]|'')*')*)\s*\))?(\s+(unsigned|zerofill))*$`)

func columnType(c *record.Column) (string, error) {
	if c.Type == "" {
		return "", fmt.Errorf("the type of column %q is not known (the message has no mysqlType): create the table and its columns yourself", c.Name)
	}
	if !declaration.MatchString(c.Type) {
		return "", fmt.Errorf("the type of column %q is %q, which is no column type that can be created", c.Name, c.Type)
	}
	return c.Type, nil
}

// createSQL makes the statement for a table with the source's columns and key. Text compares by its bytes, as keys do in Kafka.
func createSQL(name string, src *record.Table) (string, error) {
	var b strings.Builder
	key := map[int]bool{}
	for _, at := range src.Key {
		key[at] = true
	}
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (\n", quote(name))
	for i := range src.Columns {
		typ, err := columnType(&src.Columns[i])
		if err != nil {
			return "", err
		}
		null := " NULL DEFAULT NULL"
		if key[i] {
			null = " NOT NULL"
		}
		fmt.Fprintf(&b, "  %s %s%s,\n", quote(src.Columns[i].Name), typ, null)
	}
	b.WriteString("  PRIMARY KEY (")
	for i, at := range src.Key {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quote(src.Columns[at].Name))
	}
	b.WriteString(")\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin")
	return b.String(), nil
}

func (tgt *target) deleteSQL(list []change) (string, []any, error) {
	src := list[0].table
	var b strings.Builder
	fmt.Fprintf(&b, "DELETE FROM %s WHERE (", quote(tgt.name))
	for i, at := range src.Key {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quote(src.Columns[at].Name))
	}
	b.WriteString(") IN (")
	args := make([]any, 0, len(list)*len(src.Key))
	for n, c := range list {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteString(marks(len(src.Key)))
		for _, at := range c.table.Key {
			args = append(args, argument(&c.table.Columns[at], c.key[at]))
		}
	}
	b.WriteByte(')')
	return b.String(), args, nil
}

func (tgt *target) upsertSQL(list []change) (string, []any, error) {
	src := list[0].table
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (", quote(tgt.name))
	for i := range src.Columns {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quote(src.Columns[i].Name))
	}
	b.WriteString(") VALUES ")
	args := make([]any, 0, len(list)*len(src.Columns))
	for n, c := range list {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteString(marks(len(src.Columns)))
		if len(c.row) != len(src.Columns) {
			return "", nil, fmt.Errorf("a row of table %s has %d values for %d columns", tgt.name, len(c.row), len(src.Columns))
		}
		for i := range c.row {
			args = append(args, argument(&src.Columns[i], c.row[i]))
		}
	}
	b.WriteString(" ON DUPLICATE KEY UPDATE ")
	for i := range src.Columns {
		if i > 0 {
			b.WriteByte(',')
		}
		n := quote(src.Columns[i].Name)
		fmt.Fprintf(&b, "%s=VALUES(%s)", n, n)
	}
	return b.String(), args, nil
}

func marks(n int) string { return "(" + strings.TrimSuffix(strings.Repeat("?,", n), ",") + ")" }

// argument turns a value into what the driver sends.
func argument(c *record.Column, d record.Datum) any {
	switch d.Kind {
	case record.KindInt:
		if c.Family == record.FamilyTimestamp {
			if d.Int() == 0 {
				return "0000-00-00 00:00:00"
			}
			return time.UnixMicro(d.Int()).UTC().Format("2006-01-02 15:04:05.000000")
		}
		return d.Int()
	case record.KindUint:
		return d.Uint()
	case record.KindFloat32:
		return d.Float32()
	case record.KindFloat64:
		return d.Float64()
	case record.KindText:
		return string(d.B)
	case record.KindBytes:
		return d.B
	case record.KindAbsent, record.KindNull:
	}
	return nil
}
