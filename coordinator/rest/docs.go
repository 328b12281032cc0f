package rest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
)

//go:embed docs.html
var docsHTML string

var docsPage = template.Must(template.New("docs").Parse(docsHTML))

// page is what the template shows: the description, in the order of the routes.
type page struct {
	Title, Version, Description string
	Groups                      []group
}

type group struct {
	tag
	Operations []shown
}

type shown struct {
	Method, Path, About, Anchor string
	Parameters                  []parameter
	Body                        string
	Answers                     []answer
}

type answer struct{ Status, Text, Body string }

func (s *Server) docs(*Server, *http.Request) (int, any, error) {
	routes := s.routes()
	d := describe(routes, s.opts.Version)
	p := page{Title: d.Info.Title, Version: d.Info.Version, Description: d.Info.Description}
	for _, t := range d.Tags {
		g := group{tag: t}
		for i := range routes {
			op := d.Paths[routes[i].path][strings.ToLower(routes[i].method)]
			if op.Tags[0] == t.Name {
				g.Operations = append(g.Operations, d.show(&routes[i], op))
			}
		}
		p.Groups = append(p.Groups, g)
	}
	var b strings.Builder
	if err := docsPage.Execute(&b, p); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, text{"text/html; charset=utf-8", b.String()}, nil
}

func (d *document) show(r *route, op *operation) shown {
	out := shown{Method: r.method, Path: r.path, About: op.Summary, Anchor: op.ID, Parameters: op.Parameters}
	example := func(c *content) string {
		for _, m := range c.Content {
			return d.example(m.Schema)
		}
		return ""
	}
	if op.Body != nil {
		out.Body = example(op.Body)
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		c := op.Responses[status]
		if status == "default" {
			continue // the same everywhere; said once
		}
		if r.media != "" {
			out.Answers = append(out.Answers, answer{status, c.Description, r.media})
			continue
		}
		out.Answers = append(out.Answers, answer{status, c.Description, example(c)})
	}
	return out
}

// example writes a body with types for values.
func (d *document) example(s *schema) string {
	var b strings.Builder
	d.write(&b, s, "", 0)
	return b.String()
}

func (d *document) write(b *strings.Builder, s *schema, indent string, depth int) {
	if name, ok := strings.CutPrefix(s.Ref, refPrefix); ok {
		s = d.Components.Schemas[name]
	}
	deeper := indent + "  "
	switch {
	case depth > 6:
		b.WriteString("…")
	case len(s.AnyOf) > 0:
		for i, one := range s.AnyOf {
			if i > 0 {
				b.WriteString(" | ")
			}
			d.write(b, one, indent, depth)
		}
	case len(s.Enum) > 0:
		for i, e := range s.Enum {
			if i > 0 {
				b.WriteString(" | ")
			}
			fmt.Fprintf(b, "%q", e)
		}
	case len(s.Properties) > 0:
		b.WriteString("{\n")
		for i, name := range s.order {
			fmt.Fprintf(b, "%s%q: ", deeper, name)
			d.write(b, s.Properties[name], deeper, depth+1)
			if i < len(s.order)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString(indent + "}")
	case s.Items != nil:
		b.WriteByte('[')
		d.write(b, s.Items, indent, depth+1)
		b.WriteString(", …]")
	case s.Additional != nil:
		b.WriteString(`{"…": `)
		if values, ok := s.Additional.(*schema); ok {
			d.write(b, values, indent, depth+1)
		}
		b.WriteString(", …}")
	default:
		b.WriteString(typeName(s.Type))
	}
}

func typeName(t any) string {
	switch t := t.(type) {
	case string:
		return t
	case []string:
		return strings.Join(t, " | ")
	}
	return "anything"
}

// TypeName is a parameter's type, for the page.
func (p parameter) TypeName() string {
	if p.Schema.Items != nil {
		return "list of " + typeName(p.Schema.Items.Type)
	}
	return typeName(p.Schema.Type)
}

// Error is the body of every failure, for the page.
func (page) Error() string {
	b, _ := json.MarshalIndent(map[string]any{"error_code": 404, "message": "Connector orders not found"}, "", "  ")
	return string(b)
}
