package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/internal/kafka"
)

// result is one system's figures for one table in one round. Rates are rows a second, times milliseconds, sizes bytes.
type result struct {
	System       string  `json:"system"`
	Table        string  `json:"table"`
	Round        int     `json:"round"`
	Snapshot     float64 `json:"snapshot_rows_per_second,omitempty"`
	SnapshotPeak int64   `json:"snapshot_peak_rss_bytes,omitempty"`
	CatchUp      float64 `json:"catch_up_rows_per_second,omitempty"`
	CatchUpPeak  int64   `json:"catch_up_peak_rss_bytes,omitempty"`
	CPUPerRow    float64 `json:"cpu_microseconds_per_row,omitempty"`
	P50          float64 `json:"latency_p50_ms,omitempty"`
	P99          float64 `json:"latency_p99_ms,omitempty"`
}

// rates measures a snapshot and a catch-up on a fresh process.
func rates(ctx context.Context, e *env, start func(context.Context) (*system, error), sh shape, db *sql.DB, extra map[string]string) (r result, err error) {
	s, err := start(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	prefix := fmt.Sprintf("b%d", time.Now().UnixNano())
	topic := prefix + "." + sh.database() + "." + sh.name
	var have int
	if err := db.QueryRowContext(ctx, "select count(*) from "+sh.name).Scan(&have); err != nil {
		return r, err
	}
	if err := s.call(ctx, "POST", "/connectors", map[string]any{"name": prefix, "config": s.config(e, sh, prefix, extra)}, 201); err != nil {
		return r, err
	}
	if r.Snapshot, err = e.watch(ctx, topic, 0, int64(have)); err != nil {
		return r, fmt.Errorf("snapshot: %w", err)
	}
	if r.SnapshotPeak, _, err = s.usage(); err != nil {
		return r, err
	}
	if err := settle(ctx, e, topic, db, sh); err != nil {
		return r, err
	}
	if err := s.call(ctx, "PUT", "/connectors/"+prefix+"/stop", nil, 204); err != nil {
		return r, err
	}
	time.Sleep(2 * time.Second)
	if err := sh.fill(ctx, db, sh.rows); err != nil {
		return r, err
	}
	from, err := e.end(ctx, topic)
	if err != nil {
		return r, err
	}
	if err := s.call(ctx, "PUT", "/connectors/"+prefix+"/resume", nil, 202); err != nil {
		return r, err
	}
	if r.CatchUp, err = e.watch(ctx, topic, from, int64(sh.rows)); err != nil {
		return r, fmt.Errorf("catch-up: %w", err)
	}
	var cpu time.Duration
	if r.CatchUpPeak, cpu, err = s.usage(); err != nil {
		return r, err
	}
	r.CPUPerRow = float64(cpu.Microseconds()) / float64(have+sh.rows+1)
	if err := s.call(ctx, "DELETE", "/connectors/"+prefix, nil, 204); err != nil {
		return r, err
	}
	return r, e.exactly(ctx, topic, have+sh.rows+1)
}

// settle waits until a row that is written now has come out: the connector streams.
func settle(ctx context.Context, e *env, topic string, db *sql.DB, sh shape) error {
	from, err := e.end(ctx, topic)
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "insert into "+sh.name+" ("+sh.insert+") select "+sh.values+" from seq_1_to_1, (select @base := 0) b"); err != nil {
		return err
	}
	_, err = e.watch(ctx, topic, from, 1)
	return err
}

// end is the offset behind the last committed record of the topic; 0 where it is not there yet.
func (e *env) end(ctx context.Context, topic string) (int64, error) {
	a, err := kafka.NewAdmin(ctx, kafka.Config{Brokers: []string{e.brokers}, ClientID: "bench"})
	if err != nil {
		return 0, err
	}
	defer a.Close()
	return end(ctx, a, topic)
}

func end(ctx context.Context, a *kafka.Admin, topic string) (int64, error) {
	topics, err := a.Topics(ctx)
	if err != nil || !slices.Contains(topics, topic) {
		return 0, err
	}
	offsets, err := a.ListOffsets(ctx, topic, kafka.Latest)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, o := range offsets {
		sum += o
	}
	return sum, nil
}

