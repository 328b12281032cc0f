package config

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/connectors/configdef"
)

// Settings of a node that secure its connections. Those to the brokers have Kafka's own names, those of files librdkafka's.
const (
	ClusterCert = "cluster-tls-cert"
	ClusterKey  = "cluster-tls-key"
	ClusterCA   = "cluster-tls-ca"

	RESTCert       = "rest-tls-cert"
	RESTKey        = "rest-tls-key"
	RESTCA         = "rest-tls-ca"
	RESTClientAuth = "rest-tls-client-auth"
	RESTLogins     = "rest-logins"
	AllowOrigin    = "access-control-allow-origin"
	AllowMethods   = "access-control-allow-methods"

	KafkaProtocol  = "kafka-security-protocol"
	KafkaMechanism = "kafka-sasl-mechanism"
	KafkaUser      = "kafka-sasl-username"
	KafkaPassword  = "kafka-sasl-password"
	KafkaCA        = "kafka-ssl-ca-location"
	KafkaCert      = "kafka-ssl-certificate-location"
	KafkaKey       = "kafka-ssl-key-location"
)

// KafkaClient declares how to talk to brokers that ask for TLS or a login, for nodes and for commands that read topics.
func KafkaClient() *configdef.Spec { return configdef.New(withEnv(kafkaKeys())...).Cross(kafkaChecks) }

