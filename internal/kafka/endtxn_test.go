package kafka_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/internal/kafka"
)

// The connection for commits has TLS and a login, as the others do.
func TestSecuredCommit(t *testing.T) {
	web := httptest.NewTLSServer(nil) // only for its certificate, which is for 127.0.0.1
	defer web.Close()
	known := x509.NewCertPool()
	known.AddCert(web.Certificate())
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "ann", "right"), kfake.TLS(&tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := kafka.Config{Brokers: b.ListenAddrs(), Login: kafka.Login{User: "ann", Password: "right"}}
	c.Dial = (&tls.Dialer{Config: &tls.Config{RootCAs: known, MinVersion: tls.VersionTLS12}}).DialContext
	name, a := topic(t, c, 1)
	p, err := kafka.NewProducer(t.Context(), c, "tx-"+name, kafka.ProducerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Protocol() != 2 {
		t.Fatalf("protocol %d, want 2", p.Protocol())
	}
	for i := range 3 {
		if err := p.Send(t.Context(), messages(name, i, 1)); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(t, c, a, name); len(got) != 3 {
		t.Errorf("%d messages, want 3", len(got))
	}
	c.Login.Password = "wrong"
	if _, err := kafka.NewProducer(t.Context(), c, "tx-"+name, kafka.ProducerOptions{}); err == nil || errors.Is(err, kafka.ErrDead) {
		t.Errorf("with the wrong password: %v", err)
	}
}
