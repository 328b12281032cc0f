package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// ender speaks the one request of Kafka's second transaction protocol (KIP-890) that sarama has no types for: EndTxn from version 5 on, whose
// answer brings the producer's id and epoch for the next transaction. sarama's own request types can't be extended from outside, so it goes
// over a connection of its own to the transaction coordinator (docs/decisions/0005). It belongs to its producer's goroutine;
// only close may be called from another.
type ender struct {
	c Config

	mu     sync.Mutex // guards: closed, and conn's replacement
	closed bool

	conn  net.Conn
	addr  string
	used  time.Time
	until time.Time // the broker wants another login by then; zero: never
	id    int32     // of the last request
}

// endTxnVersion is the first that bumps the epoch.
const (
	endTxnKey     = 26
	endTxnVersion = 5
)

// ended is the answer to EndTxn.
type ended struct {
	code     sarama.KError
	producer int64
	epoch    int16
}

// idleMax is after how long without a request the connection is opened anew: brokers close idle ones, by default after 10 minutes.
const idleMax = time.Minute

// endTxn ends a transaction at a coordinator. An error means that the outcome is not known.
func (e *ender) endTxn(ctx context.Context, addr, transactionalID string, producer int64, epoch int16, commit bool) (ended, error) {
	now := time.Now()
	if e.conn != nil && (e.addr != addr || now.Sub(e.used) > idleMax || !e.until.IsZero() && now.After(e.until)) {
		e.hangUp()
	}
	if e.conn == nil {
		if err := e.open(ctx, addr); err != nil {
			return ended{}, err
		}
	}
	e.used = now
	b := binary.AppendUvarint(nil, uint64(len(transactionalID))+1)
	b = append(b, transactionalID...)
	b = binary.BigEndian.AppendUint64(b, uint64(producer))
	b = binary.BigEndian.AppendUint16(b, uint16(epoch))
	b = append(b, 0, 0) // abort, no tagged fields
	if commit {
		b[len(b)-2] = 1
	}
	const throttle = 4
	answer, err := e.ask(ctx, endTxnKey, endTxnVersion, true, b)
	if err != nil {
		return ended{}, err
	}
	if len(answer) < throttle+2+8+2 {
		return ended{}, errShort
	}
	a := answer[throttle:]
	return ended{
		sarama.KError(binary.BigEndian.Uint16(a)), int64(binary.BigEndian.Uint64(a[2:])), int16(binary.BigEndian.Uint16(a[10:])),
	}, nil
}

// hangUp has the next request open a connection.
func (e *ender) hangUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		_ = e.conn.Close()
		e.conn = nil
	}
}

// close cuts it off for good, from any goroutine.
func (e *ender) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.conn != nil {
		_ = e.conn.Close()
	}
}

var errShort = errors.New("the broker's answer is too short")

// open connects and logs in as the config says.
func (e *ender) open(ctx context.Context, addr string) error {
	dial := e.c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	bounded, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dial(bounded, "tcp", addr)
	if err != nil {
		return err
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.conn, e.addr, e.until = conn, addr, time.Time{}
	}
	e.mu.Unlock()
	if closed {
		_ = conn.Close()
		return net.ErrClosed
	}
	if e.c.Login.User != "" {
		if err := e.login(ctx); err != nil {
			return fmt.Errorf("log in at %s: %w", addr, err)
		}
	}
	return nil
}

// login is SASL PLAIN.
func (e *ender) login(ctx context.Context) error {
	const handshake, authenticate = 17, 36
	text := func(b []byte, s string) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) }
	a, err := e.ask(ctx, handshake, 1, false, text(nil, "PLAIN"))
	if err != nil {
		return err
	}
	if len(a) < 2 {
		return errShort
	}
	if code := sarama.KError(binary.BigEndian.Uint16(a)); code != sarama.ErrNoError {
		return kerror(code)
	}
	token := "\x00" + e.c.Login.User + "\x00" + e.c.Login.Password
	a, err = e.ask(ctx, authenticate, 1, false, append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...))
	if err != nil {
		return err
	}
	// Error code, error text, bytes, and for how long the login is good.
	if len(a) < 2 {
		return errShort
	}
	if code := sarama.KError(binary.BigEndian.Uint16(a)); code != sarama.ErrNoError {
		return kerror(code)
	}
	if len(a) >= 8 {
		if ms := int64(binary.BigEndian.Uint64(a[len(a)-8:])); ms > 0 {
			e.until = time.Now().Add(time.Duration(ms) * time.Millisecond * 8 / 10)
		}
	}
	return nil
}

// ask sends a request and returns the body of its answer. flexible requests and answers have tagged fields in their headers.
func (e *ender) ask(ctx context.Context, key, version int16, flexible bool, body []byte) ([]byte, error) {
	deadline := time.Now().Add(requestTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := e.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	e.id++
	b := make([]byte, 4, 64+len(body))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(e.id))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(e.c.ClientID))), e.c.ClientID...)
	if flexible {
		b = append(b, 0)
	}
	b = append(b, body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := e.conn.Write(b); err != nil {
		return nil, err
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(e.conn, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 4 || size > 1<<20 {
		return nil, fmt.Errorf("the broker's answer has %d bytes", size)
	}
	if id := int32(binary.BigEndian.Uint32(head[4:])); id != e.id {
		return nil, fmt.Errorf("the broker answers request %d, not %d", id, e.id)
	}
	answer := make([]byte, size-4)
	if _, err := io.ReadFull(e.conn, answer); err != nil {
		return nil, err
	}
	if !flexible {
		return answer, nil
	}
	if len(answer) < 1 || answer[0] != 0 {
		return nil, errors.New("the broker's answer has tagged fields in its header, which nothing is known of")
	}
	return answer[1:], nil
}

// newEnder returns nil where the brokers have not agreed on the second protocol, or want a login other than PLAIN, which an ender has not learnt.
func newEnder(c Config, client sarama.Client) (*ender, error) {
	if m := c.Login.Mechanism; c.Login.User != "" && m != "" && m != sarama.SASLTypePlaintext {
		return nil, nil
	}
	b := client.LeastLoadedBroker()
	if b == nil {
		return nil, fmt.Errorf("ask for the transaction protocol: %w", classify(sarama.ErrOutOfBrokers))
	}
	_ = b.Open(client.Config()) // no error when it is open
	a, err := b.ApiVersions(&sarama.ApiVersionsRequest{Version: 3, ClientSoftwareName: "millrace", ClientSoftwareVersion: "1"})
	if err != nil {
		return nil, fmt.Errorf("ask for the transaction protocol: %w", classify(err))
	}
	speaks, agreed := false, false
	for _, k := range a.ApiKeys {
		speaks = speaks || k.ApiKey == endTxnKey && k.MaxVersion >= endTxnVersion
	}
	for _, f := range a.FinalizedFeatures {
		agreed = agreed || f.Name == "transaction.version" && f.MaxVersionLevel >= 2
	}
	if !speaks || !agreed {
		return nil, nil
	}
	return &ender{c: c}, nil
}
