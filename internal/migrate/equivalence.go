package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What a shadow run ends with.
const (
	Equal        = "equal"
	Different    = "different"
	Unproven     = "not proven"
	NotShadowed  = "not shadowed"
	sampleLength = 200
)

// Equivalence is what a shadow run found.
type Equivalence struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	// Reason says why it was not shadowed, or why the run ended.
	Reason string   `json:"reason,omitempty"`
	Topics []string `json:"topics"`
	// Prefix is what the private topics' names have before those of the old ones.
	Prefix string `json:"private_prefix,omitempty"`
	// From is the offset that both are compared from.
	From map[string]any `json:"from,omitempty"`
	// Compared records are there on both sides; Same of them have no difference that is not tolerated.
	Compared int64 `json:"compared"`
	Same     int64 `json:"same"`
	// Differences by class, the most frequent first.
	Differences []*DifferenceClass `json:"differences"`
	// Tolerated are differences that are meant to be.
	Tolerated   []*Tolerance  `json:"tolerated"`
	NotCompared []NotCompared `json:"not_compared"`
	// Repeated records came from Kafka Connect more than once, as after a restart of it.
	Repeated int64 `json:"repeated_there"`
	// Undecided records are at the end of one side, where the other had not come yet.
	Undecided int64 `json:"undecided"`
}

// DifferenceClass is one way in which records differ: in which topic and where in the record.
type DifferenceClass struct {
	Topic   string `json:"topic"`
	Path    string `json:"path"`
	What    string `json:"what"`
	Records int64  `json:"records"`
	Sample  Sample `json:"sample"`
}

// Sample is the first difference of a class.
type Sample struct {
	Place string `json:"place"`
	Key   string `json:"key"`
	There string `json:"there,omitempty"`
	Here  string `json:"here,omitempty"`
}

// NotCompared are records of a kind that can't be compared.
type NotCompared struct {
	What    string `json:"what"`
	Why     string `json:"why"`
	Records int64  `json:"records"`
}

// The two sides.
const (
	there = iota
	here
)

// The bounds of what waits for its counterpart (I8): a side beyond them is not read on while the other is below.
const (
	maxWaiting      = 20_000
	maxWaitingBytes = 64 << 20
	// remembered is how many pairs are known again at least, when one of their records comes another time.
	remembered = 500_000
)

// pairing pairs the records of both sides by their place in the log, and compares each pair. Owned by Shadow's loop.
type pairing struct {
	from     start
	waiting  [2]map[string]*event
	bytes    [2]int
	furthest [2]place
	order    map[string]place       // of the last record here, by topic and partition
	paired   [2]map[string]struct{} // ids of pairs: newer ones, older ones
	classes  map[string]*DifferenceClass
	skipped  map[kind]int64
	topics   map[string]bool
	out      *Equivalence
}

func newPairing(from start, out *Equivalence) *pairing {
	out.Tolerated = tolerances()
	return &pairing{
		from: from, waiting: [2]map[string]*event{{}, {}}, order: map[string]place{}, paired: [2]map[string]struct{}{{}, {}},
		classes: map[string]*DifferenceClass{}, skipped: map[kind]int64{}, topics: map[string]bool{}, out: out,
	}
}

// full says that a side has to wait for the other.
func (p *pairing) full(side int) bool {
	return len(p.waiting[side]) >= maxWaiting || p.bytes[side] >= maxWaitingBytes
}

// add takes a record of a side.
func (p *pairing) add(side int, e *event) {
	if e.at.file != "" && p.from.before(e.at) {
		return
	}
	if e.kind >= snapshotRow {
		if e.kind != placeless || e.value != nil || p.topics[e.topic] { // a tombstone before any other record is from before the start
			p.skipped[e.kind]++
		}
		return
	}
	p.topics[e.topic] = true
	if side == here {
		p.ordered(e)
	}
	if _, ok := p.furthest[side].compare(e.at); !ok || !p.furthest[side].reaches(e.at) {
		p.furthest[side] = e.at
	}
	id := e.id()
	if other := p.waiting[1-side][id]; other != nil {
		p.drop(1-side, id)
		pair := [2]*event{}
		pair[side], pair[1-side] = e, other
		p.pair(pair[there], pair[here])
		return
	}
	if p.waiting[side][id] != nil || p.isPaired(id) {
		p.repeated(side, e)
		return
	}
	p.waiting[side][id] = e
	p.bytes[side] += e.bytes
}

func (p *pairing) drop(side int, id string) {
	p.bytes[side] -= p.waiting[side][id].bytes
	delete(p.waiting[side], id)
}

// ordered checks that a partition here never goes back in the log, so neither does a key.
func (p *pairing) ordered(e *event) {
	at := fmt.Sprintf("%s\x00%d", e.topic, e.partition)
	if last := p.order[at]; last.file != "" {
		if c, ok := e.at.compare(last); ok && c < 0 {
			p.differ(e, difference{"record", "out of order here", nil, "comes after " + last.String()})
		}
	}
	p.order[at] = e.at
}

