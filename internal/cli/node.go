package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // certificate authorities where the system has none, as in an image FROM scratch
	"golang.org/x/sync/errgroup"

	_ "github.com/millrace/millrace/connectors/all" // the connectors built in
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/coordinator"
	"github.com/millrace/millrace/coordinator/herder"
	"github.com/millrace/millrace/coordinator/raftnode"
	"github.com/millrace/millrace/coordinator/rest"
	"github.com/millrace/millrace/coordinator/session"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/loglevel"
	"github.com/millrace/millrace/internal/logring"
	"github.com/millrace/millrace/internal/obs"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
	"github.com/millrace/millrace/worker"
)

func newNodeCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node",
		Long: "Run a node until it is stopped. Without any flag it is a whole system: coordinator, worker and an embedded broker.\n" +
			"Each setting is also a key of the config file and an environment variable (MILLRACE_REST for --rest).",
		Args: cobra.NoArgs,
	}
	spec := config.Node()
	for _, k := range spec.Keys() {
		usage := k.Doc
		if len(k.OneOf) > 0 {
			usage += " One of: " + strings.Join(k.OneOf, ", ") + "."
		}
		cmd.Flags().String(k.Name, k.Default, usage)
	}
	cmd.Flags().StringVar(&file, "config", os.Getenv("MILLRACE_CONFIG"), "YAML file with settings, named as the flags are.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]string{}
		for _, k := range spec.Keys() {
			if f := cmd.Flags().Lookup(k.Name); f.Changed {
				given[k.Name] = f.Value.String()
			}
		}
		v, err := config.LoadNode(given, os.Environ(), file)
		if err != nil {
			return fault.New(fault.Invalid, "the node's settings are wrong:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		go func() {
			<-ctx.Done()
			stop() // a second signal ends the process at once
		}()
		return runNode(ctx, v)
	}
	return cmd
}

// node is a running node.
type node struct {
	v   configdef.Values
	id  string
	log *slog.Logger
	// levels of the log; REST changes them.
	levels *loglevel.Levels
	// logs are the last lines of each connector.
	logs  *logring.Ring
	tls   security
	kafka kafka.Config

	listener net.Listener
	coord    *coordinator.Coordinator
	herder   *herder.Herder
	worker   atomic.Pointer[worker.Worker]
	embedded *embedded.Broker
	metrics  *obs.Registry
	// draining: the node was told to end.
	draining atomic.Bool
	// kafkaID is the brokers' own id, once known.
	kafkaID atomic.Pointer[string]
}

// collectAt is how much the heap may grow, in percent of what is alive, before it is collected. Most of it is buffers that hold no pointers:
// collecting twice as often as Go's default costs little and saves a third of the resident memory. GOGC says otherwise.
const collectAt = 50

func runNode(ctx context.Context, v configdef.Values) error {
	n := &node{v: v, metrics: obs.NewRegistry(), logs: logring.New()}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if err := os.MkdirAll(v.String(config.NodeData), 0o755); err != nil {
		return fault.New(fault.Invalid, "data directory (--data): %v", err)
	}
	var err error
	if n.id, err = nodeID(v); err != nil {
		return err
	}
	n.levels = levels(v)
	n.log = logger(v, n.levels, n.logs).With("node", n.id)
	if n.tls, err = loadSecurity(v, n.log.With("component", "tls")); err != nil {
		return err
	}
	isCoordinator := slices.Contains(v.List(config.NodeRoles), "coordinator")
	isWorker := slices.Contains(v.List(config.NodeRoles), "worker")

	// REST listens first, so that who starts a node is not refused while the rest comes up.
	n.listener, err = net.Listen("tcp", v.String(config.NodeREST))
	if err != nil {
		return taken(fmt.Errorf("listen on %s for REST (--rest): %w", v.String(config.NodeREST), err))
	}
	var profile net.Listener
	if addr := v.String(config.NodeProfile); addr != "" {
		if profile, err = net.Listen("tcp", addr); err != nil {
			return errors.Join(taken(fmt.Errorf("listen on %s for profiles (--profile): %w", addr, err)), n.listener.Close())
		}
		defer profile.Close()
	}
	if n.embedded, err = n.broker(isCoordinator); err != nil {
		return errors.Join(taken(err), n.listener.Close())
	}
	if n.embedded != nil {
		defer n.embedded.Close()
	}
	if isCoordinator {
		if err := n.newCoordinator(isWorker, n.embedded != nil); err != nil {
			return errors.Join(err, n.listener.Close())
		}
		n.herder = herder.New(n.coord, herder.Kafka{Config: n.kafka, OffsetsTopic: v.String(config.NodeOffsetsTopic)})
	}
	n.metrics.Add(n.collect)
	context.AfterFunc(ctx, func() { n.draining.Store(true) })
	server := rest.New(n.listener, rest.Options{
		Version: Version, Commit: Commit, Herder: n.herder, Ready: n.ready, Metrics: n.metrics, Leader: n.leader, Fault: n.fault, KafkaClusterID: n.clusterID,
		TLS: n.tls.rest, ClientAuth: clientAuth(v), Logger: n.log.With("component", "rest"),
		Levels: n.levels, NodeID: n.id, Logs: n.logs, Nodes: n.others, Data: v.String(config.NodeData),
		Logins: n.tls.logins, CORS: rest.CORS{Origins: v.List(config.AllowOrigin), Methods: v.List(config.AllowMethods)},
	})
	n.log.Info("node starts", "version", Version, "rest", n.listener.Addr().String(), "roles", v.List(config.NodeRoles), "brokers", n.kafka.Brokers)

	// The order of the end is the reverse: workers stop and say so, then the coordinator hands over, REST last.
	restCtx, stopREST := context.WithCancel(context.WithoutCancel(ctx))
	coordCtx, stopCoord := context.WithCancel(context.WithoutCancel(ctx))
	defer stopREST()
	defer stopCoord()
	g, failed := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(restCtx) })
	if isCoordinator {
		g.Go(func() error { return n.coord.Run(coordCtx) })
	}
	g.Go(func() error {
		defer stopREST()
		defer stopCoord()
		if !isWorker {
			<-failed.Done()
			return nil
		}
		return n.runWorker(failed, isCoordinator)
	})
	g.Go(func() error { n.learnKafkaID(failed); return nil })
	if profile != nil {
		g.Go(func() error { return profiles(restCtx, profile) })
	}
	err = g.Wait()
	n.log.Info("node ended")
	return taken(err)
}

