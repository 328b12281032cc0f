package mysqlcdc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

var _ connectors.Signaler = (*source)(nil)

// Signal takes Debezium's signals: execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot, log.
func (t *source) Signal(ctx context.Context, kind, data string) error {
	var err error
	derr := t.stream.do(ctx, func() {
		if err = t.stream.signal(kind, data); err == nil && !t.stream.inTxn {
			err = t.stream.flush(ctx, true) // so that it outlives a restart
		}
	})
	if derr != nil {
		return derr
	}
	return err
}

// signalData is what signals have in common.
type signalData struct {
	Tables     []string `json:"data-collections"`
	Type       string   `json:"type"`
	Conditions []struct {
		Table  string `json:"data-collection"`
		Filter string `json:"filter"`
	} `json:"additional-conditions"`
	Condition string `json:"additional-condition"`
	Message   string `json:"message"`
}

// signal does what a signal says, or says why it can't. Runs on the stream's goroutine.
func (s *stream) signal(kind, data string) error {
	var d signalData
	if data != "" {
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			return fmt.Errorf("the signal's data is no JSON object with data-collections: %w", err)
		}
	}
	match, err := compileList(d.Tables)
	if err != nil {
		return fmt.Errorf("data-collections: %w", err)
	}
	switch kind {
	case "execute-snapshot":
		return s.execute(&d, match)
	case "stop-snapshot":
		s.snap.stop(func(name string) bool { return len(match) == 0 || matches(match, name) })
	case "pause-snapshot":
		s.snap.paused = true
	case "resume-snapshot":
		s.snap.paused = false
	case "log":
		s.log.Info("signal", "message", d.Message)
		return nil
	default:
		return fmt.Errorf("no such signal: %q; there are execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and log", kind)
	}
	s.log.Info("signal taken", "type", kind, "data", data)
	return nil
}

func (s *stream) execute(d *signalData, match []*regexp.Regexp) error {
	if len(match) == 0 {
		return errors.New(`execute-snapshot needs data-collections, such as {"data-collections": ["db.table"]}`)
	}
	switch strings.ToLower(d.Type) {
	case "", "incremental", "blocking": // streaming goes on in any case
	default:
		return fmt.Errorf("the snapshot type %q is not known; there are incremental and blocking, which are the same here", d.Type)
	}
	var found []tableID
	for id := range s.schema.tables { // all that is captured was loaded when the stream opened, and followed since
		if s.set.filter.table(id) && matches(match, id.String()) {
			found = append(found, id)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("no captured table matches %s", strings.Join(d.Tables, ", "))
	}
	slices.SortFunc(found, func(a, b tableID) int { return strings.Compare(a.String(), b.String()) })
	for _, id := range found {
		where := d.Condition
		for _, c := range d.Conditions {
			re, err := compileList([]string{c.Table})
			if err != nil {
				return fmt.Errorf("additional-conditions: %w", err)
			}
			if matches(re, id.String()) {
				where = c.Filter
			}
		}
		s.snap.ask(id, where)
	}
	s.log.Info("tables are read anew", "tables", found)
	return nil
}

// signalRow takes a row that was inserted into the signal table: id, type, data.
func (s *stream) signalRow(sh *shape, row record.Row) {
	if len(row) < 3 {
		s.log.Warn("the signal table needs three columns: id, type, data", "table", sh.id)
		return
	}
	if err := s.signal(string(row[1].B), string(row[2].B)); err != nil {
		s.log.Warn("a signal was not taken", "id", string(row[0].B), "type", string(row[1].B), "err", err)
	}
}
