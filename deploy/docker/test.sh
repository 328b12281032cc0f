#!/usr/bin/env bash
# Runs docker-compose.yml for real: the image FROM scratch, three coordinators, four workers, a pipeline from MariaDB through Kafka into another
# database, the container of its worker killed on the way, and all changes counted at the end (internal/systest, TestCompose).
#
# Images of Kafka and MySQL are not pulled: the host's test servers stand in (compose.test.yml). An engine that answers is used; else, as
# root, one is started with data and socket of its own, and ended. Where there is none, it says SKIP.
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf '\033[1m%s\033[0m\n' "== $*"; }
skip() { printf 'SKIP: %s\n' "$*" >&2; exit 0; }
servers=$PWD/internal/testkit/servers/servers
work=$(mktemp -d)
free_port() { # one of which the next is free too, below the range that the kernel hands out to clients
  local port
  while port=$((20000 + RANDOM % 12000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || (exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null; do :; done
  echo "$port"
}
MILLRACE_PORT=$(free_port)
export MILLRACE_PORT COMPOSE_PROJECT_NAME=millrace-test COMPOSE_SUBNET=10.213.7.0/24 COMPOSE_GATEWAY=10.213.7.1
export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0

cleanup() {
  status=$?
  [ "$status" = 0 ] || compose logs --tail 60 2>/dev/null || true
  compose down -v -t 1 >/dev/null 2>&1 || true
  "$servers" kafka drop --instance compose >/dev/null 2>&1 || true
  "$servers" mariadb drop --instance compose >/dev/null 2>&1 || true
  if [ -n "${engine:-}" ]; then kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null || true; fi
  rm -rf "$work"
}
compose() { "${compose[@]}" -f docker-compose.yml -f deploy/docker/compose.test.yml "$@"; }

if ! command -v dockerd >/dev/null && ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || skip "no Docker engine answers, and none can be installed without root and apt-get"
  say "installing Docker (apt-get)"
  apt-get -qq -o DPkg::Lock::Timeout=300 update && apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends docker.io docker-compose iptables \
    >"$work/apt.log" 2>&1 || { tail -n 5 "$work/apt.log" >&2; skip "Docker could not be installed"; }
fi
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
command -v "${compose[0]}" >/dev/null || skip "no docker-compose"
trap cleanup EXIT
if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || skip "no Docker engine answers, and only root can start one"
  say "starting a Docker engine of our own"
  export DOCKER_HOST=unix://$work/sock
  dockerd --storage-driver vfs --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" >"$work/log" 2>&1 &
  engine=$!
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$engine" 2>/dev/null || { tail -n 5 "$work/log" >&2; skip "dockerd does not start here"; }
    sleep 0.5
  done
  docker info >/dev/null || { tail -n 5 "$work/log" >&2; skip "dockerd does not answer"; }
fi

say "building the image"
make --no-print-directory build
docker build -q -f deploy/docker/Dockerfile -t millrace . >/dev/null
size=$(docker save millrace | gzip | wc -c)
echo "the image is $((size / 1000)) kB compressed"
[ "$size" -lt 40000000 ] || { echo "the image is over 40 MB" >&2; exit 1; }

say "starting Kafka and MariaDB on the network of the containers"
compose up --no-start --no-build >/dev/null 2>&1 || compose up --no-start --no-build
"$servers" install mariadb kafka
port=$(free_port)
KAFKA_HEAP=${KAFKA_HEAP:-384m} "$servers" kafka up --instance compose --port $port \
  --opt "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1)),COMPOSE://$COMPOSE_GATEWAY:9092" \
  --opt "advertised.listeners=PLAINTEXT://127.0.0.1:$port,COMPOSE://kafka:9092" \
  --opt "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,COMPOSE:PLAINTEXT" >"$work/kafka"
"$servers" mariadb up --instance compose --opt bind-address=0.0.0.0 >"$work/mariadb"

say "docker-compose up --scale worker=4"
compose up -d --no-build --scale worker=4 >/dev/null 2>&1 || compose up -d --no-build --scale worker=4
# shellcheck disable=SC2046 # one assignment a line
env $(cat "$work/kafka" "$work/mariadb") MILLRACE_COMPOSE_URL="http://127.0.0.1:$MILLRACE_PORT" \
  go test ./internal/systest -run '^TestCompose$' -count=1 -v
compose ps
