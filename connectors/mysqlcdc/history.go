package mysqlcdc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pingcap/tidb/pkg/parser"
	"github.com/pingcap/tidb/pkg/parser/ast"
	"github.com/pingcap/tidb/pkg/parser/format"
	pmysql "github.com/pingcap/tidb/pkg/parser/mysql"
	_ "github.com/pingcap/tidb/pkg/parser/test_driver" // the parser's values
	"github.com/pingcap/tidb/pkg/parser/types"

	"github.com/millrace/millrace/connectors/record"
)

// tableChange is what a statement did to a table. table is nil when it is gone, or not known any more.
type tableChange struct {
	kind  string // CREATE, ALTER, DROP, TRUNCATE
	id    tableID
	old   tableID // its name before, where that is another
	table *catalogTable
	// unlogged says what has changed rows without row events; gains: rows have come.
	unlogged string
	gains    bool
}

// uniqueKey is a unique index, by the names of its columns.
type uniqueKey struct {
	name    string
	columns []string
}

// history applies DDL statements to tables as it goes through the log, so that a table is known as it was then and not as it is now.
// It is pure but for lookup.
type history struct {
	flavor string
	// charsets are the databases' own, which a CREATE TABLE without one takes over.
	charsets map[string]string
	lookup   func(tableID) (*catalogTable, error)
}

// parseDDL parses a statement. The parser knows MySQL's grammar and much of MariaDB's; what it can't read is an error, and a panic of
// the parser is one too.
func parseDDL(sql string) (nodes []ast.StmtNode, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the DDL parser failed: %v", r)
		}
	}()
	p := parser.New()
	nodes, _, err = p.ParseSQL(sql)
	return nodes, err
}

// apply says what a statement does. db is the session's database. An error means that it can't be told.
func (h *history) apply(sql, db string) ([]tableChange, error) {
	nodes, err := parseDDL(sql)
	if err != nil {
		return nil, err
	}
	var out []tableChange
	for _, n := range nodes {
		changes, err := h.node(n, db)
		if err != nil {
			return nil, err
		}
		out = append(out, changes...)
	}
	return out, nil
}

func nameOf(t *ast.TableName, db string) tableID {
	if t.Schema.O != "" {
		db = t.Schema.O
	}
	return tableID{db, t.Name.O}
}

func (h *history) node(n ast.StmtNode, db string) ([]tableChange, error) {
	switch n := n.(type) {
	case *ast.CreateTableStmt:
		if n.TemporaryKeyword != ast.TemporaryNone {
			return nil, nil
		}
		id := nameOf(n.Table, db)
		t, err := h.create(n, db, id)
		return []tableChange{{kind: "CREATE", id: id, table: t}}, err
	case *ast.AlterTableStmt:
		return h.alter(n, db)
	case *ast.DropTableStmt:
		if n.IsView || n.TemporaryKeyword != ast.TemporaryNone {
			return nil, nil
		}
		var out []tableChange
		for _, t := range n.Tables {
			out = append(out, tableChange{kind: "DROP", id: nameOf(t, db)})
		}
		return out, nil
	case *ast.CreateDatabaseStmt:
		h.database(n.Name.O, n.Options)
	case *ast.AlterDatabaseStmt:
		if n.AlterDefaultDatabase {
			h.database(db, n.Options)
		} else {
			h.database(n.Name.O, n.Options)
		}
	case *ast.RenameTableStmt:
		return h.rename(n, db)
	case *ast.TruncateTableStmt:
		id := nameOf(n.Table, db)
		t, err := h.lookup(id)
		return []tableChange{{kind: "TRUNCATE", id: id, table: t}}, err
	case *ast.CreateIndexStmt:
		id := nameOf(n.Table, db)
		t, err := h.copyOf(id)
		if err != nil || t == nil {
			return nil, err
		}
		if n.KeyType == ast.IndexKeyTypeUnique {
			t.addUnique(n.IndexName, n.IndexPartSpecifications)
		}
		return []tableChange{{kind: "INDEX", id: id, table: t}}, nil
	case *ast.DropIndexStmt:
		id := nameOf(n.Table, db)
		t, err := h.copyOf(id)
		if err != nil || t == nil {
			return nil, err
		}
		t.dropIndex(n.IndexName)
		return []tableChange{{kind: "INDEX", id: id, table: t}}, nil
	}
	return nil, nil
}

