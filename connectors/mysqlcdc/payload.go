package mysqlcdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far zstd's strongest level looks back.
const maxWindow = 128 << 20

// payload reads the events of compressed transactions one by one: unpacked, a transaction can be many times what memory holds (I8).
type payload struct {
	zstd *zstd.Decoder // made with the first one
}

func (p *payload) close() {
	if p.zstd != nil {
		p.zstd.Close()
	}
}

// each calls f for each event inside e.
func (p *payload) each(parser *replication.BinlogParser, e *replication.BinlogEvent, f func(*replication.BinlogEvent) error) error {
	data, compressed, err := payloadBody(e.RawData[headerSize:])
	if err != nil {
		return err
	}
	var r io.Reader = bytes.NewReader(data)
	if compressed {
		if p.zstd == nil {
			p.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				return err
			}
		}
		if err := p.zstd.Reset(r); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		r = p.zstd
	}
	var h [headerSize]byte
	for {
		switch _, err := io.ReadFull(r, h[:]); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("unpack: %w", err)
		}
		size := binary.LittleEndian.Uint32(h[9:])
		if size < headerSize || size > maxEvent {
			return fmt.Errorf("event of %d bytes", size)
		}
		raw := append(make([]byte, 0, size), h[:]...)[:size]
		if _, err := io.ReadFull(r, raw[headerSize:]); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		inner, err := parseEvent(parser, raw)
		if err != nil {
			return err
		}
		if err := f(inner); err != nil {
			return err
		}
	}
}

// payloadBody finds the transaction behind the fields of a payload event.
func payloadBody(p []byte) (data []byte, compressed bool, err error) {
	const end, compression = 0, 2 // of the kinds of fields; the sizes say nothing that the data doesn't
	compressed = true
	for {
		var kind, n uint64
		if kind, p, err = packedInt(p); err != nil {
			return nil, false, err
		}
		if kind == end {
			return p, compressed, nil
		}
		if n, p, err = packedInt(p); err != nil {
			return nil, false, err
		}
		if n > uint64(len(p)) {
			return nil, false, errShort
		}
		if kind == compression {
			algorithm, _, err := packedInt(p[:n])
			if err != nil {
				return nil, false, err
			}
			if algorithm != replication.ZSTD && algorithm != replication.NONE {
				return nil, false, fmt.Errorf("compression %d is not known", algorithm)
			}
			compressed = algorithm == replication.ZSTD
		}
		p = p[n:]
	}
}

// packedInt reads a number of one to nine bytes, whose first byte tells how many.
func packedInt(p []byte) (n uint64, rest []byte, err error) {
	if len(p) == 0 {
		return 0, nil, errShort
	}
	width := 1
	switch p[0] {
	case 0xfb, 0xff:
		return 0, nil, fmt.Errorf("a number begins with %x", p[0])
	case 0xfc:
		width = 3
	case 0xfd:
		width = 4
	case 0xfe:
		width = 9
	}
	if len(p) < width {
		return 0, nil, errShort
	}
	if width == 1 {
		return uint64(p[0]), p[1:], nil
	}
	return little(p[1:width]), p[width:], nil
}
