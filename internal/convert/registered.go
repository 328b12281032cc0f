package convert

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/connectors/record"
	"github.com/millrace/millrace/internal/registry"
)

// The keys of the converters with a schema registry; all are Confluent's.
const (
	registryURL        = "schema.registry.url"
	registryAuthSource = "basic.auth.credentials.source"
	registryAuth       = "basic.auth.user.info"
	registryAuthLong   = "schema.registry.basic.auth.user.info"
	autoRegister       = "auto.register.schemas"
	useLatest          = "use.latest.version"
	nameStrategy       = "subject.name.strategy"
	keyStrategy        = "key.subject.name.strategy"
	valueStrategy      = "value.subject.name.strategy"
)

const strategyPackage = "io.confluent.kafka.serializers.subject."

func strategyKey(name, doc string) configdef.Key {
	return configdef.Key{Name: name, Type: configdef.Class, Default: "TopicNameStrategy", Check: checkStrategy, Importance: configdef.Low, Doc: doc}
}

func checkStrategy(v string) error {
	switch strings.TrimPrefix(v, strategyPackage) {
	case "TopicNameStrategy", "RecordNameStrategy", "TopicRecordNameStrategy":
		return nil
	}
	return errors.New("must be TopicNameStrategy, RecordNameStrategy or TopicRecordNameStrategy")
}

func checkURLs(v string) error {
	for u := range strings.SplitSeq(v, ",") {
		p, err := url.Parse(strings.TrimSpace(u))
		if strings.Contains(u, "${") {
			continue // a reference; looked at once it is resolved
		}
		if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return errors.New("expected http://host:port, or several of them, comma-separated")
		}
	}
	return nil
}

// RegistrySpec declares the settings that the Avro and Protobuf converters have, behind key.converter. or value.converter.
func RegistrySpec() *configdef.Spec {
	return configdef.New(
		configdef.Key{Name: registryURL, Type: configdef.List, Required: true, Check: checkURLs, Importance: configdef.High, Example: "http://registry:8081", Doc: "Address of the schema registry; several, comma-separated, are asked in turn."},
		configdef.Key{Name: registryAuthSource, Type: configdef.String, Default: "URL", OneOf: []string{"URL", "USER_INFO"}, Doc: "Where user and password of basic authentication are: in the address, or in basic.auth.user.info."},
		configdef.Key{Name: registryAuth, Type: configdef.Password, Default: "", Doc: "user:password."},
		configdef.Key{Name: registryAuthLong, Type: configdef.Password, Default: "", DeprecatedBy: registryAuth, Doc: "The same."},
		configdef.Key{Name: autoRegister, Type: configdef.Boolean, Default: "true", Doc: "Whether new schemas are registered. Otherwise one that is not there yet is an error of its record."},
		configdef.Key{Name: useLatest, Type: configdef.Boolean, Default: "false", Doc: "With auto.register.schemas=false: write with the newest schema of the subject, whatever the record's own. A field that it lacks is an error."},
		strategyKey(nameStrategy, "What the subject is named for: the topic, the record's type, or both."),
		strategyKey(keyStrategy, "The same for keys; wins over subject.name.strategy."),
		strategyKey(valueStrategy, "The same for values; wins over subject.name.strategy."),
		configdef.Key{Name: "enhanced.avro.schema.support", Type: configdef.Boolean, Default: "false", Hidden: true, Doc: "Accepted for existing configs."},
		configdef.Key{Name: "connect.meta.data", Type: configdef.Boolean, Default: "true", Hidden: true, Doc: "Accepted for existing configs."},
		configdef.Key{Name: "schemas.cache.config", Type: configdef.Int, Default: "1000", Hidden: true, Doc: "Accepted for existing configs."},
		configdef.Key{Name: "schemas.enable", Type: configdef.Boolean, Default: "true", Hidden: true, Doc: "Accepted for existing configs. There always is a schema."},
	)
}

// SpecOf declares the keys of the converters of a config that have a schema registry, as the config writes them.
func SpecOf(given map[string]string) *configdef.Spec {
	var keys []configdef.Key
	for _, part := range []string{"key.converter", "value.converter"} {
		if name := aliases[given[part]]; name != Avro && name != Protobuf && given[part] != Avro && given[part] != Protobuf {
			continue
		}
		for _, k := range RegistrySpec().Keys() {
			k.Name, k.Group = part+"."+k.Name, "Common"
			keys = append(keys, k)
		}
	}
	return configdef.New(keys...)
}

