package convert

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/configdef"
)

const (
	keyPrefix   = "key.converter."
	valuePrefix = "value.converter."

	optSchemas     = "schemas.enable"
	optReplaceNull = "replace.null.with.default"
	optDecimal     = "decimal.format"
	optCompat      = "canal.compat"
	optRows        = "canal.rows"
	optEnum        = "canal.enum.mode"
	optZone        = "timestamp.zone"
	optDeletes     = "delete.tombstone.handling.mode"
	optFields      = "add.fields"
)

const (
	groupConnect = "With schemas, as Kafka Connect's JsonConverter"
	groupCanal   = "canal-json"
	groupPlain   = "Plain rows: json"
)

var keyOptions, valueOptions = options(keyPrefix), options(valuePrefix, canalKeys(), plainKeys())

// ValueOptions declares the settings of value converters.
func ValueOptions() *configdef.Spec { return valueOptions }

// options is a spec of the settings that all converters know and of more, under their full names.
func options(prefix string, more ...[]configdef.Key) *configdef.Spec {
	keys := []configdef.Key{
		{Name: optSchemas, Type: configdef.Boolean, Default: "false", Group: groupConnect, Doc: "Whether each message carries its schema: debezium-json, and json for what is no row. true where the converter is given by Kafka Connect's class name JsonConverter and stands for debezium-json."},
		{Name: optReplaceNull, Type: configdef.Boolean, Default: "false", Group: groupConnect, Doc: "Whether debezium-json writes a column's default where its value is null. true where schemas.enable is by default."},
		{Name: optDecimal, Type: configdef.String, Default: "BASE64", OneOf: []string{"BASE64", "NUMERIC"}, Group: groupConnect, Doc: "How debezium-json writes decimals that are bytes of the unscaled number: BASE64, or NUMERIC for a JSON number."},
	}
	for _, ignored := range []string{"encoding", "converter.encoding", "converter.type", "schemas.cache.size"} {
		keys = append(keys, configdef.Key{Name: ignored, Type: configdef.String, Default: "", Hidden: true, Doc: "Accepted for existing configs."})
	}
	for _, m := range more {
		keys = append(keys, m...)
	}
	for i := range keys {
		keys[i].Name = prefix + keys[i].Name
	}
	return configdef.New(keys...)
}

func canalKeys() []configdef.Key {
	return []configdef.Key{
		{Name: optCompat, Type: configdef.String, Default: "readers", OneOf: []string{"readers", "exact"}, Group: groupCanal, Doc: "readers writes what readers of Canal's messages need; exact also writes what Alibaba Canal 1.1.7 plainly gets wrong, as it does. The guide to Canal lists the differences."},
		{Name: optRows, Type: configdef.String, Default: "one", OneOf: []string{"one", "event"}, Group: groupCanal, Doc: "Rows in one message: one, with the row's key; or, as Canal does, all rows of one row event of the log, with a null key, in partition 0. One partition keeps the order of each row, and is all that a reader can share out."},
		{Name: optEnum, Type: configdef.String, Default: "index", OneOf: []string{"index", "name"}, Group: groupCanal, Doc: "How ENUM and SET are written: as Canal's index and bit mask, or as names."},
		{
			Name: optZone, Type: configdef.String, Default: "UTC", Group: groupCanal, Example: "Asia/Shanghai", Doc: "Time zone of TIMESTAMP values. Canal writes them in its process's zone and does not tell which.",
			Check: func(v string) error {
				if _, err := time.LoadLocation(v); err != nil {
					return fmt.Errorf("no time zone of that name is known")
				}
				return nil
			},
		},
	}
}

func plainKeys() []configdef.Key {
	return []configdef.Key{
		{Name: optDeletes, Type: configdef.String, Default: "tombstone", OneOf: []string{"tombstone", "delete-to-tombstone", "rewrite"}, Group: groupPlain, Doc: "What a deleted row becomes: tombstone (also: delete-to-tombstone), a null value with the row's key; or rewrite, the row as it was with \"__deleted\":\"true\". All other rows then have \"__deleted\":\"false\"."},
		{Name: optFields, Type: configdef.List, Default: "", OneOf: plainFieldNames(), Group: groupPlain, Example: "op,table,source.ts_ms", Doc: "What rows carry beside their columns. Members begin with two underscores, and a dot becomes an underscore: __source_ts_ms."},
	}
}

// read reads the settings of both converters.
func (s *settings) read(c Config) []configdef.Problem {
	ofKey, problems := s.registrySettings(keyPrefix, c.KeyOptions)
	ofValue, more := s.registrySettings(valuePrefix, c.ValueOptions)
	problems = append(problems, more...)
	key, more := parseOptions(keyOptions, keyPrefix, ofKey)
	problems = append(problems, more...)
	value, more := parseOptions(valueOptions, valuePrefix, ofValue)
	problems = append(problems, more...)
	problems = append(problems, s.keyJSON.read(key, keyPrefix, s.key)...)
	problems = append(problems, s.valueJSON.read(value, valuePrefix, s.value)...)
	s.canal.enumNames = value.String(valuePrefix+optEnum) == "name"
	s.canal.exact = value.String(valuePrefix+optCompat) == "exact"
	s.canal.byEvent = s.value == CanalJSON && value.String(valuePrefix+optRows) == "event"
	s.canal.zone = time.UTC
	if z, err := time.LoadLocation(value.String(valuePrefix + optZone)); err == nil { // checked by the spec
		s.canal.zone = z
	}
	s.plain = plainOptions{rewrite: value.String(valuePrefix+optDeletes) == "rewrite", fields: value.List(valuePrefix + optFields)}
	for i, f := range s.plain.fields {
		s.plain.fields[i] = strings.ToLower(f) // as they are declared
	}
	return problems
}

func parseOptions(spec *configdef.Spec, prefix string, given map[string]string) (configdef.Values, []configdef.Problem) {
	full := map[string]string{}
	for k, v := range given {
		full[prefix+k] = v
	}
	values, problems := spec.Parse(full)
	return values, append(problems, spec.Unknown(full)...)
}

// read reads the settings of Kafka Connect's JsonConverter over the defaults that o has.
func (o *connectOptions) read(v configdef.Values, prefix, converter string) []configdef.Problem {
	for name, to := range map[string]*bool{optSchemas: &o.schemas, optReplaceNull: &o.replaceNull} {
		if v.IsSet(prefix+name) && v.OK(prefix+name) {
			*to = v.Bool(prefix + name)
		}
	}
	o.given = v.IsSet(prefix + optSchemas)
	o.numeric = v.String(prefix+optDecimal) == "NUMERIC"
	if o.schemas && converter != Debezium && converter != JSON {
		return []configdef.Problem{{Key: prefix + optSchemas, Value: "true", Message: fmt.Sprintf(
			"Invalid value true for configuration %s: the %s converter has no schemas", prefix+optSchemas, converter)}}
	}
	return nil
}
