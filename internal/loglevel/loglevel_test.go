package loglevel_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/loglevel"
)

func TestLevelsTakeEffect(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	levels := loglevel.New(slog.LevelInfo)
	root := slog.New(levels.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.Level(-1000)}))).With("node", "n")
	worker := root.With("component", "worker")
	orders := worker.With("connector", "orders", "epoch", 3)
	said := func(l *slog.Logger) bool {
		out.Reset()
		l.Debug("x")
		return strings.Contains(out.String(), "msg=x")
	}
	if said(root) || said(orders) {
		t.Error("debug is written at info")
	}
	if got := fmt.Sprint(levels.Set("worker.orders", slog.LevelDebug)); got != "[worker.orders]" {
		t.Errorf("changed %s", got)
	}
	if !said(orders) || said(worker) {
		t.Error("the level of one connector is not its own")
	}
	if got := fmt.Sprint(levels.Set("worker", slog.LevelDebug)); got != "[worker]" {
		t.Errorf("changed %s, want only what had another level", got)
	}
	if late := worker.With("connector", "late"); !said(late) {
		t.Error("a logger made later does not have its parent's level")
	}
	if s, ok := levels.Get("worker"); !ok || s.Level != "DEBUG" || s.ModifiedMS == 0 {
		t.Errorf("worker: %+v", s)
	}
	if s, _ := levels.Get("worker.late"); s.Level != "DEBUG" || s.ModifiedMS != 0 {
		t.Errorf("worker.late: %+v", s)
	}
	levels.Set(loglevel.Root, loglevel.Off)
	if said(orders) || len(levels.All()) != 0 {
		t.Error("root stands for all")
	}
	if _, ok := levels.Get("worker.nope"); ok {
		t.Error("a logger that never was is there")
	}
	if got := fmt.Sprint(levels.Set("a.b", loglevel.Off), levels.Set("a.b", loglevel.Off)); got != "[a.b] []" {
		t.Errorf("a name that is set counts as changed once: %s", got)
	}
}
