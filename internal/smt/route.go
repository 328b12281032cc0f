package smt

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
)

var (
	replaceNull = configdef.Key{
		Name: "replace.null.with.default", Type: configdef.Boolean, Default: "true", Importance: configdef.Medium,
		Doc: "Whether a null in a field that has a default counts as the default.",
	}
	regexRouter = &class{
		name: "RegexRouter", pkg: apache, doc: "Gives the record another topic: where the expression matches the whole name, the replacement takes its place.",
		spec: configdef.New(
			configdef.Key{Name: "regex", Type: configdef.String, Required: true, Check: checkRegex, Importance: configdef.High, Doc: "Regular expression (RE2: no look-ahead and no back-references)."},
			configdef.Key{Name: "replacement", Type: configdef.String, Required: true, Importance: configdef.High, Doc: "New name; $1 is what the first group matched."},
		),
		build: func(b builder) (transform, []configdef.Problem) {
			t := route{regex: regexp.MustCompile(b.String("regex"))}
			var err error
			if t.to, err = javaReplacement(t.regex, b.String("replacement")); err != nil {
				return nil, wrong("replacement", b.String("replacement"), "%v", err)
			}
			return t, nil
		},
	}
	timestampRouter = &class{
		name: "TimestampRouter", pkg: apache, doc: "Gives the record a topic made of its own and its timestamp, in UTC.",
		spec: configdef.New(
			configdef.Key{Name: "topic.format", Type: configdef.String, Default: "${topic}-${timestamp}", Importance: configdef.High, Doc: "New name; ${topic} and ${timestamp} are replaced."},
			configdef.Key{Name: "timestamp.format", Type: configdef.String, Default: "yyyyMMdd", Check: checkDateFormat, Importance: configdef.High, Doc: "Format of the timestamp, as of Java's SimpleDateFormat."},
		),
		build: func(b builder) (transform, []configdef.Problem) {
			f, _ := parseDateFormat(b.String("timestamp.format")) // checked by the spec
			return timeRoute{b.String("topic.format"), f}, nil
		},
	}
)

func checkRegex(v string) error {
	if _, err := regexp.Compile("^(?:" + v + ")$"); err != nil {
		return fmt.Errorf("it is no regular expression of the RE2 syntax, which has no look-ahead and no back-references: %w", err)
	}
	return nil
}

type route struct {
	regex *regexp.Regexp
	to    []piece
}

// rename returns the topic's new name.
func (t route) rename(topic string) string {
	m := t.regex.FindStringSubmatchIndex(topic)
	if m == nil || m[0] != 0 || m[1] != len(topic) {
		// The leftmost match may be a shorter one than the whole name, which Java's matches() would find.
		if m = anchored(t.regex.String()).FindStringSubmatchIndex(topic); m == nil {
			return topic
		}
	}
	var b strings.Builder
	for _, p := range t.to {
		b.WriteString(p.text)
		if p.group >= 0 && m[2*p.group] >= 0 {
			b.WriteString(topic[m[2*p.group]:m[2*p.group+1]])
		}
	}
	return b.String()
}

func (t route) apply(r *record.Record) (bool, error) {
	return true, move(r, t.rename(r.Topic))
}

// move gives a record another topic.
func move(r *record.Record, topic string) error {
	if topic == "" {
		return errors.New("the new topic's name is empty")
	}
	if topic != r.Topic {
		r.Origin, r.Topic = r.From(), topic
	}
	return nil
}

// piece is a text of a replacement, and the group behind it; -1: none.
type piece struct {
	text  string
	group int
}

// javaReplacement reads a replacement as Java's Matcher does: $1, ${name}, and \ before what stands for itself.
func javaReplacement(re *regexp.Regexp, s string) ([]piece, error) {
	var out []piece
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i == len(s) {
				return nil, errors.New("character to be escaped is missing")
			}
			b.WriteByte(s[i])
		case '$':
			group, end, err := groupAt(re, s, i+1)
			if err != nil {
				return nil, err
			}
			out = append(out, piece{b.String(), group})
			b.Reset()
			i = end - 1
		default:
			b.WriteByte(s[i])
		}
	}
	return append(out, piece{b.String(), -1}), nil
}

// groupAt reads the group that stands behind the $ before i.
func groupAt(re *regexp.Regexp, s string, i int) (group, end int, err error) {
	if i < len(s) && s[i] == '{' {
		closing := strings.IndexByte(s[i:], '}')
		if closing < 0 {
			return 0, 0, errors.New("named capturing group is missing trailing '}'")
		}
		name := s[i+1 : i+closing]
		if group = re.SubexpIndex(name); group < 0 {
			return 0, 0, fmt.Errorf("No group with name {%s}", name)
		}
		return group, i + closing + 1, nil
	}
	if i >= len(s) || s[i] < '0' || s[i] > '9' {
		return 0, 0, errors.New(`Illegal group reference; write \$ for a dollar sign`)
	}
	if group = int(s[i] - '0'); group > re.NumSubexp() {
		return 0, 0, fmt.Errorf("No group %d", group)
	}
	for end = i + 1; end < len(s) && s[end] >= '0' && s[end] <= '9'; end++ {
		next := group*10 + int(s[end]-'0')
		if next > re.NumSubexp() {
			break
		}
		group = next
	}
	return group, end, nil
}

type timeRoute struct {
	topic  string
	format dateFormat
}

func (t timeRoute) apply(r *record.Record) (bool, error) {
	if r.TimestampMS == 0 {
		return false, errors.New("Timestamp missing on record")
	}
	at := t.format.format(time.UnixMilli(r.TimestampMS).UTC())
	return true, move(r, strings.NewReplacer("${topic}", r.Topic, "${timestamp}", at).Replace(t.topic))
}
