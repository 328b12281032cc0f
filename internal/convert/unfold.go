package convert

import (
	"fmt"

	"github.com/millrace/millrace/connectors/record"
)

// Unfolder turns change events into the structs that Debezium's envelope is made of. It writes them as JSON and reads that by the schema, so
// that both are the same by construction; who is in a hurry writes change events as they are. It belongs to one goroutine.
type Unfolder struct {
	enc  *Encoder
	rows map[*record.Table]*unfolded
	buf  []byte
	ddl  map[string]*record.Schema // by connector
}

// unfolded are the schemas of a table's events.
type unfolded struct {
	topic         string
	envelope, key *record.Schema
}

// NewUnfolder makes one.
func NewUnfolder() *Unfolder {
	e := &Encoder{}
	e.s.key, e.s.value = Debezium, Debezium
	return &Unfolder{enc: e, rows: map[*record.Table]*unfolded{}, ddl: map[string]*record.Schema{}}
}

func (u *Unfolder) schemas(t *record.Table, topic string) (*unfolded, error) {
	s := u.rows[t]
	if s != nil && s.topic == topic {
		return s, nil
	}
	d := u.enc.dbzTable(t, topic)
	s = &unfolded{topic: topic, envelope: envelopeSchema(topic, connectorOf(t), d.columns), key: rowSchema(topic+".Key", d.key)}
	if err := settle(s.envelope); err != nil {
		return nil, err
	}
	if err := settle(s.key); err != nil {
		return nil, err
	}
	if len(u.rows) >= cacheMax {
		clear(u.rows)
	}
	u.rows[t] = s
	return s, nil
}

// settle reads the defaults that the schema of a table holds in writing.
func settle(s *record.Schema) error {
	if raw, ok := s.Default.(rawJSON); ok {
		var v any
		err := unmarshalNumbers(raw, &v)
		if err == nil {
			s.Default, err = readValue(s, v, false)
		}
		if err != nil {
			return fmt.Errorf("default %s: %w", raw, err)
		}
	}
	for _, f := range s.Fields {
		if err := settle(f.Schema); err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	return nil
}

func connectorOf(t *record.Table) string {
	if t.Envelope != nil {
		return t.Envelope.Connector
	}
	return noEnvelope.Connector
}

// Value returns the struct of a change event, nil for a null one.
func (u *Unfolder) Value(topic string, c *record.ChangeEvent) (any, error) {
	if c == nil {
		return nil, nil
	}
	var schema *record.Schema
	if c.Op == record.OpDDL {
		name := connectorOf(c.Table)
		if u.ddl[name] == nil {
			u.ddl[name] = schemaChangeSchema(name)
		}
		schema = u.ddl[name]
	} else {
		s, err := u.schemas(c.Table, topic)
		if err != nil {
			return nil, err
		}
		schema = s.envelope
	}
	b, err := u.enc.appendEnvelope(u.buf[:0], c, topic)
	if err != nil {
		return nil, err
	}
	u.buf = b
	return u.read(schema, b)
}

// Key returns the struct of a change event's key, nil for a null one.
func (u *Unfolder) Key(topic string, k *record.KeyRow) (any, error) {
	if k == nil || len(k.Table.RecordKey()) == 0 {
		return nil, nil
	}
	s, err := u.schemas(k.Table, topic)
	if err != nil {
		return nil, err
	}
	u.buf = u.enc.appendDbzKey(u.buf[:0], k, topic, false)
	return u.read(s.key, u.buf)
}

func (u *Unfolder) read(s *record.Schema, b []byte) (any, error) {
	var v any
	if err := unmarshalNumbers(b, &v); err != nil {
		return nil, fmt.Errorf("read the envelope that was written: %w", err)
	}
	return readValue(s, v, false)
}
