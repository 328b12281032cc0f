package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace/millrace/internal/kafka"
)

// ReadEvent reads an order's change event from its message.
func ReadEvent(m kafka.Fetched) (Event, error) {
	var e Event
	var c struct {
		Type string               `json:"type"`
		Data []map[string]*string `json:"data"`
	}
	if err := json.Unmarshal(m.Value, &c); err != nil {
		return e, err
	}
	if len(c.Data) != 1 || c.Data[0]["id"] == nil || c.Data[0]["seq"] == nil {
		return e, errors.New("no order")
	}
	e.ID, _ = strconv.ParseUint(*c.Data[0]["id"], 10, 64)
	e.Seq, _ = strconv.ParseUint(*c.Data[0]["seq"], 10, 64)
	e.Op = Op(c.Type[0])
	for _, h := range m.Headers {
		e.Read = e.Read || h.Key == "snapshot"
	}
	return e, nil
}

// ReadTopic reads a topic of orders, committed records only, from its start to its end. It returns the events of each order, and how many messages
// there were.
func ReadTopic(ctx context.Context, brokers []string, topic string) (map[uint64][]Event, int, error) {
	c := kafka.Config{Brokers: brokers}
	a, err := kafka.NewAdmin(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	defer a.Close()
	out, n := map[uint64][]Event{}, 0
	err = kafka.ReadToEnd(ctx, c, a, topic, nil, func(m kafka.Fetched) error {
		n++
		e, err := ReadEvent(m)
		if err != nil {
			return fmt.Errorf("%s-%d@%d: %w", m.Topic, m.Partition, m.Offset, err)
		}
		out[e.ID] = append(out[e.ID], e)
		return nil
	})
	return out, n, err
}
