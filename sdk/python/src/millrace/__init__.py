"""Write Millrace functions in Python: a function is one decorated handler.

    from millrace import function, Record

    @function(name="drop-tests", version="1.0.0")
    def handle(record: Record):
        return None if record.json().get("test") else record

The handler gets a Record and returns what becomes of it: the record (changed or not, or routed by setting its topic), a list of records, None or an
empty list to drop it; an exception fails it with the reason. It is called for one record at a time, records of one key in order.
"""

from ._record import Change, Record, RetryError
from ._server import ConfigKey, Function, function

__all__ = ["Change", "ConfigKey", "Function", "Record", "RetryError", "function"]
