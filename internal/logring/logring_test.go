package logring

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestLinesOfConnectors(t *testing.T) {
	var out bytes.Buffer
	r := New()
	log := slog.New(r.Handler(slog.NewTextHandler(&out, nil))).With("node", "n1", "component", "worker")
	log.Info("nobody's")
	task := log.With("connector", "shop", "epoch", 7).With("task", int32(2))
	task.Warn("trying again", "err", "no route")
	task.Debug("below the level")
	log.Info("task has moved", "connector", "shop", "task", 0)
	log.With("connector", "other").Info("starts")
	got := r.Lines("shop")
	if len(got) != 2 || len(r.Lines("other")) != 1 || len(r.Lines("nope")) != 0 {
		t.Fatalf("%+v", got)
	}
	if a, b := got[0], got[1]; a.Task != 2 || a.Level != "WARN" || a.Text != `msg="trying again" component=worker epoch=7 err="no route"` || b.Task != 0 || a.Seq >= b.Seq {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(out.String(), "\n"); n != 4 || !strings.Contains(out.String(), "node=n1") {
		t.Errorf("the log itself:\n%s", out.String())
	}
}

// I8: lines are bounded for each connector, in length and in all, and the oldest go first.
func TestBounds(t *testing.T) {
	r := New()
	log := slog.New(r.Handler(slog.NewTextHandler(&bytes.Buffer{}, nil)))
	for i := range maxLines + 10 {
		log.Info("line", "connector", "busy", "n", i)
	}
	if got := r.Lines("busy"); len(got) != maxLines || got[0].Text != "msg=line n=10" {
		t.Errorf("%d lines, the first %q", len(got), got[0].Text)
	}
	long := strings.Repeat("x", 2*maxLine)
	const many = maxBytes/maxLine + 1000
	for i := range many {
		log.Info("long", "connector", fmt.Sprint("c", i), "text", long)
	}
	if len(r.Lines("busy")) != 0 || len(r.Lines("c0")) != 0 || r.bytes > maxBytes || r.bytes < maxBytes/2 {
		t.Errorf("%d bytes, %d connectors", r.bytes, len(r.lines))
	}
	if got := r.Lines(fmt.Sprint("c", many-1)); len(got) != 1 || len(got[0].Text) > maxLine+len("…") {
		t.Errorf("%d lines", len(got))
	}
}