// registrySettings reads the settings behind a prefix where they are of a converter with a registry, and returns those for the others.
func (s *settings) registrySettings(prefix string, given map[string]string) (rest map[string]string, problems []configdef.Problem) {
	if name, _ := s.half(prefix); name != Avro && name != Protobuf {
		return given, nil
	}
	spec := RegistrySpec()
	v, problems := spec.Parse(given)
	problems = append(problems, spec.Unknown(given)...)
	for i, p := range problems {
		problems[i].Key = prefix + p.Key
		problems[i].Message = strings.Replace(p.Message, p.Key, prefix+p.Key, 1)
		if k, ok := spec.Lookup(p.Key); ok && k.Type == configdef.Password && p.Value != "" {
			problems[i].Value = "[hidden]"
		}
	}
	if s.registry == nil {
		s.registry = map[string]configdef.Values{}
	}
	s.registry[prefix] = v
	return nil, problems
}

// coder is a converter with a schema registry.
type coder interface {
	append(dst []byte, topic string, v any) ([]byte, bool, error)
	read(b []byte) (any, error)
}

// coders are those of the settings, by prefix. They ask nothing yet.
func (s *settings) coders() map[string]coder {
	out := map[string]coder{}
	for _, prefix := range slices.Sorted(maps.Keys(s.registry)) {
		v := s.registry[prefix]
		auth := v.String(registryAuth)
		if auth == "" {
			auth = v.String(registryAuthLong)
		}
		if v.String(registryAuthSource) == "URL" {
			auth = ""
		}
		user, password, _ := strings.Cut(auth, ":")
		r := &registered{
			client: registry.New(registry.Options{URLs: v.List(registryURL), User: user, Password: password}),
			part:   strings.TrimSuffix(prefix, ".converter."), register: v.Bool(autoRegister), latest: v.Bool(useLatest),
		}
		r.strategy = v.String(nameStrategy)
		if own := r.part + ".subject.name.strategy"; v.IsSet(own) {
			r.strategy = v.String(own)
		}
		r.strategy = strings.TrimPrefix(r.strategy, strategyPackage)
		name, _ := s.half(prefix)
		switch name {
		case Avro:
			out[prefix] = newAvro(r)
		case Protobuf:
			out[prefix] = newProtobuf(r)
		}
	}
	return out
}

// registered is what both converters do with the registry.
type registered struct {
	client           *registry.Client
	part             string // key or value
	register, latest bool
	strategy         string
}

// registryLimit bounds one question to the registry.
const registryLimit = 30 * time.Second

// subject names a schema's subject.
func (r *registered) subject(topic, schema string) (string, error) {
	if r.strategy == "TopicNameStrategy" {
		return topic + "-" + r.part, nil
	}
	if schema == "" {
		return "", fmt.Errorf("%s needs a record with a name; this schema has none: use TopicNameStrategy", r.strategy)
	}
	if r.strategy == "RecordNameStrategy" {
		return schema, nil
	}
	return topic + "-" + schema, nil
}

// id finds the schema to write with, and its id.
func (r *registered) id(subject string, s registry.Schema) (int, registry.Schema, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registryLimit)
	defer cancel()
	switch {
	case r.register:
		id, err := r.client.Register(ctx, subject, s)
		return id, s, err
	case r.latest:
		return r.client.Latest(ctx, subject)
	}
	id, err := r.client.Lookup(ctx, subject, s)
	if err != nil {
		err = fmt.Errorf("%w: register the schema, or set auto.register.schemas=true", err)
	}
	return id, s, err
}

// schema returns the schema of an id.
func (r *registered) schema(id int, kind string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registryLimit)
	defer cancel()
	s, err := r.client.Get(ctx, id)
	if err == nil && s.Type != kind {
		err = fmt.Errorf("schema %d is of the type %s, not %s", id, s.Type, kind)
	}
	return s.Text, err
}

// magic begins each message of Confluent's format; four bytes of the schema's id follow.
const magic = 0

func appendID(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, magic), uint32(id))
}

func cutID(b []byte) (int, []byte, error) {
	if len(b) < 5 || b[0] != magic {
		return 0, nil, errors.New("the bytes are not of a schema registry's format: Unknown magic byte!")
	}
	return int(binary.BigEndian.Uint32(b[1:])), b[5:], nil
}

// written is what a schema is written with for a topic.
type written struct {
	topic  string
	schema *record.Schema
}
