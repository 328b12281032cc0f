package main

import (
	"context"
	"slices"
	"strings"
	"time"

	connect "github.com/cloudhut/connect-client"
)

// connectClient plays github.com/cloudhut/connect-client, with which Redpanda Console manages connectors.
func connectClient(s *scenario) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := connect.NewClient(connect.WithHost(s.url), connect.WithTimeout(30*time.Second))
	none := func(do func(context.Context, string) error) func() (any, error) {
		return func() (any, error) { return nil, do(ctx, s.name) }
	}
	state := func() (any, error) {
		r, err := c.GetConnectorStatus(ctx, s.name)
		return withoutWorkers(r), err
	}
	in := func(want string, tasks int) func(any) bool {
		return func(r any) bool {
			got := r.(connect.ConnectorStateInfo)
			return got.Connector.State == want && len(got.Tasks) == tasks && !slices.ContainsFunc(got.Tasks, func(t connect.TaskState) bool { return t.State != want })
		}
	}
	topics := func() (any, error) { return c.GetConnectorTopics(ctx, s.name) }

	s.step("version", func() (any, error) {
		r, err := c.GetRoot(ctx)
		return strings.HasPrefix(r.Version, "4.") && r.Commit != "" && r.KafkaClusterID != "", err
	})
	s.step("plugins", func() (any, error) {
		r, err := c.GetConnectorPlugins(ctx)
		return slices.ContainsFunc(r, func(p connect.ConnectorPluginInfo) bool {
			return p.Class == s.config["connector.class"] && p.Type == "sink" && p.Version != ""
		}), err
	})
	s.step("get what is not there", func() (any, error) { return c.GetConnector(ctx, s.name) })
	s.step("status of what is not there", func() (any, error) { return c.GetConnectorStatus(ctx, s.name) })
	s.step("pause what is not there", none(c.PauseConnector))
	s.step("create without topics", func() (any, error) {
		return c.CreateConnector(ctx, connect.CreateConnectorRequest{Name: s.name, Config: s.without("topics")})
	})
	s.step("validate", func() (any, error) { return s.errors(ctx, c, s.with(map[string]any{"name": s.name})) })
	s.step("validate what is wrong", func() (any, error) {
		return s.errors(ctx, c, s.with(map[string]any{"tasks.max": 0, "errors.tolerance": "maybe"}))
	})
	s.step("create", func() (any, error) {
		return c.CreateConnector(ctx, connect.CreateConnectorRequest{Name: s.name, Config: s.config})
	})
	s.step("create again", func() (any, error) {
		return c.CreateConnector(ctx, connect.CreateConnectorRequest{Name: s.name, Config: s.config})
	})
	s.until("runs", state, in("RUNNING", 1))
	s.step("list", func() (any, error) {
		r, err := c.ListConnectors(ctx)
		return slices.Contains(r, s.name), err
	})
	s.step("list with all", func() (any, error) {
		r, err := c.ListConnectorsExpanded(ctx)
		mine := r[s.name]
		mine.Status = withoutWorkers(mine.Status)
		return mine, err
	})
	s.step("config", func() (any, error) { return c.GetConnectorConfig(ctx, s.name) })
	s.until("topics", topics, func(r any) bool { return len(r.(map[string]connect.ConnectorTopics)[s.name].Topics) == 1 })
	s.step("pause", none(c.PauseConnector))
	s.until("is paused", state, in("PAUSED", 1))
	s.step("forget topics", none(c.ResetConnectorTopics))
	s.until("no topics", topics, func(r any) bool { return len(r.(map[string]connect.ConnectorTopics)[s.name].Topics) == 0 })
	s.step("change", func() (any, error) {
		return c.PutConnectorConfig(ctx, s.name, connect.PutConnectorConfigOptions{Config: s.with(map[string]any{"errors.tolerance": "all", "errors.log.enable": true})})
	})
	s.step("resume", none(c.ResumeConnector))
	s.until("runs again", state, in("RUNNING", 1))
	for _, o := range []connect.RestartConnectorOptions{{}, {OnlyFailed: true}, {IncludeTasks: true}} {
		s.step("restart", func() (any, error) { return nil, c.RestartConnector(ctx, s.name, o) })
	}
	s.until("runs after the restarts", state, in("RUNNING", 1))
	s.step("restart a task", func() (any, error) { return nil, c.RestartConnectorTask(ctx, s.name, 0) })
	s.step("restart a task that is not there", func() (any, error) { return nil, c.RestartConnectorTask(ctx, s.name, 7) })
	s.step("stop", none(c.StopConnector))
	s.until("is stopped", state, in("STOPPED", 0))
	s.step("delete", none(c.DeleteConnector))
	s.until("is gone", func() (any, error) {
		_, err := c.GetConnector(ctx, s.name)
		return err != nil, nil
	}, func(r any) bool { return r.(bool) })
	s.step("delete again", none(c.DeleteConnector))
}

// errors validates a config and returns what is wrong, by key.
func (s *scenario) errors(ctx context.Context, c *connect.Client, config map[string]any) (any, error) {
	r, err := c.PutValidateConnectorConfig(ctx, config["connector.class"].(string), connect.ValidateConnectorConfigOptions{Config: config})
	found := map[string]any{}
	for _, k := range r.Configs {
		if errs, _ := k.Value["errors"].([]any); len(errs) > 0 {
			found[k.Value["name"].(string)] = errs
		}
	}
	return map[string]any{"count": r.ErrorCount, "errors": found}, err
}

func withoutWorkers(r connect.ConnectorStateInfo) connect.ConnectorStateInfo {
	r.Connector.WorkerID = ""
	for i := range r.Tasks {
		r.Tasks[i].WorkerID = ""
	}
	return r
}
