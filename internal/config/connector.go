package config

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
	"github.com/millrace/millrace/internal/smt"
)

// The framework's keys. Where Kafka Connect has a key for it, it is Connect's.
const (
	Name           = "name"
	ConnectorClass = "connector.class"
	TasksMax       = "tasks.max"
	KeyConverter   = "key.converter"
	ValueConverter = "value.converter"

	ErrorsRetryTimeout  = "errors.retry.timeout"
	ErrorsRetryDelayMax = "errors.retry.delay.max.ms"
	ErrorsTolerance     = "errors.tolerance"
	ErrorsLogEnable     = "errors.log.enable"
	ErrorsLogMessages   = "errors.log.include.messages"
	DeadTopic           = "errors.deadletterqueue.topic.name"
	DeadReplication     = "errors.deadletterqueue.topic.replication.factor"
	DeadContext         = "errors.deadletterqueue.context.headers.enable"
	RestartMaxAttempts  = "restart.max.attempts"
	RestartMaxCrashes   = "restart.max.crashes"
	RestartMoveAfter    = "restart.move.after"
	RestartBackoff      = "restart.backoff.ms"
	RestartBackoffMax   = "restart.backoff.max.ms"
	StallAfter          = "task.stall.after.ms"
	HangTimeout         = "task.hang.timeout.ms"
	PlacementLabels     = "placement.labels"
	TasksWeight         = "tasks.weight"
	Linger              = "linger.ms"
	BatchMaxRecords     = "batch.max.records"
	MaxBytesInFlight    = "max.bytes.in.flight"
	MaxRecordsPerSecond = "max.records.per.second"
	CompressionType     = "producer.override.compression.type"
	GroupOverride       = "consumer.override.group.id"
	OffsetReset         = "consumer.override.auto.offset.reset"
	Topics              = "topics"
	TopicsRegex         = "topics.regex"
	CreationGroups      = "topic.creation.groups"
	CreationPartitions  = "topic.creation.default.partitions"
	CreationReplication = "topic.creation.default.replication.factor"
	ExactlyOnce         = "exactly.once.support"
	OffsetsTopic        = "offsets.storage.topic"
	Ledger              = "ledger"
	LedgerTopic         = "ledger.topic"
	AuditInterval       = "ledger.audit.interval.ms"
	AuditRate           = "ledger.audit.bytes.per.second"
	Unfinished          = "migrate.unfinished"
)

func controlFree(v string) error {
	if strings.TrimSpace(v) == "" {
		return errors.New("String may not be empty")
	}
	for _, r := range v {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("String may not contain control sequences but had the following ASCII chars: %d", r)
		}
	}
	return nil
}

