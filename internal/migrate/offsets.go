package migrate

import (
	"fmt"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
)

// cutShort says what a Debezium connector had begun and can't go on with here.
func cutShort(offsets []api.Offset) []string {
	var out []string
	for _, o := range offsets {
		if o.Offset["snapshot"] != nil && o.Offset["snapshot_completed"] != true {
			out = append(out, "its snapshot is not finished: it begins anew here")
		}
		if o.Offset["incremental_snapshot_primary_key"] != nil {
			out = append(out, "an incremental snapshot is going on: it ends with the move; ask for it again with millrace connector snapshot")
		}
	}
	return out
}

// debezium is what Debezium reads of an offset. Others of our keys are lists and objects, which Kafka Connect refuses.
var debezium = []string{"server_id", "gtids", "file", "pos", "event", "row", "ts_sec", "snapshot_completed"}

// forDebezium makes offsets of ours those of Debezium's MySQL and MariaDB connectors.
func forDebezium(offsets []api.Offset) ([]api.Offset, error) {
	out := make([]api.Offset, 0, len(offsets))
	for _, o := range offsets {
		for key, what := range map[string]string{
			"snapshot_tables": "its first snapshot", "snapshot_through": "its first snapshot", "snapshot_requested": "a snapshot of tables that was asked for",
			"xa_prepared": "an XA transaction that is prepared and not decided",
		} {
			if o.Offset[key] != nil {
				return nil, fault.New(fault.Conflict, "%s is not finished, and Debezium can't go on with it (%s of its offset): wait for its end", what, key)
			}
		}
		if o.Offset["snapshot"] != nil {
			return nil, fault.New(fault.Conflict, "its first snapshot is not finished, and Debezium can't go on with it: wait for its end")
		}
		to := map[string]any{}
		for _, k := range debezium {
			if v, ok := o.Offset[k]; ok {
				to[k] = v
			}
		}
		if to["event"] == nil || to["event"] == 0.0 { // within a compressed transaction Debezium does not count; it begins it again
			delete(to, "event")
			delete(to, "row")
		}
		if to["file"] == nil || to["file"] == "" {
			return nil, fault.New(fault.Conflict, "its offset has no place in the log yet: %v", o.Offset)
		}
		out = append(out, api.Offset{Partition: o.Partition, Offset: to})
	}
	return out, nil
}

// replacing are the offsets to write so that those wanted are all there are.
func replacing(wanted, present []api.Offset) []api.Offset {
	out := append([]api.Offset{}, wanted...)
	named := map[string]bool{}
	for _, o := range wanted {
		named[fmt.Sprint(o.Partition)] = true
	}
	for _, o := range present {
		if !named[fmt.Sprint(o.Partition)] {
			out = append(out, api.Offset{Partition: o.Partition})
		}
	}
	return out
}
