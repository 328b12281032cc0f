// Package sqlsink loads change events into MySQL and MariaDB: upsert and delete by primary key, tables created from the source's columns,
// and the consumer offsets in the same transaction as the rows, so that each change counts exactly once.
//
// Within a batch only the last change of each key is written. A task belongs to one goroutine; its connections are closed with it.
package sqlsink

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
)

// The keys. Where the JDBC sinks have a key for it, it is theirs.
const (
	URL           = "connection.url"
	User          = "connection.user"
	Password      = "connection.password"
	TableFormat   = "table.name.format"
	InsertMode    = "insert.mode"
	AutoCreate    = "auto.create"
	AutoEvolve    = "auto.evolve"
	DeleteEnabled = "delete.enabled"
	BatchSize     = "batch.size"
	OffsetsTable  = "offsets.table"
)

// Spec is the class's own keys.
func Spec() *configdef.Spec {
	return configdef.New(
		configdef.Key{
			Name: URL, Type: configdef.String, Required: true, Check: checkURL, Importance: configdef.High, Group: "Connection", Width: configdef.WidthLong, Example: "mysql://loader:${env:LOADER_PASSWORD}@db:3306/warehouse",
			Doc: "Target database: mysql://user:password@host:port/database (mariadb:// and jdbc:mysql:// mean the same).",
		},
		configdef.Key{Name: User, Type: configdef.String, Default: "", Importance: configdef.High, Group: "Connection", Doc: "User, if it is not in connection.url."},
		configdef.Key{Name: Password, Type: configdef.Password, Default: "", Importance: configdef.High, Group: "Connection", Doc: "Password, if it is not in connection.url."},
		configdef.Key{
			Name: TableFormat, Type: configdef.String, Default: "${table}", Importance: configdef.Medium, Group: "Table", Example: "${database}_${table}",
			Doc: "Name of the target table. ${table}, ${database} and ${topic} are replaced by the record's.",
		},
		configdef.Key{Name: InsertMode, Type: configdef.String, Default: "upsert", OneOf: []string{"upsert"}, Importance: configdef.Medium, Group: "Table", Doc: "How rows are written: upsert writes each by its primary key, so that a repetition changes nothing."},
		configdef.Key{Name: AutoCreate, Type: configdef.Boolean, Default: "true", Importance: configdef.Medium, Group: "Table", Doc: "Whether a missing table is created from the source's columns and primary key."},
		configdef.Key{Name: AutoEvolve, Type: configdef.Boolean, Default: "false", Importance: configdef.Medium, Group: "Table", Doc: "Whether columns that the source has and the table lacks are added. Otherwise they fail the task."},
		configdef.Key{Name: DeleteEnabled, Type: configdef.Boolean, Default: "true", Importance: configdef.Medium, Group: "Table", Doc: "Whether deletes are carried out. Otherwise deleted rows stay."},
		configdef.Key{Name: BatchSize, Type: configdef.Int, Default: "500", HasMin: true, Min: 1, HasMax: true, Max: 5000, Importance: configdef.Low, Group: "Table", Doc: "Largest number of rows in one statement."},
		configdef.Key{Name: OffsetsTable, Type: configdef.String, Default: "millrace_offsets", Importance: configdef.Low, Group: "Table", Doc: "Table in the target database that holds the consumer offsets, written in the transaction that writes the rows. Created when it is missing."},
	)
}

func init() {
	connectors.Register(connectors.Plugin{
		Class: "sql", Aliases: []string{"io.confluent.connect.jdbc.JdbcSinkConnector", "io.debezium.connector.jdbc.JdbcSinkConnector"}, Kind: connectors.KindSink, Version: "1.0.0", Rows: true,
		Doc: "Loads change events into MySQL and MariaDB by primary key, exactly once; creates the tables.", Spec: Spec(),
		Validate: validate, NewSink: func() connectors.SinkTask { return &task{} },
	})
}