func common() []configdef.Key {
	return []configdef.Key{
		{
			Name: Name, Type: configdef.String, Required: true, Check: controlFree, Importance: configdef.High, Group: "Common", Width: configdef.WidthMedium, Display: "Connector name",
			Doc: "Name of the connector, unique in the cluster.",
		},
		{
			Name: ConnectorClass, Type: configdef.String, Required: true, Importance: configdef.High, Group: "Common", Width: configdef.WidthLong, Display: "Connector class",
			Doc: "Class of the connector: its own name, or that of the Kafka Connect connector whose configs it takes over.",
		},
		{
			Name: TasksMax, Type: configdef.Int, Default: "1", HasMin: true, Min: 1, Importance: configdef.High, Group: "Common", Width: configdef.WidthShort, Display: "Tasks max",
			Doc: "Largest number of tasks for this connector.",
		},
		{
			Name: KeyConverter, Type: configdef.Class, Default: "", Importance: configdef.Low, Group: "Common", Display: "Key converter class",
			Doc: "How keys become the bytes of messages: canal-json, debezium-json, json, string, bytes, boolean, short, integer, long, float, double, avro or protobuf, or the class name of Kafka Connect's or Confluent's converter. Empty: the connector's own choice. Keys that begin with key.converter. go to the converter.",
		},
		{Name: "key.converter.", Type: configdef.String, Prefix: true, Group: "Common", Doc: "Settings of the key converter; the page on converters has them."},
		{
			Name: ValueConverter, Type: configdef.Class, Default: "", Importance: configdef.Low, Group: "Common", Display: "Value converter class",
			Doc: "How values become the bytes of messages; as key.converter.",
		},
		{Name: "value.converter.", Type: configdef.String, Prefix: true, Group: "Common", Doc: "Settings of the value converter; the page on converters has them."},
		{
			Name: "header.converter", Type: configdef.Class, Default: "", Importance: configdef.Low, Group: "Common", Hidden: true,
			Doc: "Accepted for existing configs. Headers pass as the bytes they are; those that transforms make are text, as SimpleHeaderConverter writes it.",
		},
		{Name: "header.converter.", Type: configdef.String, Prefix: true, Importance: configdef.Low, Group: "Common", Hidden: true, Doc: "Accepted for existing configs."},
		{
			Name: "config.action.reload", Type: configdef.String, Default: "restart", OneOf: []string{"none", "restart"}, Importance: configdef.Low, Group: "Common", Hidden: true,
			Doc: "Accepted for existing configs. References to secrets are resolved when a task starts.",
		},
		{
			Name: "tasks.max.enforce", Type: configdef.Boolean, Default: "true", Importance: configdef.Low, Group: "Common", Hidden: true,
			Doc: "Accepted for existing configs. The limit always holds.",
		},
		{
			Name: Unfinished, Type: configdef.String, Default: "", Importance: configdef.Low, Group: "Common", Hidden: true,
			Doc: "Written by millrace migrate while a move is not finished: its direction, and the state to bring the connector into.",
		},
		{
			Name: PlacementLabels, Type: configdef.List, Default: "", Check: labels, Importance: configdef.Low, Group: "Common", Example: "zone=a,disk=ssd",
			Doc: "Labels that a worker must have to run this connector, as name=value, comma-separated.",
		},
		{
			Name: TasksWeight, Type: configdef.Int, Default: "1", HasMin: true, Min: 1, HasMax: true, Max: 1000, Importance: configdef.Low, Group: "Common",
			Doc: "What each task of this connector costs a worker in proportion to others; tasks are dealt out by weight.",
		},
		{
			Name: RestartMaxAttempts, Type: configdef.Int, Default: "0", HasMin: true, Importance: configdef.Medium, Group: "Error Handling",
			Doc: "How many times in a row a task may fail for a reason that may pass before it stays FAILED; until then it is started again by itself. 0: without limit. Failures that need somebody to act are never retried.",
		},
		{
			Name: RestartMaxCrashes, Type: configdef.Int, Default: "5", HasMin: true, Importance: configdef.Medium, Group: "Error Handling",
			Doc: "The same for tasks that hung or panicked; 0: without limit.",
		},
		{
			Name: RestartMoveAfter, Type: configdef.Int, Default: "3", HasMin: true, Importance: configdef.Low, Group: "Error Handling",
			Doc: "After how many failures in a row a task is given to another worker that has not tried it yet and whose own tasks do well; 0: never.",
		},
		{
			Name: RestartBackoff, Type: configdef.Long, Default: "500", HasMin: true, Min: 10, Importance: configdef.Low, Group: "Error Handling",
			Doc: "Wait before the first such restart, in milliseconds; it doubles with each failure.",
		},
		{
			Name: RestartBackoffMax, Type: configdef.Long, Default: "15000", HasMin: true, Min: 10, Importance: configdef.Low, Group: "Error Handling",
			Doc: "Longest wait between restarts, in milliseconds. A task that does well for so long has its failures forgotten.",
		},
		{
			Name: StallAfter, Type: configdef.Long, Default: "10000", HasMin: true, Importance: configdef.Medium, Group: "Error Handling",
			Doc: "After how long a task that has something to do and gets nothing done is shown as stalled, with what it waits for, in milliseconds; 0: never.",
		},
		{
			Name: HangTimeout, Type: configdef.Long, Default: "300000", HasMin: true, Importance: configdef.Medium, Group: "Error Handling",
			Doc: "After how long a single call of the connector (open, poll, put, flush, close) that does not return is taken to hang, in milliseconds: the attempt is cut off and the task started again. 0: never. Kafka Connect's consumers give up on a sink after the same time.",
		},
		{
			Name: ErrorsRetryTimeout, Type: configdef.Long, Default: "0", HasMin: true, Min: -1, Importance: configdef.Medium, Group: "Error Handling", Display: "Retry Timeout for Errors",
			Doc: "How long the task itself tries again what failed but may pass (a call of a sink, records of a function), in milliseconds; 0: not at all, -1: for ever. What still fails then restarts the task.",
		},
		{
			Name: ErrorsRetryDelayMax, Type: configdef.Long, Default: "60000", HasMin: true, Importance: configdef.Medium, Group: "Error Handling", Display: "Maximum Delay Between Retries for Errors",
			Doc: "Longest wait between these tries, in milliseconds. The first is 300 ms, and it doubles; beyond the longest it is random.",
		},
		{
			Name: ErrorsTolerance, Type: configdef.String, Default: "none", OneOf: []string{"none", "all"}, Importance: configdef.Medium, Group: "Error Handling", Display: "Error Tolerance",
			Doc: "What happens to a record that can't be handled: none fails the task with the reason; all passes over it, counted, and into the dead letter queue if there is one.",
		},
		{
			Name: ErrorsLogEnable, Type: configdef.Boolean, Default: "false", Importance: configdef.Medium, Group: "Error Handling", Display: "Log Errors",
			Doc: "Whether each tolerated failure is written to the node's log.",
		},
		{
			Name: ErrorsLogMessages, Type: configdef.Boolean, Default: "false", Importance: configdef.Medium, Group: "Error Handling", Display: "Log Error Details",
			Doc: "Whether that log line names the record's topic, partition and offset. Keys and values are never logged.",
		},
		{
			Name: DeadTopic, Type: configdef.String, Default: "", Importance: configdef.Medium, Group: "Error Handling", Display: "Dead Letter Queue Topic Name",
			Doc: "Topic for records that can't be handled, with errors.tolerance=all. Empty: they are only counted.",
		},
		{
			Name: DeadReplication, Type: configdef.Int, Default: "-1", HasMin: true, Min: -1, HasMax: true, Max: 32767, Importance: configdef.Medium, Group: "Error Handling", Display: "Dead Letter Queue Topic Replication Factor",
			Doc: "Replicas of that topic when it is made; -1: the brokers' default.",
		},
		{
			Name: DeadContext, Type: configdef.Boolean, Default: "true", Importance: configdef.Medium, Group: "Error Handling", Display: "Enable Error Context Headers",
			Doc: "Whether dead letters carry headers with the reason and the place (__connect.errors.*), which millrace dlq shows and replays by. Kafka Connect's default is false.",
		},
		{
			Name: Linger, Type: configdef.Long, Default: "0", HasMin: true, HasMax: true, Max: 60000, Importance: configdef.Low, Group: "Batching",
			Doc: "How long a source's transaction waits for more records once it has one, in milliseconds. 0 takes what is there: while one transaction commits the next one fills, so busy streams get big transactions anyway.",
		},
		{
			Name: BatchMaxRecords, Type: configdef.Int, Default: "10000", HasMin: true, Min: 1, Importance: configdef.Low, Group: "Batching",
			Doc: "Largest number of records in one transaction or one call of a sink.",
		},
		{
			Name: MaxBytesInFlight, Type: configdef.Long, Default: "8388608", HasMin: true, Min: 65536, Importance: configdef.Low, Group: "Batching",
			Doc: "Bytes that a task works on at a time: a source holds no more that are not committed; sinks and transforms read and hand on no more together. A single record, or a batch that the broker stores as one, goes through whole.",
		},
		{
			Name: MaxRecordsPerSecond, Type: configdef.Int, Default: "0", HasMin: true, Importance: configdef.Low, Group: "Batching",
			Doc: "Records that one task may take in a second; 0: no limit.",
		},
	}
}

