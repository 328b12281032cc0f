package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
)

// AuditOptions say what is compared.
type AuditOptions struct {
	Kafka kafka.Config
	// Admins, if set, are shared with others.
	Admins *kafka.Admins
	// Ledger is the topic of the entries.
	Ledger string
	// Connector, if set, restricts the audit to its entries; Topic to what they say of one topic.
	Connector, Topic string
	// BytesPerSecond bounds how fast topics are read; 0: no bound.
	BytesPerSecond int64
}

// Auditor compares topics with the ledger, in rounds: each goes on where the last one ended. Report may be called from any goroutine, Round from
// one.
type Auditor struct {
	o     AuditOptions
	next  map[kafka.TopicPartition]int64 // of the ledger
	parts map[kafka.TopicPartition]*partition
	tasks map[task][]*open
	round int
	// known are the ids of producers that other connectors' entries name; false: no entry does.
	known map[int64]bool
	pace  pace

	mu  sync.Mutex // guards: the rest
	sum api.Audit
}

type task struct {
	connector string
	task      int
}

// open is an entry that is not compared yet.
type open struct {
	task  task
	parts int // still to compare
	at    int64
	to    []Place
}

// partition is a topic partition with what the ledger says of it.
type partition struct {
	next    int64           // to read from
	covered bool            // a record of the ledger has been read
	lanes   map[int64]*lane // by the producer's id
	// What no entry knows, found in this round: from before the ledger, by producer, and the rest.
	old   map[int64]int64
	extra []*extra
}

// lane is what one producer has written to a partition, in order: a task's, as long as its transactional id lives.
type lane struct {
	number uint64 // of its first entry, and where that begins
	epoch  int16
	first  int32
	parts  []*expected
	at     int   // where in parts the last record was
	last   int64 // offset of the last record that was compared; -1: none
}

// expected is a part of an entry, with what was found of it.
type expected struct {
	Part
	epoch  int16
	entry  *open
	round  int   // from which on it is due
	need   int64 // before which offset its records were by then; -1: not known yet
	got    int64
	sum    Sum
	lo, hi int64 // offsets of what was found; -1: nothing
	// Where what is missing must have been: from after, to before; -1: not known.
	after, before int64
}

// extra is a run of records that no entry knows.
type extra struct {
	producer int64
	from, to int64
	records  int64
}

func newPartition() *partition { return &partition{lanes: map[int64]*lane{}, old: map[int64]int64{}} }

// maxDifferences bounds how many differences are listed; the rest is counted.
const maxDifferences = 100

// NewAuditor makes an auditor that has seen nothing.
func NewAuditor(o AuditOptions) *Auditor {
	if o.Admins == nil {
		o.Admins = &kafka.Admins{}
	}
	a := &Auditor{
		o: o, next: map[kafka.TopicPartition]int64{}, parts: map[kafka.TopicPartition]*partition{}, tasks: map[task][]*open{},
		known: map[int64]bool{}, pace: pace{perSecond: o.BytesPerSecond},
	}
	a.sum = api.Audit{Differences: []api.Difference{}, Verified: []api.Verified{}}
	return a
}

// Report returns what was found so far.
func (a *Auditor) Report() *api.Audit {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.sum
	out.Differences, out.Verified = slices.Clone(out.Differences), slices.Clone(out.Verified)
	out.Skipped = maps.Clone(out.Skipped)
	return &out
}

