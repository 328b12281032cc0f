package mysqlcdc

import (
	"context"
	"fmt"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/record"
)

// The schemas of the records beside the rows, as Debezium has them.
var (
	beatKeySchema = &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector.common.ServerNameKey", Version: 1,
		Fields: []record.Field{{Name: "serverName", Schema: &record.Schema{Type: record.TypeString}}},
	}
	beatSchema = &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector.common.Heartbeat", Version: 1,
		Fields: []record.Field{{Name: "ts_ms", Schema: &record.Schema{Type: record.TypeInt64}}},
	}
	txnKeySchema = &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector.common.TransactionMetadataKey", Version: 1,
		Fields: []record.Field{{Name: "id", Schema: &record.Schema{Type: record.TypeString}}},
	}
	collectionSchema = &record.Schema{
		Type: record.TypeStruct, Optional: true, Name: "event.collection", Version: 1, Fields: []record.Field{
			{Name: "data_collection", Schema: &record.Schema{Type: record.TypeString}}, {Name: "event_count", Schema: &record.Schema{Type: record.TypeInt64}},
		},
	}
	txnSchema = &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector.common.TransactionMetadataValue", Version: 1, Fields: []record.Field{
			{Name: "status", Schema: &record.Schema{Type: record.TypeString}},
			{Name: "id", Schema: &record.Schema{Type: record.TypeString}},
			{Name: "event_count", Schema: &record.Schema{Type: record.TypeInt64, Optional: true}},
			{Name: "data_collections", Schema: &record.Schema{Type: record.TypeArray, Optional: true, Items: collectionSchema}},
			{Name: "ts_ms", Schema: &record.Schema{Type: record.TypeInt64}},
		},
	}
)

// beat adds a heartbeat record, where they are asked for, and runs the query that goes with it.
func (s *stream) beat(ctx context.Context) error {
	if !s.set.beats {
		return nil
	}
	if s.set.beatQuery != "" {
		c, err := s.set.dial(ctx)
		if err == nil {
			err = c.exec(ctx, s.set.beatQuery)
			c.close()
		}
		if err != nil && !connectors.IsRetriable(err) {
			return fmt.Errorf("%s: %w", keyBeatQuery, err)
		}
	}
	now := time.Now().UnixMilli()
	s.batch.records = append(s.batch.records, record.Record{
		Topic: s.set.beatTopic, Partition: 0, TimestampMS: now,
		Key:   &record.Struct{Schema: beatKeySchema, Values: []any{s.set.prefix}},
		Value: &record.Struct{Schema: beatSchema, Values: []any{now}},
	})
	return nil
}

// txnCount counts what a transaction has delivered, and what it would have had a restart not skipped it.
type txnCount struct {
	pending bool // BEGIN is not written yet
	open    bool
	total   int64
	order   []tableID
	tables  map[tableID]int64
}

func (t *txnCount) reset() {
	t.pending, t.open, t.total, t.order = false, false, 0, t.order[:0]
	clear(t.tables)
}

func (t *txnCount) count(id tableID) {
	if t.tables == nil {
		t.tables = map[tableID]int64{}
	}
	if t.tables[id] == 0 {
		t.order = append(t.order, id)
	}
	t.tables[id]++
	t.total++
}

// id is the transaction's name: its GTID, or where it begins.
func (s *stream) txnID() string {
	if s.txnGTID != "" {
		return s.txnGTID
	}
	return fmt.Sprintf("file=%s,pos=%d", s.txnStart.file, s.txnStart.pos)
}

// beginTxn notes that the transaction has begun. Its record is written with the first row, so that a restart between the two does not
// write it twice.
func (s *stream) beginTxn() {
	if s.set.txnTopic != "" {
		s.txn.open, s.txn.pending = true, !(s.skipping && (s.skipTxn == "" || s.skipTxn == s.txnGTID))
	}
}

// placeInTxn counts a row that is about to be written, and notes its place in the transaction.
func (s *stream) placeInTxn(sh *shape, src *record.Source) {
	if !s.txn.open {
		return
	}
	s.writeBegin()
	s.txn.count(sh.id)
	src.TxnID, src.TxnOrder, src.TxnTableOrder = s.txnID(), s.txn.total, s.txn.tables[sh.id]
}

func (s *stream) writeBegin() {
	if s.txn.pending {
		s.txn.pending = false
		s.txnRecord("BEGIN", nil, nil)
	}
}

