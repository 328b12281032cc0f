package mysqlcdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/google/uuid"

	"github.com/millrace/millrace/connectors"
)

const (
	heartbeatPeriod = 5 * time.Second
	silence         = 3 * heartbeatPeriod // a connection on which nothing comes for so long is dead
	checksumSize    = replication.BinlogChecksumLength
	// maxEvent is more than the server's own limit for an event.
	maxEvent = 1<<30 + 1<<20
)

// dump reads the binlog of one connection. go-mysql's own reader is not used: it unpacks a compressed transaction whole, takes twice the
// memory for big events, and switches checksums off. Owned by the goroutine that calls next.
type dump struct {
	set    *settings
	c      *conn
	parser *replication.BinlogParser
	// checksum: events end in one. It is checked and cut off here.
	checksum bool
	// counts: the server leaves positions out, so that they are counted. pos is the end of the last event.
	counts  bool
	pos     uint32
	touched time.Time // when the deadline was set
	unguard func() bool
}

// startDump opens a connection and asks for the log: from a GTID set where there is one, else from a place. id is the replica's id.
// The connection ends with ctx.
func (s *stream) startDump(ctx context.Context, at logPos, gtids *gtidSet, id uint32) (*dump, error) {
	c, err := s.set.dial(ctx)
	if err != nil {
		return nil, err
	}
	d := &dump{set: s.set, c: c, parser: newParser(s.server.flavor), counts: s.server.flavor == mysql.MariaDBFlavor && s.server.zeroPositions}
	if err := d.register(ctx, id); err != nil {
		c.close()
		return nil, err
	}
	var flags uint16
	if s.server.flavor == mysql.MariaDBFlavor && (s.set.query || s.set.statements || d.counts) { // what is left out could not be counted
		flags = replication.BINLOG_SEND_ANNOTATE_ROWS_EVENT
	}
	var command []byte
	switch {
	case gtids == nil:
		if at.pos > 1<<32-1 {
			c.close()
			return nil, fmt.Errorf("binlog position %s is beyond 4 GiB, where the protocol can't start; switch on GTIDs, or reset the connector's offsets", at)
		}
		command = dumpAt(at.file, uint32(max(at.pos, 4)), flags, id)
	case s.server.flavor == mysql.MariaDBFlavor:
		if err := c.exec(ctx, "SET @slave_connect_state="+quoteText(gtids.String())+", @slave_gtid_strict_mode=1"); err != nil {
			c.close()
			return nil, err
		}
		command = dumpAt("", 4, flags, id)
	default:
		set := gtids.set.Encode()
		command = append([]byte{mysql.COM_BINLOG_DUMP_GTID, 0, 0}, binary.LittleEndian.AppendUint32(nil, id)...)
		command = binary.LittleEndian.AppendUint64(append(command, 0, 0, 0, 0), 4) // no file, and its beginning
		command = append(binary.LittleEndian.AppendUint32(command, uint32(len(set))), set...)
	}
	d.unguard = c.guard(ctx)
	if err := d.command(command); err != nil {
		d.close()
		return nil, s.set.explain("start to read the binlog", err)
	}
	return d, nil
}

func newParser(flavor string) *replication.BinlogParser {
	p := replication.NewBinlogParser()
	p.SetFlavor(flavor)
	return p
}

func dumpAt(file string, pos uint32, flags uint16, id uint32) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{mysql.COM_BINLOG_DUMP}, pos)
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(b, file...)
}

func (d *dump) command(b []byte) error {
	d.c.c.ResetSequence()
	return d.c.c.WritePacket(append(make([]byte, 4), b...))
}

// register makes the connection a replica's. Its UUID is the same each time, so that the server ends what is left of the connection before.
func (d *dump) register(ctx context.Context, id uint32) error {
	v, err := d.c.variables(ctx, "binlog_checksum")
	if err != nil {
		return err
	}
	replica := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s\x00%s\x00%d", d.set.name, d.set.prefix, id))
	for _, sql := range []string{
		"SET @master_binlog_checksum=@@GLOBAL.binlog_checksum, @source_binlog_checksum=@@GLOBAL.binlog_checksum",
		fmt.Sprintf("SET @master_heartbeat_period=%d, @source_heartbeat_period=%[1]d", heartbeatPeriod),
		fmt.Sprintf("SET @slave_uuid='%s', @replica_uuid='%[1]s', @mariadb_slave_capability=4", replica),
	} {
		if err := d.c.exec(ctx, sql); err != nil {
			return err
		}
	}
	d.checksum = v["binlog_checksum"] == "CRC32"
	host := d.set.name[:min(len(d.set.name), 60)] // what SHOW REPLICAS shows
	b := binary.LittleEndian.AppendUint32([]byte{mysql.COM_REGISTER_SLAVE}, id)
	b = append(append(b, byte(len(host))), host...)
	b = append(b, make([]byte, 1+1+2+4+4)...) // user, password, port, rank, master
	if err := d.command(b); err != nil {
		return connectors.Retriable(fmt.Errorf("register as a replica: %w", err))
	}
	if _, err := d.c.c.ReadOKPacket(); err != nil {
		return d.set.explain("register as a replica", err)
	}
	return nil
}

func (d *dump) close() {
	if d.unguard != nil {
		d.unguard()
	}
	d.c.close()
}

// packet takes the bytes of one packet. An event's size stands in front of it: it gets the memory that it needs and no more (I8).
type packet struct {
	b []byte
	d *dump
}

