package mysqlcdc

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/connectors/record"
)

// With binlog_row_value_options=PARTIAL_JSON an UPDATE logs what it changed in a document, and not the document. The whole one is made of
// the before image.

// changed decodes the after image of an update whose before image is given.
func (s *shape) changed(before, after []byte, body *rowsBody, b *rowBatch) (record.Row, int, error) {
	docs, err := s.rawJSON(before, body.before, b)
	if err != nil {
		return nil, 0, err
	}
	return s.decodePartial(after, body.present, docs, b)
}

// rawJSON finds the stored form of the documents in a row image. Those that are null or not there are nil.
func (s *shape) rawJSON(data, present []byte, b *rowBatch) ([][]byte, error) {
	docs := make([][]byte, len(s.codecs))
	_, err := s.walk(data, present, func(i int, c *codec, p []byte) (int, error) {
		_, n, err := c.decode(p, b)
		if err == nil && c.family == record.FamilyJSON {
			docs[i] = p[c.lenBytes:n]
		}
		return n, err
	}, nil)
	return docs, err
}

// walk calls value for each value of a row image that is there and not null, and null for each that is null. value returns the width.
func (s *shape) walk(data, present []byte, value func(i int, c *codec, p []byte) (int, error), null func(c *codec)) (int, error) {
	there := 0
	for i := range s.codecs {
		if isSet(present, i) {
			there++
		}
	}
	pos := (there + 7) / 8
	if len(data) < pos {
		return 0, errShort
	}
	nulls, at := data[:pos], -1
	for i := range s.codecs {
		c := &s.codecs[i]
		if !isSet(present, i) {
			continue
		}
		if at++; isSet(nulls, at) {
			if null != nil {
				null(c)
			}
			continue
		}
		n, err := value(i, c, data[pos:])
		if err != nil {
			return 0, fmt.Errorf("decode column %s of %s: %w", c.name, s.id, err)
		}
		pos += n
	}
	return pos, nil
}

func isSet(bits []byte, i int) bool { return bits[i>>3]&(1<<(i&7)) != 0 }

// decodePartial decodes an after image with changes of documents in it. docs are the documents of the before image.
func (s *shape) decodePartial(data, present []byte, docs [][]byte, b *rowBatch) (record.Row, int, error) {
	options, rest, err := packedInt(data)
	if err != nil {
		return nil, 0, err
	}
	var parts []byte // has a bit for each JSON column of the table, whether the image has it or not
	if options&1 != 0 {
		n := 0
		for i := range s.codecs {
			if s.codecs[i].family == record.FamilyJSON {
				n++
			}
		}
		if n = (n + 7) / 8; len(rest) < n {
			return nil, 0, errShort
		}
		parts, rest = rest[:n], rest[n:]
	}
	partial, bit := make([]bool, len(s.codecs)), 0
	for i := range s.codecs {
		if s.codecs[i].family == record.FamilyJSON && parts != nil {
			partial[i] = isSet(parts, bit)
			bit++
		}
	}
	row := record.Row(b.datums.take(len(s.table.Columns)))
	set := func(c *codec, d record.Datum) {
		if c.out >= 0 {
			row[c.out] = d
		}
	}
	n, err := s.walk(rest, present, func(i int, c *codec, p []byte) (int, error) {
		if !partial[i] {
			d, n, err := c.decode(p, b)
			set(c, d)
			return n, err
		}
		if len(p) < c.lenBytes || uint64(len(p)-c.lenBytes) < little(p[:c.lenBytes]) {
			return 0, errShort
		}
		end := c.lenBytes + int(little(p[:c.lenBytes]))
		if c.out < 0 {
			return end, nil
		}
		if docs[i] == nil {
			return 0, errors.New("the log has only what an UPDATE changed in the document, and not the document before it; " +
				"run SET GLOBAL binlog_row_value_options='' or SET GLOBAL binlog_row_image='FULL', and end the sessions that still use other values")
		}
		var err error
		if b.scratch, err = appendChangedJSON(b.scratch[:0], docs[i], p[c.lenBytes:end]); err != nil {
			return 0, err
		}
		set(c, record.Text(b.copyBytes(b.scratch)))
		return end, nil
	}, func(c *codec) {
		d := record.Null()
		if c.rule != nil {
			d = c.rule.apply(d, b)
		}
		set(c, d)
	})
	return row, len(data) - len(rest) + n, err
}

// jsonNode is a value of a document. A container is taken apart when a path leads through it; until then it is in its stored form.
type jsonNode struct {
	typ      byte
	data     []byte
	open     bool
	object   bool
	keys     [][]byte
	children []*jsonNode
}

func (n *jsonNode) expand() error {
	if n.open || n.typ > 3 {
		return nil
	}
	n.open, n.object = true, n.typ <= 1
	return eachJSON(n.typ, n.data, func(key []byte, typ byte, body []byte) error {
		if n.object {
			n.keys = append(n.keys, key)
		}
		n.children = append(n.children, &jsonNode{typ: typ, data: body})
		return nil
	})
}

func (n *jsonNode) append(out []byte, l jsonLimit) ([]byte, error) {
	if !n.open {
		return appendJSONValue(out, n.typ, n.data, l)
	}
	if l.depth > maxJSONDepth || len(out) > l.size {
		return nil, errJSON
	}
	open, end := byte('['), byte(']')
	if n.object {
		open, end = '{', '}'
	}
	out = append(out, open)
	for i, c := range n.children {
		if i > 0 {
			out = append(out, ", "...)
		}
		if n.object {
			out = append(appendJSONString(out, n.keys[i]), ": "...)
		}
		var err error
		if out, err = c.append(out, l.deeper()); err != nil {
			return nil, err
		}
	}
	return append(out, end), nil
}

