package state

import (
	"slices"

	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

func (s *State) addTopics(p *commandv1.AddTopics) (*Connector, error) {
	old := s.connectors[p.Connector]
	switch {
	case old == nil:
		return nil, ErrConnectorNotFound
	case old.TopicsSince != p.Since:
		return old, ErrStaleTopics
	}
	c := *old
	c.Topics = slices.Concat(old.Topics, p.Topics)
	slices.Sort(c.Topics)
	c.Topics = slices.Compact(c.Topics)
	s.connectors[c.Name] = &c
	return &c, nil
}

func (s *State) resetTopics(index uint64, connector string) (*Connector, error) {
	old := s.connectors[connector]
	if old == nil {
		return nil, ErrConnectorNotFound
	}
	c := *old
	c.Topics, c.TopicsSince = nil, index
	s.connectors[c.Name] = &c
	return &c, nil
}