// database takes over a database's character set.
func (h *history) database(name string, options []*ast.DatabaseOption) {
	delete(h.charsets, name)
	for _, o := range options {
		switch o.Tp {
		case ast.DatabaseOptionCharset:
			h.charsets[name] = strings.ToLower(o.Value)
		case ast.DatabaseOptionCollate:
			h.charsets[name], _, _ = strings.Cut(strings.ToLower(o.Value), "_")
		default:
		}
	}
}

// copyOf is the table as it is known, to be changed; nil when it is not.
func (h *history) copyOf(id tableID) (*catalogTable, error) {
	t, err := h.lookup(id)
	if err != nil || t == nil {
		return nil, err
	}
	return t.clone(), nil
}

func (c *catalogTable) clone() *catalogTable {
	out := *c
	out.columns, out.key, out.uniques = slices.Clone(c.columns), slices.Clone(c.key), slices.Clone(c.uniques)
	return &out
}

func (c *catalogTable) index(name string) int {
	return slices.IndexFunc(c.columns, func(x record.Column) bool { return strings.EqualFold(x.Name, name) })
}

// keyNames and setKey go by names while columns move.
func (c *catalogTable) keyNames() []string {
	out := make([]string, len(c.key))
	for i, k := range c.key {
		out[i] = c.columns[k].Name
	}
	return out
}

func (c *catalogTable) setKey(names []string) {
	c.key = nil
	for _, n := range names {
		if at := c.index(n); at >= 0 {
			c.key = append(c.key, at)
			c.columns[at].Nullable = false
			if c.columns[at].Default == "" && c.columns[at].HasDefault && c.columns[at].Family != record.FamilyChar && c.columns[at].Family != record.FamilyVarchar {
				c.columns[at].HasDefault = false
			}
		}
	}
}

func partNames(parts []*ast.IndexPartSpecification) []string {
	var out []string
	for _, p := range parts {
		if p.Column == nil {
			return nil // an expression
		}
		out = append(out, p.Column.Name.O)
	}
	return out
}

func (c *catalogTable) addUnique(name string, parts []*ast.IndexPartSpecification) {
	if names := partNames(parts); names != nil {
		if name == "" {
			name = names[0]
		}
		c.uniques = append(c.uniques, uniqueKey{name, names})
	}
}

func (c *catalogTable) dropIndex(name string) {
	if strings.EqualFold(name, "PRIMARY") {
		c.key = nil
	}
	c.uniques = slices.DeleteFunc(c.uniques, func(u uniqueKey) bool { return strings.EqualFold(u.name, name) })
}

// unique is the first unique index without nullable columns.
func (c *catalogTable) unique() []string {
	for _, u := range c.uniques {
		if !slices.ContainsFunc(u.columns, func(n string) bool { at := c.index(n); return at < 0 || c.columns[at].Nullable }) {
			return u.columns
		}
	}
	return nil
}

func (h *history) create(n *ast.CreateTableStmt, db string, id tableID) (*catalogTable, error) {
	if n.ReferTable != nil {
		return h.copyOf(nameOf(n.ReferTable, db))
	}
	if n.Select != nil {
		return nil, nil // the columns are those of a query: the server is asked
	}
	t := &catalogTable{}
	t.options(n.Options)
	if t.charset == "" {
		if t.charset = h.charsets[id.db]; t.charset == "" {
			return nil, nil // the server's own, which only it knows
		}
	}
	for _, d := range n.Cols {
		t.columns = append(t.columns, h.column(t, d))
	}
	for _, d := range n.Cols {
		t.inlineKeys(d)
	}
	for _, c := range n.Constraints {
		t.constrain(c)
	}
	return t, nil
}