func (p *packet) Write(data []byte) (int, error) {
	p.d.touch()
	if p.b == nil {
		n := len(data)
		if n > headerSize && data[0] == mysql.OK_HEADER {
			n = 1 + int(binary.LittleEndian.Uint32(data[1+9:]))
		}
		if n > maxEvent {
			return 0, fmt.Errorf("event of %d bytes", n)
		}
		p.b = make([]byte, 0, max(n, len(data)))
	}
	p.b = append(p.b, data...)
	return len(data), nil
}

// touch moves the deadline for more bytes.
func (d *dump) touch() {
	if now := time.Now(); now.Sub(d.touched) > time.Second {
		d.touched = now
		_ = d.c.c.SetReadDeadline(now.Add(silence))
	}
}

// next waits for an event.
func (d *dump) next() (*replication.BinlogEvent, error) {
	d.touch()
	p := packet{d: d}
	if err := d.c.c.ReadPacketTo(&p); err != nil {
		return nil, d.set.explain("read the binlog", err)
	}
	switch {
	case len(p.b) > 0 && p.b[0] == mysql.ERR_HEADER:
		return nil, d.set.explain("read the binlog", d.c.c.HandleErrorPacket(p.b))
	case len(p.b) > 0 && p.b[0] == mysql.EOF_HEADER:
		return nil, connectors.Retriable(errors.New("read the binlog: the server ends the connection"))
	case len(p.b) <= headerSize || p.b[0] != mysql.OK_HEADER:
		return nil, fmt.Errorf("read the binlog: a packet of %d bytes that holds no event: %x", len(p.b), head(p.b))
	}
	return d.event(p.b[1:])
}

// What is decoded by the stream, from the event's bytes, and stands here for its type only.
var (
	opaqueRows     = &replication.RowsEvent{}
	opaqueTableMap = &replication.TableMapEvent{}
	opaquePayload  = &replication.TransactionPayloadEvent{}
)

func (d *dump) event(raw []byte) (*replication.BinlogEvent, error) {
	size := uint32(len(raw))
	if at := binary.LittleEndian.Uint32(raw[9:]); at != size {
		return nil, fmt.Errorf("binlog event of %d bytes says that it has %d", size, at)
	}
	raw, err := d.unchecked(raw)
	if err != nil {
		return nil, err
	}
	e, err := parseEvent(d.parser, raw)
	if err != nil {
		return nil, err
	}
	switch h := e.Header; {
	case h.LogPos > 0:
		d.pos = h.LogPos
	case d.counts && h.Flags&replication.LOG_EVENT_ARTIFICIAL_F == 0:
		d.pos += size
		h.LogPos = d.pos
	}
	if r, ok := e.Event.(*replication.RotateEvent); ok {
		d.pos = uint32(r.Position)
	}
	return e, nil
}

// unchecked checks an event's checksum and takes it away, so that all events are alike: those inside a compressed transaction have none.
func (d *dump) unchecked(raw []byte) ([]byte, error) {
	checksum, format := d.checksum, raw[4] == byte(replication.FORMAT_DESCRIPTION_EVENT)
	if format {
		if len(raw) < headerSize+57+5 {
			return nil, errors.New("format description is too short")
		}
		algorithm := raw[len(raw)-5]
		if algorithm > byte(replication.BINLOG_CHECKSUM_ALG_CRC32) && algorithm != byte(replication.BINLOG_CHECKSUM_ALG_UNDEF) {
			return nil, fmt.Errorf("the binlog's checksums are of kind %d, which is not known; run SET GLOBAL binlog_checksum='CRC32'", algorithm)
		}
		checksum = algorithm == byte(replication.BINLOG_CHECKSUM_ALG_CRC32)
		d.checksum = checksum
	}
	if !checksum {
		return raw, nil
	}
	n := len(raw) - checksumSize
	if n < headerSize {
		return nil, errShort
	}
	if crc32.ChecksumIEEE(raw[:n]) != binary.LittleEndian.Uint32(raw[n:]) {
		return nil, connectors.Retriable(fmt.Errorf("binlog event of type %d has a wrong checksum: it was damaged on the server's disk or on the way", raw[4]))
	}
	if format { // its last five bytes are always there
		raw[n-1] = byte(replication.BINLOG_CHECKSUM_ALG_OFF)
		return raw, nil
	}
	binary.LittleEndian.PutUint32(raw[9:], uint32(n))
	return raw[:n:n], nil
}

// parseEvent parses an event without a checksum. Table maps, rows and compressed transactions are left as bytes.
func parseEvent(p *replication.BinlogParser, raw []byte) (*replication.BinlogEvent, error) {
	var opaque replication.Event
	switch t := replication.EventType(raw[4]); {
	case isRows(t):
		opaque = opaqueRows
	case t == replication.TABLE_MAP_EVENT:
		opaque = opaqueTableMap
	case t == replication.TRANSACTION_PAYLOAD_EVENT:
		opaque = opaquePayload
	default:
		return parseWhole(p, raw)
	}
	h := &replication.EventHeader{}
	if err := h.Decode(raw); err != nil {
		return nil, fmt.Errorf("decode the header of a binlog event: %w", err)
	}
	return &replication.BinlogEvent{RawData: raw, Header: h, Event: opaque}, nil
}

// parseWhole has go-mysql parse an event. A damaged one can make it panic, on a goroutine where that would end the process (I9).
func parseWhole(p *replication.BinlogParser, raw []byte) (e *replication.BinlogEvent, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decode binlog event of type %d: %v", raw[4], r)
		}
	}()
	if e, err = p.Parse(raw); err != nil {
		return nil, fmt.Errorf("decode binlog event of type %d: %w", raw[4], err)
	}
	return e, nil
}
