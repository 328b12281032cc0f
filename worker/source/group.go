package source

import (
	"context"

	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/kafka"
)

// Grouper is an Encoder that may write several records as one message.
type Grouper interface {
	// Groups reports whether it does.
	Groups() bool
	// Together says how many of the records, from the first on, make one message: 1 or more. Only change events are more than one.
	Together(records []record.Record) int
	// Values appends the value of such a message.
	Values(dst []byte, records []record.Record) ([]byte, error)
}

func grouper(e Encoder) Grouper {
	if g, ok := e.(Grouper); ok && g.Groups() {
		return g
	}
	return nil
}

// addGroups is add for records some of which share a message.
func (l *loop) addGroups(ctx context.Context, b *bundle, records []record.Record) error {
	for len(records) > 0 {
		n := l.group.Together(records)
		before := len(b.msgs)
		var err error
		if n == 1 {
			err = l.add(ctx, b, &records[0])
		} else {
			err = l.addGroup(ctx, b, records[:n])
		}
		if err != nil {
			return err
		}
		for i := before; i < len(b.msgs); i++ {
			if m := &b.msgs[i]; m.Key == nil && m.Partition == record.AnyPartition {
				m.Partition = 0 // I4: without a key, only one partition keeps the order
			}
		}
		records = records[n:]
	}
	return nil
}

// addGroup converts the rows of one event into a bundle's next message.
func (l *loop) addGroup(ctx context.Context, b *bundle, records []record.Record) error {
	r := &records[0]
	if err := l.topics.Ensure(ctx, r.Topic); err != nil {
		return err
	}
	value, _, err := l.write(b, func(dst []byte) ([]byte, bool, error) {
		out, err := l.group.Values(dst, records)
		return out, true, err
	})
	if err != nil { // a row of them is to blame: alone, each is taken or refused
		for i := range records {
			if err := l.add(ctx, b, &records[i]); err != nil {
				return err
			}
		}
		return nil
	}
	c := r.Value.(*record.ChangeEvent)
	b.newest = max(b.newest, c.Source.TimeMS)
	b.bytes += len(value)
	b.msgs = append(b.msgs, kafka.Message{
		Topic: r.Topic, Partition: r.Partition, TimestampMS: r.TimestampMS, Value: value, Headers: l.common.of(c.Table.Envelope, false),
	})
	return nil
}
