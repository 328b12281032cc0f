package worker

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/ledger"
	clusterv1 "github.com/millrace/millrace/proto/cluster/v1"
)

// auditCheck is how often a connector without an audit is looked at for one.
const auditCheck = 30 * time.Second

// audit compares a connector's topics with its ledger until ctx ends, every now and then and at a low rate. What it finds goes to the leader with
// the status of the planning half. An auditor goes on where it was; a new owner, and one whose ledger is another, begins anew.
func (w *Worker) audit(ctx context.Context, log *slog.Logger, current func() *clusterv1.Assignment) {
	var auditor *ledger.Auditor
	var is, said string
	found := int64(0)
	wait := rand.N(time.Second) // many planning halves start together
	for {
		a := current()
		o, every := auditOf(a)
		if every == 0 {
			auditor, every = nil, auditCheck
			w.status.audit(keyOf(a.Unit), a.Epoch, nil)
		} else if now := fmt.Sprint(o); auditor == nil || is != now {
			is, found, auditor = now, 0, ledger.NewAuditor(w.auditWith(o))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + every):
		}
		wait = 0
		if auditor == nil {
			continue
		}
		err := auditor.Round(ctx)
		if ctx.Err() != nil {
			return
		}
		r := auditor.Report()
		if err != nil {
			r.Error = err.Error()
		}
		if r.Error != said && r.Error != "" {
			log.Warn("the topics could not be compared with the ledger", "err", err)
		}
		said = r.Error
		if n := r.Missing + r.Extra + r.Changed; n > found {
			log.Error("topics are not as the ledger says", "missing", r.Missing, "extra", r.Extra, "changed", r.Changed)
			found = n
		}
		w.status.audit(keyOf(a.Unit), a.Epoch, auditMessage(r))
	}
}

// auditOf reads what a connector wants of its audit; no interval: none.
func auditOf(a *clusterv1.Assignment) (ledger.AuditOptions, time.Duration) {
	p, ok := connectors.Lookup(a.Config[config.ConnectorClass])
	if !ok || p.Kind == connectors.KindSink {
		return ledger.AuditOptions{}, 0
	}
	v, _, problems := config.Parse(config.Full(p), a.Config)
	if len(problems) > 0 || !config.KeepsLedger(p, v) {
		return ledger.AuditOptions{}, 0
	}
	return ledger.AuditOptions{Ledger: v.String(config.LedgerTopic), Connector: a.Unit.Connector, BytesPerSecond: v.Int(config.AuditRate)}, v.Duration(config.AuditInterval)
}

// auditWith adds where Kafka is.
func (w *Worker) auditWith(o ledger.AuditOptions) ledger.AuditOptions {
	o.Kafka = w.opts.Kafka
	if len(o.Kafka.Brokers) == 0 {
		o.Kafka.Brokers = w.cluster().GetBrokers()
	}
	o.Kafka.ClientID, o.Admins = "millrace-audit-"+o.Connector, &w.offsets.Admins
	return o
}

func auditMessage(r *api.Audit) *clusterv1.Audit {
	m := &clusterv1.Audit{
		AtUnixMs: r.AtUnixMS, Batches: r.Batches, Records: r.Records, Missing: r.Missing, Extra: r.Extra, Changed: r.Changed, Expired: r.Expired,
		Uncovered: r.Uncovered, Pending: r.Pending, Skipped: r.Skipped, Error: strings.TrimSpace(r.Error),
	}
	for _, d := range r.Differences {
		m.Differences = append(m.Differences, &clusterv1.Difference{
			Kind: d.Kind, Topic: d.Topic, Partition: d.Partition, FromOffset: d.FromOffset, ToOffset: d.ToOffset, Records: d.Records, Detail: d.Detail,
		})
	}
	for _, x := range r.Verified {
		m.Verified = append(m.Verified, &clusterv1.Verified{Task: x.Task, CommittedUnixMs: x.CommittedUnixMS, Position: string(x.Position)})
	}
	return m
}
