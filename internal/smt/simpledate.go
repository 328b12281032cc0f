package smt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// dateFormat is a pattern of Java's SimpleDateFormat: letters of one kind in a row, and literal text.
type dateFormat []dateField

type dateField struct {
	letter  byte // 0: literal
	count   int
	literal string
}

// dateLetters are those that are known: years, months, days, hours, minutes, seconds, milliseconds, half of the day, weekdays and zones.
const dateLetters = "yMdDHkKhmsSaEuzZX"

func checkDateFormat(v string) error {
	_, err := parseDateFormat(v)
	return err
}

func parseDateFormat(s string) (dateFormat, error) {
	var out dateFormat
	literal := func(text string) {
		if n := len(out); n > 0 && out[n-1].letter == 0 {
			out[n-1].literal += text
		} else {
			out = append(out, dateField{literal: text})
		}
	}
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\'':
			text, end, err := quotedText(s, i)
			if err != nil {
				return nil, err
			}
			literal(text)
			i = end
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			if !strings.ContainsRune(dateLetters, rune(c)) {
				return nil, fmt.Errorf("the pattern letter %q is not known; known are %s", c, dateLetters)
			}
			n := 1
			for i+n < len(s) && s[i+n] == c {
				n++
			}
			out = append(out, dateField{letter: c, count: n})
			i += n
		default:
			literal(string(c))
			i++
		}
	}
	return out, nil
}

// quotedText reads the quoted text at i; two quotes are one.
func quotedText(s string, i int) (string, int, error) {
	if strings.HasPrefix(s[i:], "''") {
		return "'", i + 2, nil
	}
	var b strings.Builder
	for i++; i < len(s); i++ {
		if s[i] != '\'' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		return b.String(), i + 1, nil
	}
	return "", 0, errors.New("unterminated quote")
}

// layout is Go's layout of a field that names or zones have.
func (f dateField) layout() string {
	switch f.letter {
	case 'M':
		if f.count == 3 {
			return "Jan"
		}
		return "January"
	case 'E':
		if f.count < 4 {
			return "Mon"
		}
		return "Monday"
	case 'a':
		return "PM"
	case 'z':
		return "MST"
	case 'Z':
		return "-0700"
	case 'X':
		return [...]string{"Z07", "Z0700", "Z07:00"}[min(f.count, 3)-1]
	}
	return ""
}

func (f dateField) textual() bool {
	return f.letter == 'M' && f.count >= 3 || strings.ContainsRune("EazZX", rune(f.letter)) && f.letter != 0
}

// number is the field's value in t.
func (f dateField) number(t time.Time) int {
	switch f.letter {
	case 'y':
		return t.Year()
	case 'M':
		return int(t.Month())
	case 'd':
		return t.Day()
	case 'D':
		return t.YearDay()
	case 'H':
		return t.Hour()
	case 'k':
		return (t.Hour()+23)%24 + 1
	case 'K':
		return t.Hour() % 12
	case 'h':
		return (t.Hour()+11)%12 + 1
	case 'm':
		return t.Minute()
	case 's':
		return t.Second()
	case 'S':
		return t.Nanosecond() / 1e6
	}
	return (int(t.Weekday())+6)%7 + 1 // u
}

func (p dateFormat) format(t time.Time) string {
	var b []byte
	for _, f := range p {
		switch {
		case f.letter == 0:
			b = append(b, f.literal...)
		case f.textual():
			b = t.AppendFormat(b, f.layout())
		default:
			n := f.number(t)
			if f.letter == 'y' && f.count == 2 {
				n %= 100
			}
			b = fmt.Appendf(b, "%0*d", f.count, n)
		}
	}
	return string(b)
}

// parse reads a text in the format, in UTC where it names no zone.
func (p dateFormat) parse(s string) (time.Time, error) {
	at := map[byte]int{'y': 1970, 'M': 1, 'd': 1}
	zone, pm, rest := time.UTC, -1, s
	bad := func() (time.Time, error) { return time.Time{}, fmt.Errorf("Unparseable date: %q", s) }
	for i, f := range p {
		switch {
		case f.letter == 0:
			var ok bool
			if rest, ok = strings.CutPrefix(rest, f.literal); !ok {
				return bad()
			}
		case f.textual():
			n, t, ok := f.take(rest)
			if !ok {
				return bad()
			}
			rest = rest[n:]
			switch f.letter {
			case 'M':
				at['M'] = int(t.Month())
			case 'a':
				pm = t.Hour() / 12
			case 'z', 'Z', 'X':
				zone = t.Location()
			}
		default:
			n := digits(rest)
			if i+1 < len(p) && p[i+1].letter != 0 && !p[i+1].textual() {
				n = min(n, f.count) // the next number follows at once
			}
			v, err := strconv.Atoi(rest[:n])
			if err != nil {
				return bad()
			}
			if f.letter == 'y' && f.count <= 2 && n == 2 {
				v += 2000 // Java's window: 80 years back, 20 ahead
				if limit := time.Now().Year() + 20; v > limit {
					v -= 100
				}
			}
			at[f.letter] = v
			rest = rest[n:]
		}
	}
	// As Java does, what follows is not looked at.
	hour := at['H']
	if k, ok := at['k']; ok {
		hour = k % 24
	}
	for _, half := range []byte{'h', 'K'} {
		if h, ok := at[half]; ok {
			hour = h%12 + 12*max(pm, 0)
		}
	}
	if day, ok := at['D']; ok {
		at['M'], at['d'] = 1, day
	}
	return time.Date(at['y'], time.Month(at['M']), at['d'], hour, at['m'], at['s'], at['S']*1e6, zone), nil
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// take reads a textual field at the start of s: how long it is and what it says.
func (f dateField) take(s string) (int, time.Time, bool) {
	layouts := []string{f.layout()}
	switch f.letter {
	case 'M', 'E':
		layouts = []string{"January", "Monday", "Jan", "Mon"}
	case 'z', 'Z':
		layouts = []string{"-0700", "GMT-07:00", "MST"}
	}
	for n := min(len(s), 9); n > 0; n-- {
		for _, l := range layouts {
			if t, err := time.Parse(l, s[:n]); err == nil {
				return n, t, true
			}
		}
	}
	return 0, time.Time{}, false
}
