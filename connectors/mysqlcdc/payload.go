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
	body, err := parsePayload(e.RawData[headerSize:])
	if err != nil {
		return err
	}
	var r io.Reader = bytes.NewReader(body.data)
	if body.compressed {
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
	for total := uint64(0); ; {
		switch _, err := io.ReadFull(r, h[:]); {
		case errors.Is(err, io.EOF) && total == body.size:
			return nil
		case err != nil:
			return fmt.Errorf("unpack: %w", err)
		}
		size := binary.LittleEndian.Uint32(h[9:])
		if size < headerSize || size > maxEvent {
			return fmt.Errorf("event of %d bytes", size)
		}
		total += uint64(size)
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

// payloadBody is a payload event taken apart.
type payloadBody struct {
	data       []byte
	compressed bool
	size       uint64 // of the events
}

func parsePayload(p []byte) (payloadBody, error) {
	const end, compression, size = 0, 2, 3 // of the kinds of fields
	b := payloadBody{compressed: true}
	for {
		kind, rest, err := packedInt(p)
		if err != nil {
			return b, err
		}
		if kind == end {
			b.data = rest
			return b, nil
		}
		field, rest, err := packedBytes(rest)
		if err != nil {
			return b, err
		}
		p = rest
		if kind != compression && kind != size {
			continue
		}
		n, _, err := packedInt(field)
		switch {
		case err != nil:
			return b, err
		case kind == size:
			b.size = n
		case n != replication.ZSTD && n != replication.NONE:
			return b, fmt.Errorf("compression %d is not known", n)
		default:
			b.compressed = n == replication.ZSTD
		}
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

// packedBytes reads bytes with their length in front.
func packedBytes(p []byte) (data, rest []byte, err error) {
	n, p, err := packedInt(p)
	if err == nil && n > uint64(len(p)) {
		err = errShort
	}
	if err != nil {
		return nil, nil, err
	}
	return p[:n], p[n:], nil
}
