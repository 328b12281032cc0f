package cli

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// In an image FROM scratch the system has no authorities: those in the binary stand in.
func TestAuthoritiesWithoutASystem(t *testing.T) {
	if os.Getenv("MILLRACE_TEST_NO_ROOTS") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAuthoritiesWithoutASystem$", "-test.v")
		cmd.Env = append(os.Environ(), "MILLRACE_TEST_NO_ROOTS=1", "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/nonexistent")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(pool.Subjects()); n < 50 { //nolint:staticcheck // deprecated for pools of a platform's own verifier, which this must not be
		t.Errorf("%d authorities", n)
	}
}