// taken adds the way out to a port that is in use.
func taken(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fault.New(fault.Conflict, "%v: another process has this port; stop it, or give this node another address", err)
	}
	return err
}

func (n *node) newCoordinator(isWorker, embeddedBroker bool) error {
	labels := labelsOf(n.v)
	var err error
	n.coord, err = coordinator.New(coordinator.Options{
		NodeID: n.id, DataDir: n.v.String(config.NodeData), ListenAddr: n.v.String(config.NodeCluster), AdvertiseAddr: n.v.String(config.NodeClusterAdvert),
		RESTAddr: n.restAddr(), Labels: labels, Worker: isWorker, Version: Version, Join: n.v.List(config.NodeJoin), Brokers: n.kafka.Brokers,
		EmbeddedBroker: embeddedBroker, TLS: n.tls.cluster, Capacity: uint32(n.v.Int(config.NodeCapacity)), BootstrapExpect: int(n.v.Int(config.NodeBootstrap)),
		MovesMax: int(n.v.Int(config.NodeMoves)), Compaction: raftnode.Compaction{
			Entries: uint64(n.v.Int(config.NodeSnapEntries)), Interval: n.v.Duration(config.NodeSnapInterval), Trailing: uint64(n.v.Int(config.NodeTrailing)),
		},
		Timing:          session.NewTiming(n.v.Duration(config.NodeLease), n.v.Duration(config.NodeHeartbeat)),
		ElectionTimeout: n.v.Duration(config.NodeElection), Logger: n.log.With("component", "coordinator"),
	})
	return err
}

// broker starts the embedded broker where this node is to have it.
func (n *node) broker(isCoordinator bool) (*embedded.Broker, error) {
	n.kafka = n.tls.brokers(n.v, n.v.List(config.NodeBrokers), n.log.With("component", "kafka"))
	if len(n.kafka.Brokers) > 0 || !isCoordinator || len(n.v.List(config.NodeJoin)) > 0 {
		return nil, nil
	}
	dir := filepath.Join(n.v.String(config.NodeData), "kafka")
	addr := n.v.String(config.NodeEmbedded)
	// A port that was picked once stays, so that the addresses which clients know survive a restart.
	portFile := filepath.Join(n.v.String(config.NodeData), "kafka-address")
	if _, port, err := net.SplitHostPort(addr); err == nil && port == "0" {
		if b, err := os.ReadFile(portFile); err == nil {
			addr = strings.TrimSpace(string(b))
		}
	}
	b, err := embedded.Start(embedded.Options{Addr: addr, DataDir: dir, Logger: n.log.With("component", "broker")})
	if err != nil {
		return nil, err
	}
	n.kafka.Brokers = []string{b.Addr()}
	if err := os.WriteFile(portFile, []byte(b.Addr()), 0o644); err != nil {
		b.Close()
		return nil, fmt.Errorf("remember the embedded broker's address: %w", err)
	}
	return b, nil
}

