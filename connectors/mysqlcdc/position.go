package mysqlcdc

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors/configdef"
)

func sortKeys(keys []configdef.Key) {
	slices.SortFunc(keys, func(a, b configdef.Key) int { return cmp.Compare(a.Name, b.Name) })
}

// logPos is a place in the binlog of one server.
type logPos struct {
	file string
	pos  uint64
}

func (p logPos) String() string { return p.file + ":" + strconv.FormatUint(p.pos, 10) }

// fileNumber is the number at the end of a binlog's name; it grows beyond its six digits.
func fileNumber(name string) uint64 {
	n, _ := strconv.ParseUint(name[strings.LastIndexByte(name, '.')+1:], 10, 64)
	return n
}

func (p logPos) compare(o logPos) int {
	if c := cmp.Compare(fileNumber(p.file), fileNumber(o.file)); c != 0 {
		return c
	}
	return cmp.Compare(p.pos, o.pos)
}

// tableProgress is how far the snapshot of one table is.
type tableProgress struct {
	// After holds the key of the last finished chunk as SQL literals; empty: none yet.
	After []string
	Done  bool
}

// position is the stored offset, typed. The fields up to Snapshot have Debezium's names and meaning.
type position struct {
	// start of the transaction to go on in, and how much of it was delivered: all row events before Event, and Row rows
	// of that one. Event counts the row events of all tables, so that a changed filter moves nothing.
	at    logPos
	gtids string
	event int64
	row   int64
	// seen is the place of that row event as Debezium counts, which is what its offsets and ours have as "event": all events of the
	// transaction that come before it, its begin included. Foreign positions, Debezium's own, have only this count.
	seen     int64
	foreign  bool
	serverID uint32
	sec      int64
	// txn is the GTID of the transaction that event and row belong to, rowEvent the size of the server's row events, by which they count.
	txn        string
	rowEvent   uint64
	serverUUID string
	// snapshot: "" done or never, else still going on.
	snapshot  bool
	completed bool
	// through: all tables up to this name, in order, are done; progress has the others that have begun.
	through  string
	progress map[string]tableProgress
	// requests are tables that are read on demand.
	requests map[string]*request
	// xa are the XA transactions that are prepared and not decided, by their names.
	xa map[string]logPos
	// filter is what was captured when the position was written, to tell which tables have joined.
	filter string
}

func (p *position) encode() map[string]any {
	out := map[string]any{
		"file": p.at.file, "pos": float64(p.at.pos), "server_id": float64(p.serverID), "ts_sec": float64(p.sec), "server_uuid": p.serverUUID,
	}
	if p.gtids != "" {
		out["gtids"] = p.gtids
	}
	switch {
	case p.foreign: // it stays what it was until the transaction has come
		delete(out, "server_uuid")
		out["event"], out["row"] = float64(p.seen), float64(p.row)
	case p.event > 0 || p.row > 0:
		out["event"], out["row"], out["millrace_txn"] = float64(p.seen), float64(p.row), p.txn
		out["row_event"], out["row_event_size"] = float64(p.event), float64(p.rowEvent)
	}
	if p.filter != "" {
		out["captured"] = p.filter
	}
	if len(p.xa) > 0 {
		xas := map[string]any{}
		for xid, at := range p.xa {
			xas[xid] = []any{at.file, float64(at.pos)}
		}
		out["xa_prepared"] = xas
	}
	if len(p.requests) > 0 {
		tables := map[string]any{}
		for name, r := range p.requests {
			tables[name] = map[string]any{"after": literals(r.After), "where": r.Where}
		}
		out["snapshot_requested"] = tables
	}
	if p.snapshot {
		out["snapshot"], out["snapshot_completed"] = "initial", false
		if p.through != "" {
			out["snapshot_through"] = p.through
		}
		tables := map[string]any{}
		for name, t := range p.progress {
			if t.Done {
				tables[name] = true
				continue
			}
			tables[name] = literals(t.After)
		}
		if len(tables) > 0 {
			out["snapshot_tables"] = tables
		}
	} else if p.completed {
		out["snapshot_completed"] = true
	}
	return out
}

func literals(key []string) []any {
	out := make([]any, len(key))
	for i, k := range key {
		out[i] = k
	}
	return out
}

// readLiterals checks what goes into a statement.
func readLiterals(table string, list []any) ([]string, error) {
	var out []string
	for _, k := range list {
		lit, _ := k.(string)
		if !literal.MatchString(lit) {
			return nil, fmt.Errorf("stored offset: key %q of table %s is no literal", lit, table)
		}
		out = append(out, lit)
	}
	return out, nil
}

