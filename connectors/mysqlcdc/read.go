package mysqlcdc

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

// visible waits until all that the stream has emitted shows to a SELECT: the log is written before the engine commits.
// It returns what to append to the SELECT.
func (n *snapshot) visible(ctx context.Context, c *conn, from logPos, gtids string) (string, error) {
	switch {
	case n.server.flavor == mysql.MariaDBFlavor:
		for {
			if err := c.exec(ctx, "START TRANSACTION WITH CONSISTENT SNAPSHOT"); err != nil {
				return "", err
			}
			rows, err := c.query(ctx, "SHOW STATUS LIKE 'binlog_snapshot_%'")
			if err != nil {
				return "", err
			}
			var at logPos
			for _, r := range rows {
				switch strings.ToLower(r[0]) {
				case "binlog_snapshot_file":
					at.file = r[1]
				case "binlog_snapshot_position":
					at.pos, _ = strconv.ParseUint(r[1], 10, 64)
				}
			}
			if at.compare(from) >= 0 {
				return "", nil
			}
			if err := c.exec(ctx, "ROLLBACK"); err != nil {
				return "", err
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
	case n.server.gtid && gtids != "":
		row, err := c.one(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET("+quoteText(gtids)+", 30)")
		if err != nil {
			return "", err
		}
		if len(row) == 0 || row[0] != "0" {
			return "", connectors.Retriable(fmt.Errorf("the server has not applied %s after 30 s", gtids))
		}
		return "", nil
	}
	// Without GTIDs: a locking read waits for the transactions that are about to commit.
	return " LOCK IN SHARE MODE", c.exec(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
}

func (r *reader) orderBy() string {
	cols := make([]string, len(r.key))
	for i, k := range r.key {
		cols[i] = quoteName(r.shape.table.Columns[k].Name)
	}
	return " ORDER BY " + strings.Join(cols, ",")
}

// where selects the rows of a span: (a,b) > (x,y), written so that the server uses the index.
func (r *reader) where(lo, hi []string) string {
	var all []string
	if r.extra != "" {
		all = append(all, "("+r.extra+")")
	}
	side := func(bound []string, op, last string) {
		if len(bound) == 0 {
			return
		}
		var ors []string
		eq := ""
		for i, k := range r.key {
			col := quoteName(r.shape.table.Columns[k].Name)
			o := op
			if i == len(r.key)-1 {
				o = last
			}
			ors = append(ors, "("+eq+col+o+bound[i]+")")
			eq += col + " = " + bound[i] + " AND "
		}
		if len(ors) > 1 {
			all = append(all, quoteName(r.shape.table.Columns[r.key[0]].Name)+op+"= "+bound[0])
		}
		all = append(all, "("+strings.Join(ors, " OR ")+")")
	}
	side(lo, " >", " > ")
	side(hi, " <", " <= ")
	if len(all) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

var literal = regexp.MustCompile(`^(-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?|'[-0-9 :.]*'|(_utf8mb4 )?X'[0-9A-F]*')$`)

// literalOf writes a key's value as SQL; literal must match what it returns.
func literalOf(c *record.Column, d record.Datum) string {
	switch d.Kind {
	case record.KindInt:
		if c.Family == record.FamilyTimestamp {
			if d.Int() == 0 {
				return "'0000-00-00 00:00:00'"
			}
			return time.UnixMicro(d.Int()).UTC().Format("'2006-01-02 15:04:05.000000'")
		}
		return strconv.FormatInt(d.Int(), 10)
	case record.KindUint:
		return strconv.FormatUint(d.Uint(), 10)
	case record.KindFloat32:
		return strconv.FormatFloat(float64(d.Float32()), 'e', -1, 64)
	case record.KindFloat64:
		return strconv.FormatFloat(d.Float64(), 'e', -1, 64)
	case record.KindBytes:
		return fmt.Sprintf("X'%X'", d.B)
	case record.KindText, record.KindNull, record.KindAbsent:
	}
	switch c.Family {
	case record.FamilyDecimal:
		return string(d.B)
	case record.FamilyDate, record.FamilyTime, record.FamilyDateTime:
		return "'" + string(d.B) + "'"
	}
	return fmt.Sprintf("_utf8mb4 X'%X'", d.B)
}

// readAt is the source of rows that are read when the stream is at a place of the log.
func readAt(at logPos) record.Source {
	return record.Source{TimeMS: time.Now().UnixMilli(), Snapshot: true, File: at.file, Pos: at.pos}
}

// addCreate adds the table's CREATE statement, where schema changes are asked for.
func (n *snapshot) addCreate(ctx context.Context, c *conn, r *reader, at logPos, b *rowBatch) error {
	if !n.set.schemaChanges {
		return nil
	}
	row, err := c.one(ctx, "SHOW CREATE TABLE "+r.id.quoted())
	if err != nil || len(row) < 2 {
		return err
	}
	src := readAt(at)
	b.addDDL(n.set.prefix, r.id, n.s.schema.envelope, row[1], "CREATE", []record.TableChange{
		{Type: "CREATE", Database: r.id.db, Name: r.id.name, Table: r.whole},
	}, &src)
	return nil
}

func (r *reader) row(vals []mysql.FieldValue, b *rowBatch, src *record.Source) error {
	row := record.Row(b.datums.take(len(vals)))
	for i := range vals {
		d, err := r.shape.codecs[i].fromSQL(&vals[i], b)
		if err != nil {
			return fmt.Errorf("column %s of %s: %w", r.shape.codecs[i].name, r.id, err)
		}
		row[i] = d
		b.size += datumBytes + len(d.B)
	}
	b.size += eventBytes
	b.add(r.shape.topic, r.shape.table, record.OpRead, nil, row, src)
	return nil
}

// fromSQL makes of a value of a SELECT what decode makes of it in a row image.
func (c *codec) fromSQL(v *mysql.FieldValue, b *rowBatch) (record.Datum, error) {
	if v.Type == mysql.FieldValueTypeNull {
		if c.rule != nil {
			return c.rule.apply(record.Null(), b), nil
		}
		return record.Null(), nil
	}
	switch c.family {
	case record.FamilyTinyInt, record.FamilySmallInt, record.FamilyMediumInt, record.FamilyInt, record.FamilyBigInt:
		if c.unsigned {
			return record.Uint(v.AsUint64()), nil
		}
		return record.Int(v.AsInt64()), nil
	case record.FamilyYear:
		return record.Int(v.AsInt64()), nil
	case record.FamilyBit, record.FamilyEnum, record.FamilySet:
		return record.Uint(v.AsUint64()), nil
	case record.FamilyFloat:
		return record.Float32(float32(v.AsFloat64())), nil
	case record.FamilyDouble:
		return record.Float64(v.AsFloat64()), nil
	case record.FamilyTimestamp:
		us, err := parseTimestamp(v.AsString())
		return record.Int(us), err
	}
	p := v.AsString()
	switch c.family {
	case record.FamilyDecimal: // ZEROFILL is for show
		neg := len(p) > 0 && p[0] == '-'
		if neg {
			p = p[1:]
		}
		for len(p) > 1 && p[0] == '0' && p[1] != '.' {
			p = p[1:]
		}
		if neg {
			p = append([]byte{'-'}, p...)
		}
		return record.Text(b.copyBytes(p)), nil
	case record.FamilyDate, record.FamilyTime, record.FamilyDateTime, record.FamilyJSON:
		return record.Text(b.copyBytes(p)), nil
	}
	return c.variable(b.copyBytes(p), b)
}

// parseTimestamp reads "2006-01-02 15:04:05" with up to six fraction digits, in UTC, as µs since the epoch; MySQL's zero is 0.
func parseTimestamp(s []byte) (int64, error) {
	bad := func() (int64, error) { return 0, fmt.Errorf("parse timestamp %q", s) }
	if len(s) < 19 || s[4] != '-' || s[7] != '-' || s[10] != ' ' || s[13] != ':' || s[16] != ':' || len(s) > 26 || len(s) == 20 {
		return bad()
	}
	ok := true
	num := func(b []byte) int {
		n := 0
		for _, c := range b {
			ok = ok && c >= '0' && c <= '9'
			n = n*10 + int(c-'0')
		}
		return n
	}
	year, month, day := num(s[:4]), num(s[5:7]), num(s[8:10])
	hour, minute, second := num(s[11:13]), num(s[14:16]), num(s[17:19])
	us := 0
	if len(s) > 20 {
		ok = ok && s[19] == '.'
		us = num(s[20:])
		for range 26 - len(s) {
			us *= 10
		}
	}
	switch {
	case !ok || month > 12 || day > 31 || hour > 23 || minute > 59 || second > 59:
		return bad()
	case year == 0 && month == 0 && day == 0:
		return 0, nil
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC).Unix()*1e6 + int64(us), nil
}
