package shop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Schema is the shop's table. seq is unique to each change, so that changes can be told apart downstream.
const Schema = `CREATE TABLE orders (
  id bigint unsigned NOT NULL AUTO_INCREMENT,
  customer_id int NOT NULL,
  email varchar(120) NOT NULL,
  phone varchar(32) DEFAULT NULL,
  status enum('new','paid','shipped','cancelled','test') NOT NULL DEFAULT 'new',
  quantity int NOT NULL,
  unit_price decimal(10,2) NOT NULL,
  note varchar(200) DEFAULT NULL,
  created_at datetime(3) NOT NULL,
  updated_at timestamp(6) NOT NULL DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6),
  seq bigint unsigned NOT NULL,
  PRIMARY KEY (id),
  KEY customer (customer_id)
) DEFAULT CHARSET=utf8mb4`

// Op is what a change did.
type Op byte

// The ops of a Change.
const (
	Insert Op = 'I'
	Update Op = 'U'
	Delete Op = 'D'
)

// Change is one committed change of one row. Seq is the row's seq after it (for a delete: before it).
type Change struct {
	ID  uint64
	Op  Op
	Seq uint64
}

// Made is a change with the number it was given when it was made: larger than that of all changes committed before.
type Made struct {
	Change
	At uint64
}

// Shop makes changes and remembers them.
type Shop struct {
	// Committed, if set before Write, is called with the changes of each transaction right after its commit.
	Committed func(made []Made)
	// Outlive, if set before Write: the writers go on when the server was away, and look what became of what they were at.
	Outlive bool

	db  *sql.DB
	seq atomic.Uint64

	mu      sync.Mutex // guards: history, live
	history map[uint64][]Made
	live    []uint64
	changes int
}

// Create makes the table in db's database and fills it with rows orders.
func Create(ctx context.Context, db *sql.DB, rows int) (*Shop, error) {
	if _, err := db.ExecContext(ctx, Schema); err != nil {
		return nil, fmt.Errorf("create table orders: %w", err)
	}
	s := &Shop{db: db, history: map[uint64][]Made{}}
	rng := rand.New(rand.NewPCG(1, 2))
	for done := 0; done < rows; {
		n := min(1000, rows-done)
		var b strings.Builder
		b.WriteString("INSERT INTO orders (id,customer_id,email,phone,status,quantity,unit_price,note,created_at,seq) VALUES ")
		args := make([]any, 0, n*10)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("(?,?,?,?,?,?,?,?,?,?)")
			id := uint64(done + i + 1)
			seq := s.seq.Add(1)
			args = append(args, id)
			args = append(args, rowValues(rng)...)
			args = append(args, seq)
			s.history[id] = []Made{{Change{id, Insert, seq}, seq}}
			s.live = append(s.live, id)
		}
		if _, err := db.ExecContext(ctx, b.String(), args...); err != nil {
			return nil, fmt.Errorf("fill orders: %w", err)
		}
		done += n
	}
	return s, nil
}

var (
	statuses = []string{"new", "paid", "shipped", "cancelled", "test"}
	notes    = []any{nil, "gift", "straße 7, Köln", "请尽快发货", "🎁 wrap it", `quote " and \ backslash`, ""}
)

func rowValues(rng *rand.Rand) []any {
	var phone any
	if rng.IntN(4) > 0 {
		phone = fmt.Sprintf("+49 170 %07d", rng.IntN(1e7))
	}
	return []any{
		rng.IntN(5000), fmt.Sprintf("user%d@example.com", rng.IntN(1e6)), phone, statuses[rng.IntN(len(statuses))],
		1 + rng.IntN(9), fmt.Sprintf("%d.%02d", rng.IntN(900), rng.IntN(100)), notes[rng.IntN(len(notes))],
		time.Unix(1700000000+int64(rng.IntN(1e7)), int64(rng.IntN(1000))*1e6).UTC().Format("2006-01-02 15:04:05.000"),
	}
}

