package mysqlcdc

import (
	"context"
	"fmt"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/google/uuid"

	"github.com/millrace/millrace/connectors/record"
)

func (s *stream) gtid(e *replication.BinlogEvent, ev *replication.GTIDEvent) error {
	if err := s.begin(e); err != nil {
		return err
	}
	if s.timeUS = int64(ev.OriginalCommitTimestamp); s.timeUS == 0 {
		s.timeUS = int64(ev.ImmediateCommitTimestamp)
	}
	if e.Header.EventType == replication.ANONYMOUS_GTID_EVENT {
		return nil
	}
	id, err := uuid.FromBytes(ev.SID)
	if err != nil {
		return fmt.Errorf("parse GTID at %s: %w", s.read, err)
	}
	tag := ev.Tag.String()
	if tag != "" {
		s.txnGTID = fmt.Sprintf("%s:%s:%d", id, tag, ev.GNO)
	} else {
		s.txnGTID = fmt.Sprintf("%s:%d", id, ev.GNO)
	}
	gno, t := ev.GNO, ev.Tag
	s.addGTID = func() { s.gtids.set.(*mysql.MysqlGTIDSet).AddGTIDWithTag(id, t, gno) }
	return nil
}

func (s *stream) query(ctx context.Context, e *replication.BinlogEvent, ev *replication.QueryEvent, move func()) error {
	q := classify(string(ev.Query))
	switch q.kind {
	case queryBegin, queryXAStart:
		if !s.inTxn {
			if err := s.begin(e); err != nil {
				return err
			}
		}
		s.explicit = true
		s.thread = ev.SlaveProxyID
		if s.xa = q.kind == queryXAStart; s.xa {
			s.xid, s.xaRows = q.xid, false
		} else {
			s.beginTxn()
		}
		move()
	case queryXACommit, queryXARollback:
		if !s.inTxn { // no GTID before it
			if err := s.begin(e); err != nil {
				return err
			}
		}
		if err := s.decided(ctx, q); err != nil {
			return err
		}
		move()
		s.commit()
	case queryCommit:
		move()
		s.commit()
	case queryRollback:
		if s.delivered {
			return fmt.Errorf("the transaction at %s was rolled back in the binlog after rows of it were delivered (it mixes transactional and other tables)", s.txnStart)
		}
		move()
		if !q.partial {
			s.commit()
		}
	case querySavepoint:
		if s.xa && q.xid != "" { // MariaDB has no XA START
			s.xid = q.xid
		}
		move()
	case queryDML:
		if s.set.filter.database(string(ev.Schema)) || len(ev.Schema) == 0 {
			return s.statement(q.verb)
		}
		move()
	default:
		own := !s.inTxn // no GTID before it
		if own {
			if err := s.begin(e); err != nil {
				return err
			}
		}
		changes, perr := s.schema.change(string(ev.Query), string(ev.Schema))
		if perr != nil {
			s.log.Debug("a statement can't be followed; tables are looked up anew", "statement", head(ev.Query), "err", perr)
		}
		s.noteChanges(changes, perr == nil)
		s.ownCount()
		// A DDL statement counts as one row event, so that a restart neither repeats nor forgets its record (I3).
		if s.count() {
			if err := s.ddl(e, ev, q, changes, perr == nil); err != nil {
				return err
			}
		}
		s.event++
		s.row = 0
		move()
		if !s.explicit {
			s.commit()
		}
	}
	return nil
}

// noteChanges makes chunks that are being read begin anew where a DDL statement has changed their table, and has tables read that come
// into the filter by a new name.
func (s *stream) noteChanges(changes []tableChange, known bool) {
	if !known {
		s.epoch++
		return
	}
	gone := map[tableID]bool{}
	for _, c := range changes {
		s.epochs[c.id]++
		if c.unlogged != "" && s.set.filter.table(c.id) {
			s.log.Warn("a statement has changed rows without logging them; consumers of the table's topic differ from it now", "table", c.id, "statement", c.unlogged)
			if c.gains {
				s.snap.ask(c.id, "")
			}
		}
		if c.old == (tableID{}) {
			continue
		}
		s.epochs[c.old]++
		gone[c.old] = true
		if s.set.filter.table(c.id) && !s.set.filter.table(c.old) && !gone[c.id] && s.set.readsNew() {
			s.log.Info("a table was renamed into what is captured; its rows are read", "table", c.id, "was", c.old)
			s.snap.ask(c.id, "")
		}
	}
}

// count reports whether the next row event of the transaction was not delivered before the restart.
func (s *stream) count() bool {
	return !s.skipping || s.skipTxn != "" && s.skipTxn != s.txnGTID || s.event >= s.skipEvent
}

func (s *stream) ddl(e *replication.BinlogEvent, ev *replication.QueryEvent, q query, parsed []tableChange, known bool) error {
	id := tableID{q.db, q.table}
	if id.db == "" {
		id.db = string(ev.Schema)
	}
	if !s.set.filter.database(id.db) || id.name != "" && !s.set.filter.table(id) {
		return nil
	}
	src := s.source(e, 0)
	if q.ddlType == "TRUNCATE" && id.name != "" && !s.set.skipTruncate {
		t := &record.Table{Database: id.db, Name: id.name, Envelope: s.schema.envelope}
		s.batch.add(s.set.shape.topic(s.set.prefix, id), t, record.OpTruncate, nil, nil, &src)
		s.delivered = true
	}
	if s.set.schemaChanges && q.ddlType != "" && (q.ddlType != "TRUNCATE" || !s.set.debezium) {
		changes, err := s.followed(parsed)
		if !known {
			changes, err = s.tableChanges(id, q)
		}
		if err != nil {
			return err
		}
		s.batch.addDDL(s.set.prefix, id, s.schema.envelope, string(ev.Query), q.ddlType, changes, &src)
		s.delivered = true
	}
	return nil
}