func (n *node) runWorker(ctx context.Context, isCoordinator bool) error {
	join := n.v.List(config.NodeJoin)
	me := &clusterv1.NodeInfo{
		Id: n.id, RestAddr: n.restAddr(), Labels: labelsOf(n.v), Worker: true, Coordinator: isCoordinator, Version: Version,
		Capacity: uint32(n.v.Int(config.NodeCapacity)), Protocol: clusterv1.Protocol,
	}
	if isCoordinator {
		select {
		case <-n.coord.Ready():
		case <-ctx.Done():
			return nil
		}
		me.ClusterAddr = n.coord.Addr()
		join = append([]string{n.coord.Addr()}, join...)
	}
	kc := n.kafka
	if len(n.v.List(config.NodeBrokers)) == 0 {
		kc.Brokers = nil // the cluster's, which may move
	}
	w, err := worker.New(worker.Options{
		Node: me, BootID: randomID(), Coordinators: join, TLS: n.tls.cluster, Kafka: kc, OffsetsTopic: n.v.String(config.NodeOffsetsTopic),
		Grace: n.v.Duration(config.NodeGrace), DrainTime: n.v.Duration(config.NodeDrain), Logger: n.log.With("component", "worker"),
	})
	if err != nil {
		return err
	}
	n.worker.Store(w)
	return w.Run(ctx)
}

// leader tells REST where the leader is.
func (n *node) leader(ctx context.Context) (string, bool) {
	if c := n.coord; c != nil {
		l, ok := c.Leader()
		if !ok {
			return "", false
		}
		return l.RESTAddr, l.Self
	}
	w := n.worker.Load()
	if w == nil {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	addr, err := w.Leader(ctx)
	if err != nil {
		return "", false
	}
	return addr, false
}

// others tells REST where the other nodes answer it.
func (n *node) others(ctx context.Context) ([]string, error) {
	var info *clusterv1.InfoResponse
	if n.coord != nil {
		info = n.coord.Info()
	} else if w := n.worker.Load(); w != nil {
		var err error
		if info, err = w.Info(ctx); err != nil {
			return nil, err
		}
	}
	var out []string
	for _, other := range info.GetNodes() {
		if other.Id != n.id && other.RestAddr != "" {
			out = append(out, other.RestAddr)
		}
	}
	return out, nil
}

// restAddr is REST's address as other nodes reach it.
func (n *node) restAddr() string {
	if a := n.v.String(config.NodeRESTAdvertise); a != "" {
		return a
	}
	host, port, err := net.SplitHostPort(n.listener.Addr().String())
	if err != nil {
		return n.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

// fault tells REST what keeps this node from storing the cluster's state.
func (n *node) fault() string {
	if n.coord == nil {
		return ""
	}
	return n.coord.Fault()
}

func (n *node) clusterID() string {
	if p := n.kafkaID.Load(); p != nil {
		return *p
	}
	return ""
}

// learnKafkaID asks the brokers for their cluster's id, for GET /.
func (n *node) learnKafkaID(ctx context.Context) {
	kc := n.kafka
	var last string
	for ctx.Err() == nil {
		if len(kc.Brokers) > 0 {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			a, err := kafka.NewAdmin(try, kc)
			if err == nil {
				id, idErr := a.ClusterID(try)
				_ = a.Close()
				if err = idErr; err == nil {
					n.kafkaID.Store(&id)
				}
			}
			cancel()
			if err == nil || ctx.Err() != nil {
				return
			}
			if err.Error() != last {
				last = err.Error()
				n.log.Warn("the brokers can't be used; trying on", "err", err)
			}
		} else if c := n.coord; c != nil {
			select {
			case <-c.Ready():
				kc.Brokers = c.Info().GetBrokers()
			default:
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func labelsOf(v configdef.Values) map[string]string {
	out := map[string]string{}
	for _, item := range v.List(config.NodeLabels) {
		if k, val, ok := strings.Cut(item, "="); ok {
			out[k] = val
		}
	}
	return out
}

// nodeID is the given id, or one that was made once.
func nodeID(v configdef.Values) (string, error) {
	if id := v.String(config.NodeID); id != "" {
		return id, nil
	}
	path := filepath.Join(v.String(config.NodeData), "node-id")
	if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	id := "node-" + randomID()[:8]
	if err := os.WriteFile(path, []byte(id+"\n"), 0o644); err != nil {
		return "", fault.New(fault.Invalid, "data directory (--data): %v", err)
	}
	return id, nil
}

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func levels(v configdef.Values) *loglevel.Levels {
	var level slog.Level
	_ = level.UnmarshalText([]byte(v.String(config.NodeLogLevel))) // checked by the spec
	return loglevel.New(level)
}

func logger(v configdef.Values, l *loglevel.Levels, ring *logring.Ring) *slog.Logger {
	all := &slog.HandlerOptions{Level: slog.Level(math.MinInt)} // the levels choose
	var h slog.Handler = slog.NewTextHandler(os.Stderr, all)
	if v.String(config.NodeLogFormat) == "json" {
		h = slog.NewJSONHandler(os.Stderr, all)
	}
	return slog.New(l.Handler(ring.Handler(h)))
}
