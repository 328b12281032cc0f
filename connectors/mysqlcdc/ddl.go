package mysqlcdc

import (
	"regexp"
	"strings"
)

type queryKind int

const (
	queryOther queryKind = iota // DDL, GRANT and all else: it may change tables
	queryBegin
	queryCommit
	queryRollback
	querySavepoint
	queryXAStart
	queryXACommit
	queryXARollback
	queryDML
)

// query is what a statement in the binlog is.
type query struct {
	kind      queryKind
	verb      string
	partial   bool   // ROLLBACK TO a savepoint
	ddlType   string // Canal's word for it; empty for what Canal has no message for
	db, table string
	xid       string // of an XA statement
}

var (
	leading   = regexp.MustCompile(`^(?s:\s+|/\*[^!].*?\*/|/\*![0-9]*|--[^\n]*\n|#[^\n]*\n)+`)
	name      = "((?:`(?:[^`]|``)+`|[^\\s`.(;,]+)(?:\\s*\\.\\s*(?:`(?:[^`]|``)+`|[^\\s`.(;,]+))?)"
	reTable   = regexp.MustCompile(`(?is)^(create|alter|drop|truncate|rename)\s+(?:or\s+replace\s+)?(?:online\s+|offline\s+|ignore\s+)*(?:temporary\s+)?(?:table\s+|tables\s+)(?:if\s+(?:not\s+)?exists\s+)?` + name)
	reTrunc   = regexp.MustCompile(`(?is)^truncate\s+(?:table\s+)?` + name)
	reRename  = regexp.MustCompile(`(?is)\sto\s+` + name)
	reIndex   = regexp.MustCompile(`(?is)^(create|drop)\s+(?:or\s+replace\s+)?(?:online\s+|offline\s+)?(?:unique\s+|fulltext\s+|spatial\s+)?index\s.*?\son\s+` + name)
	reDB      = regexp.MustCompile("(?is)^(?:create|drop|alter)\\s+(?:or\\s+replace\\s+)?(?:database|schema)\\s+(?:if\\s+(?:not\\s+)?exists\\s+)?(`(?:[^`]|``)+`|[^\\s`;]+)")
	reAltered = regexp.MustCompile(`(?is)^(rename\s+(?:to\s+|as\s+)?|add\s+(?:constraint\s+(?:\S+\s+)??)?(?:unique|primary|index|key|fulltext|spatial)\b|drop\s+(?:index|key|constraint)\b)`)
)

func classify(sql string) query {
	sql = sql[len(leading.FindString(sql)):]
	word := sql
	if i := strings.IndexAny(word, " \t\n\r(;/"); i >= 0 {
		word = word[:i]
	}
	q := query{verb: strings.ToUpper(word)}
	switch q.verb {
	case "BEGIN":
		q.kind = queryBegin
	case "START":
		if f := strings.Fields(sql); len(f) > 1 && strings.EqualFold(f[1], "transaction") {
			q.kind = queryBegin
		}
	case "COMMIT":
		q.kind = queryCommit
	case "ROLLBACK":
		q.kind = queryRollback
		q.partial = len(strings.Fields(sql)) > 1 && strings.Contains(strings.ToUpper(sql), " TO")
	case "SAVEPOINT", "RELEASE":
		q.kind = querySavepoint
	case "XA":
		f := strings.Fields(strings.ToUpper(sql))
		switch {
		case len(f) > 1 && (f[1] == "START" || f[1] == "BEGIN"):
			q.kind, q.xid = queryXAStart, xidOf(sql)
		case len(f) > 1 && f[1] == "COMMIT":
			q.kind, q.xid = queryXACommit, xidOf(sql)
		case len(f) > 1 && f[1] == "ROLLBACK":
			q.kind, q.xid = queryXARollback, xidOf(sql)
		default: // XA END, XA PREPARE
			q.kind, q.xid = querySavepoint, xidOf(sql)
		}
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CALL", "WITH":
		q.kind = queryDML
	default:
		q.describe(sql)
	}
	return q
}

// xidOf is the name of an XA transaction in the form that the statements share.
func xidOf(sql string) string {
	f := strings.Fields(sql)
	if len(f) < 3 {
		return ""
	}
	id := strings.ToUpper(strings.Join(f[2:], ""))
	return strings.TrimSuffix(id, "ONEPHASE")
}

func (q *query) describe(sql string) {
	if m := reTable.FindStringSubmatch(sql); m != nil {
		q.db, q.table = splitName(m[2])
		switch strings.ToLower(m[1]) {
		case "create":
			q.ddlType = "CREATE"
		case "drop":
			q.ddlType = "ERASE"
		case "truncate":
			q.ddlType = "TRUNCATE"
		case "rename":
			q.ddlType = "RENAME"
			if to := reRename.FindStringSubmatch(sql); to != nil {
				q.db, q.table = splitName(to[1])
			}
		case "alter":
			q.ddlType = "ALTER"
			rest := strings.TrimSpace(sql[len(m[0]):])
			if a := reAltered.FindString(rest); a != "" {
				switch verb := strings.ToLower(strings.Fields(a)[0]); {
				case verb == "add":
					q.ddlType = "CINDEX"
				case verb == "drop":
					q.ddlType = "DINDEX"
				case !regexp.MustCompile(`(?i)^rename\s+(column|index|key)\s`).MatchString(rest):
					q.ddlType = "RENAME"
					db := q.db
					if q.db, q.table = splitName(rest[len(a):]); q.db == "" {
						q.db = db
					}
				}
			}
		}
		return
	}
	if m := reIndex.FindStringSubmatch(sql); m != nil {
		q.db, q.table = splitName(m[2])
		q.ddlType = "CINDEX"
		if strings.EqualFold(m[1], "drop") {
			q.ddlType = "DINDEX"
		}
		return
	}
	if m := reTrunc.FindStringSubmatch(sql); m != nil {
		q.db, q.table = splitName(m[1])
		q.ddlType = "TRUNCATE"
		return
	}
	if m := reDB.FindStringSubmatch(sql); m != nil {
		q.db, _ = splitName(m[1])
		q.db, q.table = unquote(m[1]), ""
		q.ddlType = "QUERY"
	}
}

var reName = regexp.MustCompile("^" + name)

func splitName(s string) (db, table string) {
	s = reName.FindString(strings.TrimSpace(s))
	if strings.HasPrefix(s, "`") {
		for i := 1; i < len(s); i++ {
			if s[i] != '`' {
				continue
			}
			if i+1 < len(s) && s[i+1] == '`' {
				i++
				continue
			}
			rest := strings.TrimSpace(s[i+1:])
			if r, ok := strings.CutPrefix(rest, "."); ok {
				return unquote(s[:i+1]), unquote(strings.TrimSpace(r))
			}
			return "", unquote(s[:i+1])
		}
	}
	if d, t, ok := strings.Cut(s, "."); ok {
		return unquote(strings.TrimSpace(d)), unquote(strings.TrimSpace(t))
	}
	return "", unquote(s)
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '`' && s[len(s)-1] == '`' {
		return strings.ReplaceAll(s[1:len(s)-1], "``", "`")
	}
	return s
}
