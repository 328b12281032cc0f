package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
)

// The kinds of failure that callers tell apart with errors.Is.
var (
	// ErrFenced: a newer producer with the same transactional id exists. The task must end: somebody else runs it.
	ErrFenced = errors.New("fenced by a newer producer")
	// ErrUnavailable: a broker is away, or not ready. Worth trying again with a new producer or consumer.
	ErrUnavailable = errors.New("kafka is not available")
	// ErrTooLarge: a message is larger than the topic or the broker takes. Somebody must act.
	ErrTooLarge = errors.New("message too large")
	// ErrUnknownTopic: the topic or partition does not exist.
	ErrUnknownTopic = errors.New("unknown topic or partition")
	// ErrOutOfRange: the offset to read from is not in the log any more (or not yet). Never skipped silently (I5).
	ErrOutOfRange = errors.New("offset out of range")
	// ErrRefused: the broker says no: not authorised, invalid config, unsupported.
	ErrRefused = errors.New("refused by kafka")
	// ErrDead: the producer has failed before; its first error says why.
	ErrDead = errors.New("producer has failed before")
)

// Error is a failure with its kind and cause.
type Error struct{ kind, err error }

// Error returns the cause's text, after the kind's.
func (e *Error) Error() string { return fmt.Sprintf("%v: %v", e.kind, e.err) }

// Unwrap returns kind and cause.
func (e *Error) Unwrap() []error { return []error{e.kind, e.err} }

// producerFenced is code 90, which sarama has no name for.
const producerFenced sarama.KError = 90

func kerror(k sarama.KError) error {
	var kind error
	switch k {
	case sarama.ErrNoError:
		return nil
	case producerFenced, sarama.ErrInvalidProducerEpoch, sarama.ErrInvalidProducerIDMapping, sarama.ErrInvalidTxnState:
		// The state is wrong when somebody else has ended the transaction: the embedded broker's word for it.
		kind = ErrFenced
	case sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge:
		kind = ErrTooLarge
	case sarama.ErrUnknownTopicOrPartition:
		kind = ErrUnknownTopic
	case sarama.ErrOffsetOutOfRange:
		kind = ErrOutOfRange
	case sarama.ErrTopicAuthorizationFailed, sarama.ErrGroupAuthorizationFailed, sarama.ErrClusterAuthorizationFailed,
		sarama.ErrTransactionalIDAuthorizationFailed, sarama.ErrInvalidTopic, sarama.ErrInvalidConfig, sarama.ErrPolicyViolation,
		sarama.ErrUnsupportedVersion, sarama.ErrInvalidPartitions, sarama.ErrInvalidReplicationFactor, sarama.ErrInvalidRecord,
		sarama.ErrTopicAlreadyExists, sarama.ErrInvalidTransactionTimeout, sarama.ErrSASLAuthenticationFailed:
		kind = ErrRefused
	default:
		// Leader moves, coordinators load, replicas are short: all of it passes.
		kind = ErrUnavailable
	}
	return &Error{kind: kind, err: k}
}

// Retriable reports whether trying again, anew, may help.
func Retriable(err error) bool { return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDead) }
