package mysqlcdc

import (
	"fmt"

	"github.com/millrace/millrace/connectors"
)

// checkOffset implements connectors.Plugin's CheckOffset: what a task could not go on from is not stored.
func checkOffset(config map[string]string, o connectors.Offset) error {
	if server, ok := o.Partition["server"].(string); !ok || server != config[keyPrefix] || len(o.Partition) != 1 {
		return fmt.Errorf(`it must be {"server":%q}, which is %s`, config[keyPrefix], keyPrefix)
	}
	if o.Position == nil {
		return nil
	}
	_, err := decodePosition(o.Position)
	return err
}