func decodePosition(m map[string]any) (*position, error) {
	p := &position{progress: map[string]tableProgress{}, requests: map[string]*request{}}
	var err error
	num := func(key string) uint64 {
		switch v := m[key].(type) {
		case nil:
			return 0
		case float64:
			return uint64(v)
		case int64:
			return uint64(v)
		case int:
			return uint64(v)
		case json.Number:
			n, e := strconv.ParseUint(v.String(), 10, 64)
			if e != nil {
				err = fmt.Errorf("stored offset: %s is %v", key, v)
			}
			return n
		default:
			err = fmt.Errorf("stored offset: %s is %v, not a number", key, v)
			return 0
		}
	}
	str := func(key string) string { s, _ := m[key].(string); return s }
	p.at = logPos{str("file"), num("pos")}
	p.gtids = strings.Join(strings.Fields(str("gtids")), "")
	p.serverUUID, p.txn, p.through = str("server_uuid"), str("millrace_txn"), str("snapshot_through")
	p.rowEvent = num("row_event_size")
	p.seen, p.event, p.row, p.sec, p.serverID = int64(num("event")), int64(num("row_event")), int64(num("row")), int64(num("ts_sec")), uint32(num("server_id"))
	_, ours := m["server_uuid"]
	_, counted := m["row_event"]
	switch {
	case ours && !counted: // as written before both were counted
		p.event, p.seen = p.seen, 0
	case !ours && p.seen == 0:
		// Debezium does not count within compressed transactions, where its row belongs to no event that can be told: begin the
		// transaction again rather than skip too much (I2).
		p.row = 0
	case !ours:
		p.foreign, p.event = true, 0
	}
	switch v := m["snapshot"].(type) {
	case string:
		p.snapshot = v != "" && v != "false"
	case bool:
		p.snapshot = v
	}
	p.completed, _ = m["snapshot_completed"].(bool)
	if p.completed {
		p.snapshot = false
	}
	if tables, ok := m["snapshot_tables"].(map[string]any); ok {
		for name, v := range tables {
			switch v := v.(type) {
			case bool:
				p.progress[name] = tableProgress{Done: v}
			case []any:
				key, err := readLiterals(name, v)
				if err != nil {
					return nil, err
				}
				p.progress[name] = tableProgress{After: key}
			}
		}
	}
	if tables, ok := m["snapshot_requested"].(map[string]any); ok {
		for name, v := range tables {
			m, _ := v.(map[string]any)
			after, _ := m["after"].([]any)
			key, err := readLiterals(name, after)
			if err != nil {
				return nil, err
			}
			where, _ := m["where"].(string)
			p.requests[name] = &request{tableProgress: tableProgress{After: key}, Where: where}
		}
	}
	p.filter = str("captured")
	if xas, ok := m["xa_prepared"].(map[string]any); ok {
		p.xa = map[string]logPos{}
		for xid, v := range xas {
			var at logPos
			if list, _ := v.([]any); len(list) == 2 {
				at.file, _ = list[0].(string)
				switch n := list[1].(type) {
				case float64:
					at.pos = uint64(n)
				case json.Number:
					at.pos = atoi(n.String())
				}
			}
			p.xa[xid] = at
		}
	}
	if p.at.file == "" && p.gtids == "" {
		return nil, fmt.Errorf("stored offset has neither file nor gtids: %v", m)
	}
	return p, err
}

// gtidSet is the set of transactions delivered whole. nil where the server has no GTIDs.
type gtidSet struct {
	flavor string
	set    mysql.GTIDSet
	text   string // cache; empty: stale
}

func newGTIDSet(flavor, text string) (*gtidSet, error) {
	if flavor == mysql.MariaDBFlavor && text == "" {
		return &gtidSet{flavor: flavor, set: &mysql.MariadbGTIDSet{Sets: map[uint32]*mysql.MariadbGTID{}}}, nil
	}
	set, err := mysql.ParseGTIDSet(flavor, text)
	if err != nil {
		return nil, fmt.Errorf("parse GTID set %q: %w", text, err)
	}
	return &gtidSet{flavor: flavor, set: set}, nil
}

func (g *gtidSet) String() string {
	if g == nil {
		return ""
	}
	if g.text == "" {
		g.text = g.set.String()
	}
	return g.text
}
