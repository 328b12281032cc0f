// Package logring keeps the last log lines of each connector, so that they can be asked for without access to the node's own log.
//
// A line belongs to the connector that its attributes name. What a Ring holds is bounded for each connector and in all (I8): the oldest
// lines go first. A Ring is safe for concurrent use; lines of no connector take no lock.
package logring

import (
	"bytes"
	"container/list"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of a Ring.
const (
	maxLines = 500
	maxLine  = 4 << 10
	maxBytes = 16 << 20
)

// NoTask is the task of lines about the connector as a whole.
const NoTask = -1

// Line is one line of the log.
type Line struct {
	// Seq grows from line to line, across restarts of the node, too.
	Seq   int64
	At    time.Time
	Level string
	Task  int
	// Text is the message with its attributes, but for those that every line of the connector has.
	Text string
}

// Ring holds lines.
type Ring struct {
	mu    sync.Mutex // guards: what follows
	all   list.List  // of kept, oldest first
	lines map[string][]*list.Element
	bytes int
	seq   int64
	// text is what the formatting handlers write into.
	text bytes.Buffer
}

type kept struct {
	connector string
	line      Line
}

// New returns a Ring that is empty.
func New() *Ring {
	return &Ring{lines: map[string][]*list.Element{}, seq: time.Now().UnixNano()}
}

// Lines returns what is held of a connector, oldest first.
func (r *Ring) Lines(connector string) []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Line, 0, len(r.lines[connector]))
	for _, e := range r.lines[connector] {
		out = append(out, e.Value.(*kept).line) //nolint:forcetypeassert // all are
	}
	return out
}

// push adds a line and lets go of what is beyond the bounds.
func (r *Ring) push(connector string, l Line) {
	r.seq++
	l.Seq = r.seq
	r.lines[connector] = append(r.lines[connector], r.all.PushBack(&kept{connector, l}))
	r.bytes += len(l.Text)
	if lines := r.lines[connector]; len(lines) > maxLines {
		r.drop(lines[0])
	}
	for r.bytes > maxBytes {
		r.drop(r.all.Front())
	}
}

// drop lets go of a line, the oldest of its connector.
func (r *Ring) drop(e *list.Element) {
	k := r.all.Remove(e).(*kept) //nolint:forcetypeassert // all are
	r.bytes -= len(k.line.Text)
	lines := r.lines[k.connector]
	lines[0] = nil
	if r.lines[k.connector] = lines[1:]; len(lines) == 1 {
		delete(r.lines, k.connector)
	}
}

// Handler returns a handler that gives everything to next, and keeps what belongs to a connector.
func (r *Ring) Handler(next slog.Handler) slog.Handler {
	said := []string{slog.TimeKey, slog.LevelKey, "node", "connector", "task"} // beside the text
	return &handler{ring: r, next: next, task: NoTask, text: slog.NewTextHandler(&r.text, &slog.HandlerOptions{
		Level: slog.Level(-1 << 20), // next decides
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && slices.Contains(said, a.Key) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

type handler struct {
	ring       *Ring
	next, text slog.Handler
	connector  string
	task       int
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, rec slog.Record) error {
	err := h.next.Handle(ctx, rec)
	connector, task := h.connector, h.task
	rec.Attrs(func(a slog.Attr) bool {
		connector, task = whose(a, connector, task)
		return true
	})
	if connector == "" {
		return err
	}
	h.ring.mu.Lock()
	defer h.ring.mu.Unlock()
	h.ring.text.Reset()
	if err := h.text.Handle(ctx, rec); err != nil {
		return err
	}
	text := strings.TrimSuffix(h.ring.text.String(), "\n")
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	h.ring.push(connector, Line{At: rec.Time, Level: rec.Level.String(), Task: task, Text: text})
	return err
}

// whose reads from an attribute which connector and task a line belongs to.
func whose(a slog.Attr, connector string, task int) (string, int) {
	switch {
	case a.Key == "connector" && a.Value.Kind() == slog.KindString:
		return a.Value.String(), task
	case a.Key == "task":
		switch v := a.Value.Any().(type) {
		case int64: // every integer type with a sign that slog knows
			return connector, int(v)
		case int32:
			return connector, int(v)
		}
	}
	return connector, task
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.next, out.text = h.next.WithAttrs(attrs), h.text.WithAttrs(attrs)
	for _, a := range attrs {
		out.connector, out.task = whose(a, out.connector, out.task)
	}
	return &out
}

func (h *handler) WithGroup(name string) slog.Handler {
	out := *h
	out.next, out.text = h.next.WithGroup(name), h.text.WithGroup(name)
	return &out
}
