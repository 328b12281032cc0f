package main

import (
	"testing"

	millrace "github.com/millrace/millrace/sdk/go"
)

func TestHandle(t *testing.T) {
	t.Parallel()
	in := `{"data":[{"id":"1","email":"ann@example.com","phone":"+49 170 1234567","quantity":"3","unit_price":"19.99","note":null}],"database":"shop","es":1,"mysqlType":{"id":"int"},"old":[{"email":"bob@example.com"}],"sqlType":{},"table":"orders","type":"UPDATE"}`
	want := `{"data":[{"id":"1","email":"a***@example.com","phone":"*************67","quantity":"3","unit_price":"19.99","note":null,"total":"59.97"}],"database":"shop","es":1,"mysqlType":{"id":"int","total":"decimal(12,2)"},"old":[{"email":"b***@example.com"}],"sqlType":{"total":3},"table":"orders","type":"UPDATE"}`
	out, err := handle(t.Context(), millrace.Record{Value: []byte(in)})
	if err != nil || len(out) != 1 || string(out[0].Value) != want {
		t.Errorf("got  %s\nwant %s\n%v", out[0].Value, want, err)
	}
	if _, err := handle(t.Context(), millrace.Record{Value: []byte("[1]")}); err == nil {
		t.Error("a value that is no change passed")
	}
}
