package herder

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/millrace/millrace/internal/fault"
)

// versionRange is a range of versions as Maven writes it. The zero value holds all.
type versionRange struct {
	low, high         string // empty: no bound
	openLow, openHigh bool
	text              string
}

// parseRange reads "latest" or nothing (any version), "1.0" (exactly that), and one range such as "[1,2)", "(,1.0]" or "[1.5,)".
func parseRange(s string) (versionRange, error) {
	bad := fault.New(fault.Invalid, "Invalid version specification: %s", s)
	trimmed := strings.TrimSpace(s)
	switch {
	case trimmed == "" || trimmed == "latest":
		return versionRange{}, nil
	case !strings.ContainsAny(trimmed, "[](),"):
		return versionRange{low: trimmed, high: trimmed, text: "[" + trimmed + "," + trimmed + "]"}, nil
	}
	first, last := trimmed[0], trimmed[len(trimmed)-1]
	if len(trimmed) < 3 || (first != '[' && first != '(') || (last != ']' && last != ')') {
		return versionRange{}, bad
	}
	low, high, two := strings.Cut(trimmed[1:len(trimmed)-1], ",")
	low, high = strings.TrimSpace(low), strings.TrimSpace(high)
	r := versionRange{low: low, high: high, openLow: first == '(', openHigh: last == ')', text: trimmed}
	if !two {
		r.high = low
	}
	switch {
	case strings.ContainsAny(low+high, "[](),"), !two && (low == "" || r.openLow || r.openHigh):
		return versionRange{}, bad
	case r.low != "" && r.high != "" && compareVersions(r.low, r.high) > 0:
		return versionRange{}, bad
	}
	return r, nil
}

// String is the range as it was given.
func (r versionRange) String() string { return r.text }

func (r versionRange) holds(v string) bool {
	if r.low != "" {
		if c := compareVersions(v, r.low); c < 0 || c == 0 && r.openLow {
			return false
		}
	}
	if r.high != "" {
		if c := compareVersions(v, r.high); c > 0 || c == 0 && r.openHigh {
			return false
		}
	}
	return true
}

// compareVersions compares dotted numbers; a part that is no number comes before the numbers (1.0.beta before 1.0.1) and missing parts are 0.
func compareVersions(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '-' })
	}
	x, y := split(a), split(b)
	for i := range max(len(x), len(y)) {
		if c := compareParts(part(x, i), part(y, i)); c != 0 {
			return c
		}
	}
	return 0
}

func part(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "0"
}

func compareParts(a, b string) int {
	m, errA := strconv.Atoi(a)
	n, errB := strconv.Atoi(b)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(m, n)
	case errA == nil:
		return 1
	case errB == nil:
		return -1
	}
	return cmp.Compare(a, b)
}
