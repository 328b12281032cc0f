// Package api holds the bodies of the REST API, in Kafka Connect's shapes, and a client for it.
package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// ServerInfo answers GET /.
type ServerInfo struct {
	Version        string `json:"version"`
	Commit         string `json:"commit"`
	KafkaClusterID string `json:"kafka_cluster_id"`
}

// Health answers GET /health.
type Health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Error is the body of every failure.
type Error struct {
	Code    int    `json:"error_code"`
	Message string `json:"message"`
}

// GivenConfig is a config in a request: its values may be any JSON scalar, which count as text.
type GivenConfig map[string]any

// CreateConnector is the body of POST /connectors.
type CreateConnector struct {
	Name         string      `json:"name"`
	Config       GivenConfig `json:"config"`
	InitialState string      `json:"initial_state,omitempty"`
}

// TaskID names a task.
type TaskID struct {
	Connector string `json:"connector"`
	Task      int32  `json:"task"`
}

// ConnectorInfo describes a connector.
type ConnectorInfo struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
	Tasks  []TaskID          `json:"tasks"`
	Type   string            `json:"type" enum:"source,sink,unknown"`
}

// TaskInfo is one of GET /connectors/x/tasks.
type TaskInfo struct {
	ID     TaskID            `json:"id"`
	Config map[string]string `json:"config"`
}

// ConnectorState is the state of the planning half.
type ConnectorState struct {
	State    string `json:"state" enum:"UNASSIGNED,RUNNING,PAUSED,STOPPED,FAILED,RESTARTING"`
	WorkerID string `json:"worker_id"`
	Version  string `json:"version,omitempty"`
	Trace    string `json:"trace,omitempty"`
}

// TaskState is the state of a task.
type TaskState struct {
	ID       int32  `json:"id"`
	State    string `json:"state" enum:"UNASSIGNED,RUNNING,PAUSED,STOPPED,FAILED,RESTARTING"`
	WorkerID string `json:"worker_id"`
	Version  string `json:"version,omitempty"`
	Trace    string `json:"trace,omitempty"`
}

// ConnectorStatus answers GET /connectors/x/status.
type ConnectorStatus struct {
	Name      string         `json:"name"`
	Connector ConnectorState `json:"connector"`
	Tasks     []TaskState    `json:"tasks"`
	Type      string         `json:"type"`
}

// PluginInfo is one of GET /connector-plugins.
type PluginInfo struct {
	Class   string `json:"class"`
	Type    string `json:"type"`
	Version string `json:"version,omitempty"`
}

// ConfigKey describes a key of a plugin's config.
type ConfigKey struct {
	Name          string   `json:"name"`
	Type          string   `json:"type"`
	Required      bool     `json:"required"`
	DefaultValue  *string  `json:"default_value"`
	Importance    string   `json:"importance"`
	Documentation string   `json:"documentation"`
	Group         *string  `json:"group"`
	Width         string   `json:"width"`
	DisplayName   string   `json:"display_name"`
	Dependents    []string `json:"dependents"`
	// OrderInGroup is -1 for a key without a group.
	OrderInGroup int `json:"order"`
}

// ConfigValue is a key's value, and what is wrong with it.
type ConfigValue struct {
	Name              string   `json:"name"`
	Value             *string  `json:"value"`
	RecommendedValues []string `json:"recommended_values"`
	Errors            []string `json:"errors"`
	Visible           bool     `json:"visible"`
}

// ConfigInfo is a key with its value. Definition is null for a key that nothing declares.
type ConfigInfo struct {
	Definition *ConfigKey   `json:"definition"`
	Value      *ConfigValue `json:"value"`
}

// ConfigInfos answers PUT /connector-plugins/x/config/validate.
type ConfigInfos struct {
	Name       string       `json:"name"`
	ErrorCount int          `json:"error_count"`
	Groups     []string     `json:"groups"`
	Configs    []ConfigInfo `json:"configs"`
}

// Offset is one of a connector's offsets. Of a source they are what the source makes them; of others the partition has kafka_topic and
// kafka_partition, and the offset kafka_offset, the next one to read. A null offset forgets that of its partition.
type Offset struct {
	Partition map[string]any `json:"partition"`
	Offset    map[string]any `json:"offset" api:"nullable"`
}

// Offsets answers GET /connectors/x/offsets, and is what PATCH takes.
type Offsets struct {
	Offsets []Offset `json:"offsets"`
}

// Message answers what only says that it was done.
type Message struct {
	Message string `json:"message"`
}

// Logger is a logger's level. LastModified is in ms since the Unix epoch; null: never.
type Logger struct {
	Level        string `json:"level" enum:"ALL,TRACE,DEBUG,INFO,WARN,ERROR,FATAL"`
	LastModified *int64 `json:"last_modified"`
}