// Round compares what has been committed since the last one. It waits for transactions that are about to commit: their entry is sent last.
func (a *Auditor) Round(ctx context.Context) (err error) {
	admin, done, err := a.o.Admins.Get(ctx, a.o.Kafka)
	if err != nil {
		return err
	}
	defer func() { done(err) }()
	a.round++
	// What the ledger says at first is of records that are in the topics by now: where they are not, they are missing. That is known when the
	// topics are read so far, which can be later: a commit shows partition by partition. What the ledger says after the topics' ends
	// were asked for covers all that is before these ends: what nobody knows there is extra.
	if err := a.readLedger(ctx, admin, admin.CommittedEnds, a.round); err != nil {
		return err
	}
	t, err := a.targets(ctx, admin)
	if err != nil {
		return err
	}
	all := func(ctx context.Context, topic string) (map[kafka.TopicPartition]int64, error) {
		return admin.ListOffsets(ctx, topic, kafka.Latest)
	}
	if err := a.readLedger(ctx, admin, all, a.round+1); err != nil {
		return err
	}
	o := kafka.ConsumerOptions{Batches: true, MaxBytes: 1 << 20}
	if err := kafka.ReadRange(ctx, a.o.Kafka, o, t.from, t.end, func(m kafka.Fetched) error { return a.record(ctx, m) }); err != nil {
		return err
	}
	if err := a.resolve(ctx, admin); err != nil {
		return err
	}
	a.settle(t)
	return nil
}

