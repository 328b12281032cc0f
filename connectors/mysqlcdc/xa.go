package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-mysql-org/go-mysql/replication"
)

// The rows of an XA transaction are logged when it is prepared, which is before it is decided if it commits. So they are passed over, and
// the place where they begin is remembered, in the offset too; when the transaction commits they are read from there again.

// prepared ends the group of an XA transaction: it is prepared, or, with one phase, committed.
func (s *stream) prepared(ctx context.Context, e *replication.BinlogEvent) error {
	if !s.xa {
		return nil
	}
	body := e.RawData[min(len(e.RawData), headerSize):]
	if len(body) > 0 && body[0] != 0 { // one phase: this is the commit
		return s.replay(ctx, s.txnStart)
	}
	at := logPos{}
	if s.xaRows {
		at = s.txnStart
	}
	s.xas[s.xid] = at
	return nil
}

// decided ends an XA transaction.
func (s *stream) decided(ctx context.Context, q query) error {
	at, known := s.xas[q.xid]
	if q.kind == queryXACommit {
		switch {
		case !known && s.set.readsNew():
			s.log.Warn("an XA transaction has committed that was prepared before the connector began to read the log; all tables are read anew", "xid", q.xid)
			for id := range s.schema.tables {
				if s.set.filter.table(id) {
					s.snap.ask(id, "")
				}
			}
		case !known:
			return fmt.Errorf("XA transaction %s, which has committed at %s, was prepared before the connector began to read the log: its rows can't be read; "+
				"begin anew when no XA transaction is prepared (XA RECOVER), or with a %s that reads tables", q.xid, s.read, keySnapshotMode)
		case at.file != "":
			s.beginTxn()
			if err := s.replay(ctx, at); err != nil {
				return err
			}
		}
	}
	delete(s.xas, q.xid)
	return nil
}

// replay reads the row events of the XA transaction that begins at a place of the log, and emits them as if they stood here.
func (s *stream) replay(ctx context.Context, from logPos) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := s.startDump(ctx, from, nil, s.set.serverID^1<<31) // another replica than the stream beside it
	if err != nil {
		return err
	}
	defer d.close()
	maps, parser, unpack, read := s.maps, s.parser, s.unpack, s.read
	defer func() {
		s.unpack.close()
		s.maps, s.parser, s.unpack, s.read, s.xa = maps, parser, unpack, read, false
	}()
	s.maps, s.unpack, s.xa, s.read = map[uint64]*shape{}, payload{}, false, from
	s.log.Debug("an XA transaction has committed; its rows are read from the log again", slog.String("from", from.String()))
	over := false
	one := func(e *replication.BinlogEvent) error {
		over = over || e.Header.EventType == replication.XA_PREPARE_LOG_EVENT
		switch e.Event {
		case opaqueTableMap:
			return s.tableMap(e)
		case opaqueRows:
			return s.rows(ctx, e)
		}
		return nil
	}
	for {
		e, err := d.next()
		if err != nil {
			return fmt.Errorf("a prepared XA transaction at %s: %w", from, err)
		}
		switch e.Event.(type) {
		case *replication.FormatDescriptionEvent:
			err = s.format(e)
		case *replication.TransactionPayloadEvent: // it holds the end of the group too
			err = s.unpack.each(s.parser, e, one)
		case *replication.XIDEvent:
			return errors.New("the place where an XA transaction was prepared holds another one; the log has changed")
		default:
			err = one(e)
		}
		if err != nil || over {
			return err
		}
	}
}