func checkURL(text string) error {
	if strings.Contains(text, "${") {
		return nil // a reference; looked at once it is resolved
	}
	_, err := dsn(text, "", "")
	return err
}

// dsn turns a URL into the driver's config.
func dsn(text, user, password string) (*mysql.Config, error) {
	u, err := url.Parse(strings.TrimPrefix(text, "jdbc:"))
	if err != nil || u.Host == "" {
		return nil, errors.New("it is not of the form mysql://user:password@host:port/database")
	}
	if u.Scheme != "mysql" && u.Scheme != "mariadb" {
		return nil, fmt.Errorf("unknown kind of database %q; mysql and mariadb are known", u.Scheme)
	}
	c := mysql.NewConfig()
	c.User, c.Passwd = user, password
	if u.User != nil {
		c.User = u.User.Username()
		if p, ok := u.User.Password(); ok {
			c.Passwd = p
		}
	}
	port := u.Port()
	if port == "" {
		port = "3306"
	}
	c.Net, c.Addr, c.DBName = "tcp", net.JoinHostPort(u.Hostname(), port), strings.Trim(u.Path, "/")
	if c.DBName == "" {
		return nil, errors.New("it names no database: mysql://user:password@host:port/database")
	}
	c.Timeout, c.ReadTimeout, c.WriteTimeout = 5*time.Second, time.Minute, time.Minute
	c.InterpolateParams, c.ClientFoundRows = true, true
	c.Collation = "utf8mb4_bin"
	c.Params = map[string]string{
		"time_zone": "'+00:00'",
		// Strict, so that a value that does not fit fails rather than be cut; but with zero dates and zero ids, which sources do hold.
		"sql_mode": "'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'",
	}
	c.Logger = silent{}
	return c, nil
}

// silent: the driver's own log lines say nothing that its errors do not.
type silent struct{}

func (silent) Print(...any) {}

func open(ctx context.Context, v configdef.Values) (*sql.DB, *mysql.Config, error) {
	c, err := dsn(v.String(URL), v.String(User), v.String(Password))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", URL, err)
	}
	conn, err := mysql.NewConnector(c)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", URL, err)
	}
	db := sql.OpenDB(conn)
	db.SetMaxOpenConns(2)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		return nil, c, explain(err, c)
	}
	return db, c, nil
}

// explain says what a connection error means, and whether it may pass.
func explain(err error, c *mysql.Config) error {
	var me *mysql.MySQLError
	if !errors.As(err, &me) {
		return connectors.Retriable(fmt.Errorf("the database at %s does not answer: %w", c.Addr, err))
	}
	switch me.Number {
	case 1045, 1698:
		return fmt.Errorf("the database at %s refuses the login of user %q: %w", c.Addr, c.User, err)
	case 1049:
		return fmt.Errorf("there is no database %q at %s: create it: %w", c.DBName, c.Addr, err)
	case 1044, 1142:
		return fmt.Errorf("user %q lacks privileges on database %q: GRANT ALL ON `%s`.* TO it: %w", c.User, c.DBName, c.DBName, err)
	case 1040, 1053, 1203, 1226:
		return connectors.Retriable(fmt.Errorf("the database at %s takes no connection now: %w", c.Addr, err))
	}
	return fmt.Errorf("the database at %s: %w", c.Addr, err)
}

// validate logs in.
func validate(ctx context.Context, config map[string]string) []configdef.Problem {
	v, problems := Spec().Parse(config)
	if len(problems) > 0 {
		return problems
	}
	db, c, err := open(ctx, v)
	if err == nil {
		_ = db.Close()
		return nil
	}
	shown := "[hidden]"
	if c != nil {
		shown = c.Addr + "/" + c.DBName
	}
	return []configdef.Problem{{Key: URL, Value: shown, Message: fmt.Sprintf("Invalid value %s for configuration %s: %v", shown, URL, err)}}
}
