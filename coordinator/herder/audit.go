package herder

import (
	"encoding/json"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/coordinator/state"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
)

// Audit returns how a connector's topics compare with its ledger, as far as the worker that holds its planning half has got.
func (h *Herder) Audit(name string) (*api.Audit, error) {
	c, err := h.connector(name)
	if err != nil {
		return nil, err
	}
	out := &api.Audit{Name: name, Verified: []api.Verified{}, Differences: []api.Difference{}}
	if p, ok := connectors.Lookup(c.Config[config.ConnectorClass]); ok {
		v, _ := config.Full(p).Parse(c.Config)
		out.Ledger = config.KeepsLedger(p, v)
	}
	if m := h.units(c)[state.PlanningHalf].s.GetAudit(); m != nil {
		out.AtUnixMS, out.Batches, out.Records, out.Missing, out.Extra, out.Changed = m.AtUnixMs, m.Batches, m.Records, m.Missing, m.Extra, m.Changed
		out.Expired, out.Uncovered, out.Pending, out.Skipped, out.Error = m.Expired, m.Uncovered, m.Pending, m.Skipped, m.Error
		for _, v := range m.Verified {
			out.Verified = append(out.Verified, api.Verified{Connector: name, Task: v.Task, CommittedUnixMS: v.CommittedUnixMs, Position: json.RawMessage(v.Position)})
		}
		for _, d := range m.Differences {
			out.Differences = append(out.Differences, api.Difference{
				Kind: d.Kind, Topic: d.Topic, Partition: d.Partition, FromOffset: d.FromOffset, ToOffset: d.ToOffset, Records: d.Records, Detail: d.Detail,
			})
		}
	}
	out.Summarize()
	return out, nil
}

// protocolOf names the transaction protocol of a task's producer.
func protocolOf(n int32) string {
	switch n {
	case 1:
		return "1"
	case 2:
		return "2"
	}
	return "none"
}
