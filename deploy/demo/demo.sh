#!/usr/bin/env bash
# The demo: a real MariaDB with a shop that keeps changing, three nodes, a pipeline through a Go and a Python function into a
# second database and into files, a worker killed on the way, and at the end a comparison row by row.
#
#   DEMO_SECONDS=45   how long the pipeline runs under load
#   DEMO_KEEP=1       leave the directory with data and logs
#
# It installs what is missing (MariaDB with the system's package manager, when run as root) and ends what it started.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${MILLRACE_CACHE:-$PWD/.cache}
mkdir -p "$cache"
say() { printf '\033[1m%s\033[0m\n' "== $*"; }

say "building millrace, the demo and the Go function"
make --no-print-directory build
CGO_ENABLED=0 go build -o bin/demo ./deploy/demo
CGO_ENABLED=0 go build -o bin/maskorders ./sdk/go/examples/maskorders

say "preparing Python for the Python function (in $cache/venv)"
make --no-print-directory venv

say "starting MariaDB"
servers=internal/testkit/servers/servers
"$servers" install mariadb
port=${DEMO_MARIADB_PORT:-23316}
"$servers" mariadb up --instance demo --port "$port"
cleanup() {
  status=$?
  "$servers" mariadb down --instance demo >/dev/null 2>&1 || true
  [ "$status" = 0 ] || echo "demo: failed; data and logs of the nodes are kept in $cache/demo" >&2
  [ "$status" != 0 ] || [ -n "${DEMO_KEEP:-}" ] || rm -rf "$cache/demo"
}
trap cleanup EXIT

rm -rf "$cache/demo"
bin/demo --bin bin/millrace --dir "$cache/demo" --dsn "cdc:cdc@tcp(127.0.0.1:$port)/" --mask "$PWD/bin/maskorders" \
  --python "$cache/venv/bin/python" --route "$PWD/sdk/python/examples/route_orders.py" --seconds "${DEMO_SECONDS:-45}"
