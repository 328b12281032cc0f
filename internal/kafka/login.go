package kafka

import (
	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Login is a SASL login.
type Login struct {
	// Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: PLAIN.
	Mechanism      string
	User, Password string
}

func (l Login) apply(s *sarama.Config) {
	if l.User == "" {
		return
	}
	s.Net.SASL.Enable = true
	s.Net.SASL.User, s.Net.SASL.Password = l.User, l.Password
	hash := scram.SHA256
	switch l.Mechanism {
	case sarama.SASLTypeSCRAMSHA512:
		hash = scram.SHA512
	case sarama.SASLTypeSCRAMSHA256:
	default:
		s.Net.SASL.Mechanism = sarama.SASLTypePlaintext
		return
	}
	s.Net.SASL.Mechanism = sarama.SASLMechanism(l.Mechanism)
	s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: hash} }
}

// scramClient is the dialogue of one login.
type scramClient struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

// Begin implements sarama.SCRAMClient.
func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.ClientConversation = client.NewConversation()
	return nil
}
