package mysqlcdc

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors/configdef"
)

// serverInfo is what the connector knows of the server.
type serverInfo struct {
	flavor, version, uuid string
	gtid                  bool
	fullMetadata          bool
	logsCascades          bool   // MySQL 9.6 and later follow foreign keys above the storage engine
	rowImage              string // empty: FULL
	rowEvent              uint64 // binlog_row_event_max_size; 0: not known
	zeroPositions         bool   // MariaDB 11.4 and later log events without their position
}

// inspect checks that the server can be captured from. Problems are for the user; err is for a server that does not answer.
func (s *settings) inspect(ctx context.Context, c *conn) (*serverInfo, []configdef.Problem, error) {
	info := &serverInfo{flavor: mysql.MySQLFlavor, version: c.c.GetServerVersion()}
	row, err := c.one(ctx, "SELECT VERSION()")
	if err != nil {
		return nil, nil, err
	}
	info.version = row[0]
	var major, minor int
	_, _ = fmt.Sscanf(info.version, "%d.%d", &major, &minor)
	if strings.Contains(strings.ToLower(info.version), "mariadb") {
		info.flavor = mysql.MariaDBFlavor
		info.zeroPositions = major > 11 || major == 11 && minor >= 4
	}
	v, err := c.variables(ctx, "innodb_native_foreign_keys", "log_bin", "binlog_format", "binlog_row_image", "binlog_row_value_options", "binlog_row_metadata",
		"server_uuid", "server_uid", "server_id", "gtid_mode", "binlog_row_event_max_size")
	if err != nil {
		return nil, nil, err
	}
	info.logsCascades = info.flavor == mysql.MySQLFlavor && (major > 9 || major == 9 && minor >= 6) && v["innodb_native_foreign_keys"] != "ON"
	if info.uuid = v["server_uuid"]; info.uuid == "" {
		if info.uuid = v["server_uid"]; info.uuid == "" {
			info.uuid = "server-" + v["server_id"]
		}
	}
	info.rowEvent = atoi(v["binlog_row_event_max_size"])
	info.gtid = info.flavor == mysql.MariaDBFlavor || v["gtid_mode"] == "ON"
	info.fullMetadata = strings.EqualFold(v["binlog_row_metadata"], "FULL")
	var problems []configdef.Problem
	bad := func(format string, args ...any) {
		problems = append(problems, configdef.Problem{Key: keyHost, Value: s.host, Message: fmt.Sprintf(format, args...)})
	}
	if v["log_bin"] != "ON" {
		bad("The server at %s writes no binlog; start it with log_bin and binlog_format=ROW.", s.addr())
	}
	if f, ok := v["binlog_format"]; ok && f != "ROW" {
		bad("The server at %s has binlog_format=%s, which does not log rows; run SET GLOBAL binlog_format='ROW'.", s.addr(), f)
	}
	if f := v["binlog_row_image"]; f != "" && f != "FULL" {
		info.rowImage = f
	}
	if f := v["binlog_row_value_options"]; f != "" && info.rowImage != "" {
		bad("The server at %s has binlog_row_value_options=%s and binlog_row_image=%s, which log parts of JSON documents without the documents; "+
			"run SET GLOBAL binlog_row_value_options=''.", s.addr(), f, info.rowImage)
	}
	if s.serverID == uint32(atoi(v["server_id"])) {
		problems = append(problems, configdef.Problem{Key: keyServerID, Value: v["server_id"], Message: "The server itself has this id; choose another."})
	}
	grants, err := c.query(ctx, "SHOW GRANTS")
	if err != nil {
		return nil, nil, err
	}
	if missing := missingPrivileges(grants); len(missing) > 0 {
		problems = append(problems, configdef.Problem{
			Key: keyUser, Value: s.user,
			Message: fmt.Sprintf("User %q lacks the privilege %s; run %s.", s.user, strings.Join(missing, ", "), s.grant()),
		})
	}
	return info, problems, nil
}

