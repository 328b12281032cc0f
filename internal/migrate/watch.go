package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
)

// lookEvery is how often a run looks for new topics, at the shadow's state and whether it has caught up.
const lookEvery = time.Second

// read is what a side's reader has got: records, and where it is after them.
type read struct {
	side   int
	events []*event
	next   map[kafka.TopicPartition]int64
}

// watch reads both sides and compares, until a limit or the end of ctx. It returns what ended it.
func (s *shadow) watch(ctx context.Context) (reason string, err error) {
	// What ctx ends is the waiting: what both have written by then is still read and judged.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	g, run := errgroup.WithContext(run)
	in := [2]chan read{make(chan read), make(chan read)}
	for side := range in {
		g.Go(func() error { return s.follow(run, side, in[side]) })
	}
	g.Go(func() error {
		defer stop()
		reason, err = s.compareUntil(ctx, run, in)
		return err
	})
	if gerr := g.Wait(); gerr != nil && !errors.Is(gerr, context.Canceled) {
		return reason, gerr
	}
	return reason, err
}

// follow reads one side's topics.
func (s *shadow) follow(ctx context.Context, side int, out chan<- read) error {
	k, err := kafka.NewConsumer(ctx, s.Kafka, kafka.ConsumerOptions{})
	if err != nil {
		return err
	}
	defer k.Close()
	r := newReader([2]string{there: "", here: s.prefix}[side])
	var looked time.Time
	for {
		if time.Since(looked) > lookEvery {
			s.assign(ctx, side, k)
			looked = time.Now()
		}
		slice, cancel := context.WithTimeout(ctx, lookEvery)
		msgs, err := k.Poll(slice)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kafka.ErrUnavailable): // while brokers are away, the consumer waits between its tries
			return fmt.Errorf("read topics: %w", err)
		}
		got := read{side: side, next: map[kafka.TopicPartition]int64{}}
		for i := range msgs {
			got.events = append(got.events, r.read(&msgs[i]))
		}
		for tp, p := range k.Positions() {
			got.next[tp] = p.Next
		}
		select {
		case out <- got:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// assign has a side's reader read topics that are new, too. Either system may be away for a while.
func (s *shadow) assign(ctx context.Context, side int, k *kafka.Consumer) {
	topics, err := s.topics(ctx, side)
	if err != nil {
		return // it is asked again soon, and whoever waits for what it reads has a limit
	}
	from := map[kafka.TopicPartition]int64{}
	for tp, p := range k.Positions() {
		from[tp] = p.Next
	}
	known := len(from)
	for _, topic := range topics {
		if _, ok := from[kafka.TopicPartition{Topic: topic}]; ok {
			continue
		}
		first, err := s.firsts(ctx, side, topic)
		if err != nil {
			return
		}
		maps.Copy(from, first)
	}
	if len(from) > known {
		k.Assign(from)
	}
}

// progress is how far a run is. Owned by compareUntil.
type progress struct {
	next   [2]map[kafka.TopicPartition]int64
	first  map[kafka.TopicPartition]int64 // the old topics' ends when it began
	goal   *place                         // the furthest place before them; nil: not there yet
	stored place                          // the shadow's offset: it has written everything before it
	ends   [2]map[kafka.TopicPartition]int64
	cut    [2]place // what each side had written when the run's end was called
}

// compareUntil takes what both sides read. run is the readers' context, ctx the user's.
func (s *shadow) compareUntil(ctx, run context.Context, in [2]chan read) (string, error) {
	var p progress
	topics, err := s.topics(run, there)
	if err != nil {
		return "", err
	}
	if p.first, err = s.ends(run, topics); err != nil {
		return "", err
	}
	var limit <-chan time.Time
	if s.For > 0 {
		limit = time.After(s.For)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	done, reason := ctx.Done(), ""
	for {
		select {
		case <-done:
			reason = "interrupted"
		case <-limit:
			reason = fmt.Sprintf("after %v", s.For)
		case <-run.Done():
			return "", run.Err()
		case r := <-s.unless(there, in):
			p.take(s.pairing, r)
		case r := <-s.unless(here, in):
			p.take(s.pairing, r)
		case <-tick.C:
			if err := s.look(run, &p); err != nil {
				return "", err
			}
			if s.CaughtUp && p.caughtUp() {
				reason = "caught up with what was written before it began"
			}
		}
		if s.Records > 0 && s.pairing.out.Compared >= s.Records {
			reason = fmt.Sprintf("after %d records", s.Records)
		}
		if s.pairing.full(there) && s.pairing.full(here) {
			reason = "too many records of each side have no counterpart on the other"
		}
		if reason != "" {
			return reason, s.settle(run, &p, in)
		}
	}
}

// unless is a side's channel, or none while it has to wait for the other.
func (s *shadow) unless(side int, in [2]chan read) chan read {
	if s.pairing.full(side) {
		return nil
	}
	return in[side]
}

func (p *progress) take(pairing *pairing, r read) {
	for _, e := range r.events {
		pairing.add(r.side, e)
	}
	p.next[r.side] = r.next
	if r.side == there && p.goal == nil && reached(r.next, p.first) {
		at := pairing.furthest[there]
		p.goal = &at
	}
}

func reached(next, ends map[kafka.TopicPartition]int64) bool {
	for tp, end := range ends {
		if next[tp] < end {
			return false
		}
	}
	return true
}

// caughtUp says that the shadow has written everything that was there when the run began.
func (p *progress) caughtUp() bool {
	return p.goal != nil && (p.goal.file == "" || p.stored.reaches(*p.goal))
}

// look asks for the shadow's state and offset.
func (s *shadow) look(ctx context.Context, p *progress) error {
	st, err := s.Here.Status(ctx, s.own)
	if fault.KindOf(err) == fault.NotFound {
		return fault.New(fault.Conflict, "%s was deleted while it was compared", s.own)
	}
	if err != nil {
		return nil //nolint:nilerr // no leader for a moment: the next look will do
	}
	for _, t := range st.Tasks {
		if t.State == "FAILED" {
			cause, _, _ := strings.Cut(strings.TrimSpace(t.Trace), "\n")
			return fault.New(fault.Unavailable, "the shadow %s fails: %s", s.own, cause)
		}
	}
	if o, err := s.Here.Offsets(ctx, s.own); err == nil && len(o.Offsets) == 1 {
		at := o.Offsets[0].Offset
		p.stored = place{server: text(at["server_id"]), file: text(at["file"]), pos: number(at["pos"])}
	}
	return nil
}

// ends are where the committed records of topics end now.
func (s *shadow) ends(ctx context.Context, topics []string) (map[kafka.TopicPartition]int64, error) {
	out := map[kafka.TopicPartition]int64{}
	for _, t := range topics {
		ends, err := s.Admin.CommittedEnds(ctx, t)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, ends)
	}
	return out, nil
}

// settle reads what both have written by now, waits a while for what one side owes, and judges.
func (s *shadow) settle(ctx context.Context, p *progress, in [2]chan read) error {
	if err := s.look(ctx, p); err != nil {
		return err
	}
	for side := range p.ends {
		topics, err := s.topics(ctx, side)
		if err != nil { // Kafka Connect may be away: those that are read are what there is
			topics = topicsOf(p.next[side])
		}
		if p.ends[side], err = s.ends(ctx, topics); err != nil {
			return err
		}
	}
	limit := time.NewTimer(settleLimit)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			s.pairing.finish(p.cut)
			return nil
		case r := <-s.unless(there, in):
			p.take(s.pairing, r)
		case r := <-s.unless(here, in):
			p.take(s.pairing, r)
		}
		if p.cutOff(there, s.pairing) && p.cutOff(here, s.pairing) && !s.pairing.owes(p.cut) {
			s.pairing.finish(p.cut)
			return nil
		}
	}
}

func topicsOf(offsets map[kafka.TopicPartition]int64) []string {
	topics := map[string]bool{}
	for tp := range offsets {
		topics[tp.Topic] = true
	}
	return slices.Sorted(maps.Keys(topics))
}

// cutOff notes how far a side had come once all of that is read, and says if it is.
func (p *progress) cutOff(side int, pairing *pairing) bool {
	if p.cut[side].file == "" && reached(p.next[side], p.ends[side]) {
		p.cut[side] = pairing.furthest[side]
		if side == here && (p.cut[here].file == "" || p.stored.reaches(p.cut[here])) {
			p.cut[here] = p.stored
		}
	}
	return reached(p.next[side], p.ends[side])
}
