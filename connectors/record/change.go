package record

// Op is what happened to a row, or to a table.
type Op uint8

// The operations of change events. Read is a row of an initial snapshot.
const (
	OpUnknown Op = iota
	OpRead
	OpCreate
	OpUpdate
	OpDelete
	OpTruncate
	OpDDL
	// OpStatement is a statement that the log has beside the rows that it changed.
	OpStatement
)

var opNames = [...]string{"unknown", "read", "create", "update", "delete", "truncate", "ddl", "statement"}

// String returns the lower-case name.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return opNames[0]
}

// ChangeEvent is one change of one row (or a DDL statement), whatever the database.
//
// Ownership: the event, its rows and the bytes they point to belong to the batch that carries them and are valid until
// that batch is released.
type ChangeEvent struct {
	Table *Table
	Op    Op
	// Before is the row as it was: updates and deletes. nil when there is none.
	Before Row
	// After is the row as it is: reads, creates and updates. nil when there is none.
	After  Row
	Source Source
	// SQL is the statement of a DDL event, or the text of an OpStatement; DDLType its Canal type (CREATE, ALTER, ERASE, …).
	SQL     string
	DDLType string
	// Changes are what a DDL event did to captured tables, as far as it is known.
	Changes []TableChange
}

// TableChange is what a statement did to a table: CREATE, ALTER or DROP.
type TableChange struct {
	Type, Database, Name string
	// Table is its shape afterwards; nil when it is gone or not known.
	Table *Table
}

// Row holds the values of a table's columns, in the order of Table.Columns.
type Row []Datum

// Source says where in the source's log a change stands.
type Source struct {
	// TimeMS is when the source committed it (or logged it), ms since the Unix epoch.
	TimeMS int64
	// GTID of its transaction, in the source's own text form; empty when there is none.
	GTID string
	// File and Pos are the binlog position of the event; Row is the row's index in it.
	File     string
	Pos      uint64
	Row      int32
	ServerID uint32
	// Snapshot is true for rows that were read from the table, not from the log; Incremental for those of them that were asked for
	// after the initial snapshot.
	Snapshot, Incremental bool
	// TimeUS is TimeMS with all digits that the log has, in µs; 0: it has no more.
	TimeUS int64
	// Thread is the server's session that made the change; 0: not known.
	Thread uint32
	// Query is the statement that made the change, where the log has it and it was asked for.
	Query string
	// TxnID, TxnOrder and TxnTableOrder place the change in its transaction, counted from 1 over all captured tables and over this one.
	// TxnOrder is 0 where they were not asked for.
	TxnID                   string
	TxnOrder, TxnTableOrder int64
}

// Table is one version of a table's shape. It is immutable; a changed table is a new Table.
type Table struct {
	Database string
	Name     string
	Columns  []Column
	// Key holds the indexes in Columns of the primary key's columns, in key order; empty without one.
	Key []int
	// MessageKey holds those of the columns of the records' keys, where that is not the primary key.
	MessageKey []int
	// Charset is the default character set of the table's text; empty: not known.
	Charset string
	Comment string
	// Envelope is what the source says on how to write its events; nil: nothing.
	Envelope *Envelope
}

// HasKey reports whether the table has a primary key.
func (t *Table) HasKey() bool { return len(t.Key) > 0 }

// RecordKey returns the indexes in Columns of the columns that make the records' keys; empty: the keys are null.
func (t *Table) RecordKey() []int {
	if len(t.MessageKey) > 0 {
		return t.MessageKey
	}
	return t.Key
}

// Column is one column of a table.
type Column struct {
	Name string
	// Type is the source's own declaration, as SHOW CREATE TABLE prints it: "int unsigned", "varchar(32)", "datetime(6)".
	Type string
	// Family is the kind of value that Type holds.
	Family   Family
	Unsigned bool
	Nullable bool
	// Length is the declared length: bytes of BINARY, bits of BIT, characters of CHAR; 0 when it does not apply.
	Length int
	// Scale is the number of fraction digits: of DECIMAL, and of the fraction of a second.
	Scale int
	// Charset is the column's character set in the source's own words; empty for what is no text.
	Charset string
	// Values are the members of ENUM and SET.
	Values []string
	// Default is the declared default as plain text, and HasDefault if there is one that is no expression. The current time as default
	// is DefaultNow.
	Default    string
	HasDefault bool
	// AutoIncrement, Generated and Comment are as declared.
	AutoIncrement, Generated bool
	Comment                  string
}

// DefaultNow is the Default of columns that get the current time.
const DefaultNow = "CURRENT_TIMESTAMP"

// Family groups the sources' types by the form of their values.
type Family uint8

// The families. Each says which Datum kind its values have.
const (
	FamilyUnknown   Family = iota
	FamilyTinyInt          // KindInt, KindUint
	FamilySmallInt         // KindInt, KindUint
	FamilyMediumInt        // KindInt, KindUint
	FamilyInt              // KindInt, KindUint
	FamilyBigInt           // KindInt, KindUint
	FamilyDecimal          // KindText: digits with the declared scale
	FamilyFloat            // KindFloat32
	FamilyDouble           // KindFloat64
	FamilyBit              // KindUint
	FamilyChar             // KindText
	FamilyVarchar          // KindText
	FamilyText             // KindText
	FamilyBinary           // KindBytes, padded to Length
	FamilyVarbinary        // KindBytes
	FamilyBlob             // KindBytes
	FamilyEnum             // KindUint: index from 1, 0 is the empty error value
	FamilySet              // KindUint: bit mask
	FamilyJSON             // KindText
	FamilyGeometry         // KindBytes: SRID (4 bytes, little-endian), then WKB
	FamilyVector           // KindBytes: float32 values, little-endian
	FamilyDate             // KindText: 2006-01-02, zero dates as they are
	FamilyTime             // KindText: [-]hh:mm:ss[.fff], Scale digits
	FamilyDateTime         // KindText: 2006-01-02 15:04:05[.fff], Scale digits
	FamilyTimestamp        // KindInt: µs since the Unix epoch; 0 is the zero timestamp
	FamilyYear             // KindInt: 0 or 1901-2155
)
