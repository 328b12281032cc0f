// Package all is the set of connectors built into the binary: importing it registers them.
package all

import (
	_ "github.com/millrace/millrace/connectors/filesink" // files of JSON lines
	_ "github.com/millrace/millrace/connectors/mysqlcdc"
	_ "github.com/millrace/millrace/connectors/sqlsink"   // MySQL and MariaDB tables
	_ "github.com/millrace/millrace/connectors/transform" // functions between topics
)