func (c *catalogTable) options(list []*ast.TableOption) {
	for _, o := range list {
		switch o.Tp {
		case ast.TableOptionCharset:
			c.charset = strings.ToLower(o.StrValue)
		case ast.TableOptionCollate:
			if c.charset == "" {
				c.charset, _, _ = strings.Cut(strings.ToLower(o.StrValue), "_")
			}
		case ast.TableOptionComment:
			c.comment = o.StrValue
		case ast.TableOptionEngine:
			c.engine = o.StrValue
		default:
		}
	}
}

// inlineKeys takes over keys that are declared with a column.
func (c *catalogTable) inlineKeys(d *ast.ColumnDef) {
	for _, o := range d.Options {
		switch o.Tp {
		case ast.ColumnOptionPrimaryKey:
			c.setKey([]string{d.Name.Name.O})
		case ast.ColumnOptionUniqKey:
			c.uniques = append(c.uniques, uniqueKey{d.Name.Name.O, []string{d.Name.Name.O}})
		default:
		}
	}
}

func (c *catalogTable) constrain(k *ast.Constraint) {
	switch k.Tp {
	case ast.ConstraintPrimaryKey:
		c.setKey(partNames(k.Keys))
	case ast.ConstraintUniq, ast.ConstraintUniqKey, ast.ConstraintUniqIndex:
		c.addUnique(k.Name, k.Keys)
	default:
	}
}

func (h *history) rename(n *ast.RenameTableStmt, db string) ([]tableChange, error) {
	// The pairs take effect in order, all or none: a swap goes through a third name.
	moved := map[tableID]*catalogTable{}
	var out []tableChange
	for _, p := range n.TableToTables {
		from, to := nameOf(p.OldTable, db), nameOf(p.NewTable, db)
		t, ok := moved[from]
		if !ok {
			var err error
			if t, err = h.lookup(from); err != nil {
				return nil, err
			}
		}
		moved[from], moved[to] = nil, t
		out = append(out, tableChange{kind: "ALTER", id: to, old: from, table: t})
	}
	return out, nil
}

func (h *history) alter(n *ast.AlterTableStmt, db string) ([]tableChange, error) {
	id := nameOf(n.Table, db)
	t, err := h.copyOf(id)
	if err != nil {
		return nil, err
	}
	change := tableChange{kind: "ALTER", id: id, table: t}
	for _, s := range n.Specs {
		switch s.Tp {
		case ast.AlterTableExchangePartition:
			change.unlogged, change.gains = "EXCHANGE PARTITION", true
		case ast.AlterTableImportTablespace, ast.AlterTableImportPartitionTablespace:
			change.unlogged, change.gains = "IMPORT TABLESPACE", true
		case ast.AlterTableTruncatePartition:
			change.unlogged = "TRUNCATE PARTITION"
		case ast.AlterTableDropPartition:
			change.unlogged = "DROP PARTITION"
		default:
		}
		if s.Tp == ast.AlterTableRenameTable {
			change.old, change.id = id, nameOf(s.NewTable, db)
		}
		if t == nil {
			continue
		}
		if err := h.spec(t, s); err != nil {
			return nil, fmt.Errorf("table %s: %w", id, err)
		}
	}
	return []tableChange{change}, nil
}

