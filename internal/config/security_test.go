package config

import (
	"strings"
	"testing"
)

// Half a configuration of TLS or of a login is refused with what is missing, not run without it.
func TestSecurityIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		given map[string]string
		want  []string // parts of the problems, one a line; none: accepted
	}{
		{"nothing", nil, nil},
		{"cluster", map[string]string{ClusterCert: "c", ClusterKey: "k", ClusterCA: "a"}, nil},
		{"cluster without authorities", map[string]string{ClusterCert: "c", ClusterKey: "k"}, []string{"Missing configuration cluster-tls-ca"}},
		{"cluster with nothing to show", map[string]string{ClusterCA: "a"}, []string{"Missing configuration cluster-tls-cert"}},
		{"certificate without key", map[string]string{RESTCert: "c"}, []string{"Missing configuration rest-tls-key: rest-tls-cert is set"}},
		{"key without certificate", map[string]string{RESTKey: "k"}, []string{"Missing configuration rest-tls-cert"}},
		{"whom to ask clients for", map[string]string{RESTCert: "c", RESTKey: "k", RESTClientAuth: "required"}, []string{"Missing configuration rest-tls-ca"}},
		{"client certificates without TLS", map[string]string{RESTCA: "a", RESTClientAuth: "required"}, []string{"Missing configuration rest-tls-cert"}},
		{"login", map[string]string{KafkaProtocol: "SASL_SSL", KafkaMechanism: "SCRAM-SHA-512", KafkaUser: "u", KafkaPassword: "p"}, nil},
		{"login as nobody", map[string]string{KafkaProtocol: "SASL_SSL"}, []string{"SASL_SSL needs kafka-sasl-username and kafka-sasl-password"}},
		{"user that nobody asks for", map[string]string{KafkaUser: "u"}, []string{"with kafka-security-protocol=PLAINTEXT nobody logs in"}},
		{"authorities that nobody asks for", map[string]string{KafkaProtocol: "SASL_PLAINTEXT", KafkaUser: "u", KafkaPassword: "p", KafkaCA: "a"}, []string{"nothing is encrypted"}},
		{"mechanism", map[string]string{KafkaMechanism: "GSSAPI"}, []string{"Invalid value GSSAPI for configuration kafka-sasl-mechanism"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadNode(c.given, nil, "")
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if len(lines) != len(c.want) {
				t.Fatalf("got %q, want %q", lines, c.want)
			}
			for i, w := range c.want {
				if !strings.Contains(lines[i], w) {
					t.Errorf("got %q, want %q", lines[i], w)
				}
			}
		})
	}
}