func (p *pairing) repeated(side int, e *event) {
	if side == here {
		p.differ(e, difference{"record", "more than once here", nil, e.value})
		return
	}
	p.out.Repeated++
}

func (p *pairing) isPaired(id string) bool {
	_, newer := p.paired[0][id]
	_, older := p.paired[1][id]
	return newer || older
}

// pair compares two records of one change.
func (p *pairing) pair(t, h *event) {
	if len(p.paired[0]) >= remembered {
		p.paired = [2]map[string]struct{}{{}, p.paired[0]}
	}
	p.paired[0][t.id()] = struct{}{}
	p.out.Compared++
	list := compare(nil, "key", t.key, h.key)
	list = compare(list, "value", t.value, h.value)
	list = compare(list, "headers", any(t.headers), any(h.headers))
	same, cut := true, p.from.within != "" && transactionOf(t.value) == p.from.within
	for _, d := range list {
		if !p.tolerated(d, cut) {
			same = false
			p.differ(t, d)
		}
	}
	if same {
		p.out.Same++
	}
}

// transactionOf is the id of a record's transaction; empty: it does not tell.
func transactionOf(value any) string {
	m, _ := value.(map[string]any)
	if inner, ok := m["payload"].(map[string]any); ok {
		m = inner
	}
	txn, _ := m["transaction"].(map[string]any)
	return text(txn["id"])
}

func (p *pairing) tolerated(d difference, cut bool) bool {
	for _, t := range p.out.Tolerated {
		if (cut || !t.cut) && (d.what == "another value" || t.alone) && t.match.MatchString(d.path) {
			t.Records++
			return true
		}
	}
	return false
}

// differ counts a difference in its class.
func (p *pairing) differ(e *event, d difference) {
	id := e.topic + "\x00" + d.path + "\x00" + d.what
	c := p.classes[id]
	if c == nil {
		c = &DifferenceClass{Topic: e.topic, Path: d.path, What: d.what, Sample: Sample{Place: e.at.String(), Key: short(e.key), There: short(d.there), Here: short(d.here)}}
		p.classes[id] = c
	}
	c.Records++
}

func short(v any) string {
	if v == nil {
		return ""
	}
	b, _ := json.Marshal(v)
	if s := string(b); len(s) > sampleLength {
		return strings.ToValidUTF8(s[:sampleLength], "") + "…"
	}
	return string(b)
}

// owes says that one side waits for records that the other has passed already.
func (p *pairing) owes(passed [2]place) bool {
	for side := range p.waiting {
		for _, e := range p.waiting[side] {
			if passed[1-side].reaches(e.at) {
				return true
			}
		}
	}
	return false
}

// finish judges what still waits, given the places up to which each side has written everything.
func (p *pairing) finish(passed [2]place) {
	type spot struct {
		topic string
		at    place
	}
	bySpot := map[spot][]*event{} // of here
	for _, e := range p.waiting[here] {
		at := spot{e.topic, e.at}
		bySpot[at] = append(bySpot[at], e)
	}
	for id, t := range p.waiting[there] {
		// Of another kind, but of the same row: a delete that the other writes as something else.
		if list := bySpot[spot{t.topic, t.at}]; len(list) > 0 {
			h := list[0]
			bySpot[spot{t.topic, t.at}] = list[1:]
			p.drop(there, id)
			p.drop(here, h.id())
			p.pair(t, h)
		}
	}
	for side, missing := range []string{there: "missing here", here: "missing there"} {
		for _, e := range p.waiting[side] {
			switch {
			case !passed[1-side].reaches(e.at):
				p.out.Undecided++
			case side == there:
				p.differ(e, difference{"record", missing, e.value, nil})
			default:
				p.differ(e, difference{"record", missing, nil, e.value})
			}
		}
	}
	p.report()
}

func (p *pairing) report() {
	o := p.out
	o.Topics = slices.Sorted(maps.Keys(p.topics))
	o.Differences = slices.SortedFunc(maps.Values(p.classes), func(a, b *DifferenceClass) int {
		return cmp.Or(cmp.Compare(b.Records, a.Records), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Path, b.Path), cmp.Compare(a.What, b.What))
	})
	o.NotCompared = []NotCompared{}
	for _, k := range slices.Sorted(maps.Keys(p.skipped)) {
		o.NotCompared = append(o.NotCompared, NotCompared{What: uncompared[k][0], Why: uncompared[k][1], Records: p.skipped[k]})
	}
	switch {
	case len(o.Differences) > 0:
		o.Verdict = Different
	case o.Compared == 0 || p.skipped[placeless] > 0:
		o.Verdict = Unproven
	default:
		o.Verdict = Equal
	}
}