func labels(v string) error {
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" && (!strings.Contains(item, "=") || strings.HasPrefix(item, "=")) {
			return fmt.Errorf("%q is not name=value", item)
		}
	}
	return nil
}

func creation() []configdef.Key {
	return []configdef.Key{
		{Name: CreationGroups, Type: configdef.List, Default: "", Importance: configdef.Low, Group: "Topic Creation", Doc: "Names of topic groups with their own topic.creation.<group>.* settings; the first that matches a topic wins."},
		{Name: CreationReplication, Type: configdef.Int, Default: "-1", HasMin: true, Min: -1, HasMax: true, Max: 32767, Importance: configdef.Low, Group: "Topic Creation", Doc: "Replicas of new topics; -1: the brokers' default."},
		{Name: CreationPartitions, Type: configdef.Int, Default: "-1", HasMin: true, Min: -1, Importance: configdef.Low, Group: "Topic Creation", Doc: "Partitions of new topics; -1: the brokers' default."},
		{Name: "topic.creation.", Type: configdef.String, Prefix: true, Importance: configdef.Low, Group: "Topic Creation", Doc: "topic.creation.<group>.include, .exclude, .partitions, .replication.factor, and any topic setting, such as topic.creation.default.cleanup.policy."},
		{Name: CompressionType, Type: configdef.String, Default: "lz4", OneOf: []string{"none", "gzip", "snappy", "lz4", "zstd"}, Importance: configdef.Low, Group: "Batching", Doc: "Compression of the messages."},
	}
}

