# `make help` lists the targets. The same ones run on a developer's machine and in CI (.ci/run is `make test`).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
MODULE  := github.com/millrace/millrace
CACHE   ?= $(or $(MILLRACE_CACHE),$(CURDIR)/.cache)
export MILLRACE_CACHE := $(CACHE)
TOOLS   := $(CURDIR)/bin/tools
SERVERS := internal/testkit/servers/servers
VENV    := $(CACHE)/venv
PYTHON  ?= python3
# Tests that wait for real servers, not for the processor, are most of the time: a hang must still end well before CI does.
TIMEOUT ?= 40m
PKG     ?= ./...
RUN     ?=
BENCH   ?= .

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/millrace, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X $(MODULE)/internal/cli.Version=$(VERSION) -X $(MODULE)/internal/cli.Commit=$(COMMIT)' -o bin/millrace .

# --- tests ------------------------------------------------------------------------------------------------------------

.PHONY: test
test: vet ## everything that decides a merge: real MariaDB, MySQL and Kafka, race detector, Python SDK
	$(if $(wildcard sdk/python/pyproject.toml),$(MAKE) --no-print-directory venv)
	$(SERVERS) install
	MILLRACE_REQUIRE_SERVERS=1 $(SERVERS) run $(MAKE) --no-print-directory test-go test-system test-python
	$(MAKE) --no-print-directory soak MINUTES=2 SOAK="-seed 1"

.PHONY: test-short
test-short: ## what needs no server, in about a minute
	go test -race -short -shuffle=on -timeout 5m $(PKG)

# Package binaries run one at a time: they share two cores, one database and one broker, and measure time.
.PHONY: test-go
test-go:
	go test -race -shuffle=on -p 1 -timeout $(TIMEOUT) $(if $(RUN),-run '$(RUN)') $(PKG)

.PHONY: test-system
test-system: ## the demo, shorter: real processes, a kill -9, and every row compared at the end
	DEMO_SECONDS=15 deploy/demo/demo.sh

.PHONY: test-compose
test-compose: ## docker-compose.yml with four workers, one of them killed; needs a Docker engine, or root to start one
	deploy/docker/test.sh

MINUTES ?= 10
SOAK    ?=
.PHONY: soak
soak: build ## faults at random on real processes for MINUTES, all of it compared at the end; SOAK='-seed 7 -only kill-leader' and the like
	CGO_ENABLED=0 go build -o bin/soak ./deploy/soak
	CGO_ENABLED=0 go build -o bin/maskorders ./sdk/go/examples/maskorders
	$(SERVERS) install mysql kafka
	bin/soak -dir $(CACHE)/soak -minutes $(MINUTES) -json $(CACHE)/soak.json $(SOAK)

.PHONY: test-python
test-python:
ifneq ($(wildcard sdk/python/tests),)
	cd sdk/python && $(VENV)/bin/python -m pytest -q -p no:cacheprovider tests
	go run . function test "$(VENV)/bin/python sdk/python/examples/route_orders.py"
endif

.PHONY: vet
vet:
	go vet ./...
	cd internal/systest/clients && go vet .

.PHONY: bench
bench: build ## Debezium and Millrace in turn on one machine, about half an hour; the table goes into docs/benchmarks.md
	go run ./internal/bench -json docs/benchmarks.json -doc docs/benchmarks.md

.PHONY: bench-go
bench-go: ## Go benchmarks, for benchstat: make bench-go PKG=./internal/convert BENCH=Canal
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count 10 $(PKG)

SEEDS ?= 10000
SEED  ?= 1
.PHONY: sim
sim: ## the whole cluster simulated under SEEDS seeds from SEED on: make sim SEEDS=1000
	go test ./internal/sim -v -timeout 24h -sim.seeds $(SEEDS) -sim.seed $(SEED)

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each; what it finds lands under testdata/fuzz
	go test -list '^Fuzz' $(PKG) | awk '/^Fuzz/{f[n++]=$$1} /^ok/{for(i=0;i<n;i++)print $$2, f[i]; n=0}' | while read -r p f; do \
	  echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) "$$p"; done

.PHONY: demo
demo: ## the whole pipeline with a node killed on the way, checked row by row
	deploy/demo/demo.sh

# --- Python -----------------------------------------------------------------------------------------------------------

# The stamp is newer than the project file only when the install has ended well. Where python3-venv is missing (Debian splits it off) and
# we are root, it is installed.
.PHONY: venv
venv: $(VENV)/.stamp
$(VENV)/.stamp: $(wildcard sdk/python/pyproject.toml) internal/systest/clients/requirements.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || { [ "$$(id -u)" = 0 ] && apt-get -qq -o DPkg::Lock::Timeout=300 update && \
	  apt-get -qq -y -o DPkg::Lock::Timeout=300 install python3-venv && $(PYTHON) -m venv $(VENV); }
	$(VENV)/bin/pip install -q --disable-pip-version-check pytest -e sdk/python -r internal/systest/clients/requirements.txt
	touch $@

# --- servers ----------------------------------------------------------------------------------------------------------

.PHONY: up down
up: ## start MariaDB, MySQL and Kafka, and leave them up
	$(SERVERS) all up
down: ## stop them
	$(SERVERS) all down

# --- code -------------------------------------------------------------------------------------------------------------

$(TOOLS)/protoc-gen-go: go.mod
	go build -o $@ google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/%: internal/tools/go.mod
	cd internal/tools && go build -o $@ "$$(go list -f '{{.ImportPath}}' tool | grep '/$*$$')"

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## *.pb.go from proto/, reference docs from the config specs
	cd proto && PATH="$(TOOLS):$$PATH" buf generate
	go test ./internal/docgen -run CheckedIn -rewrite
	$(if $(wildcard sdk/python/generate.sh),sdk/python/generate.sh)

.PHONY: check-generate
check-generate: generate ## fails where a checked-in generated file is not what `make generate` makes
	@git diff --exit-code --stat -- proto docs/reference sdk || { echo 'generated files differ: commit what make generate made' >&2; exit 1; }

.PHONY: docs
docs: generate ## the same as generate: reference docs come from code

.PHONY: fmt
fmt: $(TOOLS)/gofumpt ## gofumpt over what is not generated
	git ls-files -z '*.go' ':!*.pb.go' | xargs -0 $(TOOLS)/gofumpt -l -w

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## golangci-lint, buf lint
	$(TOOLS)/golangci-lint run
	cd proto && $(TOOLS)/buf lint

.PHONY: check
check: lint check-generate test ## everything a merge wants

.PHONY: clean
clean: ## delete what was built here; servers and their data stay (servers wipe)
	rm -rf bin $(CACHE)
