package mysqlcdc

import (
	"context"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
)

// keyless reads a table without a primary key. Its rows can't be told apart, so none can be left out for having changed:
// the stream drops the table's changes up to the place of the read, stands still there, and lets the rows through. A
// restart in the middle reads the table again (at least once).
func (n *snapshot) keyless(ctx context.Context, c *conn, r *reader) error {
	snap := n.s.snap
	for held := false; !held; {
		if err := n.s.do(ctx, func() {
			if held = !n.s.inTxn && !snap.hold && snap.holdAt == nil; held {
				snap.hold = true
				if !r.onDemand { // else its changes have been streamed all along
					snap.drop[r.id] = true
				}
			}
		}); err != nil {
			return err
		}
		if !held {
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	// From here the stream waits for us, and it must go on whatever happens.
	defer func() { _ = n.s.do(ctx, func() { snap.hold, snap.holdAt = false, nil }) }()
	at, err := n.open(ctx, c, r)
	if err != nil {
		return err
	}
	reached := make(chan struct{})
	if err := n.s.do(ctx, func() { snap.hold, snap.holdAt, snap.held = false, &at, reached }); err != nil {
		return err
	}
	select {
	case <-reached:
	case <-ctx.Done():
		return ctx.Err()
	}
	b := newBatch()
	emit := func(last bool) error {
		full := b
		b = newBatch()
		var err error
		if derr := n.s.do(ctx, func() {
			snap.rows.Add(int64(len(full.records)))
			snap.chunks++
			if last {
				snap.advance(r.id, tableProgress{Done: true})
			}
			p := n.s.position()
			err = n.s.send(ctx, full, &p, false)
		}); derr != nil {
			return derr
		}
		return err
	}
	if !r.onDemand {
		if err := n.addCreate(ctx, c, r, at, b); err != nil {
			return err
		}
	}
	src := readAt(at)
	src.Incremental = r.onDemand
	err = c.stream(ctx, r.sel+r.where(nil, nil), func(vals []mysql.FieldValue) error {
		if len(b.records) >= n.set.chunkRows || b.size >= chunkBytes {
			if err := emit(false); err != nil {
				return err
			}
		}
		return r.row(vals, b, &src)
	})
	if err != nil {
		return err
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		return err
	}
	return emit(true)
}

// open makes c see the table as it is at the returned place of the log: a lock keeps writers out for that moment.
func (n *snapshot) open(ctx context.Context, c *conn, r *reader) (logPos, error) {
	lock, err := n.set.dial(ctx)
	if err != nil {
		return logPos{}, err
	}
	defer lock.close()
	if err := lock.exec(ctx, "LOCK TABLES "+r.id.quoted()+" READ"); err != nil {
		return logPos{}, err
	}
	at, _, err := lock.logEnd(ctx)
	if err != nil {
		return logPos{}, err
	}
	if err := c.exec(ctx, "START TRANSACTION WITH CONSISTENT SNAPSHOT"); err != nil {
		return logPos{}, err
	}
	return at, lock.exec(ctx, "UNLOCK TABLES")
}
