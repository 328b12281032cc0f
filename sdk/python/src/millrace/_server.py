"""The gRPC server behind a function."""

import os
import signal
import sys
import traceback
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

import grpc

from ._proto import transform_pb2 as pb
from ._proto import transform_pb2_grpc as rpc
from ._record import Record, RetryError

Handler = Callable[..., Union[Record, Iterable[Record], None]]

MAX_MESSAGE = 64 << 20


@dataclass(frozen=True)
class ConfigKey:
    """A setting of the function, given in the pipeline as function.config.<name>."""

    name: str
    doc: str = ""
    required: bool = False
    default: str = ""
    secret: bool = False


class Function(rpc.TransformServicer):
    """A function: what @function makes of a handler. Calling it calls the handler, so that it can be tested as it is."""

    def __init__(self, handler: Handler, name: str, version: str, description: str, config: List[ConfigKey], init: Optional[Callable[[Dict[str, str]], None]]):
        self.handler, self.name, self.version = handler, name, version
        self.description, self.config_keys, self._init = description, config, init
        self.config: Dict[str, str] = {k.name: k.default for k in config if k.default}
        self.__doc__ = handler.__doc__

    def __call__(self, record: Record) -> Any:
        return self.handler(record)

    def Describe(self, request: Any, context: Any) -> Any:
        keys = [pb.ConfigKey(name=k.name, doc=k.doc, required=k.required, default_value=k.default, secret=k.secret) for k in self.config_keys]
        return pb.DescribeResponse(name=self.name, version=self.version, description=self.description, config=keys)

    def Apply(self, requests: Iterable[Any], context: Any) -> Iterable[Any]:
        for request in requests:
            kind = request.WhichOneof("kind")
            if kind == "configure":
                yield pb.ApplyResponse(configured=self._configure(request.configure))
            elif kind == "batch":
                results = [self._one(r) for r in request.batch.records]
                yield pb.ApplyResponse(result=pb.BatchResult(id=request.batch.id, results=results))

    def _configure(self, request: Any) -> Any:
        self.config.update(request.config)
        try:
            if self._init is not None:
                self._init(self.config)
        except Exception as e:  # the reason goes to the user, whatever it is
            return pb.Configured(error=str(e) or type(e).__name__)
        return pb.Configured()

    def _one(self, r: Any) -> Any:
        record = Record(
            r.value if r.HasField("value") else None,
            r.key if r.HasField("key") else None,
            r.topic,
            r.partition,
            r.offset,
            r.timestamp_ms,
            [(h.key, h.value if h.HasField("value") else None) for h in r.headers],
        )
        try:
            out = self.handler(record)
        except Exception as e:
            traceback.print_exc()
            return pb.Result(action=pb.ACTION_FAIL, reason=f"{type(e).__name__}: {e}", retriable=isinstance(e, RetryError))
        if out is None:
            return _DROP
        if isinstance(out, Record):
            out = (out,)
        try:
            records = [_output(o, r.topic) for o in out]
        except Exception as e:
            return pb.Result(action=pb.ACTION_FAIL, reason=f"the handler returned something that is no record: {e}")
        if not records:
            return _DROP
        return pb.Result(action=pb.ACTION_REPLACE, records=records)


_DROP = pb.Result(action=pb.ACTION_DROP)


def _output(o: Record, came_from: str) -> Any:
    out = pb.OutputRecord(key=o.key, value=o.value, timestamp_ms=o.timestamp_ms)
    if o.topic != came_from:
        out.topic = o.topic
    for name, value in o.headers:
        out.headers.add(key=name, value=value)
    return out


def function(
    name: str,
    version: str = "0.0.0",
    description: str = "",
    config: Optional[List[ConfigKey]] = None,
    init: Optional[Callable[[Dict[str, str]], None]] = None,
    serve: Optional[bool] = None,
) -> Callable[[Handler], Function]:
    """Makes a function of a handler. In a file that is run as a program it also serves it, until the worker ends it; so the handler
    stands last in that file, below what it uses. In an imported module it just makes the function, for tests."""

    def wrap(handler: Handler) -> Function:
        f = Function(handler, name, version, description or (handler.__doc__ or "").strip(), config or [], init)
        if serve or (serve is None and getattr(handler, "__module__", "") == "__main__"):
            _serve_and_exit(f)
        return f

    return wrap


def _serve_and_exit(f: Function) -> None:
    if not os.environ.get("MILLRACE_LISTEN"):
        print(f"{f.name} is a Millrace function; a worker launches it (function.command in a connector of class transform)", file=sys.stderr)
        raise SystemExit(1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve_forever(f)
    raise SystemExit(0)


def serve_forever(f: Function) -> None:
    """Serves a function where MILLRACE_LISTEN says, until standard input closes."""
    protocol = os.environ.get("MILLRACE_PROTOCOL", "1")
    if protocol != "1":
        raise RuntimeError(f"the worker speaks protocol {protocol}, this function knows 1")
    address = os.environ["MILLRACE_LISTEN"]
    if address.startswith("unix://"):
        address = "unix:" + address[len("unix://") :]
    options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=options)
    rpc.add_TransformServicer_to_server(f, server)
    if server.add_insecure_port(address) == 0:
        raise RuntimeError(f"can't listen on {address}")
    server.start()
    while sys.stdin.buffer.read(4096):
        pass
    server.stop(grace=1).wait()