func (h *history) spec(t *catalogTable, s *ast.AlterTableSpec) error {
	key := t.keyNames()
	defer func() {
		if s.Tp != ast.AlterTableDropPrimaryKey && s.Tp != ast.AlterTableAddConstraint && s.Tp != ast.AlterTableDropIndex {
			t.setKey(key)
		}
	}()
	renamed := func(from, to string) {
		for i := range key {
			if strings.EqualFold(key[i], from) {
				key[i] = to
			}
		}
		for i, u := range t.uniques {
			columns := slices.Clone(u.columns)
			for j := range columns {
				if strings.EqualFold(columns[j], from) {
					columns[j] = to
				}
			}
			t.uniques[i].columns = columns
		}
	}
	switch s.Tp {
	case ast.AlterTableOption:
		t.options(s.Options)
	case ast.AlterTableAddColumns:
		for _, d := range s.NewColumns {
			if t.index(d.Name.Name.O) >= 0 {
				if s.IfNotExists {
					continue
				}
				return fmt.Errorf("column %s is there already", d.Name.Name.O)
			}
			if err := t.place(h.column(t, d), s.Position); err != nil {
				return err
			}
			t.inlineKeysKeep(d, &key)
		}
		for _, c := range s.NewConstraints {
			t.constrain(c)
			key = t.keyNames()
		}
	case ast.AlterTableDropColumn:
		name := s.OldColumnName.Name.O
		at := t.index(name)
		if at < 0 {
			if s.IfExists {
				return nil
			}
			return fmt.Errorf("column %s is not there", name)
		}
		t.columns = slices.Delete(t.columns, at, at+1)
		key = slices.DeleteFunc(key, func(k string) bool { return strings.EqualFold(k, name) })
		for i, u := range t.uniques {
			t.uniques[i].columns = slices.DeleteFunc(slices.Clone(u.columns), func(k string) bool { return strings.EqualFold(k, name) })
		}
		t.uniques = slices.DeleteFunc(t.uniques, func(u uniqueKey) bool { return len(u.columns) == 0 })
	case ast.AlterTableModifyColumn, ast.AlterTableChangeColumn:
		for _, d := range s.NewColumns {
			old := d.Name.Name.O
			if s.OldColumnName != nil {
				old = s.OldColumnName.Name.O
			}
			at := t.index(old)
			if at < 0 {
				if s.IfExists {
					return nil
				}
				return fmt.Errorf("column %s is not there", old)
			}
			c := h.column(t, d)
			if s.Position == nil || s.Position.Tp == ast.ColumnPositionNone {
				t.columns[at] = c
			} else {
				t.columns = slices.Delete(t.columns, at, at+1)
				if err := t.place(c, s.Position); err != nil {
					return err
				}
			}
			renamed(old, c.Name)
			t.inlineKeysKeep(d, &key)
		}
	case ast.AlterTableRenameColumn:
		at := t.index(s.OldColumnName.Name.O)
		if at < 0 {
			return fmt.Errorf("column %s is not there", s.OldColumnName.Name.O)
		}
		t.columns[at].Name = s.NewColumnName.Name.O
		renamed(s.OldColumnName.Name.O, s.NewColumnName.Name.O)
	case ast.AlterTableAlterColumn:
		d := s.NewColumns[0]
		at := t.index(d.Name.Name.O)
		if at < 0 {
			return fmt.Errorf("column %s is not there", d.Name.Name.O)
		}
		t.columns[at].Default, t.columns[at].HasDefault = "", false
		for _, o := range d.Options {
			if o.Tp == ast.ColumnOptionDefaultValue {
				setDefault(&t.columns[at], o.Expr)
			}
		}
	case ast.AlterTableAddConstraint:
		t.constrain(s.Constraint)
	case ast.AlterTableDropPrimaryKey:
		t.key = nil
	case ast.AlterTableDropIndex:
		t.dropIndex(s.Name)
	case ast.AlterTableRenameIndex:
		for i := range t.uniques {
			if strings.EqualFold(t.uniques[i].name, s.FromKey.O) {
				t.uniques[i].name = s.ToKey.O
			}
		}
	default: // partitions, locks and what else leaves columns and keys alone
	}
	// CONVERT TO CHARACTER SET comes as an option that all columns follow.
	for _, o := range s.Options {
		if o.Tp == ast.TableOptionCharset && o.UintValue == ast.TableOptionCharsetWithConvertTo {
			for i := range t.columns {
				if t.columns[i].Charset != "" {
					t.columns[i].Charset = t.charset
				}
			}
		}
	}
	return nil
}

func (c *catalogTable) inlineKeysKeep(d *ast.ColumnDef, key *[]string) {
	for _, o := range d.Options {
		if o.Tp == ast.ColumnOptionPrimaryKey {
			*key = []string{d.Name.Name.O}
		} else if o.Tp == ast.ColumnOptionUniqKey {
			c.uniques = append(c.uniques, uniqueKey{d.Name.Name.O, []string{d.Name.Name.O}})
		}
	}
}