func input() []configdef.Key {
	return []configdef.Key{
		{Name: Topics, Type: configdef.List, Default: "", Importance: configdef.High, Group: "Common", Width: configdef.WidthLong, Doc: "Topics to read, comma-separated. Topics that do not exist yet are taken in when they appear."},
		{Name: TopicsRegex, Type: configdef.String, Default: "", Check: regex, Importance: configdef.High, Group: "Common", Width: configdef.WidthLong, Doc: "Regular expression of the topics to read; it must match the whole name."},
		{Name: GroupOverride, Type: configdef.String, Default: "", Importance: configdef.Low, Group: "Common", Doc: "Consumer group that holds the offsets. Empty: connect-<name>."},
		{Name: OffsetReset, Type: configdef.String, Default: "earliest", OneOf: []string{"earliest", "latest"}, Importance: configdef.Low, Group: "Common", Doc: "Where to begin in a partition without a stored offset."},
	}
}

func regex(v string) error {
	if _, err := regexp.Compile(v); err != nil {
		return fmt.Errorf("Invalid regex: %w", err)
	}
	return nil
}

func book() []configdef.Key {
	return []configdef.Key{
		{
			Name: Ledger, Type: configdef.Boolean, Default: "true", Importance: configdef.Medium, Group: "Ledger",
			Doc: "Whether each transaction adds an entry to the ledger: what was taken from where, and how many records with which sum of hashes went to which topic partition. Topics are compared with it, see GET /millrace/v1/connectors/{name}/audit and millrace verify. Without transactions (exactly.once.support=disabled) there is none.",
		},
		{Name: LedgerTopic, Type: configdef.String, Default: "millrace-ledger", Importance: configdef.Low, Group: "Ledger", Doc: "Topic of the ledger. It is made with a retention of 7 days; what is older can't be compared."},
		{
			Name: AuditInterval, Type: configdef.Long, Default: "60000", HasMin: true, Importance: configdef.Low, Group: "Ledger",
			Doc: "How often the worker that holds the connector compares the topics with the ledger, in milliseconds; 0: never.",
		},
		{Name: AuditRate, Type: configdef.Long, Default: "4194304", HasMin: true, Min: 1024, Importance: configdef.Low, Group: "Ledger", Doc: "How fast topics are read for that, in bytes per second."},
	}
}

func sourceOnly() []configdef.Key {
	return []configdef.Key{
		{
			Name: ExactlyOnce, Type: configdef.String, Default: "requested", OneOf: []string{"requested", "required", "disabled"}, Importance: configdef.Medium, Group: "Exactly Once Support",
			Doc: "requested and required mean the same: records and offset in one transaction. disabled: records first, then the offset; consumers see them some milliseconds sooner, and some of them twice after a crash.",
		},
		{Name: OffsetsTopic, Type: configdef.String, Default: "", Importance: configdef.Low, Group: "offsets.topic", Doc: "Topic for this connector's source offsets. Empty: the cluster's."},
	}
}

// specs are made once: a connector's config is parsed often.
var specs struct {
	sync.Mutex // guards: byKind, whole
	byKind     map[connectors.Kind]*configdef.Spec
	whole      map[*connectors.Plugin]*configdef.Spec
}

// Connector returns the framework's keys for connectors of a kind.
func Connector(kind connectors.Kind) *configdef.Spec {
	specs.Lock()
	defer specs.Unlock()
	return connector(kind)
}

