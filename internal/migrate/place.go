package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"
)

// place is where in the database's log a record comes from: one server's file, position and row. Places of two servers can't be compared.
type place struct {
	server, file string
	pos, row     int64
	gtid         string
}

func (p place) String() string { return fmt.Sprintf("%s:%d row %d", p.file, p.pos, p.row) }

// compare orders two places of one server; ok is false where they are of two.
func (p place) compare(o place) (c int, ok bool) {
	if p.server != "" && o.server != "" && p.server != o.server || p.file == "" || o.file == "" {
		return 0, false
	}
	return cmp.Or(cmp.Compare(fileNumber(p.file), fileNumber(o.file)), cmp.Compare(p.pos, o.pos), cmp.Compare(p.row, o.row)), true
}

// reaches says that p is not before o.
func (p place) reaches(o place) bool {
	c, ok := p.compare(o)
	return ok && c >= 0
}

// fileNumber is the number at the end of a binlog's name; it grows beyond its six digits.
func fileNumber(name string) uint64 {
	n, _ := strconv.ParseUint(name[strings.LastIndexByte(name, '.')+1:], 10, 64)
	return n
}

// start is the place after which both sides have everything.
type start struct {
	place
	seen mysql.GTIDSet // nil: files and positions decide
	// within is the id of the transaction that Debezium was in the middle of; empty: of none, or it does not tell.
	within string
}

// startOf makes the offset to begin with of one of Debezium's: it begins at the start of the transaction that Debezium is in, so that all
// that comes after it in the log is what the shadow writes.
func startOf(offset map[string]any) (map[string]any, start) {
	out := map[string]any{}
	for _, k := range debezium {
		if v, ok := offset[k]; ok && k != "event" && k != "row" {
			out[k] = v
		}
	}
	s := start{place: place{server: text(offset["server_id"]), file: text(offset["file"]), pos: number(offset["pos"]), row: 1 << 62}}
	if number(offset["event"]) > 0 || number(offset["row"]) > 0 {
		s.within = text(offset["transaction_id"])
	}
	for _, flavor := range []string{mysql.MySQLFlavor, mysql.MariaDBFlavor} {
		if set, err := mysql.ParseGTIDSet(flavor, text(offset["gtids"])); err == nil && !set.IsEmpty() {
			s.seen = set
			break
		}
	}
	return out, s
}

// before says that a record is from before the start. GTIDs decide where both have them: they mean the same after a failover.
func (s *start) before(p place) bool {
	if s.seen != nil && p.gtid != "" {
		flavor := mysql.MySQLFlavor
		if _, ok := s.seen.(*mysql.MariadbGTIDSet); ok {
			flavor = mysql.MariaDBFlavor
		}
		if set, err := mysql.ParseGTIDSet(flavor, p.gtid); err == nil {
			return s.seen.Contain(set)
		}
	}
	c, ok := p.compare(s.place)
	return ok && c <= 0
}

func text(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func number(v any) int64 {
	switch x := v.(type) {
	case float64:
		return int64(x)
	case json.Number:
		n, _ := x.Int64()
		return n
	case string:
		n, _ := strconv.ParseInt(x, 10, 64)
		return n
	}
	return 0
}