func kafkaKeys() []configdef.Key {
	file := func(name, doc, example string) configdef.Key {
		return configdef.Key{Name: name, Type: configdef.String, Group: "Kafka", Doc: doc, Example: example}
	}
	return []configdef.Key{
		{Name: KafkaProtocol, Type: configdef.String, Default: "PLAINTEXT", OneOf: []string{"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}, Group: "Kafka", Doc: "How to talk to the brokers (Kafka's security.protocol): SSL encrypts, SASL logs in."},
		{Name: KafkaMechanism, Type: configdef.String, Default: "PLAIN", OneOf: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, Group: "Kafka", Doc: "How to log in (Kafka's sasl.mechanism)."},
		{Name: KafkaUser, Type: configdef.String, Group: "Kafka", Doc: "User for SASL at the brokers."},
		{Name: KafkaPassword, Type: configdef.Password, Group: "Kafka", Doc: "Password for SASL at the brokers; better given by environment than by flag."},
		file(KafkaCA, "PEM file with the certificate authorities of the brokers. Empty: the system's. A changed file is read anew.", "/etc/millrace/kafka-ca.pem"),
		file(KafkaCert, "PEM file with the certificate that is shown to the brokers. Empty: none.", "/etc/millrace/kafka.crt"),
		file(KafkaKey, "PEM file with the key of that certificate, not encrypted.", "/etc/millrace/kafka.key"),
	}
}

func tlsKeys() []configdef.Key {
	file := func(name, doc, example string) configdef.Key {
		return configdef.Key{Name: name, Type: configdef.String, Group: "TLS", Doc: doc, Example: example}
	}
	return []configdef.Key{
		file(ClusterCert, "PEM file with this node's certificate for the other nodes, followed by intermediates if there are any. With it, cluster-tls-key and cluster-tls-ca all traffic between nodes is encrypted, and both sides check each other: all nodes or none. A coordinator's must be valid for the host in its cluster address; a worker only connects. Changed files are read anew.", "/etc/millrace/node.crt"),
		file(ClusterKey, "PEM file with the key of that certificate, not encrypted.", "/etc/millrace/node.key"),
		file(ClusterCA, "PEM file with the certificate authorities that nodes' certificates come from. Whoever has a certificate of them can be a node: take one of their own for it.", "/etc/millrace/ca.pem"),
		file(RESTCert, "PEM file with the certificate for REST. With it and rest-tls-key, REST answers https only: all nodes or none, since they pass requests on to each other. It must be valid for the host in the node's REST address. Changed files are read anew.", "/etc/millrace/rest.crt"),
		file(RESTKey, "PEM file with the key of that certificate, not encrypted.", "/etc/millrace/rest.key"),
		file(RESTCA, "PEM file with the certificate authorities of REST's certificates: those of clients (rest-tls-client-auth) and of the other nodes. Empty: the system's.", "/etc/millrace/rest-ca.pem"),
		{Name: RESTClientAuth, Type: configdef.String, Default: "none", OneOf: []string{"none", "requested", "required"}, Group: "TLS", Doc: "Whether clients of REST must show a certificate (Kafka's ssl.client.auth); one that is shown is always checked. With required only who has a certificate of rest-tls-ca can use REST."},
	}
}

// restKeys say who may use REST, and which web pages.
func restKeys() []configdef.Key {
	return []configdef.Key{
		{Name: RESTLogins, Type: configdef.String, Group: "REST", Doc: "File with who may use REST: users with hashed passwords (basic) and tokens (bearer), each to read or as admin; millrace login makes its lines. The same on all nodes, since they pass requests on to each other with the login. A changed file is read anew. Empty: everybody may do everything. Without TLS (rest-tls-cert) logins can be overheard.", Example: "/etc/millrace/logins"},
		{Name: AllowOrigin, Type: configdef.List, Default: "", Group: "REST", Doc: "Origins whose web pages browsers let use REST (Kafka Connect's access.control.allow.origin); * for all. Empty: none.", Example: "https://console.example.com"},
		{Name: AllowMethods, Type: configdef.List, Default: "GET,POST,HEAD", OneOf: []string{"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE"}, Group: "REST", Doc: "Methods that those pages may use (Kafka Connect's access.control.allow.methods).", Example: "GET,POST,PUT,PATCH,DELETE,HEAD"},
	}
}

func withEnv(keys []configdef.Key) []configdef.Key {
	for i := range keys {
		keys[i].Env = "MILLRACE_" + strings.ToUpper(strings.ReplaceAll(keys[i].Name, "-", "_"))
	}
	return keys
}

func kafkaChecks(v configdef.Values) []configdef.Problem {
	var out []configdef.Problem
	bad := func(key, format string, args ...any) {
		out = append(out, configdef.Problem{Key: key, Message: "Invalid value for configuration " + key + ": " + fmt.Sprintf(format, args...)})
	}
	protocol := v.String(KafkaProtocol)
	sasl, ssl := strings.HasPrefix(protocol, "SASL_"), strings.HasSuffix(protocol, "SSL")
	switch {
	case sasl && (v.String(KafkaUser) == "" || v.String(KafkaPassword) == ""):
		bad(KafkaProtocol, "%s needs %s and %s", protocol, KafkaUser, KafkaPassword)
	case !sasl && v.String(KafkaUser) != "":
		bad(KafkaUser, "with %s=%s nobody logs in; set it to SASL_SSL or SASL_PLAINTEXT", KafkaProtocol, protocol)
	}
	for _, key := range []string{KafkaCA, KafkaCert} {
		if !ssl && v.String(key) != "" {
			bad(key, "with %s=%s nothing is encrypted; set it to SSL or SASL_SSL", KafkaProtocol, protocol)
		}
	}
	return append(out, pair(v, KafkaCert, KafkaKey)...)
}

func tlsChecks(v configdef.Values) []configdef.Problem {
	out := append(pair(v, ClusterCert, ClusterKey), pair(v, RESTCert, RESTKey)...)
	need := func(key, other, why string) {
		if v.String(key) != "" && v.String(other) == "" {
			out = append(out, configdef.Problem{Key: other, Message: fmt.Sprintf("Missing configuration %s: %s is set, and %s", other, key, why)})
		}
	}
	need(ClusterCert, ClusterCA, "nodes must know whom to trust")
	need(ClusterCA, ClusterCert, "a node must have a certificate to show")
	need(RESTCA, RESTCert, "REST without a certificate of its own has no TLS")
	if v.String(RESTClientAuth) != "none" && v.String(RESTCA) == "" {
		out = append(out, configdef.Problem{Key: RESTCA, Message: fmt.Sprintf("Missing configuration %s: %s=%s needs the authorities that clients' certificates come from", RESTCA, RESTClientAuth, v.String(RESTClientAuth))})
	}
	return out
}

// pair: a certificate is of no use without its key, nor the other way round.
func pair(v configdef.Values, cert, key string) []configdef.Problem {
	have, miss := cert, key
	if v.String(cert) == "" {
		have, miss = key, cert
	}
	if v.String(have) == "" || v.String(miss) != "" {
		return nil
	}
	return []configdef.Problem{{Key: miss, Message: fmt.Sprintf("Missing configuration %s: %s is set, and one is of no use without the other", miss, have)}}
}