func (c *catalogTable) place(col record.Column, p *ast.ColumnPosition) error {
	switch {
	case p != nil && p.Tp == ast.ColumnPositionFirst:
		c.columns = slices.Insert(c.columns, 0, col)
	case p != nil && p.Tp == ast.ColumnPositionAfter:
		at := c.index(p.RelativeColumn.Name.O)
		if at < 0 {
			return fmt.Errorf("column %s is not there", p.RelativeColumn.Name.O)
		}
		c.columns = slices.Insert(c.columns, at+1, col)
	default:
		c.columns = append(c.columns, col)
	}
	return nil
}

var typeNames = map[byte]string{
	pmysql.TypeTiny: "tinyint", pmysql.TypeShort: "smallint", pmysql.TypeInt24: "mediumint", pmysql.TypeLong: "int", pmysql.TypeLonglong: "bigint",
	pmysql.TypeNewDecimal: "decimal", pmysql.TypeFloat: "float", pmysql.TypeDouble: "double", pmysql.TypeBit: "bit", pmysql.TypeYear: "year",
	pmysql.TypeDate: "date", pmysql.TypeDuration: "time", pmysql.TypeDatetime: "datetime", pmysql.TypeTimestamp: "timestamp",
	pmysql.TypeString: "char", pmysql.TypeVarchar: "varchar", pmysql.TypeVarString: "varchar", pmysql.TypeTinyBlob: "tinytext", pmysql.TypeBlob: "text",
	pmysql.TypeMediumBlob: "mediumtext", pmysql.TypeLongBlob: "longtext", pmysql.TypeEnum: "enum", pmysql.TypeSet: "set", pmysql.TypeJSON: "json",
	pmysql.TypeGeometry: "geometry",
}

// widths are the display widths that MariaDB gives integers which are declared without one.
var widths = map[byte][2]int{
	pmysql.TypeTiny: {4, 3}, pmysql.TypeShort: {6, 5}, pmysql.TypeInt24: {9, 8}, pmysql.TypeLong: {11, 10}, pmysql.TypeLonglong: {20, 20},
}

// column makes a column of its declaration, with its type as the server's catalogue shows it.
func (h *history) column(t *catalogTable, d *ast.ColumnDef) record.Column {
	decl, charset := h.declaration(d.Tp)
	c := record.ParseMySQLType(decl)
	c.Name, c.Nullable = d.Name.Name.O, true
	switch c.Family {
	case record.FamilyChar, record.FamilyVarchar, record.FamilyText:
		if c.Charset = strings.ToLower(d.Tp.GetCharset()); c.Charset == "" {
			if c.Charset, _, _ = strings.Cut(strings.ToLower(d.Tp.GetCollate()), "_"); c.Charset == "" {
				c.Charset = t.charset
			}
		}
		if charset != "" {
			c.Charset = charset
		}
	default:
	}
	for _, o := range d.Options {
		switch o.Tp {
		case ast.ColumnOptionNotNull:
			c.Nullable = false
		case ast.ColumnOptionNull:
			c.Nullable = true
		case ast.ColumnOptionAutoIncrement:
			c.AutoIncrement, c.Nullable = true, false
		case ast.ColumnOptionDefaultValue:
			setDefault(&c, o.Expr)
		case ast.ColumnOptionComment:
			c.Comment = literalText(o.Expr)
		case ast.ColumnOptionGenerated:
			c.Generated = true
		case ast.ColumnOptionCollate:
			if c.Charset != "" {
				c.Charset, _, _ = strings.Cut(strings.ToLower(o.StrValue), "_")
			}
		default:
		}
	}
	return c
}

