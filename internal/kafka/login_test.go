package kafka_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/IBM/sarama"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/testkit"
	"github.com/millrace/millrace/internal/testkit/pki"
	"github.com/millrace/millrace/internal/tlsfile"
)

// A real broker that asks for TLS and a login: each mechanism carries a transaction there and back, and what is wrong is said.
func TestSecuredBroker(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.New(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.New(dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	secured := broker(t, ca, dir)
	tls := func(a *pki.Authority) *tlsfile.Source {
		s, err := tlsfile.Load(tlsfile.Files{CA: a.File}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	config := func(a *pki.Authority, mechanism, password string) kafka.Config {
		return kafka.Config{Brokers: []string{secured}, Dial: tls(a).DialContext, Login: kafka.Login{Mechanism: mechanism, User: "mill", Password: password}}
	}
	for _, m := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(m, func(t *testing.T) {
			c := config(ca, m, "right")
			name, a := topic(t, c, 2)
			p, err := kafka.NewProducer(t.Context(), c, "tx-"+name, kafka.ProducerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.Send(t.Context(), messages(name, 0, 100)); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, c, a, name); len(got) != 100 {
				t.Errorf("read %d of 100 messages", len(got))
			}
			_, err = kafka.NewAdmin(t.Context(), config(ca, m, "wrong"))
			wants(t, err, "uthentication")
		})
	}
	_, err = kafka.NewAdmin(t.Context(), config(other, "PLAIN", "right"))
	wants(t, err, "certificate signed by unknown authority")
}

func wants(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// broker starts Kafka with a SASL_SSL listener, whose address it returns, and the user mill with the password right.
func broker(t *testing.T, ca *pki.Authority, dir string) string {
	t.Helper()
	cert, key, err := ca.Issue(dir, "broker", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	var store []byte // Kafka wants both in one file
	for _, f := range []string{key, cert} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		store = append(store, b...)
	}
	keystore := filepath.Join(dir, "keystore.pem")
	if err := os.WriteFile(keystore, store, 0o600); err != nil {
		t.Fatal(err)
	}
	const jaas = "listener.name.sasl_ssl.%s.sasl.jaas.config=org.apache.kafka.common.security.%s.%sLoginModule required%s;"
	port := testkit.KafkaInstance(t, func(port int) []string {
		listeners := fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,SASL_SSL://127.0.0.1:%d", port, port+2)
		return []string{
			fmt.Sprintf("listeners=%s,CONTROLLER://127.0.0.1:%d", listeners, port+1), "advertised.listeners=" + listeners,
			"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
			"ssl.keystore.type=PEM", "ssl.keystore.location=" + keystore, "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
			fmt.Sprintf(jaas, "plain", "plain", "Plain", ` user_mill="right"`),
			fmt.Sprintf(jaas, "scram-sha-256", "scram", "Scram", ""), fmt.Sprintf(jaas, "scram-sha-512", "scram", "Scram", ""),
		}
	})
	sc := sarama.NewConfig()
	sc.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin([]string{fmt.Sprintf("127.0.0.1:%d", port)}, sc)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, m := range []sarama.ScramMechanismType{sarama.SCRAM_MECHANISM_SHA_256, sarama.SCRAM_MECHANISM_SHA_512} {
		results, err := admin.UpsertUserScramCredentials([]sarama.AlterUserScramCredentialsUpsert{
			{Name: "mill", Mechanism: m, Iterations: 4096, Salt: []byte("salt"), Password: []byte("right")},
		})
		if err != nil || len(results) != 1 || results[0].ErrorCode != sarama.ErrNoError {
			t.Fatalf("%v, %v", results, err)
		}
	}
	return fmt.Sprintf("127.0.0.1:%d", port+2)
}
