package convert

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

// What is written as a JSON string is read as the same text, wherever in it the characters stand that are special.
func TestJSONText(t *testing.T) {
	t.Parallel()
	special := []string{"\"", "\\", "\n", "\x00", "\x1f", "\x7f", "é", "🎁", "\u2028", "x", " "}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 3000 {
		var b strings.Builder
		for range n % 40 {
			if r.IntN(4) == 0 {
				b.WriteString(special[r.IntN(len(special))])
			} else {
				b.WriteByte(byte('a' + r.IntN(26)))
			}
		}
		var got string
		out := appendJSONString(nil, b.String())
		if err := json.Unmarshal(out, &got); err != nil || got != b.String() {
			t.Fatalf("%q was written as %s (%v)", b.String(), out, err)
		}
	}
	if got := string(appendJSONBytes(nil, []byte("a\xffb\xc3"))); got != `"a\ufffdb\ufffd"` {
		t.Errorf("no UTF-8 is written as %s", got)
	}
}

// A byte that must be escaped is found at each place of a word, whatever stands around it.
func TestPlainPrefix(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		stop := c < 0x20 || c >= 0x80 || c == '"' || c == '\\'
		for _, around := range []byte{'a', 0x7f, ' ', '!', '#', '[', ']'} {
			for at := range 20 {
				s := []byte(strings.Repeat(string(around), 20))
				s[at] = byte(c)
				want := len(s)
				if stop {
					want = at
				}
				if got := plainPrefix(s); got != want {
					t.Fatalf("byte %#x at %d among %q: %d, want %d", c, at, around, got, want)
				}
			}
		}
	}
}
