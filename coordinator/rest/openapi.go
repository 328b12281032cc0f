package rest

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/api"
)

// The description of the API, in OpenAPI 3.1. All of it is made of the routes and of the types of their bodies.
type (
	document struct {
		OpenAPI string `json:"openapi"`
		Info    struct {
			Title       string `json:"title"`
			Version     string `json:"version"`
			Description string `json:"description"`
		} `json:"info"`
		Tags       []tag                            `json:"tags"`
		Paths      map[string]map[string]*operation `json:"paths"`
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	tag struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	operation struct {
		ID         string              `json:"operationId"`
		Tags       []string            `json:"tags"`
		Summary    string              `json:"summary"`
		Parameters []parameter         `json:"parameters,omitempty"`
		Body       *content            `json:"requestBody,omitempty"`
		Responses  map[string]*content `json:"responses"`
	}
	parameter struct {
		Name        string  `json:"name"`
		In          string  `json:"in"`
		Required    bool    `json:"required,omitempty"`
		Description string  `json:"description,omitempty"`
		Schema      *schema `json:"schema"`
	}
	content struct {
		Description string           `json:"description,omitempty"`
		Required    bool             `json:"required,omitempty"`
		Content     map[string]media `json:"content,omitempty"`
	}
	media struct {
		Schema *schema `json:"schema"`
	}
	schema struct {
		// Format and Encoding say what is in a string.
		Format     string             `json:"format,omitempty"`
		Encoding   string             `json:"contentEncoding,omitempty"`
		Ref        string             `json:"$ref,omitempty"`
		Type       any                `json:"type,omitempty"` // one name, or several
		Enum       []string           `json:"enum,omitempty"`
		Properties map[string]*schema `json:"properties,omitempty"`
		Required   []string           `json:"required,omitempty"`
		// Additional is false or a schema.
		Additional any       `json:"additionalProperties,omitempty"`
		Items      *schema   `json:"items,omitempty"`
		AnyOf      []*schema `json:"anyOf,omitempty"`

		// order of the properties, for the page.
		order []string
	}
)

const refPrefix = "#/components/schemas/"

// tags in the order of the page.
var tags = []tag{
	{"Connectors", "As in Kafka Connect: create, change, look at and control connectors."},
	{"Plugins", "As in Kafka Connect: the classes that connectors can have, and what is wrong with a config."},
	{"Node", "As in Kafka Connect: version, health, log levels; and metrics."},
	{"Millrace", "Millrace's own."},
}

func tagOf(path string) string {
	switch {
	case strings.HasPrefix(path, api.Prefix):
		return "Millrace"
	case strings.HasPrefix(path, "/connectors"):
		return "Connectors"
	case strings.HasPrefix(path, "/connector-plugins"):
		return "Plugins"
	}
	return "Node"
}

func describe(routes []route, version string) *document {
	d := &document{OpenAPI: "3.1.0", Tags: tags, Paths: map[string]map[string]*operation{}}
	d.Info.Title, d.Info.Version = "Millrace", version
	d.Info.Description = "Kafka Connect's REST API, and Millrace's own additions under " + api.Prefix + ". Every path may end in a slash."
	d.Components.Schemas = map[string]*schema{}
	for i := range routes {
		r := &routes[i]
		if d.Paths[r.path] == nil {
			d.Paths[r.path] = map[string]*operation{}
		}
		d.Paths[r.path][strings.ToLower(r.method)] = d.operation(r)
	}
	return d
}

func (d *document) operation(r *route) *operation {
	op := &operation{ID: idOf(r), Tags: []string{tagOf(r.path)}, Summary: r.about, Responses: map[string]*content{}}
	for _, s := range r.segs {
		if name, ok := strings.CutPrefix(s, "{"); ok {
			kind := "string"
			if s == "{task}" {
				kind = "integer"
			}
			op.Parameters = append(op.Parameters, parameter{Name: strings.TrimSuffix(name, "}"), In: "path", Required: true, Schema: &schema{Type: kind}})
		}
	}
	for _, q := range r.query {
		s := &schema{Type: "string"}
		switch {
		case q.boolean:
			s = &schema{Type: "boolean"}
		case q.many:
			s = &schema{Type: "array", Items: s}
		}
		op.Parameters = append(op.Parameters, parameter{Name: q.name, In: "query", Description: q.about, Schema: s})
	}
	if r.in != nil {
		op.Body = &content{Required: true, Content: map[string]media{jsonMedia: {d.schema(r.in)}}}
	}
	for status, body := range r.out {
		c := &content{Description: http.StatusText(status)}
		kind := r.media
		if kind == "" {
			kind = jsonMedia
		}
		if body != nil {
			c.Content = map[string]media{kind: {d.schema(body)}}
		}
		op.Responses[strconv.Itoa(status)] = c
	}
	op.Responses["default"] = &content{Description: "What is wrong, and the way out.", Content: map[string]media{jsonMedia: {d.schema(api.Error{})}}}
	return op
}

// idOf names an operation: getConnectorsStatus.
func idOf(r *route) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(r.method))
	for _, s := range r.segs {
		for _, word := range strings.FieldsFunc(s, func(c rune) bool { return c == '{' || c == '}' || c == '-' || c == '.' }) {
			id.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return id.String()
}

// schema describes the type of a body.
func (d *document) schema(v any) *schema {
	switch v := v.(type) {
	case either:
		s := &schema{}
		for _, one := range v {
			s.AnyOf = append(s.AnyOf, d.schema(one))
		}
		return s
	case api.GivenConfig:
		return &schema{Type: "object", Additional: &schema{Type: []string{"string", "number", "boolean"}}}
	case nullableConfig:
		return &schema{Type: "object", Additional: &schema{Type: []string{"string", "number", "boolean", "null"}}}
	}
	return d.of(reflect.TypeOf(v))
}

func (d *document) of(t reflect.Type) *schema {
	switch t {
	case reflect.TypeFor[api.GivenConfig]():
		return d.schema(api.GivenConfig{})
	case reflect.TypeFor[time.Time]():
		return &schema{Type: "string", Format: "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return &schema{} // anything
	}
	switch t.Kind() {
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return &schema{Type: "integer"}
	case reflect.Float64:
		return &schema{Type: "number"}
	case reflect.Interface:
		return &schema{} // anything
	case reflect.Pointer:
		return d.of(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &schema{Type: "string", Encoding: "base64"}
		}
		return &schema{Type: "array", Items: d.of(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object", Additional: d.of(t.Elem())}
	case reflect.Struct:
		if d.Components.Schemas[t.Name()] == nil {
			s := &schema{Type: "object", Properties: map[string]*schema{}, Additional: false}
			d.Components.Schemas[t.Name()] = s
			d.fields(s, t)
		}
		return &schema{Ref: refPrefix + t.Name()}
	default:
		panic("rest: no schema for a body of type " + t.String())
	}
}

func (d *document) fields(s *schema, t reflect.Type) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		p := d.of(f.Type)
		optional := strings.Contains(options, "omitempty")
		if values := f.Tag.Get("enum"); values != "" {
			p.Enum = strings.Split(values, ",")
		}
		if f.Tag.Get("api") == "nullable" || f.Type.Kind() == reflect.Pointer && !optional {
			p = orNull(p)
		}
		s.Properties[name] = p
		s.order = append(s.order, name)
		if !optional {
			s.Required = append(s.Required, name)
		}
	}
	slices.Sort(s.Required)
}

func orNull(s *schema) *schema {
	if kind, ok := s.Type.(string); ok {
		s.Type = []string{kind, "null"}
		return s
	}
	return &schema{AnyOf: []*schema{s, {Type: "null"}}}
}

func (s *Server) openAPI(*Server, *http.Request) (int, any, error) {
	return http.StatusOK, describe(s.routes(), s.opts.Version), nil
}
