// Package login knows who may use REST: users with passwords and tokens, from a file.
//
//	# kind name role hash
//	user  alice admin $2y$10$…
//	token ci    read  sha256:5e88…
//
// Passwords are kept as bcrypt, which is slow on purpose; tokens are long and random, so SHA-256 does. The file is read anew when it has
// changed. A Logins is safe for concurrent use.
package login

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Role is what somebody may do.
type Role int

// The roles.
const (
	None  Role = iota
	Read       // what changes nothing
	Admin      // everything
)

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	switch s {
	case "read":
		return Read, nil
	case "admin":
		return Admin, nil
	}
	return None, fmt.Errorf("%q is no role: read or admin", s)
}

const (
	tokenHash = "sha256:"
	// lookEvery bounds how often the file is looked at, knownMax how many passwords are remembered as right (I8).
	lookEvery = time.Second
	knownMax  = 1000
)

// account is a line of the file.
type account struct {
	name string
	role Role
	hash string
}

type accounts struct {
	users  map[string]account // by name
	tokens map[string]account // by hash
}

// Logins are the accounts of a file.
type Logins struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards: what follows
	now    *accounts
	stamp  string
	looked time.Time
	// known are logins that bcrypt has found right, by a hash of user and password: clients send theirs with each request.
	known map[[sha256.Size]byte]bool

	// slow lets one password be checked at a time: who guesses takes one processor at the most.
	slow sync.Mutex
}

// Load reads the file for the first time; what is wrong with it is an error that names the line.
func Load(path string, log *slog.Logger) (*Logins, error) {
	l := &Logins{path: path, log: log, stamp: stamp(path), looked: time.Now(), known: map[[sha256.Size]byte]bool{}}
	var err error
	l.now, err = read(path)
	return l, err
}

func stamp(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(st.ModTime().UnixNano(), st.Size())
}

func read(path string) (*accounts, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := &accounts{users: map[string]account{}, tokens: map[string]account{}}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if err := out.add(strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	if len(out.users)+len(out.tokens) == 0 {
		return nil, fmt.Errorf("%s names nobody: nobody could use REST; millrace login user makes a line", path)
	}
	return out, nil
}

func (a *accounts) add(line string) error {
	if line == "" || strings.HasPrefix(line, "#") {
		return nil
	}
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return fmt.Errorf("it has %d fields, not 4: user|token NAME read|admin HASH", len(fields))
	}
	role, err := ParseRole(fields[2])
	if err != nil {
		return err
	}
	x := account{name: fields[1], role: role, hash: fields[3]}
	switch fields[0] {
	case "user":
		if _, err := bcrypt.Cost([]byte(x.hash)); err != nil {
			return errors.New("the password of a user is kept as its bcrypt hash; millrace login user makes the line")
		}
		if _, twice := a.users[x.name]; twice {
			return fmt.Errorf("user %s is there already", x.name)
		}
		a.users[x.name] = x
	case "token":
		if b, err := hex.DecodeString(strings.TrimPrefix(x.hash, tokenHash)); err != nil || len(b) != sha256.Size || !strings.HasPrefix(x.hash, tokenHash) {
			return errors.New("a token is kept as sha256:HEX; millrace login token makes the line")
		}
		a.tokens[x.hash] = x
	default:
		return fmt.Errorf("%q is no kind of login: user or token", fields[0])
	}
	return nil
}

// current returns the accounts as the file has them now. A file that has become wrong leaves the last good ones.
func (l *Logins) current() *accounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.looked) < lookEvery {
		return l.now
	}
	l.looked = time.Now()
	s := stamp(l.path)
	if s == l.stamp {
		return l.now
	}
	l.stamp = s
	fresh, err := read(l.path)
	if err != nil {
		l.log.Warn("changed logins can't be used; the last good ones stay", "err", err)
		return l.now
	}
	l.now, l.known = fresh, map[[sha256.Size]byte]bool{}
	l.log.Info("logins reloaded", "users", len(fresh.users), "tokens", len(fresh.tokens))
	return l.now
}

// Who says whom the value of an Authorization header names, and what they may do; None when it names nobody.
func (l *Logins) Who(authorization string) (name string, role Role) {
	a := l.current()
	kind, value, _ := strings.Cut(authorization, " ")
	value = strings.TrimSpace(value)
	switch {
	case strings.EqualFold(kind, "bearer"):
		x := a.tokens[hashToken(value)]
		return x.name, x.role
	case strings.EqualFold(kind, "basic"):
		b, err := base64.StdEncoding.DecodeString(value)
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok || !l.right(a, user, password) {
			return "", None
		}
		return user, a.users[user].role
	}
	return "", None
}

// nobody's hash is compared with where there is no such user, so that the time does not tell who there is.
const nobody = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"

func (l *Logins) right(a *accounts, user, password string) bool {
	hash := cmp.Or(a.users[user].hash, nobody)
	// The hash is part of it: after a change of the password the old one is not known.
	key := sha256.Sum256([]byte(fmt.Sprintf("%q %q %q", user, password, hash)))
	l.mu.Lock()
	known := l.known[key]
	l.mu.Unlock()
	if known {
		return true
	}
	l.slow.Lock()
	err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
	l.slow.Unlock()
	if err != nil || hash == nobody {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.known) >= knownMax {
		clear(l.known)
	}
	l.known[key] = true
	return true
}

func hashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return tokenHash + hex.EncodeToString(h[:])
}

// UserLine makes the file's line of a user.
func UserLine(name, role, password string) (string, error) {
	if password == "" {
		return "", errors.New("the password is empty")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", err
	}
	return line("user", name, role, string(hash))
}

// TokenLine makes a token and the file's line of it.
func TokenLine(name, role string) (token, out string, err error) {
	token = "mr_" + rand.Text()
	out, err = line("token", name, role, hashToken(token))
	return token, out, err
}

func line(kind, name, role, hash string) (string, error) {
	out := strings.Join([]string{kind, name, role, hash}, " ")
	if strings.Contains(name, ":") {
		return "", fmt.Errorf("%q is no name: it has a colon", name)
	}
	return out, (&accounts{users: map[string]account{}, tokens: map[string]account{}}).add(out)
}
