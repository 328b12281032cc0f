package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/coordinator/state"
	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// topics stores the topics that tasks say they have used and that are not known yet.
func (l *Loop) topics(ctx context.Context) error {
	var cmds []*commandv1.AddTopics
	l.View(func(s *state.State) {
		for _, c := range s.Connectors() {
			var fresh []string
			for i := range c.TaskConfigs {
				st, _ := l.Sessions.Status(state.UnitID{Connector: c.Name, Task: int32(i)})
				p := st.GetProgress()
				if p.GetTopicsSince() != c.TopicsSince {
					continue // of before a reset, or the task has not heard of it yet
				}
				for _, t := range p.GetTopics() {
					if _, known := slices.BinarySearch(c.Topics, t); !known && !slices.Contains(fresh, t) {
						fresh = append(fresh, t)
					}
				}
			}
			if len(fresh) > 0 {
				slices.Sort(fresh)
				cmds = append(cmds, &commandv1.AddTopics{Connector: c.Name, Since: c.TopicsSince, Topics: fresh})
			}
		}
	})
	for _, cmd := range cmds {
		_, err := l.Raft.Propose(ctx, &commandv1.Command{
			ProposedUnixMs: time.Now().UnixMilli(), Kind: &commandv1.Command_AddTopics{AddTopics: cmd},
		})
		if err != nil {
			return fmt.Errorf("store topics of %s: %w", cmd.Connector, err)
		}
	}
	return nil
}
