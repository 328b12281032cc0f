package main

import (
	"slices"

	"github.com/ricardo-ch/go-kafka-connect/v3/lib/connectors"
)

// goKafkaConnect plays github.com/ricardo-ch/go-kafka-connect, which the Terraform provider is built on. After each change it waits by
// itself until the cluster shows it: a config that comes back with one key more is never up to date for it.
func goKafkaConnect(s *scenario) {
	c := connectors.NewClient(s.url)
	me := connectors.ConnectorRequest{Name: s.name}
	create := func(config map[string]any) connectors.CreateConnectorRequest {
		return connectors.CreateConnectorRequest{ConnectorRequest: me, Config: config}
	}
	state := func() (any, error) {
		r, err := c.GetConnectorStatus(me)
		delete(r.ConnectorStatus, "worker_id")
		delete(r.ConnectorStatus, "version")
		for i := range r.TasksStatus {
			r.TasksStatus[i].WorkerID = ""
		}
		return r, err
	}
	in := func(want string) func(any) bool {
		return func(r any) bool {
			got := r.(connectors.GetConnectorStatusResponse)
			return got.ConnectorStatus["state"] == want && len(got.TasksStatus) == 1 && got.TasksStatus[0].State == want
		}
	}
	listed := func() (any, error) {
		r, err := c.GetAll()
		return slices.Contains(r.Connectors, s.name), err
	}
	upToDate := func(config map[string]any) func() (any, error) {
		return func() (any, error) { return c.IsUpToDate(s.name, config) }
	}
	changed := s.with(map[string]any{"errors.tolerance": "all", "tasks.max": 1})

	s.step("not listed", listed)
	s.step("get what is not there", func() (any, error) { return c.GetConnector(me) })
	s.step("create without topics", func() (any, error) { return c.CreateConnector(create(s.without("topics")), false) })
	s.step("create", func() (any, error) { return c.CreateConnector(create(s.config), true) })
	s.until("runs", state, in("RUNNING"))
	s.step("listed", listed)
	s.step("get", func() (any, error) { return c.GetConnector(me) })
	s.step("config", func() (any, error) { return c.GetConnectorConfig(me) })
	s.step("tasks", func() (any, error) {
		r, err := c.GetAllTasks(me)
		var ids []connectors.TaskID
		for _, t := range r.Tasks {
			ids = append(ids, t.ID)
		}
		return ids, err
	})
	s.step("task status", func() (any, error) {
		r, err := c.GetTaskStatus(connectors.TaskRequest{Connector: s.name})
		return r.Code, err
	})
	s.step("up to date", upToDate(s.config))
	s.step("not up to date", upToDate(changed))
	s.step("update", func() (any, error) { return c.UpdateConnector(create(changed), true) })
	s.step("up to date after the update", upToDate(changed))
	s.step("deploy the same", func() (any, error) { return nil, c.DeployConnector(create(changed)) })
	s.step("deploy another", func() (any, error) {
		return nil, c.DeployMultipleConnector([]connectors.CreateConnectorRequest{create(s.config)})
	})
	s.step("update to what is wrong", func() (any, error) {
		return c.UpdateConnector(create(s.with(map[string]any{"tasks.max": 0})), false)
	})
	s.until("runs after the updates", state, in("RUNNING"))
	s.step("pause", func() (any, error) { return c.PauseConnector(me, true) })
	s.until("is paused", state, in("PAUSED"))
	s.step("resume", func() (any, error) { return c.ResumeConnector(me, true) })
	s.until("runs again", state, in("RUNNING"))
	s.step("restart", func() (any, error) { return c.RestartConnector(me) })
	s.step("restart a task", func() (any, error) { return c.RestartTask(connectors.TaskRequest{Connector: s.name}) })
	s.until("runs after the restarts", state, in("RUNNING"))
	s.step("delete", func() (any, error) { return c.DeleteConnector(me, true) })
	s.step("listed no more", listed)
}
