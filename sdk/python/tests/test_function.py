"""The SDK over its real wire: a process launched as the worker launches it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import grpc
import pytest

from millrace import Record, RetryError, function
from millrace._proto import transform_pb2 as pb
from millrace._proto import transform_pb2_grpc as rpc

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def canal(**row):
    return json.dumps({"data": [row], "database": "shop", "old": None, "table": "orders", "type": "INSERT", "mysqlType": {"id": "int"}, "sqlType": {"id": 4}}).encode()


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.handle


def test_route_orders():
    handle = load("route_orders")
    assert handle(Record(canal(id="1", customer_id="5", unit_price="1.00"), topic="in")) is None
    assert handle(Record(canal(id="1", customer_id="500", unit_price="900.00"), topic="in")).topic == "orders.big"
    assert handle(Record(canal(id="1", customer_id="500", unit_price="9.00"), topic="in")).topic == "in"


def test_split_order():
    out = load("split_order")(Record(b'{"id":7,"lines":[{"sku":"a"},{"sku":"b"}]}', key=b"7"))
    assert [(r.key, r.json()) for r in out] == [(b"7-1", {"order": 7, "line": 1, "sku": "a"}), (b"7-2", {"order": 7, "line": 2, "sku": "b"})]


def test_change_keeps_what_it_does_not_touch():
    r = Record(canal(id="1", name="ü"))
    c = r.change()
    c.rows[0]["name"] = "x"
    c.add_column("total", "decimal(12,2)", 3)
    assert c.save().json()["mysqlType"] == {"id": "int", "total": "decimal(12,2)"}
    assert list(r.json()) == ["data", "database", "old", "table", "type", "mysqlType", "sqlType"]
    with pytest.raises(ValueError):
        Record(b"[1]").change()


@pytest.fixture
def launched(tmp_path):
    """Launches a function's file as the worker does; yields a stub and the process."""
    processes = []

    def launch(path):
        address = f"unix://{tmp_path}/fn.sock"
        env = {**os.environ, "MILLRACE_LISTEN": address, "MILLRACE_PROTOCOL": "1"}
        p = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, env=env)
        processes.append(p)
        stub = rpc.TransformStub(grpc.insecure_channel(address.replace("unix://", "unix:")))
        for _ in range(200):
            try:
                stub.Describe(pb.DescribeRequest(), timeout=1)
                return stub, p
            except grpc.RpcError:
                time.sleep(0.05)
        raise AssertionError("the function does not answer")

    yield launch
    for p in processes:
        p.kill()
        p.wait()


EVIL = '''
from millrace import function, Record, RetryError

@function(name="evil", version="2")
def handle(r: Record):
    if r.value == b"boom":
        raise ValueError("no good")
    if r.value == b"later":
        raise RetryError("service away")
    if r.value == b"odd":
        return 42
    if r.value == b"none":
        return []
    return r
'''


def test_over_the_wire(launched, tmp_path):
    path = tmp_path / "evil.py"
    path.write_text(EVIL)
    stub, process = launched(path)
    assert stub.Describe(pb.DescribeRequest()).name == "evil"
    values = [b"boom", b"later", b"odd", b"none", b"fine", None]
    requests = [pb.ApplyRequest(configure=pb.Configure()), pb.ApplyRequest(batch=pb.Batch(id=9, records=[pb.Record(value=v, topic="in", key=b"k") for v in values]))]
    answers = stub.Apply(iter(requests))
    assert next(answers).configured.error == ""
    result = next(answers).result
    assert result.id == 9
    got = result.results
    assert [r.action for r in got] == [pb.ACTION_FAIL, pb.ACTION_FAIL, pb.ACTION_FAIL, pb.ACTION_DROP, pb.ACTION_REPLACE, pb.ACTION_REPLACE]
    assert got[0].reason == "ValueError: no good" and not got[0].retriable
    assert got[1].retriable
    assert got[4].records[0].value == b"fine" and got[4].records[0].topic == ""
    assert not got[5].records[0].HasField("value")
    process.stdin.close()
    assert process.wait(timeout=10) == 0


def test_config_is_refused_with_the_reason():
    def init(config):
        if "limit" not in config:
            raise ValueError("limit is missing")

    @function(name="f", init=init)
    def handle(record):
        return record

    assert handle._configure(pb.Configure()).error == "limit is missing"
    assert handle._configure(pb.Configure(config={"limit": "1"})).error == ""
    assert issubclass(RetryError, Exception)
