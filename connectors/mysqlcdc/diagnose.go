package mysqlcdc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
)

// shortestRetention is for how long a log should be kept: a weekend without anybody who looks.
const shortestRetention = 72 * time.Hour

// diagnose finds what the connector can live with until something else goes wrong.
func diagnose(ctx context.Context, config map[string]string) ([]connectors.Diagnosis, error) {
	s, problems := parseSettings("doctor", config)
	if err := configdef.AsError(problems); err != nil {
		return nil, err
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	info, _, err := s.inspect(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []connectors.Diagnosis
	add := func(fix, format string, args ...any) {
		out = append(out, connectors.Diagnosis{Message: fmt.Sprintf(format, args...), Fix: fix})
	}
	if !info.gtid {
		add("Set gtid_mode=ON and enforce_gtid_consistency=ON.", "The server has no GTIDs: after a failover the connector cannot go on at another server.")
	}
	if info.rowImage != "" {
		add("SET GLOBAL binlog_row_image='FULL'", "binlog_row_image=%s: events lack columns, which sinks refuse.", info.rowImage)
	}
	if !info.fullMetadata {
		add("SET GLOBAL binlog_row_metadata='FULL'", "binlog_row_metadata is not FULL: a column that is renamed while the connector is behind can get the wrong name.")
	}
	kept, err := c.retention(ctx)
	if err != nil {
		return nil, err
	}
	if kept > 0 && kept < shortestRetention {
		fix := fmt.Sprintf("SET GLOBAL binlog_expire_logs_seconds=%d", int(shortestRetention.Seconds()))
		add(fix, "The server keeps its binlog for %v: a connector that is down for longer needs a new snapshot.", kept)
	}
	tables, keyless, _, err := s.tables(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		add("Check database.include.list, table.include.list and the user's SELECT privilege: a table that it may not read is not seen.", "The config captures no table.")
	}
	var without []string
	for id := range keyless {
		without = append(without, id.String())
	}
	if slices.Sort(without); len(without) > 0 {
		add("Give them a primary key, or name columns that are unique in message.key.columns.", "Tables without primary key: %s. A sql sink refuses their rows.", strings.Join(without, ", "))
	}
	if !info.logsCascades {
		hidden, err := s.cascades(ctx, c)
		if err != nil {
			return nil, err
		}
		if len(hidden) > 0 {
			fix := "Delete and update the rows in the application or by triggers"
			if info.flavor == mysql.MySQLFlavor {
				fix += "; MySQL 9.6 and later log them"
			}
			add(fix+".", "Foreign keys change rows of these tables without a trace in the binlog: %s.", strings.Join(hidden, ", "))
		}
	}
	return out, nil
}

// retention is for how long the server keeps its binlog; 0: until it is told.
func (c *conn) retention(ctx context.Context) (time.Duration, error) {
	v, err := c.variables(ctx, "binlog_expire_logs_seconds", "expire_logs_days")
	if err != nil {
		return 0, err
	}
	if seconds := atoi(v["binlog_expire_logs_seconds"]); seconds > 0 {
		return time.Duration(seconds) * time.Second, nil
	}
	days, err := time.ParseDuration(cmp.Or(v["expire_logs_days"], "0") + "h")
	return days * 24, err
}