// endTxn writes the transaction's end.
func (s *stream) endTxn() {
	if !s.txn.open {
		return
	}
	s.writeBegin()
	s.txn.open = false
	collections := []any{}
	for _, id := range s.txn.order {
		collections = append(collections, &record.Struct{Schema: collectionSchema, Values: []any{id.String(), s.txn.tables[id]}})
	}
	s.txnRecord("END", s.txn.total, collections)
}

func (s *stream) txnRecord(status string, count, collections any) {
	id := s.txnID()
	ms := s.timeUS / 1000
	if ms == 0 {
		ms = s.sec * 1000
	}
	if c, ok := collections.([]any); ok && c == nil {
		collections = nil
	}
	s.batch.records = append(s.batch.records, record.Record{
		Topic: s.set.txnTopic, Partition: record.AnyPartition, TimestampMS: ms,
		Key:   &record.Struct{Schema: txnKeySchema, Values: []any{id}},
		Value: &record.Struct{Schema: txnSchema, Values: []any{status, id, count, collections, ms}},
	})
}

// addDDL appends a DDL statement as a record.
func (b *rowBatch) addDDL(topic string, id tableID, env *record.Envelope, sql, ddlType string, changes []record.TableChange, src *record.Source) {
	t := &record.Table{Database: id.db, Name: id.name, Envelope: env}
	r := b.add(topic, t, record.OpDDL, nil, nil, src)
	c := r.Value.(*record.ChangeEvent)
	c.SQL, c.DDLType, c.Changes = sql, ddlType, changes
	r.Key = &record.Struct{Values: []any{id.db}, Schema: &record.Schema{
		Type: record.TypeStruct, Name: "io.debezium.connector." + env.Connector + ".SchemaChangeKey", Version: 1,
		Fields: []record.Field{{Name: "databaseName", Schema: &record.Schema{Type: record.TypeString}}},
	}}
}

// addStatement appends the statement that changed the rows to come. Canal names no database, and on MariaDB no table.
func (b *rowBatch) addStatement(topic string, id tableID, sql string, src record.Source, flavor string) {
	t := &record.Table{}
	if flavor != mysql.MariaDBFlavor {
		t.Name = id.name
	}
	r := b.add(topic, t, record.OpStatement, nil, nil, &src)
	r.Value.(*record.ChangeEvent).SQL = sql
}

// followed says what a statement did to captured tables.
func (s *stream) followed(changes []tableChange) ([]record.TableChange, error) {
	var out []record.TableChange
	for _, c := range changes {
		if c.kind == "INDEX" || c.kind == "TRUNCATE" || !s.set.filter.table(c.id) {
			continue
		}
		change := record.TableChange{Type: c.kind, Database: c.id.db, Name: c.id.name}
		cat := c.table
		if cat == nil && c.kind != "DROP" {
			var err error
			if cat, err = s.schema.lookup(c.id); err != nil {
				return nil, err
			}
		}
		if cat != nil {
			var err error
			if change.Table, err = cat.table(c.id, &s.set.shape); err != nil {
				return nil, err
			}
		}
		out = append(out, change)
	}
	return out, nil
}

// tableChanges says what a statement that could not be parsed did to a table, as the server has it now.
func (s *stream) tableChanges(id tableID, q query) ([]record.TableChange, error) {
	change := record.TableChange{Database: id.db, Name: id.name}
	switch q.ddlType {
	case "CREATE":
		change.Type = "CREATE"
	case "ALTER", "RENAME":
		change.Type = "ALTER"
	case "ERASE":
		change.Type = "DROP"
		return []record.TableChange{change}, nil
	default:
		return nil, nil
	}
	cat, err := s.schema.lookup(id)
	if err != nil || cat == nil {
		return []record.TableChange{change}, err
	}
	if change.Table, err = cat.table(id, &s.set.shape); err != nil {
		return nil, err
	}
	return []record.TableChange{change}, nil
}

// table is the table with all its columns, captured or not.
func (c *catalogTable) table(id tableID, shape *shaping) (*record.Table, error) {
	t := &record.Table{Database: id.db, Name: id.name, Columns: c.columns, Key: c.key, Charset: c.charset, Comment: c.comment}
	var err error
	t.MessageKey, err = shape.messageKey(t, c.unique())
	return t, err
}
