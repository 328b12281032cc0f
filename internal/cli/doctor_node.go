package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/fault"
	"github.com/millrace/millrace/internal/kafka"
)

// Limits of what is well.
const (
	diskLow, diskFull = 1 << 30, 100 << 20
	// syncSlow is half of the time after which coordinators elect another leader.
	syncSlow   = 300 * time.Millisecond
	clocksWide = 2 * time.Second
)

// examined is what a node told of itself. ahead is how far its clock is ahead of the one here, less the time that the answer was on its way.
type examined struct {
	id    string
	told  *api.Condition
	ahead time.Duration
	err   error
}

func (c *client) examineNodes(ctx context.Context, k *api.Cluster) []finding {
	scheme, _, found := strings.Cut(c.url, "://")
	if !found {
		scheme = "http"
	}
	var list []examined
	for _, n := range k.Nodes {
		if !n.Alive || n.REST == "" {
			continue
		}
		a := c.api()
		a.URL = scheme + "://" + n.REST
		told, err := a.Condition(ctx)
		if fault.KindOf(err) == fault.NotFound {
			continue // an older version
		}
		e := examined{id: n.ID, told: told, err: err}
		if err == nil {
			e.ahead = -time.Since(time.UnixMilli(told.AtUnixMS))
		}
		list = append(list, e)
	}
	return judgeNodes(list)
}

// judgeNodes looks for nodes whose machine, network or clock does harm.
func judgeNodes(nodes []examined) (list []finding) {
	var first, last *examined
	for i, n := range nodes {
		part := "node " + n.id
		if n.err != nil {
			list = append(list, finding{minor, part, "Its REST can't be asked from here: " + n.err.Error(), "Set rest-advertise to an address that clients reach, or open its port."})
			continue
		}
		d := n.told.Disk
		const away = "Free space, or move --data to a larger disk."
		switch {
		case d.Error != "":
			list = append(list, finding{severe, part, "Its data directory can't be written: " + d.Error, "Mend the disk or the directory's owner and mode."})
		case d.FreeBytes < diskFull:
			list = append(list, finding{severe, part, fmt.Sprintf("Only %d MB are free for its data.", d.FreeBytes>>20), away})
		case d.FreeBytes < diskLow:
			list = append(list, finding{minor, part, fmt.Sprintf("Only %d MB are free for its data.", d.FreeBytes>>20), away})
		}
		if d.SyncMS >= syncSlow.Milliseconds() {
			list = append(list, finding{minor, part, fmt.Sprintf("A small write takes %d ms to be on its disk: a leader may lose its post.", d.SyncMS), "Give --data a disk of its own, or a faster one."})
		}
		for _, p := range n.told.Peers {
			if p.Error != "" {
				list = append(list, finding{severe, part, fmt.Sprintf("It does not reach the REST of another node, %s: %s", p.REST, p.Error), "Open the port between the nodes, or set rest-advertise of that node to an address that others reach."})
			}
		}
		if first == nil || n.ahead < first.ahead {
			first = &nodes[i]
		}
		if last == nil || n.ahead > last.ahead {
			last = &nodes[i]
		}
	}
	if first != nil && last.ahead-first.ahead >= clocksWide {
		list = append(list, finding{
			minor, "clocks", fmt.Sprintf("The clock of %s is %v ahead of that of %s: times in logs, events and lags mislead.", last.id, (last.ahead - first.ahead).Round(time.Millisecond), first.id),
			"Let NTP (chrony) set the clocks of all nodes.",
		})
	}
	return list
}

// tryTransaction writes a record in a transaction and reads it back, in a topic that it makes and deletes.
func tryTransaction(ctx context.Context, k kafka.Config, a *kafka.Admin) (err error) {
	name := fmt.Sprintf("millrace-doctor-%d", time.Now().UnixNano())
	if err := a.EnsureTopic(ctx, name, kafka.TopicConfig{Partitions: 1}); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, a.DeleteTopic(ctx, name))
	}()
	p, err := kafka.NewProducer(ctx, k, name, kafka.ProducerOptions{})
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Send(ctx, []kafka.Message{{Topic: name, Value: []byte("trial")}}); err != nil {
		return err
	}
	if err := p.Commit(ctx); err != nil {
		return err
	}
	n := 0
	if err := kafka.ReadToEnd(ctx, k, a, name, nil, func(kafka.Fetched) error { n++; return nil }); err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("one record was committed, and %d can be read", n)
	}
	return nil
}
