package herder

import (
	"context"
	"errors"

	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/api"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Topics returns the topics that a connector's tasks have used since it was created or they were reset; none for a connector that is not
// there, as in Kafka Connect.
func (h *Herder) Topics(name string) map[string]api.Topics {
	t := api.Topics{Topics: []string{}}
	if c, err := h.connector(name); err == nil {
		t.Topics = append(t.Topics, c.Topics...)
	}
	return map[string]api.Topics{name: t}
}

// ResetTopics forgets them. That the connector is not there is no error, as in Kafka Connect.
func (h *Herder) ResetTopics(ctx context.Context, name string) error {
	r, err := h.c.Propose(ctx, &commandv1.Command{Kind: &commandv1.Command_ResetTopics{ResetTopics: &commandv1.ResetTopics{Connector: name}}})
	if errors.Is(r.Err, state.ErrConnectorNotFound) {
		return err
	}
	return errors.Join(err, r.Err)
}