// SetLevel is the body of PUT /admin/loggers/x.
type SetLevel struct {
	Level string `json:"level"`
}

// Topics is what GET /connectors/x/topics has for the connector's name.
type Topics struct {
	Topics []string `json:"topics"`
}

// Expanded is one entry of GET /connectors?expand=….
type Expanded struct {
	Status *ConnectorStatus `json:"status,omitempty"`
	Info   *ConnectorInfo   `json:"info,omitempty"`
}

// Prefix is where Millrace's own additions live.
const Prefix = "/millrace/v1"

// Cluster answers GET /millrace/v1/cluster.
type Cluster struct {
	ClusterID      string   `json:"cluster_id"`
	Version        string   `json:"version"`
	Leader         string   `json:"leader"`
	Term           uint64   `json:"term"`
	Brokers        []string `json:"brokers"`
	EmbeddedBroker bool     `json:"embedded_broker"`
	Nodes          []Node   `json:"nodes"`
}

// Node is one process of the cluster.
type Node struct {
	ID          string            `json:"id"`
	Cluster     string            `json:"cluster_addr"`
	REST        string            `json:"rest_addr"`
	Coordinator bool              `json:"coordinator"`
	Worker      bool              `json:"worker"`
	Leader      bool              `json:"leader"`
	Alive       bool              `json:"alive"`
	Labels      map[string]string `json:"labels,omitempty"`
	Version     string            `json:"version"`
	// Vote is voter or learner (it follows until it has the log) for a coordinator.
	Vote string `json:"vote,omitempty"`
	// Drained: it runs only what nobody else can.
	Drained bool `json:"drained"`
	// Capacity is what the worker takes in proportion to others.
	Capacity uint32 `json:"capacity"`
	// Protocol is the newest that the node speaks.
	Protocol uint32 `json:"protocol"`
	// Units that are assigned to it: connector or connector-task.
	Units []string `json:"units"`
}

// Signal is the body of POST /millrace/v1/connectors/x/signals. Data is an object, or left out.
type Signal struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Progress answers GET /millrace/v1/connectors/x/progress.
type Progress struct {
	Name  string         `json:"name"`
	Type  string         `json:"type"`
	State string         `json:"state"`
	Tasks []TaskProgress `json:"tasks"`
}

// Stalled says that a task does not move though it has something to do. Kafka Connect's status shows it as RUNNING all the same.
type Stalled struct {
	// WaitsFor names what it waits for, such as "sink put" or "broker ack".
	WaitsFor    string `json:"waits_for"`
	SinceUnixMS int64  `json:"since_unix_ms"`
	// LastRecordUnixMS is the time of the newest record that was done; 0: none.
	LastRecordUnixMS int64 `json:"last_record_unix_ms"`
}

// Events answers GET /millrace/v1/connectors/x/events.
type Events struct {
	Name   string  `json:"name"`
	Events []Event `json:"events"`
}

// Event is something that happened to a task, or to the connector's planning half where no task is named.
type Event struct {
	AtUnixMS    int64  `json:"at_unix_ms"`
	Task        *int32 `json:"task,omitempty"`
	Worker      string `json:"worker"`
	Epoch       uint64 `json:"epoch,omitempty"`
	Event       string `json:"event"`
	Attempt     int32  `json:"attempt,omitempty"`
	MaxAttempts int32  `json:"max_attempts,omitempty"`
	Detail      string `json:"detail,omitempty"`
}

// Logs answers GET /millrace/v1/connectors/x/logs: the last log lines of a connector on all nodes, oldest first.
type Logs struct {
	Name  string    `json:"name"`
	Lines []LogLine `json:"lines"`
	// Unreachable nodes, by the address of their REST, could not be asked.
	Unreachable []string `json:"unreachable,omitempty"`
}

// LogLine is a line of one node's log.
type LogLine struct {
	AtUnixMS int64  `json:"at_unix_ms"`
	Node     string `json:"node"`
	// Seq grows from line to line on a node.
	Seq   int64  `json:"seq"`
	Level string `json:"level"`
	Task  *int32 `json:"task,omitempty"`
	Text  string `json:"text"`
}

// Kinds of differences between topics and ledger.
const (
	Missing = "missing"
	Extra   = "extra"
	Changed = "changed"
)

