package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: clients go-kafka-connect|connect-client URL NAME CONFIG")
		os.Exit(2)
	}
	s := scenario{url: os.Args[2], name: os.Args[3]}
	if err := json.Unmarshal([]byte(os.Args[4]), &s.config); err != nil {
		fmt.Fprintln(os.Stderr, "CONFIG:", err)
		os.Exit(2)
	}
	play := map[string]func(*scenario){"go-kafka-connect": goKafkaConnect, "connect-client": connectClient}[os.Args[1]]
	if play == nil {
		fmt.Fprintln(os.Stderr, "no such client:", os.Args[1])
		os.Exit(2)
	}
	play(&s)
}

// scenario is what a client is given to play with.
type scenario struct {
	url, name string
	config    map[string]any
}

// with is the config with more keys, or with others.
func (s *scenario) with(more map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range s.config {
		out[k] = v
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

// without is the config without a key.
func (s *scenario) without(key string) map[string]any {
	out := s.with(nil)
	delete(out, key)
	return out
}

// step does one thing and prints what came of it. Kafka Connect refuses while its workers agree on who does what: that passes.
func (s *scenario) step(name string, do func() (any, error)) {
	s.until(name, do, func(any) bool { return true })
}

// until does it again until the result is the awaited one. What never comes is printed as it is at the end, and the lines differ.
func (s *scenario) until(name string, do func() (any, error), done func(any) bool) {
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		result, err := do()
		passing := err != nil && (strings.Contains(err.Error(), "rebalance") || strings.Contains(err.Error(), "stale configuration"))
		if (passing || !done(result)) && time.Now().Before(deadline) {
			continue
		}
		line := map[string]any{"step": name}
		if err != nil {
			line["error"] = strings.ReplaceAll(err.Error(), s.url, "{url}")
		} else {
			line["result"] = result
		}
		_ = json.NewEncoder(os.Stdout).Encode(line)
		return
	}
}
