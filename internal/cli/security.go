package cli

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/login"
	"github.com/millrace/millrace/internal/tlsfile"
)

// security is the node's certificates, nil where a part of its traffic has no TLS, and who may use REST, nil where everybody may.
type security struct {
	cluster, rest, kafka *tlsfile.Source
	logins               *login.Logins
}

func loadSecurity(v configdef.Values, log *slog.Logger) (s security, err error) {
	if v.String(config.ClusterCert) != "" {
		if s.cluster, err = load(v, config.ClusterCert, config.ClusterKey, config.ClusterCA, log.With("for", "cluster")); err != nil {
			return s, err
		}
	}
	if v.String(config.RESTCert) != "" {
		if s.rest, err = load(v, config.RESTCert, config.RESTKey, config.RESTCA, log.With("for", "rest")); err != nil {
			return s, err
		}
	}
	if path := v.String(config.RESTLogins); path != "" {
		if s.logins, err = login.Load(path, log); err != nil {
			return s, fault.New(fault.Invalid, "setting %s: %v", config.RESTLogins, err)
		}
	}
	s.kafka, err = loadKafka(v, log.With("for", "kafka"))
	return s, err
}

// loadKafka returns nil where the brokers are talked to in the clear.
func loadKafka(v configdef.Values, log *slog.Logger) (*tlsfile.Source, error) {
	if !strings.HasSuffix(v.String(config.KafkaProtocol), "SSL") {
		return nil, nil
	}
	return load(v, config.KafkaCert, config.KafkaKey, config.KafkaCA, log)
}

func load(v configdef.Values, cert, key, ca string, log *slog.Logger) (*tlsfile.Source, error) {
	s, err := tlsfile.Load(tlsfile.Files{Cert: v.String(cert), Key: v.String(key), CA: v.String(ca)}, log)
	if err != nil {
		return nil, fault.New(fault.Invalid, "settings %s, %s, %s: %v", cert, key, ca, err)
	}
	return s, nil
}

// brokers is how to talk to the brokers.
func (s security) brokers(v configdef.Values, addrs []string, log *slog.Logger) kafka.Config {
	c := kafka.Config{Brokers: addrs, Logger: log}
	if s.kafka != nil {
		c.Dial = s.kafka.DialContext
	}
	if strings.HasPrefix(v.String(config.KafkaProtocol), "SASL_") {
		c.Login = kafka.Login{Mechanism: v.String(config.KafkaMechanism), User: v.String(config.KafkaUser), Password: v.String(config.KafkaPassword)}
	}
	return c
}

// clientAuth is rest-tls-client-auth.
func clientAuth(v configdef.Values) tls.ClientAuthType {
	switch v.String(config.RESTClientAuth) {
	case "required":
		return tls.RequireAndVerifyClientCert
	case "requested":
		return tls.VerifyClientCertIfGiven
	}
	return tls.NoClientCert
}

// addFlags adds a flag for each key of a spec.
func addFlags(flags *pflag.FlagSet, spec *configdef.Spec) {
	for _, k := range spec.Keys() {
		flags.String(k.Name, k.Default, k.Doc)
	}
}

// flagsGiven are the values that were given by these flags or by the environment.
func flagsGiven(flags *pflag.FlagSet, spec *configdef.Spec) map[string]string {
	given := map[string]string{}
	for _, k := range spec.Keys() {
		if env, ok := os.LookupEnv(k.Env); ok {
			given[k.Name] = env
		}
		if f := flags.Lookup(k.Name); f.Changed {
			given[k.Name] = f.Value.String()
		}
	}
	return given
}

// clientBrokers is how a command talks to the brokers.
func clientBrokers(given map[string]string, addrs []string) (kafka.Config, error) {
	v, problems := config.KafkaClient().Parse(given)
	if err := configdef.AsError(problems); err != nil {
		return kafka.Config{}, fault.New(fault.Invalid, "%v", err)
	}
	source, err := loadKafka(v, slog.New(slog.DiscardHandler))
	return security{kafka: source}.brokers(v, addrs, nil), err
}

// flags says how to reach a node's REST.
func (c *client) flags(p *pflag.FlagSet) {
	p.StringVar(&c.url, "url", envOr("MILLRACE_URL", "http://127.0.0.1:8083"), "A node's REST address (MILLRACE_URL).")
	p.StringVar(&c.files.CA, "cacert", os.Getenv("MILLRACE_CACERT"), "For https: PEM file with the authorities of REST's certificate (MILLRACE_CACERT). Empty: the system's.")
	p.StringVar(&c.files.Cert, "cert", os.Getenv("MILLRACE_CERT"), "For https: PEM file with a certificate to show (MILLRACE_CERT).")
	p.StringVar(&c.files.Key, "key", os.Getenv("MILLRACE_KEY"), "For https: PEM file with its key (MILLRACE_KEY).")
	p.StringVar(&c.user, "user", os.Getenv("MILLRACE_USER"), "Where REST asks for a login: NAME:PASSWORD, better given by environment (MILLRACE_USER).")
	p.StringVar(&c.token, "token", os.Getenv("MILLRACE_TOKEN"), "Where REST asks for a login: a token, better given by environment (MILLRACE_TOKEN).")
}

// connect makes c's transport, once the flags are known.
func (c *client) connect() error {
	if _, _, ok := strings.Cut(c.user, ":"); c.user != "" && (!ok || c.token != "") {
		return fault.New(fault.Invalid, "--user is NAME:PASSWORD, and goes without --token")
	}
	if !c.files.Set() {
		return nil
	}
	s, err := tlsfile.Load(c.files, slog.New(slog.DiscardHandler))
	if err != nil {
		return fault.New(fault.Invalid, "--cacert, --cert, --key: %v", err)
	}
	c.transport = &http.Transport{DialTLSContext: s.DialContext}
	return nil
}