// Audit answers GET /millrace/v1/connectors/x/audit: how topics compare with the ledger, of which entries since when.
type Audit struct {
	Name string `json:"name,omitempty"`
	// Summary says the rest in a line.
	Summary string `json:"summary"`
	// Ledger: false when the connector keeps none.
	Ledger   bool  `json:"ledger"`
	AtUnixMS int64 `json:"at_unix_ms"`
	// Batches that were compared, and records that were found as the ledger says.
	Batches int64 `json:"batches"`
	Records int64 `json:"records"`
	Missing int64 `json:"missing"`
	Extra   int64 `json:"extra"`
	Changed int64 `json:"changed"`
	// Expired records were deleted by their topic's retention before they were compared; uncovered ones are older than the ledger.
	Expired   int64 `json:"expired"`
	Uncovered int64 `json:"uncovered"`
	// Pending batches are not compared yet.
	Pending     int64        `json:"pending"`
	Verified    []Verified   `json:"verified"`
	Differences []Difference `json:"differences"`
	// Skipped topics are not compared, with the reason.
	Skipped map[string]string `json:"skipped,omitempty"`
	Error   string            `json:"error,omitempty"`
}

// Summarize writes Summary.
func (a *Audit) Summarize() {
	switch {
	case !a.Ledger:
		a.Summary = "no ledger: set ledger=true"
	case a.AtUnixMS == 0:
		a.Summary = "not compared yet"
	default:
		var to []string
		for _, v := range a.Verified {
			to = append(to, fmt.Sprintf("%s-%d to position %s", v.Connector, v.Task, v.Position))
		}
		a.Summary = fmt.Sprintf("verified %s: %d missing, %d extra, %d changed; %d records of %d batches are as the ledger says",
			cmp.Or(strings.Join(to, ", "), "nothing"), a.Missing, a.Extra, a.Changed, a.Records, a.Batches)
	}
	if a.Error != "" {
		a.Summary += "; the last comparison failed: " + a.Error
	}
}

// Verified is the place up to which a task's batches are compared.
type Verified struct {
	Connector       string `json:"connector"`
	Task            int32  `json:"task"`
	CommittedUnixMS int64  `json:"committed_unix_ms"`
	// Position is a list of source partitions with their positions.
	Position json.RawMessage `json:"position"`
}

// Difference is a range of offsets that is not as the ledger says.
type Difference struct {
	Kind       string `json:"kind"`
	Topic      string `json:"topic"`
	Partition  int32  `json:"partition"`
	FromOffset int64  `json:"from_offset"`
	ToOffset   int64  `json:"to_offset"`
	Records    int64  `json:"records"`
	Detail     string `json:"detail"`
}

// TaskProgress is how far a task is. Lags are -1 when not known.
type TaskProgress struct {
	ID            int32  `json:"id"`
	State         string `json:"state"`
	Worker        string `json:"worker"`
	Epoch         uint64 `json:"epoch"`
	Error         string `json:"error,omitempty"`
	Attempts      int32  `json:"attempts,omitempty"`
	MaxAttempts   int32  `json:"max_attempts,omitempty"`
	RetryAtUnixMS int64  `json:"retry_at_unix_ms,omitempty"`
	// Retrying is why the task tries something again in place.
	Retrying         string   `json:"retrying,omitempty"`
	Stalled          *Stalled `json:"stalled,omitempty"`
	RecordsIn        uint64   `json:"records_in"`
	RecordsOut       uint64   `json:"records_out"`
	RecordsDropped   uint64   `json:"records_dropped"`
	BytesOut         uint64   `json:"bytes_out"`
	RecordsPerSecond float64  `json:"records_per_second"`
	LagRecords       int64    `json:"lag_records"`
	LagMS            int64    `json:"lag_ms"`
	LastCommitUnixMS int64    `json:"last_commit_unix_ms"`
	// TransactionProtocol is Kafka's that the task's producer speaks: 1 or 2, or none.
	TransactionProtocol string            `json:"transaction_protocol"`
	Detail              map[string]string `json:"detail,omitempty"`
	Function            *FunctionUsage    `json:"function,omitempty"`
}

// FunctionUsage is what a transform task's function has used since the task started on its worker.
type FunctionUsage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Instances that run now.
	Instances int32 `json:"instances"`
	// Invocations are calls, each with a batch of records.
	Invocations uint64  `json:"invocations"`
	RecordsIn   uint64  `json:"records_in"`
	RecordsOut  uint64  `json:"records_out"`
	BytesIn     uint64  `json:"bytes_in"`
	BytesOut    uint64  `json:"bytes_out"`
	BusySeconds float64 `json:"busy_seconds"`
	// RecordErrors are records that the function failed; Crashes are calls that ended with a crash, a hang or nonsense.
	RecordErrors uint64 `json:"record_errors"`
	Crashes      uint64 `json:"crashes"`
	ColdStarts   uint64 `json:"cold_starts"`
	Restarts     uint64 `json:"restarts"`
	// GigabyteSeconds is resident memory times time.
	GigabyteSeconds float64 `json:"gigabyte_seconds"`
}