func atoi(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// missingPrivileges names what replication needs and no grant gives. A role may give it: then nothing is said.
func missingPrivileges(grants [][]string) []string {
	want := map[string][]string{
		"REPLICATION SLAVE":  {"REPLICATION SLAVE", "REPLICATION REPLICA"},
		"REPLICATION CLIENT": {"REPLICATION CLIENT", "BINLOG MONITOR"},
	}
	for _, g := range grants {
		text := strings.ToUpper(g[0])
		if strings.Contains(text, "ALL PRIVILEGES ON *.*") || !strings.Contains(text, " ON ") {
			return nil
		}
		for name, words := range want {
			for _, w := range words {
				if strings.Contains(text, w) {
					delete(want, name)
				}
			}
		}
	}
	var out []string
	for _, name := range []string{"REPLICATION CLIENT", "REPLICATION SLAVE"} {
		if _, ok := want[name]; ok {
			out = append(out, name)
		}
	}
	return out
}

// logEnd returns the end of the server's binlog and, on MySQL, the executed GTID set.
func (c *conn) logEnd(ctx context.Context) (logPos, string, error) {
	row, err := c.one(ctx, "SHOW BINARY LOG STATUS")
	if err != nil {
		if ctx.Err() != nil {
			return logPos{}, "", err
		}
		row, err = c.one(ctx, "SHOW MASTER STATUS")
	}
	if err != nil {
		return logPos{}, "", err
	}
	if len(row) < 2 {
		return logPos{}, "", fmt.Errorf("the server shows no binlog position; is log_bin on?")
	}
	gtids := ""
	if len(row) > 4 {
		gtids = strings.Join(strings.Fields(row[4]), "")
	}
	return logPos{row[0], atoi(row[1])}, gtids, nil
}

// start is the place from which a first run streams.
func (s *settings) start(ctx context.Context, c *conn, info *serverInfo) (*position, error) {
	at, gtids, err := c.logEnd(ctx)
	if err != nil {
		return nil, err
	}
	if info.flavor == mysql.MariaDBFlavor {
		row, err := c.one(ctx, fmt.Sprintf("SELECT BINLOG_GTID_POS(%s, %d)", quoteText(at.file), at.pos))
		if err != nil {
			return nil, err
		}
		gtids = row[0]
	}
	if !info.gtid {
		gtids = ""
	}
	return &position{at: at, gtids: gtids, serverUUID: info.uuid}, nil
}

// available checks that the log still reaches back to p, and that p is a place of this server's.
func (s *settings) available(ctx context.Context, c *conn, info *serverInfo, p *position) error {
	if info.gtid && p.gtids != "" {
		// How much of a transaction was delivered is counted in row events, which another server must cut alike.
		if p.serverUUID != "" && p.serverUUID != info.uuid && p.event+p.row > 0 && p.rowEvent != info.rowEvent {
			return fmt.Errorf("the stored offset lies within transaction %s, which server %s logged in row events of %d bytes and this one, %s, in events of %d: "+
				"start it with binlog_row_event_max_size=%[3]d, or reset the connector's offsets", p.txn, p.serverUUID, p.rowEvent, info.uuid, info.rowEvent)
		}
		if info.flavor == mysql.MariaDBFlavor {
			return s.reachesBack(ctx, c, p)
		}
		row, err := c.one(ctx, "SELECT GTID_SUBTRACT(@@GLOBAL.gtid_purged, "+quoteText(p.gtids)+"), GTID_SUBTRACT("+quoteText(p.gtids)+", @@GLOBAL.gtid_executed)")
		if err != nil {
			return err
		}
		if row[1] != "" {
			return fmt.Errorf("the stored offset has transactions %s that the server does not have: it was reset or is another one; "+
				"reset the connector's offsets to make a new snapshot", row[1])
		}
		if row[0] != "" {
			return &purgedError{fmt.Errorf("the server has purged transactions %s, which this connector has not read; "+
				"reset the connector's offsets to make a new snapshot, or set %s=when_needed", row[0], keySnapshotMode)}
		}
		return nil
	}
	if p.serverUUID != "" && p.serverUUID != info.uuid {
		return fmt.Errorf("the stored offset %s belongs to server %s, and this one is %s: a binlog position means nothing there; "+
			"use GTIDs for failover, or reset the connector's offsets", p.at, p.serverUUID, info.uuid)
	}
	logs, err := c.query(ctx, "SHOW BINARY LOGS")
	if err != nil {
		return err
	}
	for _, l := range logs {
		if l[0] == p.at.file {
			return nil
		}
	}
	return &purgedError{fmt.Errorf("the server no longer has binlog %s, where this connector has to go on; "+
		"reset the connector's offsets to make a new snapshot, or set %s=when_needed", p.at.file, keySnapshotMode)}
}

const systemDatabases = "'mysql','sys','information_schema','performance_schema'"

// reachesBack checks that MariaDB's oldest log begins before p.
func (s *settings) reachesBack(ctx context.Context, c *conn, p *position) error {
	oldest, err := c.one(ctx, "SHOW BINARY LOGS")
	if err != nil || oldest == nil {
		return err
	}
	row, err := c.one(ctx, "SELECT BINLOG_GTID_POS("+quoteText(oldest[0])+", 4)")
	if err != nil || len(row) == 0 || row[0] == "" {
		return err
	}
	begin, err := mysql.ParseMariadbGTIDSet(row[0])
	if err != nil {
		return fmt.Errorf("parse GTID position %q: %w", row[0], err)
	}
	have, err := mysql.ParseMariadbGTIDSet(p.gtids)
	if err != nil {
		return fmt.Errorf("parse stored GTID position %q: %w", p.gtids, err)
	}
	for domain, g := range begin.(*mysql.MariadbGTIDSet).Sets {
		if h := have.(*mysql.MariadbGTIDSet).Sets[domain]; h == nil || h.SequenceNumber < g.SequenceNumber {
			return &purgedError{fmt.Errorf("the server's oldest binlog %s begins at GTID %s, and this connector has read up to %s only; "+
				"reset the connector's offsets to make a new snapshot, or set %s=when_needed", oldest[0], row[0], p.gtids, keySnapshotMode)}
		}
	}
	return nil
}

// cascades lists captured tables whose rows foreign keys change below the log's sight.
func (s *settings) cascades(ctx context.Context, c *conn) ([]string, error) {
	rows, err := c.query(ctx, "SELECT constraint_schema, table_name, constraint_name FROM information_schema.referential_constraints "+
		"WHERE delete_rule IN ('CASCADE','SET NULL','SET DEFAULT') OR update_rule IN ('CASCADE','SET NULL','SET DEFAULT')")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range rows {
		if id := (tableID{r[0], r[1]}); s.filter.table(id) {
			out = append(out, id.String()+" ("+r[2]+")")
		}
	}
	return out, nil
}

// tables lists what the filter captures, which of it has no primary key, and how many rows the server guesses it has.
func (s *settings) tables(ctx context.Context, c *conn) ([]tableID, map[tableID]bool, map[tableID]int64, error) {
	rows, err := c.query(ctx, "SELECT t.table_schema, t.table_name, (SELECT COUNT(*) FROM information_schema.table_constraints k "+
		"WHERE k.table_schema=t.table_schema AND k.table_name=t.table_name AND k.constraint_type='PRIMARY KEY'), t.table_rows "+
		"FROM information_schema.tables t WHERE t.table_type='BASE TABLE' AND t.table_schema NOT IN ("+systemDatabases+")")
	if err != nil {
		return nil, nil, nil, err
	}
	rowCounts := map[tableID]int64{}
	var out []tableID
	keyless := map[tableID]bool{}
	for _, r := range rows {
		id := tableID{r[0], r[1]}
		if s.filter.table(id) {
			out = append(out, id)
			rowCounts[id] = int64(atoi(r[3]))
			if r[2] == "0" {
				keyless[id] = true
			}
		}
	}
	return out, keyless, rowCounts, nil
}
