// Package loglevel gives each part of a node a log level of its own that can be changed while it runs.
//
// A logger's name is made of the values of its component and connector attributes, joined by dots: "coordinator.reconcile",
// "worker.orders". A level that is set for a name holds for all names below it, those that come later included; "root" stands for all.
// A Levels is safe for concurrent use. Asking for a level, which every log line does, takes no lock.
package loglevel

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Root is the name of the logger that stands for all.
const Root = "root"

// Off is beyond all levels.
const Off = slog.Level(1000)

// names in Kafka Connect's words.
var names = map[string]slog.Level{
	"ALL": -1000, "TRACE": -8, "DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARN": slog.LevelWarn, "ERROR": slog.LevelError, "FATAL": 12, "OFF": Off,
}

// Parse reads a level's name in any case.
func Parse(name string) (slog.Level, bool) {
	l, ok := names[strings.ToUpper(name)]
	return l, ok
}

// maxLoggers bounds how many names are kept (I8). Loggers beyond it have their parent's level, and can't be set apart.
const maxLoggers = 10000

// logger is one name.
type logger struct {
	level    atomic.Int64
	modified atomic.Int64 // Unix ms; 0: never
}

func (l *logger) state() State {
	return State{Level: nameOf(slog.Level(l.level.Load())), ModifiedMS: l.modified.Load()}
}

func nameOf(level slog.Level) string {
	for name, l := range names {
		if l == level {
			return name
		}
	}
	return level.String()
}

// State is a logger's level, and when it was last changed in ms since the Unix epoch; 0: never.
type State struct {
	Level      string
	ModifiedMS int64
}

// Levels are the levels of one process.
type Levels struct {
	mu      sync.Mutex // guards: loggers
	loggers map[string]*logger
	root    *logger
}

// New returns Levels where all are at one.
func New(level slog.Level) *Levels {
	root := &logger{}
	root.level.Store(int64(level))
	return &Levels{loggers: map[string]*logger{Root: root}, root: root}
}

// get returns the logger of a name, making it at its parent's level.
func (l *Levels) get(name string) *logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.make(name)
}

func (l *Levels) make(name string) *logger {
	if have := l.loggers[name]; have != nil {
		return have
	}
	parent := l.root
	for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
		if p := l.loggers[name[:at]]; p != nil {
			parent = p
			break
		}
	}
	if len(l.loggers) >= maxLoggers {
		return parent
	}
	made := &logger{}
	made.level.Store(parent.level.Load())
	l.loggers[name] = made
	return made
}

// All returns the loggers that are known, but for those that are off.
func (l *Levels) All() map[string]State {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]State{}
	for name, x := range l.loggers {
		if slog.Level(x.level.Load()) != Off {
			out[name] = x.state()
		}
	}
	return out
}

// Get returns one logger.
func (l *Levels) Get(name string) (State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, ok := l.loggers[name]
	if !ok {
		return State{}, false
	}
	return x.state(), true
}

// Set gives a logger and all below it a level and returns the names of those that it changed, sorted.
func (l *Levels) Set(name string, level slog.Level) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.loggers[name] == nil
	l.make(name)
	changed := []string{}
	for _, n := range slices.Sorted(maps.Keys(l.loggers)) {
		x := l.loggers[n]
		if n != name && name != Root && !strings.HasPrefix(n, name+".") {
			continue
		}
		if slog.Level(x.level.Load()) == level && !(fresh && n == name) {
			continue
		}
		x.level.Store(int64(level))
		x.modified.Store(time.Now().UnixMilli())
		changed = append(changed, n)
	}
	return changed
}

// Handler returns a handler that asks for levels before h, which should take everything.
func (l *Levels) Handler(h slog.Handler) slog.Handler {
	return &handler{next: h, levels: l, logger: l.root}
}

type handler struct {
	next   slog.Handler
	levels *Levels
	name   string
	logger *logger
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.logger.level.Load()
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error { return h.next.Handle(ctx, r) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key != "component" && a.Key != "connector" {
			continue
		}
		out.name = strings.TrimPrefix(out.name+"."+fmt.Sprint(a.Value.Any()), ".")
		out.logger = h.levels.get(out.name)
	}
	return &out
}

func (h *handler) WithGroup(name string) slog.Handler {
	out := *h
	out.next = h.next.WithGroup(name)
	return &out
}
