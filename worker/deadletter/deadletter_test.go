package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/kafka"
)

// What may pass is tried again with growing waits until the time is over; what can't is not.
func TestRetry(t *testing.T) {
	t.Parallel()
	away := connectors.Retriable(errors.New("away"))
	for _, x := range []struct {
		name  string
		retry Retry
		err   error
		// at is when each call came.
		at []time.Duration
	}{
		{"not at all", Retry{For: 0, MaxDelay: time.Minute}, away, []time.Duration{0}},
		{"for good", Retry{For: time.Hour, MaxDelay: time.Minute}, errors.New("bad value"), []time.Duration{0}},
		{"a while", Retry{For: 3 * time.Second, MaxDelay: time.Minute}, away, []time.Duration{0, 300 * time.Millisecond, 900 * time.Millisecond, 2100 * time.Millisecond}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var at []time.Duration
				err := x.retry.Do(t.Context(), func() error { at = append(at, time.Since(began)); return x.err })
				if !errors.Is(err, x.err) || !cmp.Equal(at, x.at) {
					t.Errorf("%v, tried at %v, want %v", err, at, x.at)
				}
			})
		})
	}
}

// For ever means until it passes or the task ends, and the waits have a cap.
func TestRetryForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := Retry{For: -1, MaxDelay: 2 * time.Second}
		tries, last, longest := 0, time.Now(), time.Duration(0)
		err := r.Do(t.Context(), func() error {
			longest, last = max(longest, time.Since(last)), time.Now()
			if tries++; tries < 1000 {
				return connectors.Retriable(errors.New("away"))
			}
			return nil
		})
		if err != nil || longest > r.MaxDelay {
			t.Errorf("%v; the longest wait was %v", err, longest)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Do(ctx, func() error { return connectors.Retriable(errors.New("away")) }); err == nil {
			t.Error("no error at the end")
		}
	})
}

// I5: none fails the task and names the record; all makes a dead letter with Kafka Connect's headers, which replace those of an earlier failure.
func TestHandle(t *testing.T) {
	t.Parallel()
	m := kafka.Fetched{
		Topic: "orders", Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("v"), TimestampMS: 7,
		Headers: []kafka.Header{{Key: "mine", Value: []byte("x")}, {Key: Prefix + "topic", Value: []byte("older")}},
	}
	cause := fmt.Errorf("write to t: %w", &mysql.MySQLError{Number: 1264, Message: "Out of range"})
	p := Policy{Connector: "c", Class: "sql", Task: 1, Topic: "dead", Context: true, Logger: slog.New(slog.DiscardHandler)}
	if _, err := p.Handle(m, StagePut, cause); err == nil || err.Error() != "record orders-3@42: write to t: Error 1264: Out of range" {
		t.Errorf("none: %v", err)
	}
	p.TolerateAll = true
	dead, err := p.Handle(m, StagePut, cause)
	if err != nil || dead.Topic != "dead" || dead.Partition != -1 || string(dead.Key) != "k" || string(dead.Value) != "v" || dead.TimestampMS != 7 {
		t.Fatalf("all: %+v, %v", dead, err)
	}
	var got []string
	for _, h := range dead.Headers {
		got = append(got, h.Key+"="+string(h.Value))
	}
	want := []string{
		"mine=x", Prefix + "topic=orders", Prefix + "partition=3", Prefix + "offset=42", Prefix + "connector.name=c", Prefix + "task.id=1", Prefix + "stage=TASK_PUT",
		Prefix + "class.name=sql", Prefix + "exception.class.name=*mysql.MySQLError", Prefix + "exception.message=write to t: Error 1264: Out of range",
		Prefix + "exception.stacktrace=write to t: Error 1264: Out of range\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	p.Topic = ""
	if dead, err := p.Handle(m, StagePut, cause); dead != nil || err != nil {
		t.Errorf("without a queue: %v, %v", dead, err)
	}
}

// Only blames are blames: what comes with anything else fails the batch.
func TestBlamed(t *testing.T) {
	t.Parallel()
	at := func(n int) error { return &connectors.RecordError{Index: n, Err: errors.New("bad")} }
	for _, x := range []struct {
		err  error
		want []int
	}{
		{at(3), []int{3}},
		{fmt.Errorf("put: %w", at(3)), []int{3}},
		{errors.Join(at(5), at(2)), []int{2, 5}},
		{errors.Join(at(5), errors.New("server is away")), nil},
		{errors.New("server is away"), nil},
	} {
		var got []int
		for _, b := range connectors.Blamed(x.err) {
			got = append(got, b.Index)
		}
		if !cmp.Equal(got, x.want) {
			t.Errorf("%v: %v, want %v", x.err, got, x.want)
		}
	}
}
