package smt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var timestampConverter = &class{
	name: "TimestampConverter", pkg: apache, halves: true, doc: "Turns times between text, Unix time and Kafka Connect's Date, Time and Timestamp.",
	spec: configdef.New(
		configdef.Key{Name: "field", Type: configdef.String, Default: "", Importance: configdef.High, Doc: "Name of the field; empty: the whole key or value."},
		configdef.Key{Name: "target.type", Type: configdef.String, Required: true, OneOf: []string{"string", "unix", "Date", "Time", "Timestamp"}, Importance: configdef.High, Doc: "What the time becomes. Without a schema, Date, Time and Timestamp are days and milliseconds."},
		configdef.Key{Name: "format", Type: configdef.String, Default: "", Check: checkDateFormat, Doc: "Format of text, as of Java's SimpleDateFormat, in UTC."},
		configdef.Key{Name: "unix.precision", Type: configdef.String, Default: "milliseconds", OneOf: []string{"nanoseconds", "microseconds", "milliseconds", "seconds"}, Importance: configdef.Low, Doc: "Unit of Unix times."},
		replaceNull,
	),
	build: func(b builder) (transform, []configdef.Problem) {
		f, _ := parseDateFormat(b.String("format")) // checked by the spec
		t := &convertTime{part: b.part, opts: b.opts, field: b.String("field"), target: b.String("target.type"), format: f, precision: b.String("unix.precision"), replace: b.Bool("replace.null.with.default"), cache: schemas{}}
		if t.target == "string" && len(f) == 0 {
			return nil, wrong("format", "", "TimestampConverter requires format option to be specified when using string timestamps")
		}
		return t, nil
	},
}

type convertTime struct {
	part                     part
	opts                     Options
	field, target, precision string
	format                   dateFormat
	replace                  bool
	cache                    schemas
}

func (t *convertTime) apply(r *record.Record) (bool, error) {
	v, err := t.part.get(&t.opts, r)
	if err != nil || v == nil {
		return true, err
	}
	s, x := split(v)
	if t.field == "" {
		out, err := t.convert(s, orDefault(s, x, t.replace))
		if err != nil {
			return false, err
		}
		if s != nil {
			s = t.cache.of(s, func() *record.Schema { return t.schema(s) })
		}
		t.part.set(r, join(s, out))
		return true, nil
	}
	o, err := objectOf(v, "formatting timestamp fields")
	if err != nil {
		return false, err
	}
	if o.st == nil {
		out := cloneMap(o.m)
		if out[t.field], err = t.convert(nil, out[t.field]); err != nil {
			return false, fmt.Errorf("field %s: %w", t.field, err)
		}
		t.part.set(r, out)
		return true, nil
	}
	at := s.Index(t.field)
	if at < 0 {
		return false, missingField(t.field)
	}
	out := &record.Struct{Values: slices.Clone(o.st.Values), Schema: t.cache.of(s, func() *record.Schema {
		fields := slices.Clone(s.Fields)
		fields[at].Schema = t.schema(fields[at].Schema)
		return withFields(s, fields)
	})}
	from := s.Fields[at].Schema
	if out.Values[at], err = t.convert(from, orDefault(from, out.Values[at], t.replace)); err != nil {
		return false, fmt.Errorf("field %s: %w", t.field, err)
	}
	t.part.set(r, out)
	return true, nil
}

func (t *convertTime) schema(from *record.Schema) *record.Schema {
	out := &record.Schema{Type: record.TypeInt64, Optional: from.Optional}
	switch t.target {
	case "string":
		out.Type = record.TypeString
	case "Date":
		out.Type, out.Name, out.Version = record.TypeInt32, record.LogicalDate, 1
	case "Time":
		out.Type, out.Name, out.Version = record.TypeInt32, record.LogicalTime, 1
	case "Timestamp":
		out.Name, out.Version = record.LogicalTimestamp, 1
	}
	return out
}

// convert turns a time into the target's form.
func (t *convertTime) convert(s *record.Schema, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	at, err := t.read(s, v)
	if err != nil {
		return nil, err
	}
	switch t.target {
	case "string":
		return t.format.format(at), nil
	case "Date":
		return floorDiv(at.Unix(), 86400), nil
	case "Time":
		ms := at.UnixMilli()
		return ms - floorDiv(ms, 86400_000)*86400_000, nil
	case "Timestamp":
		return at.UnixMilli(), nil
	}
	ms := at.UnixMilli() // as java.util.Date, which holds no more
	switch t.precision {
	case "seconds":
		return ms / 1000, nil
	case "microseconds":
		return ms * 1000, nil
	case "nanoseconds":
		return ms * 1000_000, nil
	}
	return ms, nil
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// read finds the time that v is.
func (t *convertTime) read(s *record.Schema, v any) (time.Time, error) {
	if text, ok := v.(string); ok {
		if len(t.format) == 0 {
			return time.Time{}, errors.New("TimestampConverter requires format option to be specified when using string timestamps")
		}
		at, err := t.format.parse(strings.TrimSpace(text))
		if err != nil {
			return at, fmt.Errorf("Could not parse timestamp: value (%s) does not match pattern: %w", text, err)
		}
		return at.UTC(), nil
	}
	n, _, _, ok := number(v)
	if !ok || s != nil && s.Type != record.TypeInt64 && s.Type != record.TypeInt32 {
		return time.Time{}, fmt.Errorf("TimestampConverter does not support %s objects as timestamps", nameOf(s, v))
	}
	if s != nil {
		switch s.Name {
		case record.LogicalDate:
			return time.Unix(n*86400, 0).UTC(), nil
		case record.LogicalTime, record.LogicalTimestamp:
			return time.UnixMilli(n).UTC(), nil
		}
	}
	switch t.precision {
	case "seconds":
		return time.Unix(n, 0).UTC(), nil
	case "microseconds":
		return time.UnixMicro(n).UTC(), nil
	case "nanoseconds":
		return time.Unix(0, n).UTC(), nil
	}
	return time.UnixMilli(n).UTC(), nil
}
