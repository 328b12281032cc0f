package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/fault"
)

// Client calls a node's REST API. Any node will do. Safe for concurrent use.
type Client struct {
	// URL of a node: http://host:port.
	URL  string
	HTTP *http.Client
	// User and Password, or Token, log in where the node asks for it.
	User, Password, Token string
}

// NewClient makes a client for a node.
func NewClient(base string) *Client {
	return &Client{URL: strings.TrimRight(base, "/"), HTTP: &http.Client{Timeout: 100 * time.Second}}
}

// Do calls the API. in, if not nil, is sent as JSON; out, if not nil, gets the answer. Failures carry the server's message and kind.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return fault.New(fault.Invalid, "bad URL %q: %v", c.URL, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.Token)
	case c.User != "":
		req.SetBasicAuth(c.User, c.Password)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return fault.New(fault.Unavailable, "no node answers at %s: %v. Is it running? Point to another with --url or MILLRACE_URL", c.URL, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fault.New(fault.Unavailable, "answer of %s: %v", c.URL, err)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return fault.New(fault.Invalid, "%s does not know who asks: log in with --user NAME:PASSWORD (MILLRACE_USER) or --token (MILLRACE_TOKEN)", c.URL)
	}
	if resp.StatusCode >= 300 {
		var e Error
		if json.Unmarshal(b, &e) == nil && e.Message != "" {
			return fault.New(fault.FromStatus(resp.StatusCode), "%s", e.Message)
		}
		return fault.New(fault.FromStatus(resp.StatusCode), "%s %s: %s", method, path, resp.Status)
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer of %s %s: %w", method, path, err)
	}
	return nil
}

func at(name string, more ...string) string {
	return "/connectors/" + url.PathEscape(name) + strings.Join(more, "")
}

// Connectors lists the names.
func (c *Client) Connectors(ctx context.Context) (out []string, err error) {
	err = c.Do(ctx, http.MethodGet, "/connectors", nil, &out)
	return out, err
}

// Expanded lists connectors with status and info.
func (c *Client) Expanded(ctx context.Context) (out map[string]Expanded, err error) {
	err = c.Do(ctx, http.MethodGet, "/connectors?expand=status&expand=info", nil, &out)
	return out, err
}

// Create makes a connector.
func (c *Client) Create(ctx context.Context, name string, config map[string]string) (out *ConnectorInfo, err error) {
	return c.CreateIn(ctx, "", name, config)
}

// Get describes a connector.
func (c *Client) Get(ctx context.Context, name string) (out *ConnectorInfo, err error) {
	err = c.Do(ctx, http.MethodGet, at(name), nil, &out)
	return out, err
}

// PutConfig creates a connector or replaces its config.
func (c *Client) PutConfig(ctx context.Context, name string, config map[string]string) (out *ConnectorInfo, err error) {
	err = c.Do(ctx, http.MethodPut, at(name, "/config"), config, &out)
	return out, err
}

// Status returns a connector's state.
func (c *Client) Status(ctx context.Context, name string) (out *ConnectorStatus, err error) {
	err = c.Do(ctx, http.MethodGet, at(name, "/status"), nil, &out)
	return out, err
}

// Progress returns how far a connector is.
func (c *Client) Progress(ctx context.Context, name string) (out *Progress, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+at(name, "/progress"), nil, &out)
	return out, err
}

// Events returns what has happened to a connector's tasks.
func (c *Client) Events(ctx context.Context, name string) (out *Events, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+at(name, "/events"), nil, &out)
	return out, err
}

// Audit returns how a connector's topics compare with its ledger.
func (c *Client) Audit(ctx context.Context, name string) (out *Audit, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+at(name, "/audit"), nil, &out)
	return out, err
}

// Pause pauses a connector; its tasks stay where they are.
func (c *Client) Pause(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPut, at(name, "/pause"), nil, nil)
}

// Resume lets a paused or stopped connector run.
func (c *Client) Resume(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPut, at(name, "/resume"), nil, nil)
}

// Stop ends a connector's tasks.
func (c *Client) Stop(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPut, at(name, "/stop"), nil, nil)
}

// Delete deletes a connector.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodDelete, at(name), nil, nil)
}

// Restart restarts a connector, with its tasks, or what of it has failed.
func (c *Client) Restart(ctx context.Context, name string, includeTasks, onlyFailed bool) error {
	return c.Do(ctx, http.MethodPost, at(name, fmt.Sprintf("/restart?includeTasks=%v&onlyFailed=%v", includeTasks, onlyFailed)), nil, nil)
}

// Offsets returns what a connector has stored of its progress.
func (c *Client) Offsets(ctx context.Context, name string) (out *Offsets, err error) {
	err = c.Do(ctx, http.MethodGet, at(name, "/offsets"), nil, &out)
	return out, err
}

// AlterOffsets changes offsets of a stopped connector; those of partitions that are not named stay.
func (c *Client) AlterOffsets(ctx context.Context, name string, in Offsets) error {
	return c.Do(ctx, http.MethodPatch, at(name, "/offsets"), in, nil)
}

// Signal asks a connector's tasks for something, such as to read tables anew.
func (c *Client) Signal(ctx context.Context, name string, s Signal) error {
	return c.Do(ctx, http.MethodPost, "/millrace/v1/connectors/"+url.PathEscape(name)+"/signals", s, nil)
}

// Validate looks at a config.
func (c *Client) Validate(ctx context.Context, class string, config map[string]string) (out *ConfigInfos, err error) {
	err = c.Do(ctx, http.MethodPut, "/connector-plugins/"+url.PathEscape(class)+"/config/validate", config, &out)
	return out, err
}

// Plugins lists the connector classes.
func (c *Client) Plugins(ctx context.Context) (out []PluginInfo, err error) {
	err = c.Do(ctx, http.MethodGet, "/connector-plugins", nil, &out)
	return out, err
}

// Cluster describes the cluster.
func (c *Client) Cluster(ctx context.Context) (out *Cluster, err error) {
	err = c.Do(ctx, http.MethodGet, Prefix+"/cluster", nil, &out)
	return out, err
}

// Ready returns an error with the reason while the node can't do its part.
func (c *Client) Ready(ctx context.Context) error {
	return c.Do(ctx, http.MethodGet, Prefix+"/ready", nil, nil)
}
