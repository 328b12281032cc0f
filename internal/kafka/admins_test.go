package kafka_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/millrace/millrace/internal/kafka"
	"github.com/millrace/millrace/internal/kafka/embedded"
	"github.com/millrace/millrace/internal/testkit"
)

// An Admin is shared while somebody uses it, is closed by the last one, and after a failure of Kafka's the next one gets another.
func TestAdmins(t *testing.T) {
	testkit.LeakCheck(t)
	b, err := embedded.Start(embedded.Options{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	var admins kafka.Admins
	get := func(ctx context.Context) (*kafka.Admin, func(error)) {
		t.Helper()
		a, done, err := admins.Get(ctx, kafka.Config{Brokers: []string{b.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Topics(ctx); err != nil {
			t.Errorf("one that was just handed out: %v", err)
		}
		return a, done
	}
	first, firstDone := get(t.Context())
	second, secondDone := get(t.Context())
	if first != second {
		t.Error("two at a time have one each")
	}
	firstDone(fmt.Errorf("the task failed: %w", kafka.ErrUnavailable))
	firstDone(nil) // a second call does nothing
	if _, err := second.Topics(t.Context()); err != nil {
		t.Errorf("while it is used: %v", err)
	}
	third, thirdDone := get(t.Context())
	if third == second {
		t.Error("after a failure the next one got the same")
	}
	secondDone(nil)
	thirdDone(nil)
	for name, a := range map[string]*kafka.Admin{"second": second, "third": third} {
		if _, err := a.Topics(t.Context()); err == nil {
			t.Errorf("the %s answers though nobody uses it", name)
		}
	}
	if _, _, err := admins.Get(t.Context(), kafka.Config{Brokers: []string{"127.0.0.1:1"}}); err == nil {
		t.Error("no broker, and no error")
	}
}