// Write makes about rate changes a second until ctx ends, on several connections. It returns the first error that is no
// end of ctx. Every change that was committed is in History; one whose outcome is not known
// ends the run with an error, unless Outlive is set.
func (s *Shop) Write(ctx context.Context, rate int) error {
	const writers = 4
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			errs <- s.writeSome(ctx, w, writers, time.Duration(writers)*time.Second/time.Duration(rate))
		}()
	}
	var first error
	for range writers {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// writeSome changes the rows whose id is worker modulo workers, so that the history of each row has one author.
func (s *Shop) writeSome(ctx context.Context, worker, workers int, every time.Duration) error {
	rng := rand.New(rand.NewPCG(uint64(worker), uint64(time.Now().UnixNano())))
	var mine []uint64
	s.mu.Lock()
	for _, id := range s.live {
		if id%uint64(workers) == uint64(worker) {
			mine = append(mine, id)
		}
	}
	s.mu.Unlock()
	next := time.Now()
	fresh := uint64(0)
	for ctx.Err() == nil {
		if wait := time.Until(next); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		// One transaction of one to four changes; the loop's pace is by change.
		n := 1 + rng.IntN(4)
		next = next.Add(time.Duration(n) * every)
		if behind := time.Since(next); behind > time.Second {
			next = time.Now()
		}
		made, err := s.transaction(rng, n, worker, workers, mine, &fresh)
		if err != nil && s.Outlive {
			made, err = s.outlive(made)
		} else if err == nil && s.Committed != nil {
			s.Committed(made)
		}
		if err != nil {
			return err
		}
		mine = s.remember(made, mine)
	}
	return nil
}

// transaction makes changes and commits them. With an error, made is what may have been committed: empty where nothing can have been.
func (s *Shop) transaction(rng *rand.Rand, n, worker, workers int, mine []uint64, fresh *uint64) (made []Made, err error) {
	// The transaction is not bound to the caller's ctx: it ends by itself, so that its outcome is known.
	tx, err := s.db.Begin()
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	touched := map[uint64]bool{}
	for range n {
		seq := s.seq.Add(1)
		kind := rng.IntN(10)
		if kind < 3 || len(mine) < 10 {
			*fresh++
			// New ids lie far above the seeded ones and keep the author's remainder.
			id := (1_000_000_000+*fresh)*uint64(workers) + uint64(worker)
			args := append(append([]any{id}, rowValues(rng)...), seq)
			if _, err := tx.Exec("INSERT INTO orders (id,customer_id,email,phone,status,quantity,unit_price,note,created_at,seq) VALUES (?,?,?,?,?,?,?,?,?,?)", args...); err != nil {
				return nil, fmt.Errorf("insert: %w", err)
			}
			touched[id] = true
			made = append(made, Made{Change{id, Insert, seq}, seq})
			continue
		}
		id := mine[rng.IntN(len(mine))]
		if touched[id] {
			continue
		}
		touched[id] = true
		if kind < 9 {
			if _, err := tx.Exec("UPDATE orders SET status=?, quantity=?, note=?, seq=? WHERE id=?", statuses[rng.IntN(len(statuses))], 1+rng.IntN(9), notes[rng.IntN(len(notes))], seq, id); err != nil {
				return nil, fmt.Errorf("update: %w", err)
			}
			made = append(made, Made{Change{id, Update, seq}, seq})
			continue
		}
		if _, err := tx.Exec("DELETE FROM orders WHERE id=?", id); err != nil {
			return nil, fmt.Errorf("delete: %w", err)
		}
		made = append(made, Made{Change{id, Delete, 0}, seq})
	}
	if err := tx.Commit(); err != nil {
		return made, fmt.Errorf("commit, outcome not known: %w", err)
	}
	return made, nil
}

// outlive finds out what became of a transaction that ended with an error, once the server answers again. It returns what was committed: all of made or nothing.
func (s *Shop) outlive(made []Made) ([]Made, error) {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if len(made) == 0 {
			return nil, nil
		}
		last := made[len(made)-1]
		var seq uint64
		// The row's only author is waiting here. FOR UPDATE waits for the transaction, should the server still be at work on it.
		err := s.db.QueryRow("SELECT seq FROM orders WHERE id=? FOR UPDATE", last.ID).Scan(&seq)
		gone := errors.Is(err, sql.ErrNoRows)
		switch {
		case err != nil && !gone && time.Since(began) > outliveLimit:
			return nil, fmt.Errorf("find out whether a change was committed: %w", err)
		case err != nil && !gone:
			continue
		case last.Op == Delete && gone, last.Op != Delete && !gone && seq == last.Seq:
			return made, nil
		default:
			return nil, nil
		}
	}
}

// outliveLimit is how long a server may be away.
const outliveLimit = 2 * time.Minute

// remember writes down what was committed, and returns the author's rows after it.
func (s *Shop) remember(made []Made, mine []uint64) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range made {
		h := s.history[c.ID]
		switch c.Op {
		case Delete:
			c.Seq = h[len(h)-1].Seq
			at := slices.Index(mine, c.ID)
			mine[at] = mine[len(mine)-1]
			mine = mine[:len(mine)-1]
		case Insert:
			mine = append(mine, c.ID)
		case Update:
		}
		s.history[c.ID] = append(h, c)
	}
	s.changes += len(made)
	return mine
}

// Seq returns the number of the newest change: those made from now on have larger ones.
func (s *Shop) Seq() uint64 { return s.seq.Load() }

// Changes returns how many changes Write has made.
func (s *Shop) Changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// History returns, for each id that ever was, its changes in order.
func (s *Shop) History() map[uint64][]Made {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[uint64][]Made, len(s.history))
	for id, h := range s.history {
		out[id] = append([]Made(nil), h...)
	}
	return out
}
