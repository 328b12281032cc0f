package cli

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/kafka"
)

func TestJudgeBrokers(t *testing.T) {
	t.Parallel()
	const factor, isr = "transaction.state.log.replication.factor", "transaction.state.log.min.isr"
	for name, x := range map[string]struct {
		brokers  int
		settings map[string]string
		want     string // severities and the first words
	}{
		"good":                {3, map[string]string{factor: "3", isr: "2", "message.max.bytes": "1048588", "auto.create.topics.enable": "false"}, ""},
		"one broker, for dev": {1, map[string]string{factor: "1", isr: "1"}, ""},
		"defaults, alone":     {1, map[string]string{factor: "3", isr: "2"}, "error " + factor + "=3;error " + isr + "=2"},
		"no copies":           {3, map[string]string{factor: "1", isr: "1"}, "warning " + factor + "=1:"},
		"small, lax":          {3, map[string]string{"message.max.bytes": "1000", "auto.create.topics.enable": "true"}, "warning message.max.bytes=1000:;warning auto.create.topics.enable=true:"},
	} {
		var got []string
		for _, f := range judgeBrokers(kafka.Inspection{Brokers: x.brokers, Settings: x.settings}) {
			if f.Fix == "" {
				t.Errorf("%s: no fix for %s", name, f.Message)
			}
			got = append(got, f.Severity+" "+strings.Fields(f.Message)[0])
		}
		if text := strings.Join(got, ";"); text != x.want {
			t.Errorf("%s: %s, want %s", name, text, x.want)
		}
	}
}
