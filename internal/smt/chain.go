package smt

import (
	"fmt"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

// transform changes a record in place; false drops it.
type transform interface {
	apply(r *record.Record) (bool, error)
}

// predicate decides if a transform has a part in a record.
type predicate interface {
	holds(r *record.Record) bool
}

// Unfolder turns change events and their keys into structs; internal/convert has it.
type Unfolder interface {
	Key(topic string, k *record.KeyRow) (any, error)
	Value(topic string, c *record.ChangeEvent) (any, error)
}

// Options of a Chain.
type Options struct {
	// Source is true for sources, whose records have no place in a topic yet.
	Source bool
	Unfold Unfolder
	// Fold makes a change event again of what is one; nil: values stay as they are.
	Fold func(r *record.Record) error
	// NamesSchemas: the converter writes schemas that are named for the topic, which a router must not rename.
	NamesSchemas bool
}

// Chain is a connector's transforms in order.
type Chain struct {
	steps []step
	opts  Options
}

type step struct {
	alias     string
	transform transform
	when      predicate // nil: always
	negate    bool
}

// New makes the chain of a config; nil where it has no transforms. Its problems are those of Check.
func New(given map[string]string, o Options) (*Chain, error) {
	steps, problems := parse(given, o)
	if len(problems) > 0 || len(steps) == 0 {
		return nil, configdef.AsError(problems)
	}
	return &Chain{steps: steps, opts: o}, nil
}

// Check returns what is wrong with the transforms and predicates of a config, each problem with its key.
func Check(given map[string]string, source bool) []configdef.Problem {
	_, problems := parse(given, Options{Source: source})
	return problems
}

// Apply runs the transforms on r, in place; false: it is dropped. After an error r is of no use.
func (c *Chain) Apply(r *record.Record) (bool, error) {
	topic := r.Topic
	for i := range c.steps {
		s := &c.steps[i]
		if s.when != nil && s.when.holds(r) == s.negate {
			continue
		}
		keep, err := s.transform.apply(r)
		if err != nil {
			return false, fmt.Errorf("transform %s: %w", s.alias, err)
		}
		if !keep {
			return false, nil
		}
	}
	if r.Topic != topic {
		if r.Origin == "" {
			r.Origin = topic
		}
		if c.opts.NamesSchemas {
			if err := c.unfold(r, topic); err != nil {
				return false, err
			}
		}
	}
	if c.opts.Fold != nil {
		return true, c.opts.Fold(r)
	}
	return true, nil
}

// unfold makes structs of the key and value, named for the topic that the record was made for.
func (c *Chain) unfold(r *record.Record, topic string) (err error) {
	o := &c.opts
	named := *r
	named.Topic = topic
	if r.Key, err = key.get(o, &named); err != nil {
		return err
	}
	r.Value, err = value.get(o, &named)
	return err
}

// part is the half of a record that a transform works on.
type part uint8

const (
	whole part = iota // the transform has no halves
	key
	value
)

// get returns the half, change events unfolded; the record keeps what it has.
func (p part) get(o *Options, r *record.Record) (any, error) {
	topic := r.Topic
	if r.Origin != "" && o.Source {
		topic = r.Origin // as Debezium's records do, schemas keep the name they were made with
	}
	if p == key {
		if k, ok := r.Key.(*record.KeyRow); ok {
			return o.Unfold.Key(topic, k)
		}
		return r.Key, nil
	}
	if c, ok := r.Value.(*record.ChangeEvent); ok {
		return o.Unfold.Value(topic, c)
	}
	return r.Value, nil
}

func (p part) set(r *record.Record, v any) {
	if p == key {
		r.Key = v
	} else {
		r.Value = v
	}
}