// readLedger reads entries up to where the ledger ends, as ends says. Their records are due in a round.
func (a *Auditor) readLedger(ctx context.Context, admin *kafka.Admin, ends func(context.Context, string) (map[kafka.TopicPartition]int64, error), due int) error {
	first, err := admin.ListOffsets(ctx, a.o.Ledger, kafka.Earliest)
	if errors.Is(err, kafka.ErrUnknownTopic) {
		return fmt.Errorf("there is no ledger %s: it is made by the first connector with ledger=true", a.o.Ledger)
	}
	if err != nil {
		return fmt.Errorf("read the ledger %s: %w", a.o.Ledger, err)
	}
	end, err := ends(ctx, a.o.Ledger)
	if err != nil {
		return fmt.Errorf("read the ledger %s: %w", a.o.Ledger, err)
	}
	from := map[kafka.TopicPartition]int64{}
	for tp, at := range first {
		if a.o.Connector == "" || tp.Partition == partitionOf(a.o.Connector, int32(len(first))) {
			from[tp] = max(at, a.next[tp])
		}
	}
	err = kafka.ReadRange(ctx, a.o.Kafka, kafka.ConsumerOptions{}, from, end, func(m kafka.Fetched) error {
		e, err := parse(m)
		if err != nil {
			return err
		}
		a.next[kafka.TopicPartition{Topic: m.Topic, Partition: m.Partition}] = m.Offset + 1
		if a.o.Connector == "" || e.Connector == a.o.Connector {
			a.expect(e, due)
		} else {
			a.known[e.Producer] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for tp, at := range from {
		a.next[tp] = max(at, end[tp])
	}
	return nil
}

// expect takes an entry in.
func (a *Auditor) expect(e *Entry, due int) {
	x := &open{task: task{e.Connector, e.Task}, at: e.AtMS, to: e.To}
	for _, p := range e.Parts {
		if a.o.Topic != "" && p.Topic != a.o.Topic {
			continue
		}
		tp := kafka.TopicPartition{Topic: p.Topic, Partition: p.Partition}
		part := a.parts[tp]
		if part == nil {
			part = newPartition()
			a.parts[tp] = part
		}
		l := part.lanes[e.Producer]
		if l == nil {
			l = &lane{number: e.Number, epoch: e.ProducerEpoch, first: p.Sequence, last: -1}
			part.lanes[e.Producer] = l
		}
		l.parts = append(l.parts, &expected{Part: p, epoch: e.ProducerEpoch, entry: x, round: due, need: -1, lo: -1, hi: -1, after: -1, before: -1})
		x.parts++
	}
	if x.parts > 0 {
		a.tasks[x.task] = append(a.tasks[x.task], x)
		a.count(func(s *api.Audit) { s.Pending++ })
	}
}

func (a *Auditor) count(f func(*api.Audit)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.sum)
}

// targets is what a round reads.
type targets struct {
	// From where, to where, what the partition begins with, and what it ends with when open transactions count.
	from, end, start, high map[kafka.TopicPartition]int64
	// retention of each topic, in ms; -1: it does not go by time alone.
	retention map[string]int64
}

func (a *Auditor) targets(ctx context.Context, admin *kafka.Admin) (targets, error) {
	offsets := func() map[kafka.TopicPartition]int64 { return map[kafka.TopicPartition]int64{} }
	t := targets{offsets(), offsets(), offsets(), offsets(), map[string]int64{}}
	topics := map[string]bool{}
	for tp := range a.parts {
		topics[tp.Topic] = true
	}
	if a.o.Topic != "" {
		topics[a.o.Topic] = true
	}
	skipped := map[string]string{}
	for topic := range topics {
		why, err := a.target(ctx, admin, topic, t)
		if err != nil {
			return t, fmt.Errorf("audit topic %s: %w", topic, err)
		}
		if why == "" {
			continue
		}
		skipped[topic] = why
		for tp, p := range a.parts {
			if tp.Topic == topic {
				for _, l := range p.lanes {
					for _, x := range l.parts {
						a.done(x)
					}
				}
				delete(a.parts, tp)
			}
		}
	}
	a.count(func(s *api.Audit) { s.Skipped = skipped })
	return t, nil
}

// target adds a topic to a round, or says why it can't be compared.
func (a *Auditor) target(ctx context.Context, admin *kafka.Admin, topic string, t targets) (string, error) {
	if _, err := admin.Partitions(ctx, topic); errors.Is(err, kafka.ErrUnknownTopic) {
		return "there is no such topic (any more)", nil
	} else if err != nil {
		return "", err
	}
	set, err := admin.TopicSettings(ctx, topic)
	if err != nil {
		return "", err
	}
	if strings.Contains(set["cleanup.policy"], "compact") {
		return "it is compacted: Kafka takes records out by itself", nil
	}
	start, err := admin.ListOffsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return "", err
	}
	end, err := admin.CommittedEnds(ctx, topic)
	if err != nil {
		return "", err
	}
	high, err := admin.ListOffsets(ctx, topic, kafka.Latest)
	if err != nil {
		return "", err
	}
	ms, err := strconv.ParseInt(set["retention.ms"], 10, 64)
	if err != nil || set["retention.bytes"] != "" && set["retention.bytes"] != "-1" {
		ms = -1
	} else if ms < 0 {
		ms = 1 << 60
	}
	t.retention[topic] = ms
	for tp, at := range start {
		p := a.parts[tp]
		if p == nil {
			p = newPartition()
			a.parts[tp] = p
		}
		t.start[tp], t.end[tp], t.high[tp] = at, end[tp], high[tp]
		t.from[tp] = max(at, p.next)
	}
	return "", nil
}

// record takes in what was read from a topic.
func (a *Auditor) record(ctx context.Context, m kafka.Fetched) error {
	p := a.parts[kafka.TopicPartition{Topic: m.Topic, Partition: m.Partition}]
	p.next = m.Offset + 1
	l := p.lanes[m.Batch.Producer]
	if x := l.find(m.Batch.Epoch, m.Sequence()); x != nil {
		p.covered = true
		if x.got == 0 {
			x.after = l.last + 1
			l.pass(m.Offset)
		}
		x.got++
		x.sum += Sum(kafka.Hash(m.Key, m.Value))
		if x.lo < 0 {
			x.lo = m.Offset
		}
		x.hi, l.last = m.Offset, m.Offset
		if x.got == x.Count {
			a.whole(x)
			l.drop(x)
		}
	} else {
		a.stranger(p, l, m)
	}
	return a.pace.wait(ctx, len(m.Key)+len(m.Value))
}

// find returns the part that a sequence belongs to.
func (l *lane) find(epoch int16, seq int32) *expected {
	if l == nil || seq < 0 {
		return nil
	}
	for i := range l.parts {
		at := (l.at + i) % len(l.parts)
		x := l.parts[at]
		if x.epoch == epoch && int64((seq-x.Sequence)&0x7fffffff) < x.Count {
			l.at = at
			return x
		}
	}
	return nil
}

// pass notes, for the parts before the one that now begins, that they can't come any more.
func (l *lane) pass(offset int64) {
	for _, x := range l.parts[:l.at] {
		if x.after < 0 {
			x.after, x.before = l.last+1, offset
		}
	}
}

func (l *lane) drop(x *expected) {
	l.parts = slices.DeleteFunc(l.parts, func(y *expected) bool { return y == x })
	l.at = min(l.at, max(len(l.parts)-1, 0))
}

// whole compares a part of which all records are there.
func (a *Auditor) whole(x *expected) {
	if x.sum == x.Sum {
		a.count(func(s *api.Audit) { s.Records += x.Count })
	} else {
		a.differ(api.Difference{
			Kind: api.Changed, Topic: x.Topic, Partition: x.Partition, FromOffset: x.lo, ToOffset: x.hi, Records: x.Count,
			Detail: "as many records as the ledger says, with other keys or values",
		})
	}
	a.done(x)
}

// done closes a part, and moves the place up to which its task is compared.
func (a *Auditor) done(x *expected) {
	e := x.entry
	e.parts--
	if e.parts > 0 {
		return
	}
	a.count(func(s *api.Audit) { s.Pending, s.Batches = s.Pending-1, s.Batches+1 })
	list := a.tasks[e.task]
	n := 0
	for n < len(list) && list[n].parts == 0 {
		n++
	}
	if n > 0 {
		a.verified(list[n-1])
		a.tasks[e.task] = slices.Delete(list, 0, n)
	}
}

func (a *Auditor) verified(e *open) {
	position, _ := json.Marshal(e.to) // it was read from JSON
	v := api.Verified{Connector: e.task.connector, Task: int32(e.task.task), CommittedUnixMS: e.at, Position: position}
	a.count(func(s *api.Audit) {
		i := slices.IndexFunc(s.Verified, func(y api.Verified) bool { return y.Connector == v.Connector && y.Task == v.Task })
		if i >= 0 {
			s.Verified[i] = v
			return
		}
		s.Verified = append(s.Verified, v)
		slices.SortFunc(s.Verified, func(x, y api.Verified) int {
			return cmp.Or(cmp.Compare(x.Connector, y.Connector), cmp.Compare(x.Task, y.Task))
		})
	})
}

func (a *Auditor) differ(d api.Difference) {
	a.count(func(s *api.Audit) {
		switch d.Kind {
		case api.Missing:
			s.Missing += d.Records
		case api.Extra:
			s.Extra += d.Records
		case api.Changed:
			s.Changed += d.Records
		}
		if len(s.Differences) < maxDifferences {
			s.Differences = append(s.Differences, d)
		}
	})
}

// stranger takes in a record that no entry knows.
func (a *Auditor) stranger(p *partition, l *lane, m kafka.Fetched) {
	// Entries that are older than the ledger's retention are gone; what they were about is not to be told from what was written before
	// there was a ledger.
	id := m.Batch.Producer
	if !p.covered || l != nil && (m.Batch.Epoch < l.epoch || m.Batch.Epoch == l.epoch && l.number > 1 && (l.first-m.Sequence())&0x7fffffff < 1<<30) {
		p.old[id]++
		return
	}
	if n := len(p.extra); n > 0 {
		// A control record may lie between the records of one producer.
		if x := p.extra[n-1]; x.producer == id && m.Offset <= x.to+2 {
			x.to = m.Offset
			x.records++
			return
		}
	}
	p.extra = append(p.extra, &extra{producer: id, from: m.Offset, to: m.Offset, records: 1})
}

// resolve looks up, in the whole ledger, producers that this connector's part of it does not know.
func (a *Auditor) resolve(ctx context.Context, admin *kafka.Admin) error {
	unknown := false
	for _, p := range a.parts {
		ask := func(id int64) {
			_, asked := a.known[id]
			unknown = unknown || id >= 0 && !asked && p.lanes[id] == nil
		}
		for id := range p.old {
			ask(id)
		}
		for _, x := range p.extra {
			ask(x.producer)
		}
	}
	if unknown && a.o.Connector != "" {
		err := kafka.ReadToEnd(ctx, a.o.Kafka, admin, a.o.Ledger, nil, func(m kafka.Fetched) error {
			e, err := parse(m)
			if err == nil && e.Connector != a.o.Connector {
				a.known[e.Producer] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	// Another connector's own audit looks at what is its.
	others := func(id int64) bool {
		found := a.known[id]
		a.known[id] = found // it has been asked for
		return found
	}
	for tp, p := range a.parts {
		for id, n := range p.old {
			if !others(id) {
				a.count(func(s *api.Audit) { s.Uncovered += n })
			}
		}
		for _, x := range p.extra {
			if others(x.producer) {
				continue
			}
			by := fmt.Sprintf("written by producer %d, in no entry of the ledger", x.producer)
			if x.producer < 0 {
				by = "written by a producer without id, in no entry of the ledger"
			}
			a.differ(api.Difference{Kind: api.Extra, Topic: tp.Topic, Partition: tp.Partition, FromOffset: x.from, ToOffset: x.to, Records: x.records, Detail: by})
		}
		clear(p.old)
		p.extra = nil
	}
	return nil
}

// settle closes what is due in this round and was not found.
func (a *Auditor) settle(t targets) {
	for tp, p := range a.parts {
		if _, read := t.end[tp]; !read {
			continue
		}
		p.next = max(p.next, t.end[tp])
		for _, l := range p.lanes {
			for _, x := range slices.Clone(l.parts) {
				if x.round <= a.round && x.need < 0 {
					x.need = t.high[tp]
				}
				if x.need >= 0 && x.need <= t.end[tp] {
					a.lost(t, tp, l, x)
					l.drop(x)
				}
			}
		}
	}
	a.count(func(s *api.Audit) { s.AtUnixMS = time.Now().UnixMilli() })
}

// lost closes a part of which records are missing.
func (a *Auditor) lost(t targets, tp kafka.TopicPartition, l *lane, x *expected) {
	gone, start := x.Count-x.got, t.start[tp]
	if x.after < 0 {
		x.after, x.before = l.last+1, t.end[tp]
	}
	d := api.Difference{Kind: api.Missing, Topic: tp.Topic, Partition: tp.Partition, FromOffset: x.after, ToOffset: max(x.after, x.before-1), Records: gone}
	d.Detail = fmt.Sprintf("%d of %d records of the batch that was committed at %s", gone, x.Count, time.UnixMilli(x.entry.at).UTC().Format(time.RFC3339))
	if x.got > 0 {
		d.FromOffset, d.ToOffset = x.lo, x.hi
	}
	// The partition begins behind where they were, or in the middle of them: they have been deleted.
	if x.got == 0 && x.after < start || x.got > 0 && x.lo == start {
		keep := t.retention[tp.Topic]
		if keep < 0 || time.Now().UnixMilli()-x.OldestMS > keep {
			a.count(func(s *api.Audit) { s.Expired += gone })
			a.done(x)
			return
		}
		d.ToOffset = start - 1
		d.FromOffset = min(x.after, d.ToOffset)
		d.Detail += fmt.Sprintf("; the partition begins at offset %d, though their retention is not over", start)
	}
	a.differ(d)
	a.done(x)
}

// pace keeps reading to a rate.
type pace struct {
	perSecond int64
	bytes     int64
	since     time.Time
}

func (p *pace) wait(ctx context.Context, n int) error {
	if p.perSecond <= 0 {
		return nil
	}
	p.bytes += int64(n) + 64
	if p.bytes < p.perSecond/10 {
		return nil
	}
	took, budget := time.Since(p.since), time.Duration(float64(p.bytes)/float64(p.perSecond)*float64(time.Second))
	if took < budget {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(budget - took):
		}
	}
	p.bytes, p.since = 0, time.Now()
	return nil
}
