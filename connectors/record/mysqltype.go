package record

import (
	"strconv"
	"strings"
)

// ParseMySQLType fills a column's type from MySQL's own declaration, as information_schema's column_type and SHOW CREATE TABLE
// have it: "bigint(20) unsigned", "enum('a','b')", "datetime(6)". What it does not know becomes FamilyUnknown.
func ParseMySQLType(decl string) Column {
	c := Column{Type: decl}
	base := strings.ToLower(decl)
	args, rest := "", ""
	if open := strings.IndexByte(decl, '('); open >= 0 {
		base = strings.ToLower(strings.TrimSpace(decl[:open]))
		if end := closing(decl, open); end > 0 {
			args, rest = decl[open+1:end], strings.ToLower(decl[end+1:])
		}
	} else if sp := strings.IndexByte(base, ' '); sp >= 0 {
		base, rest = base[:sp], base[sp:]
	}
	c.Unsigned = strings.Contains(rest, "unsigned") || strings.Contains(rest, "zerofill")
	c.Family = families[base]
	switch c.Family {
	case FamilyEnum, FamilySet:
		c.Values = quoted(args)
		return c
	case FamilyDecimal:
		p, s, ok := strings.Cut(args, ",")
		c.Length = number(p, 10)
		if ok {
			c.Scale = number(s, 0)
		}
	case FamilyTime, FamilyDateTime, FamilyTimestamp:
		c.Scale = number(args, 0)
	case FamilyBit, FamilyBinary, FamilyChar:
		c.Length = number(args, 1)
	default:
		n, _, _ := strings.Cut(args, ",")
		c.Length = number(n, 0)
	}
	return c
}

var families = map[string]Family{
	"tinyint": FamilyTinyInt, "bool": FamilyTinyInt, "boolean": FamilyTinyInt, "smallint": FamilySmallInt, "mediumint": FamilyMediumInt,
	"int": FamilyInt, "integer": FamilyInt, "bigint": FamilyBigInt, "decimal": FamilyDecimal, "numeric": FamilyDecimal,
	"float": FamilyFloat, "double": FamilyDouble, "real": FamilyDouble, "bit": FamilyBit, "char": FamilyChar, "varchar": FamilyVarchar,
	"tinytext": FamilyText, "text": FamilyText, "mediumtext": FamilyText, "longtext": FamilyText,
	"binary": FamilyBinary, "varbinary": FamilyVarbinary, "tinyblob": FamilyBlob, "blob": FamilyBlob, "mediumblob": FamilyBlob, "longblob": FamilyBlob,
	"enum": FamilyEnum, "set": FamilySet, "json": FamilyJSON,
	"geometry": FamilyGeometry, "point": FamilyGeometry, "linestring": FamilyGeometry, "polygon": FamilyGeometry, "multipoint": FamilyGeometry,
	"multilinestring": FamilyGeometry, "multipolygon": FamilyGeometry, "geometrycollection": FamilyGeometry, "geomcollection": FamilyGeometry,
	"vector": FamilyVector, "date": FamilyDate, "time": FamilyTime, "datetime": FamilyDateTime, "timestamp": FamilyTimestamp, "year": FamilyYear,
	// MariaDB's own text-like types.
	"inet4": FamilyChar, "inet6": FamilyChar, "uuid": FamilyChar,
}

func number(s string, fallback int) int {
	if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil {
		return n
	}
	return fallback
}

// closing finds the bracket that closes the one at open, quotes respected.
func closing(s string, open int) int {
	in := false
	for i := open + 1; i < len(s); i++ {
		switch {
		case s[i] == '\'':
			in = !in
		case s[i] == ')' && !in:
			return i
		}
	}
	return -1
}

// quoted reads 'a','b”c' as a, b'c.
func quoted(s string) []string {
	var out []string
	for i := 0; i < len(s); i++ {
		if s[i] != '\'' {
			continue
		}
		var b strings.Builder
		for i++; i < len(s); i++ {
			if s[i] == '\'' {
				if i+1 < len(s) && s[i+1] == '\'' {
					i++
				} else {
					break
				}
			}
			b.WriteByte(s[i])
		}
		out = append(out, b.String())
	}
	return out
}