func connector(kind connectors.Kind) *configdef.Spec {
	if specs.byKind[kind] == nil {
		if specs.byKind == nil {
			specs.byKind, specs.whole = map[connectors.Kind]*configdef.Spec{}, map[*connectors.Plugin]*configdef.Spec{}
		}
		specs.byKind[kind] = declared(kind)
	}
	return specs.byKind[kind]
}

func declared(kind connectors.Kind) *configdef.Spec {
	keys := common()
	if kind != connectors.KindTransform { // a function does what these do, and more
		keys = slices.Concat(keys, smt.Keys())
	}
	switch kind {
	case connectors.KindSource:
		keys = slices.Concat(keys, sourceOnly(), creation(), book())
		return configdef.New(keys...)
	case connectors.KindTransform:
		keys = slices.Concat(keys, input(), creation(), book())
	default:
		keys = slices.Concat(keys, input())
	}
	return configdef.New(keys...).Cross(oneInput)
}

func oneInput(v configdef.Values) []configdef.Problem {
	topics, rx := v.List(Topics), v.String(TopicsRegex)
	msg := ""
	switch {
	case !v.OK(Topics) || !v.OK(TopicsRegex): // said already
	case len(topics) == 0 && rx == "":
		msg = "Must configure one of topics or topics.regex"
	case len(topics) > 0 && rx != "":
		msg = "topics and topics.regex are mutually exclusive options, but both are set."
	}
	dead := deadInput(v.String(DeadTopic), topics, rx)
	if msg == "" {
		return dead
	}
	return append([]configdef.Problem{{Key: Topics, Value: strings.Join(topics, ","), Message: msg}, {Key: TopicsRegex, Value: rx, Message: msg}}, dead...)
}

// deadInput refuses a dead letter queue that the connector would read itself.
func deadInput(dead string, topics []string, rx string) (problems []configdef.Problem) {
	if slices.Contains(topics, dead) {
		problems = append(problems, configdef.Problem{Key: Topics, Value: strings.Join(topics, ","), Message: fmt.Sprintf(
			"The DLQ topic '%s' may not be included in the list of topics ('topics=[%s]') consumed by the connector", dead, strings.Join(topics, ", "))})
	}
	if re, err := regexp.Compile("^(?:" + rx + ")$"); err == nil && dead != "" && rx != "" && re.MatchString(dead) {
		problems = append(problems, configdef.Problem{Key: TopicsRegex, Value: rx, Message: fmt.Sprintf(
			"The DLQ topic '%s' may not be matched by the regex for the topics ('topics.regex=%s') consumed by the connector", dead, rx)})
	}
	return problems
}

// KeepsLedger reports whether a connector's tasks keep a ledger: without transactions there is none.
func KeepsLedger(p *connectors.Plugin, v configdef.Values) bool {
	switch p.Kind {
	case connectors.KindSource:
		return v.Bool(Ledger) && v.String(ExactlyOnce) != "disabled"
	case connectors.KindTransform:
		return v.Bool(Ledger)
	case connectors.KindSink:
	}
	return false
}

// Full is a connector's whole spec: the framework's keys first, then its own.
func Full(p *connectors.Plugin) *configdef.Spec {
	specs.Lock()
	defer specs.Unlock()
	framework := connector(p.Kind)
	if specs.whole[p] == nil {
		specs.whole[p] = framework.With(p.Spec)
	}
	return specs.whole[p]
}

// Check finds everything that can be known to be wrong with a connector's config: keys, values, unknown keys, and, when all of that is right,
// what the connector itself finds (is the server there, the login right). The connector's look ends with ctx.
func Check(ctx context.Context, p *connectors.Plugin, given map[string]string) []configdef.Problem {
	spec := Full(p)
	_, resolved, problems := Parse(spec, given)
	if p.Kind != connectors.KindTransform {
		problems = append(problems, NewRedactor(given).static(smt.Check(resolved, p.Kind == connectors.KindSource))...)
	}
	problems = append(problems, spec.Unknown(given)...)
	if len(problems) == 0 && p.Validate != nil {
		problems = NewRedactor(given).dynamic(p.Validate(ctx, resolved))
	}
	for i := range problems {
		if k, ok := spec.Lookup(problems[i].Key); ok && k.Type == configdef.Password && problems[i].Value != "" {
			problems[i].Value = "[hidden]"
		}
	}
	return problems
}

// ValidateLimit bounds a connector's own look at what it connects to.
const ValidateLimit = 2 * time.Second
