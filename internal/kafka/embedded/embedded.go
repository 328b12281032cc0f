// Package embedded is the Kafka broker inside a node that was given none: franz-go's kfake, on a data directory with synced
// writes. Its authors call it a test broker, and it is one process without replicas: good for trying, for tests and for small
// jobs (docs/decisions/0003).
//
// It runs its own goroutines, all of which end with Close.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Options say where the broker listens and keeps its topics.
type Options struct {
	// Addr is host:port; port 0 picks a free one.
	Addr string
	// DataDir keeps topics, offsets and transactions. Empty: memory only.
	DataDir string
	// ClusterID, if set, is what clients see; a stored one wins.
	ClusterID string
	// Listen, if set, opens Addr in place of the host's network.
	Listen func(network, addr string) (net.Listener, error)
	Logger *slog.Logger
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	dir     string
}

// Start starts the broker; it serves when Start returns.
func Start(o Options) (*Broker, error) {
	// Looked at first, because the library's own message would not say which setting is wrong.
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	l, err := o.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: listen on %s (--embedded-kafka): %w", o.Addr, err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.DefaultNumPartitions(1),
		kfake.AllowAutoTopicCreation(),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return l, nil }),
		kfake.WithLogger(logger{o.Logger}),
	}
	if o.ClusterID != "" {
		opts = append(opts, kfake.ClusterID(o.ClusterID))
	}
	if o.DataDir != "" {
		dir := filepath.Clean(o.DataDir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("embedded broker: data directory: %w", err)
		}
		opts = append(opts, kfake.DataDir(dir), kfake.SyncWrites())
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("embedded broker in %s: %w", o.DataDir, err)
	}
	addrs := c.ListenAddrs()
	if len(addrs) == 0 {
		c.Close()
		return nil, errors.New("embedded broker does not listen")
	}
	return &Broker{cluster: c, addr: strings.TrimPrefix(addrs[0], "tcp://"), dir: o.DataDir}, nil
}

// Addr is host:port as clients reach it.
func (b *Broker) Addr() string { return b.addr }

// DataBytes is the size of all files that the broker keeps.
func (b *Broker) DataBytes() int64 {
	var sum int64
	_ = filepath.WalkDir(b.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if i, err := d.Info(); err == nil { // else it went meanwhile
				sum += i.Size()
			}
		}
		return nil
	})
	return sum
}

// Close stops the broker and flushes what it holds.
func (b *Broker) Close() { b.cluster.Close() }

// logger passes the broker's own log on.
type logger struct{ log *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	if l.log == nil {
		return
	}
	msg := fmt.Sprintf(format, args...)
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded broker", "detail", msg)
	case kfake.LogLevelWarn:
		// It warns of every transaction that takes 5 ms, which synced writes often do.
		level := slog.LevelWarn
		if strings.Contains(msg, "EndTxn slow") {
			level = slog.LevelDebug
		}
		l.log.Log(context.Background(), level, "embedded broker", "detail", msg)
	default:
		l.log.Debug("embedded broker", "detail", msg)
	}
}
