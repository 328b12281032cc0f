package shop

import (
	"fmt"
	"slices"
)

// Event is one message of the topic about one order, as read by a read_committed consumer, in the partition's order.
type Event struct {
	Change
	// Read: the row came from the initial snapshot.
	Read bool
}

// Check compares what a topic holds with what was done. For each order, the changes in the topic must be the last ones of its
// history, each once and in order, and none made after from (see Shop.Seq: taken when the source surely streamed) may be
// missing; a row of the snapshot must be the row as it was at that place, at most once; and the topic must end with the
// row's last state. It returns at most ten findings.
func Check(history map[uint64][]Made, topic map[uint64][]Event, from uint64) []string {
	var bad []string
	say := func(format string, args ...any) {
		if len(bad) < 10 {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	for id := range topic {
		if _, ok := history[id]; !ok {
			say("order %d is in the topic but never was", id)
		}
	}
	ids := make([]uint64, 0, len(history))
	for id := range history {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if why := checkOne(history[id], topic[id], from); why != "" {
			say("order %d: %s\n  made %v\n  topic %v", id, why, history[id], topic[id])
		}
	}
	return bad
}

func checkOne(want []Made, events []Event, from uint64) string {
	streamed := 0
	for _, e := range events {
		if !e.Read {
			streamed++
		}
	}
	first := len(want) - streamed // index in want of the first streamed change
	if first < 0 {
		return "more changes in the topic than were made"
	}
	at, reads := first, 0 // at: number of changes of want that the topic has shown so far
	for _, e := range events {
		switch {
		case !e.Read && want[at].Change != e.Change:
			return fmt.Sprintf("change %v where %v was made", e.Change, want[at].Change)
		case !e.Read:
			at++
		case at == 0 || want[at-1].Op == Delete || want[at-1].Seq != e.Seq:
			return fmt.Sprintf("the snapshot shows seq %d, but at that place it was otherwise", e.Seq)
		default:
			reads++
		}
	}
	switch {
	case reads > 1:
		return "more than once in the snapshot"
	case first > 0 && want[first-1].At > from:
		return fmt.Sprintf("change %v is missing", want[first-1])
	case len(events) == 0 && want[len(want)-1].Op != Delete:
		return "missing altogether"
	}
	return ""
}
