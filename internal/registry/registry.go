// Package registry is a client of schema registries with Confluent's REST interface: it registers schemas, looks them up and remembers both.
//
// A Client is safe for concurrent use. What fails because the registry does not answer is a retriable error.
package registry

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
	"sync"
	"time"

	"github.com/millrace/millrace/connectors"
)

// Schema is a schema in the registry's form.
type Schema struct {
	// Type is AVRO or PROTOBUF.
	Type string
	Text string
}

// Options of a Client.
type Options struct {
	// URLs of the registry's nodes: the first that answers serves.
	URLs []string
	// User and Password of basic authentication; those of a URL win.
	User, Password string
}

// Client asks one registry.
type Client struct {
	opts Options
	http http.Client

	mu   sync.Mutex // guards: ids, byID
	ids  map[subject]int
	byID map[int]Schema
}

// subject is a schema under its subject.
type subject struct {
	name string
	Schema
}

// cacheMax bounds what is remembered (I8).
const cacheMax = 1000

// answerMax bounds an answer of the registry.
const answerMax = 8 << 20

// New makes a client; it asks nothing yet.
func New(o Options) *Client {
	return &Client{opts: o, http: http.Client{Timeout: 10 * time.Second}, ids: map[subject]int{}, byID: map[int]Schema{}}
}

// Error is the registry's refusal. Code is its own, of which the first three digits are the status.
type Error struct {
	Code    int    `json:"error_code"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	return fmt.Sprintf("the schema registry says: %s (%d)", e.Message, e.Code)
}

type wireSchema struct {
	Schema string `json:"schema"`
	// Type is left out for Avro, as old registries demand.
	Type string `json:"schemaType,omitempty"`
	ID   int    `json:"id,omitempty"`
	Refs []any  `json:"references,omitempty"`
}

func wireOf(s Schema) wireSchema {
	w := wireSchema{Schema: s.Text, Type: s.Type}
	if w.Type == "AVRO" {
		w.Type = ""
	}
	return w
}

// Register returns the id of a schema under a subject, and registers it where it is new.
func (c *Client) Register(ctx context.Context, name string, s Schema) (int, error) {
	return c.id(ctx, name, s, "/subjects/"+url.PathEscape(name)+"/versions")
}

// Lookup returns the id of a schema that must be registered already.
func (c *Client) Lookup(ctx context.Context, name string, s Schema) (int, error) {
	return c.id(ctx, name, s, "/subjects/"+url.PathEscape(name))
}

func (c *Client) id(ctx context.Context, name string, s Schema, path string) (int, error) {
	k := subject{name, s}
	c.mu.Lock()
	id, ok := c.ids[k]
	c.mu.Unlock()
	if ok {
		return id, nil
	}
	var out wireSchema
	if err := c.do(ctx, http.MethodPost, path, wireOf(s), &out); err != nil {
		return 0, fmt.Errorf("subject %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) >= cacheMax {
		clear(c.ids)
	}
	c.ids[k] = out.ID
	return out.ID, nil
}

// Latest returns the newest schema of a subject with its id. It is not remembered.
func (c *Client) Latest(ctx context.Context, name string) (int, Schema, error) {
	var out wireSchema
	if err := c.do(ctx, http.MethodGet, "/subjects/"+url.PathEscape(name)+"/versions/latest", nil, &out); err != nil {
		return 0, Schema{}, fmt.Errorf("subject %s: %w", name, err)
	}
	s, err := out.schema()
	return out.ID, s, err
}

// Get returns the schema of an id.
func (c *Client) Get(ctx context.Context, id int) (Schema, error) {
	c.mu.Lock()
	s, ok := c.byID[id]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	var out wireSchema
	if err := c.do(ctx, http.MethodGet, fmt.Sprintf("/schemas/ids/%d", id), nil, &out); err != nil {
		return s, fmt.Errorf("schema %d: %w", id, err)
	}
	s, err := out.schema()
	if err != nil {
		return s, fmt.Errorf("schema %d: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byID) >= cacheMax {
		clear(c.byID)
	}
	c.byID[id] = s
	return s, nil
}

func (w wireSchema) schema() (Schema, error) {
	if len(w.Refs) > 0 {
		return Schema{}, errors.New("it refers to other schemas of the registry, which is not supported")
	}
	if w.Type == "" {
		w.Type = "AVRO"
	}
	return Schema{w.Type, w.Schema}, nil
}

// do asks the nodes in turn until one answers.
func (c *Client) do(ctx context.Context, method, path string, body, out any) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return err
		}
	}
	var last error
	for _, base := range c.opts.URLs {
		err := c.ask(ctx, method, base, path, payload, out)
		if !connectors.IsRetriable(err) {
			return err
		}
		last = err
	}
	return last
}

func (c *Client) ask(ctx context.Context, method, base, path string, payload []byte, out any) error {
	u, err := url.Parse(base)
	if err != nil {
		return errors.New("the registry's address is no URL")
	}
	user, password := c.opts.User, c.opts.Password
	if u.User != nil {
		user = u.User.Username()
		password, _ = u.User.Password()
		u.User = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(u.String(), "/")+path, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	if payload != nil {
		req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return connectors.Retriable(fmt.Errorf("the schema registry at %s does not answer: %w", u.Host, err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return connectors.Retriable(fmt.Errorf("the schema registry at %s: %w", u.Host, err))
	}
	if resp.StatusCode/100 == 2 {
		if err := json.Unmarshal(b, out); err != nil {
			return fmt.Errorf("the answer of the schema registry at %s is not what its interface says: %w", u.Host, err)
		}
		return nil
	}
	e := &Error{}
	if json.Unmarshal(b, e) != nil || e.Code == 0 {
		e = &Error{Code: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: check basic.auth.user.info", e)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return connectors.Retriable(e)
	}
	return e
}
