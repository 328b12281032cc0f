// Package tools is a module of its own that pins the programs of development (see the tool directives of its go.mod), so that
// the product's go.mod lists the product's dependencies only. The Makefile builds them into bin/tools when they are wanted.
//
// protoc-gen-go is not here: it comes from the product's own google.golang.org/protobuf, so that generated code and runtime are of
// one version.
package tools