// compareKeys is the order of an object's keys in its stored form.
func compareKeys(a, b []byte) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), bytes.Compare(a, b))
}

// find is the place of a leg in a container.
func (n *jsonNode) find(l jsonLeg) (at int, there bool, err error) {
	if err := n.expand(); err != nil {
		return 0, false, err
	}
	if !n.open || n.object != l.member {
		return 0, false, errors.New("the path of a change does not fit the document")
	}
	if l.member {
		at, there = slices.BinarySearchFunc(n.keys, l.key, compareKeys)
		return at, there, nil
	}
	at = l.index
	if l.fromEnd {
		at = max(0, len(n.children)-1-l.index)
		return at, l.index < len(n.children), nil
	}
	return min(at, len(n.children)), at < len(n.children), nil
}

// change applies one change at a path.
func (n *jsonNode) change(op byte, path []jsonLeg, value *jsonNode) error {
	if len(path) == 0 {
		if op != jsonReplace {
			return errors.New("a change inserts or removes the whole document")
		}
		*n = *value
		return nil
	}
	at, there, err := n.find(path[0])
	switch {
	case err != nil:
		return err
	case len(path) > 1 && there:
		return n.children[at].change(op, path[1:], value)
	case there != (op != jsonInsert) && (len(path) > 1 || path[0].member || op != jsonInsert): // an array takes what is inserted anywhere
		return errors.New("the path of a change does not fit the document")
	}
	switch op {
	case jsonReplace:
		n.children[at] = value
	case jsonInsert:
		n.children = slices.Insert(n.children, at, value)
		if n.object {
			n.keys = slices.Insert(n.keys, at, path[0].key)
		}
	case jsonRemove:
		n.children = slices.Delete(n.children, at, at+1)
		if n.object {
			n.keys = slices.Delete(n.keys, at, at+1)
		}
	}
	return nil
}

// The kinds of changes.
const (
	jsonReplace = 0
	jsonInsert  = 1
	jsonRemove  = 2
)

// appendChangedJSON appends the text of a document after a list of changes.
func appendChangedJSON(out, doc, changes []byte) ([]byte, error) {
	if len(doc) == 0 {
		return nil, errJSON
	}
	limit := limitJSON(out, len(doc)+len(changes))
	root := &jsonNode{typ: doc[0], data: doc[1:]}
	for len(changes) > 0 {
		op := changes[0]
		if op > jsonRemove {
			return nil, fmt.Errorf("a change of a document is of kind %d, which is not known", op)
		}
		path, rest, err := packedBytes(changes[1:])
		if err != nil {
			return nil, err
		}
		legs, err := parseJSONPath(string(path))
		if err != nil {
			return nil, err
		}
		var value *jsonNode
		if op != jsonRemove {
			var v []byte
			if v, rest, err = packedBytes(rest); err != nil {
				return nil, err
			}
			if len(v) == 0 {
				return nil, errJSON
			}
			value = &jsonNode{typ: v[0], data: v[1:]}
		}
		if err := root.change(op, legs, value); err != nil {
			return nil, fmt.Errorf("%w: %s", err, path)
		}
		changes = rest
	}
	return root.append(out, limit)
}

// jsonLeg is a step of a path: to a member of an object, or to a cell of an array, which may be counted from its end.
type jsonLeg struct {
	member  bool
	key     []byte
	index   int
	fromEnd bool
}

// parseJSONPath reads a path without wildcards, such as $.a."b c"[2][last-1].
func parseJSONPath(path string) ([]jsonLeg, error) {
	bad := fmt.Errorf("path %q of a change is not understood", path)
	s, ok := strings.CutPrefix(path, "$")
	if !ok {
		return nil, bad
	}
	var legs []jsonLeg
	for s != "" {
		if len(legs) > maxJSONDepth {
			return nil, bad
		}
		switch {
		case strings.HasPrefix(s, `."`):
			end := 2
			for end < len(s) && s[end] != '"' {
				if s[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(s) {
				return nil, bad
			}
			var key string
			if err := json.Unmarshal([]byte(s[1:end+1]), &key); err != nil {
				return nil, bad
			}
			legs, s = append(legs, jsonLeg{member: true, key: []byte(key)}), s[end+1:]
		case s[0] == '.':
			end := strings.IndexAny(s[1:], ".[") + 1
			if end == 0 {
				end = len(s)
			}
			legs, s = append(legs, jsonLeg{member: true, key: []byte(s[1:end])}), s[end:]
		case s[0] == '[':
			cell, rest, ok := strings.Cut(s[1:], "]")
			if !ok {
				return nil, bad
			}
			l := jsonLeg{}
			if after, ok := strings.CutPrefix(cell, "last"); ok {
				l.fromEnd = true
				if cell = strings.TrimPrefix(after, "-"); cell == "" {
					cell = "0"
				}
			}
			n, err := strconv.ParseUint(cell, 10, 31)
			if err != nil {
				return nil, bad
			}
			l.index = int(n)
			legs, s = append(legs, l), rest
		default:
			return nil, bad
		}
	}
	return legs, nil
}
