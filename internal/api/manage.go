package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// CreateIn makes a connector that begins in a target state: RUNNING, PAUSED or STOPPED. Empty: RUNNING.
func (c *Client) CreateIn(ctx context.Context, state, name string, config map[string]string) (out *ConnectorInfo, err error) {
	in := CreateConnector{Name: name, Config: GivenConfig{}, InitialState: state}
	for k, v := range config {
		in.Config[k] = v
	}
	err = c.Do(ctx, http.MethodPost, "/connectors", in, &out)
	return out, err
}

// PatchConfig changes single keys of a config; nil removes a key.
func (c *Client) PatchConfig(ctx context.Context, name string, patch map[string]*string) (out *ConnectorInfo, err error) {
	err = c.Do(ctx, http.MethodPatch, at(name, "/config"), patch, &out)
	return out, err
}

// OffsetsJSON returns a connector's offsets as the server wrote them: numbers beyond 2^53 keep their digits.
func (c *Client) OffsetsJSON(ctx context.Context, name string) (out json.RawMessage, err error) {
	err = c.Do(ctx, http.MethodGet, at(name, "/offsets"), nil, &out)
	return out, err
}

// AlterOffsetsJSON changes offsets of a stopped connector. offsets is JSON in the form that Offsets returns.
func (c *Client) AlterOffsetsJSON(ctx context.Context, name string, offsets json.RawMessage) (out *Message, err error) {
	err = c.Do(ctx, http.MethodPatch, at(name, "/offsets"), offsets, &out)
	return out, err
}

// ResetOffsets forgets all offsets of a stopped connector.
func (c *Client) ResetOffsets(ctx context.Context, name string) (out *Message, err error) {
	err = c.Do(ctx, http.MethodDelete, at(name, "/offsets"), nil, &out)
	return out, err
}

// Loggers returns the log levels of the node that is asked.
func (c *Client) Loggers(ctx context.Context) (out map[string]Logger, err error) {
	err = c.Do(ctx, http.MethodGet, "/admin/loggers", nil, &out)
	return out, err
}

// SetLogger sets the level of a logger on the node that is asked, or on all.
func (c *Client) SetLogger(ctx context.Context, name, level string, everywhere bool) error {
	path := "/admin/loggers/" + url.PathEscape(name)
	if everywhere {
		path += "?scope=cluster"
	}
	return c.Do(ctx, http.MethodPut, path, SetLevel{Level: level}, nil)
}

// Logs returns the last log lines of a connector, on all nodes.
func (c *Client) Logs(ctx context.Context, name string) (out *Logs, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+at(name, "/logs"), nil, &out)
	return out, err
}
