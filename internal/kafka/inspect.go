package kafka

import (
	"context"
	"strconv"

	"github.com/IBM/sarama"
)

// Inspection is what the brokers are and how one of them is configured.
type Inspection struct {
	Brokers  int
	Settings map[string]string // of one broker
}

// Inspect reads what millrace doctor judges.
func (a *Admin) Inspect(ctx context.Context) (Inspection, error) {
	return within(ctx, a, func() (Inspection, error) {
		brokers, _, err := a.admin.DescribeCluster()
		if err != nil {
			return Inspection{}, err
		}
		if len(brokers) == 0 {
			return Inspection{}, sarama.ErrOutOfBrokers
		}
		name := strconv.Itoa(int(brokers[0].ID()))
		results, err := a.admin.DescribeConfigs([]*sarama.ConfigResource{{Type: sarama.BrokerResource, Name: name}}, sarama.DescribeConfigsOptions{})
		if err != nil {
			return Inspection{}, err
		}
		in := Inspection{Brokers: len(brokers), Settings: map[string]string{}}
		for _, r := range results {
			if r.ErrorCode != sarama.ErrNoError {
				return Inspection{}, r.ErrorCode
			}
			for _, e := range r.Configs {
				in.Settings[e.Name] = e.Value
			}
		}
		return in, nil
	})
}