// watch waits until the topic holds rows more than from and returns the rate over the last four fifths of them. Markers of transactions
// count as rows do: there is one for thousands.
func (e *env) watch(ctx context.Context, topic string, from, rows int64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	a, err := kafka.NewAdmin(ctx, kafka.Config{Brokers: []string{e.brokers}, ClientID: "bench"})
	if err != nil {
		return 0, err
	}
	defer a.Close()
	var began time.Time
	var at int64
	for {
		v, err := end(ctx, a, topic)
		if err != nil {
			return 0, err
		}
		v -= from
		if began.IsZero() && v >= rows/5 {
			began, at = time.Now(), v
		}
		if v >= rows {
			return float64(v-at) / max(time.Since(began).Seconds(), 1e-9), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("topic %s has %d of %d: %w", topic, v, rows, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// exactly checks that the topic holds each of the table's rows once.
func (e *env) exactly(ctx context.Context, topic string, rows int) error {
	c := kafka.Config{Brokers: []string{e.brokers}, ClientID: "bench"}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return err
	}
	defer a.Close()
	seen := make(map[string]bool, rows)
	twice := 0
	err = kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error {
		if seen[string(m.Key)] {
			twice++
		}
		seen[string(m.Key)] = true
		return nil
	})
	if err == nil && (len(seen) != rows || twice > 0) {
		err = fmt.Errorf("topic %s has %d rows of %d, and %d of them again", topic, len(seen), rows, twice)
	}
	return err
}

const stamp = "LAT:"

// latency measures from before an INSERT is sent until a consumer of committed records has it.
func latency(ctx context.Context, e *env, start func(context.Context) (*system, error), sh shape, db *sql.DB, extra map[string]string, rate, seconds int) (r result, err error) {
	s, err := start(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	prefix := fmt.Sprintf("l%d", time.Now().UnixNano())
	topic := prefix + "." + sh.database() + "." + sh.name
	config := s.config(e, sh, prefix, extra)
	config["snapshot.mode"] = "no_data"
	if err := s.call(ctx, "POST", "/connectors", map[string]any{"name": prefix, "config": config}, 201); err != nil {
		return r, err
	}
	// The topic comes with the first row; rows from before the connector's start do not count.
	for n := int64(0); n == 0; {
		if _, err := db.ExecContext(ctx, "insert into "+sh.name+" ("+sh.insert+") select "+sh.values+" from seq_1_to_1, (select @base := 0) b"); err != nil {
			return r, err
		}
		time.Sleep(200 * time.Millisecond)
		if n, err = e.end(ctx, topic); err != nil {
			return r, err
		}
	}
	time.Sleep(2 * time.Second)
	c, err := kafka.NewConsumer(ctx, kafka.Config{Brokers: []string{e.brokers}, ClientID: "bench"}, kafka.ConsumerOptions{MaxWait: 20 * time.Millisecond})
	if err != nil {
		return r, err
	}
	defer c.Close()
	from, err := e.end(ctx, topic)
	if err != nil {
		return r, err
	}
	c.Assign(map[kafka.TopicPartition]int64{{Topic: topic}: from})
	warm := rate * 3
	total := warm + rate*seconds
	read, stop := context.WithCancel(ctx)
	defer stop()
	var got []float64
	ended := make(chan error, 1)
	go func() { ended <- collect(read, c, total, &got) }()
	insert := "insert into " + sh.name + " (" + sh.insert + ") select " + stamped(sh) + " from seq_1_to_1, (select @base := 0) b"
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for range total {
		<-tick.C
		if _, err := db.ExecContext(ctx, insert, stamp+strconv.FormatInt(time.Now().UnixNano(), 10)); err != nil {
			return r, err
		}
	}
	select {
	case err = <-ended:
	case <-time.After(30 * time.Second):
		stop()
		err = errors.Join(errors.New("rows are missing 30 s after the last was written"), <-ended)
	}
	if err != nil {
		return r, err
	}
	got = got[warm:]
	slices.Sort(got)
	r.P50, r.P99 = got[len(got)/2], got[len(got)*99/100]
	return r, s.call(ctx, "DELETE", "/connectors/"+prefix, nil, 204)
}

// stamped is sh.values with a placeholder for the note.
func stamped(sh shape) string {
	i := bytes.Index([]byte(sh.values), []byte("concat('n"))
	depth, end := 0, len(sh.values)
	for j := i; j < len(sh.values); j++ {
		if sh.values[j] == '(' {
			depth++
		} else if sh.values[j] == ')' {
			if depth--; depth == 0 {
				end = j + 1
				break
			}
		}
	}
	return sh.values[:i] + "?" + sh.values[end:]
}

// collect reads until it has seen n stamps.
func collect(ctx context.Context, c *kafka.Consumer, n int, out *[]float64) error {
	for len(*out) < n {
		msgs, err := c.Poll(ctx)
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		for _, m := range msgs {
			i := bytes.Index(m.Value, []byte(stamp))
			if i < 0 {
				continue
			}
			v := m.Value[i+len(stamp):]
			sent, err := strconv.ParseInt(string(v[:19]), 10, 64)
			if err != nil {
				return err
			}
			*out = append(*out, float64(now-sent)/1e6)
		}
	}
	return nil
}
