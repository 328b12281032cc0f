#!/usr/bin/env bash
# Makes src/millrace/_proto from the public contract. The generator's version is pinned: its output is checked in.
set -euo pipefail
cd "$(dirname "$0")"
cache=${MILLRACE_CACHE:-$PWD/../../.cache}
venv=$cache/protoc-venv
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check grpcio-tools==1.66.2 'setuptools<80'
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# The generated modules import each other by the proto's path, so it stands where the package has it.
mkdir -p "$tmp/millrace/_proto"
cp ../../proto/transform/v1/transform.proto "$tmp/millrace/_proto/transform.proto"
"$venv/bin/python" -m grpc_tools.protoc -I"$tmp" --python_out=src --pyi_out=src --grpc_python_out=src millrace/_proto/transform.proto