func (h *history) declaration(ft *types.FieldType) (decl, charset string) {
	typ, flen, dec := ft.GetType(), ft.GetFlen(), ft.GetDecimal()
	name := typeNames[typ]
	if name == "" {
		return strings.ToLower(ft.String()), ""
	}
	unsigned, zerofill := pmysql.HasUnsignedFlag(ft.GetFlag()), pmysql.HasZerofillFlag(ft.GetFlag())
	binary := ft.GetCharset() == "binary"
	arg := func(n int) string { return "(" + strconv.Itoa(n) + ")" }
	switch typ {
	case pmysql.TypeTiny, pmysql.TypeShort, pmysql.TypeInt24, pmysql.TypeLong, pmysql.TypeLonglong:
		w := widths[typ][0]
		if unsigned {
			w = widths[typ][1]
		}
		switch {
		case h.flavor == "mariadb" && flen < 0:
			name += arg(w)
		case flen >= 0 && (h.flavor == "mariadb" || zerofill || typ == pmysql.TypeTiny && flen == 1):
			name += arg(flen)
		}
	case pmysql.TypeNewDecimal:
		if flen < 0 {
			flen = 10
		}
		name += fmt.Sprintf("(%d,%d)", flen, max(dec, 0))
	case pmysql.TypeFloat, pmysql.TypeDouble:
		if flen >= 0 && dec >= 0 {
			name += fmt.Sprintf("(%d,%d)", flen, dec)
		}
	case pmysql.TypeBit:
		name += arg(max(flen, 1))
	case pmysql.TypeYear:
		if h.flavor == "mariadb" {
			name += arg(4)
		}
	case pmysql.TypeDuration, pmysql.TypeDatetime, pmysql.TypeTimestamp:
		if dec > 0 {
			name += arg(dec)
		}
	case pmysql.TypeString, pmysql.TypeVarchar, pmysql.TypeVarString:
		if binary {
			name = map[string]string{"char": "binary", "varchar": "varbinary"}[name]
		}
		name += arg(max(flen, 1))
		if typ != pmysql.TypeString {
			name = strings.TrimSuffix(name, arg(max(flen, 1))) + arg(max(flen, 0))
		}
	case pmysql.TypeTinyBlob, pmysql.TypeBlob, pmysql.TypeMediumBlob, pmysql.TypeLongBlob:
		if binary {
			name = strings.TrimSuffix(name, "text") + "blob"
		}
	case pmysql.TypeEnum, pmysql.TypeSet:
		return membersType(name, ft.GetElems()), ""
	case pmysql.TypeJSON:
		if h.flavor == "mariadb" {
			return "longtext", "utf8mb4"
		}
	}
	if unsigned {
		name += " unsigned"
	}
	if zerofill {
		name += " zerofill"
	}
	return name, ""
}

// setDefault reads a DEFAULT clause. Expressions are no default that a reader could use.
func setDefault(c *record.Column, e ast.ExprNode) {
	if f, ok := e.(*ast.FuncCallExpr); ok {
		switch f.FnName.L {
		case "current_timestamp", "now", "localtime", "localtimestamp":
			c.Default, c.HasDefault = record.DefaultNow, true
		}
		return
	}
	var b strings.Builder
	if err := e.Restore(format.NewRestoreCtx(format.RestoreStringSingleQuotes|format.RestoreStringWithoutCharset, &b)); err != nil {
		return
	}
	text := b.String()
	switch {
	case strings.EqualFold(text, "null"):
	case strings.EqualFold(text, "true"):
		c.Default, c.HasDefault = "1", true
	case strings.EqualFold(text, "false"):
		c.Default, c.HasDefault = "0", true
	case strings.HasPrefix(text, "'"):
		c.Default, c.HasDefault = literalText(e), true
	case strings.HasPrefix(text, "x'"):
		c.Default, c.HasDefault = "0x"+strings.Trim(text[1:], "'"), true
	case strings.ContainsAny(text[:1], "-0123456789b"):
		c.Default, c.HasDefault = text, true
	}
}

// literalText is the text of a string literal.
func literalText(e ast.ExprNode) string {
	if v, ok := e.(ast.ValueExpr); ok {
		return v.GetString()
	}
	return ""
}
