package mysqlcdc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	mathbig "math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/testkit"
)

// authority signs certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca", &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes name.pem and name.key.
func (a *authority) issue(t *testing.T, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = mathbig.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestTLS: each mode, certificates of the connector's own, and what is said of a wrong authority, name or file, by key.
func TestTLS(t *testing.T) {
	for _, kind := range []string{"mysql", "mariadb"} {
		t.Run(kind, func(t *testing.T) {
			ca, other := newAuthority(t, "one"), newAuthority(t, "other")
			ca.issue(t, "server", &x509.Certificate{Subject: pkix.Name{CommonName: "db"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
			ca.issue(t, "client", &x509.Certificate{Subject: pkix.Name{CommonName: "millrace"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			srv := testkit.Instance(t, kind, "ssl_ca="+ca.file("ca.pem"), "ssl_cert="+ca.file("server.pem"), "ssl_key="+ca.file("server.key"))
			db, name := testkit.Database(t, srv)
			run := session(t, db)
			run("CREATE TABLE a (id INT PRIMARY KEY)", "INSERT INTO a VALUES (1)",
				"CREATE USER shy@'%' IDENTIFIED BY 'p' REQUIRE X509", "GRANT ALL ON *.* TO shy@'%'", "CREATE USER safe@'%' IDENTIFIED BY 'p' REQUIRE SSL", "GRANT ALL ON *.* TO safe@'%'")
			// Good: the whole way, snapshot and log.
			client := []string{"database.ssl.cert", ca.file("client.pem"), "database.ssl.key", ca.file("client.key")}
			for _, good := range [][]string{
				{"database.user", "cdc", "database.password", "cdc", "database.ssl.mode", "disabled"},
				{"database.ssl.mode", "preferred"},
				{"database.ssl.mode", "required"},
				{"database.ssl.mode", "trust"},
				{"database.ssl.mode", "verify_ca", "database.ssl.ca", ca.file("ca.pem"), "database.hostname", "localhost"},
				{"database.ssl.mode", "verify_identity", "database.ssl.ca", ca.file("ca.pem")},
				append([]string{"database.ssl.mode", "required", "database.user", "shy"}, client...),
			} {
				cfg := config(srv, name, append([]string{"database.user", "safe", "database.password", "p"}, good...)...)
				if p := validate(t.Context(), cfg); len(p) > 0 {
					t.Errorf("%v: %v", good, p)
					continue
				}
				task := open(t, cfg, nil)
				if got := flat(until(t, task, snapshotDone)); len(got) == 0 || got[0].Op != "read" {
					t.Errorf("%v: %v", good, got)
				}
				run("INSERT INTO a VALUES (100)", "DELETE FROM a WHERE id=100")
				until(t, task, sees("a"))
				_ = task.Close()
			}
			for _, bad := range []struct {
				key, words string
				config     []string
			}{
				{keySSLCA, "not trusted", []string{"database.ssl.mode", "verify_ca", "database.ssl.ca", other.file("ca.pem")}},
				{keySSLCA, "not trusted", []string{"database.ssl.mode", "verify_identity", "database.ssl.ca", other.file("ca.pem")}},
				{keySSLMode, "not for localhost", []string{"database.ssl.mode", "verify_identity", "database.ssl.ca", ca.file("ca.pem"), "database.hostname", "localhost"}},
				{keySSLCA, "no such file", []string{"database.ssl.mode", "verify_ca", "database.ssl.ca", "/nowhere.pem"}},
				{keySSLCA, "no PEM", []string{"database.ssl.mode", "verify_ca", "database.ssl.ca", ca.file("server.key")}},
				{keySSLCert, "no such file", []string{"database.ssl.mode", "required", "database.ssl.cert", "/nowhere.pem", "database.ssl.key", "/nowhere.key"}},
				{keySSLKey, "need each other", []string{"database.ssl.mode", "required", "database.ssl.cert", ca.file("client.pem")}},
				{keyUser, "refuses user", []string{"database.ssl.mode", "required", "database.user", "shy", "database.password", "p"}},
				{keyUser, "refuses user", []string{"database.ssl.mode", "disabled", "database.user", "safe", "database.password", "p"}},
			} {
				cfg := config(srv, name, bad.config...)
				p := validate(t.Context(), cfg)
				if len(p) == 0 || p[0].Key != bad.key || !strings.Contains(p[0].Message, bad.words) {
					t.Errorf("%v: %v", bad.config, p)
				}
				if err := openError(t, cfg, nil); err == nil || connectors.IsRetriable(err) {
					t.Errorf("%v: open: %v", bad.config, err)
				}
			}
			run("SET GLOBAL require_secure_transport=ON")
			if p := validate(t.Context(), config(srv, name)); len(p) == 0 || kind == "mysql" && p[0].Key != keySSLMode || !strings.Contains(p[0].Message, "encrypted connections only") {
				t.Errorf("a server that takes encrypted connections only: %v", p)
			}
		})
	}
	t.Run("without", func(t *testing.T) {
		srv := testkit.MariaDB(t)
		_, name := testkit.Database(t, srv)
		if p := validate(t.Context(), config(srv, name, "database.ssl.mode", "preferred")); len(p) > 0 {
			t.Errorf("preferred: %v", p)
		}
		p := validate(t.Context(), config(srv, name, "database.ssl.mode", "required"))
		if len(p) != 1 || p[0].Key != keySSLMode || !strings.Contains(p[0].Message, "has no TLS") {
			t.Errorf("required: %v", p)
		}
	})
}
