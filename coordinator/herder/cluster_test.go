package herder

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

func backupOf(t *testing.T, img *commandv1.Image) *api.Backup {
	t.Helper()
	b, err := proto.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return &api.Backup{Format: api.BackupFormat, Version: "1.2", SHA256: hex.EncodeToString(sum[:]), Image: b}
}

// A backup that is damaged, of a later version or none at all is refused with the reason.
func TestOpenBackup(t *testing.T) {
	t.Parallel()
	good := backupOf(t, &commandv1.Image{Format: 1, Index: 7, Connectors: []*commandv1.ConnectorImage{{Name: "a"}}})
	img, err := open(good)
	if err != nil || img.Index != 7 || len(names(img)) != 1 {
		t.Fatalf("%v, %v", img, err)
	}
	for _, c := range []struct {
		name, want string
		change     func(b *api.Backup)
	}{
		{"damaged", "checksum", func(b *api.Backup) { b.Image[0] ^= 1 }},
		{"cut off", "checksum", func(b *api.Backup) { b.Image = b.Image[:len(b.Image)-1] }},
		{"no backup", "no backup", func(b *api.Backup) { *b = api.Backup{} }},
		{"later file", "version 1.2 in format 2", func(b *api.Backup) { b.Format++ }},
		{"later image", "version 1.2: image format", func(b *api.Backup) { *b = *backupOf(t, &commandv1.Image{Format: 99}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := *good
			b.Image = append([]byte(nil), good.Image...)
			c.change(&b)
			if _, err := open(&b); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
