package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/kafka"
)

func TestJudgeBrokers(t *testing.T) {
	t.Parallel()
	const factor, isr = "transaction.state.log.replication.factor", "transaction.state.log.min.isr"
	for name, x := range map[string]struct {
		brokers  int
		settings map[string]string
		want     string // severities and the first words
	}{
		"good":                {3, map[string]string{factor: "3", isr: "2", "message.max.bytes": "1048588", "auto.create.topics.enable": "false"}, ""},
		"one broker, for dev": {1, map[string]string{factor: "1", isr: "1"}, ""},
		"defaults, alone":     {1, map[string]string{factor: "3", isr: "2"}, "error " + factor + "=3;error " + isr + "=2"},
		"no copies":           {3, map[string]string{factor: "1", isr: "1"}, "warning " + factor + "=1:"},
		"small, lax":          {3, map[string]string{"message.max.bytes": "1000", "auto.create.topics.enable": "true"}, "warning message.max.bytes=1000:;warning auto.create.topics.enable=true:"},
	} {
		var got []string
		for _, f := range judgeBrokers(kafka.Inspection{Brokers: x.brokers, Settings: x.settings}) {
			if f.Fix == "" {
				t.Errorf("%s: no fix for %s", name, f.Message)
			}
			got = append(got, f.Severity+" "+strings.Fields(f.Message)[0])
		}
		if text := strings.Join(got, ";"); text != x.want {
			t.Errorf("%s: %s, want %s", name, text, x.want)
		}
	}
}

func TestJudgeNodes(t *testing.T) {
	t.Parallel()
	node := func(id string, ahead time.Duration, d api.Disk, peers ...api.Peer) examined {
		return examined{id: id, ahead: ahead, told: &api.Condition{Disk: d, Peers: peers}}
	}
	good := api.Disk{FreeBytes: 50 << 30, SyncMS: 4}
	for name, x := range map[string]struct {
		nodes []examined
		want  string // severities and parts
	}{
		"good":      {[]examined{node("a", time.Second, good, api.Peer{REST: "b:1"}), node("b", 0, good)}, ""},
		"low, slow": {[]examined{node("a", 0, api.Disk{FreeBytes: 500 << 20, SyncMS: 900})}, "warning node a;warning node a"},
		"full":      {[]examined{node("a", 0, api.Disk{FreeBytes: 5 << 20})}, "error node a"},
		"read-only": {[]examined{node("a", 0, api.Disk{Error: "read-only file system"})}, "error node a"},
		"clocks":    {[]examined{node("a", -time.Second, good), node("b", 0, good), node("c", 90*time.Second, good)}, "warning clocks"},
		"cut off":   {[]examined{node("a", 0, good, api.Peer{REST: "b:1", Error: "timeout"}), {id: "b", err: errors.New("timeout")}}, "error node a;warning node b"},
	} {
		var got []string
		for _, f := range judgeNodes(x.nodes) {
			if f.Fix == "" {
				t.Errorf("%s: no fix for %s", name, f.Message)
			}
			got = append(got, f.Severity+" "+f.Part)
		}
		if text := strings.Join(got, ";"); text != x.want {
			t.Errorf("%s: %s, want %s", name, text, x.want)
		}
	}
}
