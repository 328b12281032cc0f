package docgen

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/connectors"
	_ "github.com/millrace/millrace/connectors/all" // their specs are what is documented
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/testkit"
)

const dir = "../../docs/reference"

func TestPagesAreWhatIsCheckedIn(t *testing.T) {
	for _, flag := range []string{"URL", "CACERT", "CERT", "KEY", "USER", "TOKEN", "CONFIG"} { // are defaults of flags
		t.Setenv("MILLRACE_"+flag, "")
	}
	pages := Pages()
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		testkit.Golden(t, filepath.Join(dir, name), pages[name])
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, ours := pages[filepath.Base(f)]; !ours && strings.Contains(string(text), strings.TrimSpace(generated)) {
			t.Errorf("%s is generated, but from nothing that is still there: delete it", f)
		}
	}
}

// Every key that a user may set is on a page, and every connector in the index.
func TestEveryKeyIsThere(t *testing.T) {
	if len(connectors.All()) == 0 {
		t.Fatal("no connectors are built in")
	}
	pages := Pages()
	for _, p := range connectors.All() {
		if !strings.Contains(pages["connectors.md"], "`"+p.Class+"`") {
			t.Errorf("connectors.md lacks %s", p.Class)
		}
		for _, k := range p.Spec.Keys() {
			page := pages["connector-"+p.Class+".md"]
			if got := strings.Contains(page, "\n| `"+k.Name+"` |") || strings.Contains(page, "\n| `"+k.Name+"*` |"); got == k.Hidden {
				t.Errorf("%s: key %s on its page: %t, hidden: %t", p.Class, k.Name, got, k.Hidden)
			}
		}
	}
}

func TestRow(t *testing.T) {
	for _, c := range []struct {
		name string
		key  configdef.Key
		want string
	}{
		{"required", configdef.Key{Name: "a", Type: configdef.String, Required: true, Doc: "A."}, "| `a` | string | **required** | A. |\n"},
		{"default and bounds", configdef.Key{Name: "b.ms", Type: configdef.Long, Default: "5", HasMin: true, Min: 1, HasMax: true, Max: 9, Doc: "B."}, "| `b.ms` | long | `5` | B. From 1 to 9. |\n"},
		{"a bar would end the cell", configdef.Key{Name: "c", Type: configdef.String, OneOf: []string{"x|y"}, Doc: "One|two\nthree."}, "| `c` | string |  | One\\|two three. One of `x\\|y`. |\n"},
		{"family", configdef.Key{Name: "d.", Type: configdef.String, Prefix: true, Doc: "D."}, "| `d.*` | string |  | D. |\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := row(&c.key, false); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
