"""Records, and the change events in them."""

import json
from typing import Any, Dict, List, Optional, Tuple


class RetryError(Exception):
    """Raise it to fail a record that may well pass later (a service is away); errors.retry.timeout says how long it is tried again."""


class Record:
    """A Kafka record. `key` and `value` are bytes; None is null, which for a value means a tombstone."""

    __slots__ = ("topic", "partition", "offset", "timestamp_ms", "key", "value", "headers", "_from")

    def __init__(
        self,
        value: Optional[bytes],
        key: Optional[bytes] = None,
        topic: str = "",
        partition: int = 0,
        offset: int = 0,
        timestamp_ms: int = 0,
        headers: Optional[List[Tuple[str, Optional[bytes]]]] = None,
    ):
        self.value, self.key, self.topic = value, key, topic
        self.partition, self.offset, self.timestamp_ms = partition, offset, timestamp_ms
        self.headers = headers if headers is not None else []
        self._from = topic

    def copy(self) -> "Record":
        """A record like this one, to change without changing this."""
        other = Record(self.value, self.key, self.topic, self.partition, self.offset, self.timestamp_ms, list(self.headers))
        other._from = self._from
        return other

    def to(self, topic: str) -> "Record":
        """The record, routed to a topic, which must be in the pipeline's transform.routes."""
        self.topic = topic
        return self

    def json(self) -> Any:
        """The value, read as JSON; None for a tombstone."""
        return None if self.value is None else json.loads(self.value)

    def set_json(self, value: Any) -> "Record":
        """Replaces the value by JSON."""
        self.value = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return self

    def change(self) -> "Change":
        """The value, read as a change event in Canal JSON. ValueError when it is none."""
        return Change(self)

    def __repr__(self) -> str:
        return f"Record({self.topic}-{self.partition}@{self.offset}, key={self.key!r})"


class Change:
    """A change of rows in Canal JSON. Rows are dicts of text or None, in the table's order; change them and call save()."""

    def __init__(self, record: Record):
        self._record = record
        message = record.json()
        if not isinstance(message, dict) or "type" not in message:
            raise ValueError("the value is no Canal JSON: it has no type")
        self._message: Dict[str, Any] = message
        self.type: str = message["type"]
        self.database: str = message.get("database") or ""
        self.table: str = message.get("table") or ""
        self.rows: List[Dict[str, Optional[str]]] = message.get("data") or []
        self.old: List[Dict[str, Optional[str]]] = message.get("old") or []

    def add_column(self, name: str, mysql_type: str, sql_type: int) -> None:
        """Declares a column that is added to the rows, so that sinks know its type."""
        for field, value in (("mysqlType", mysql_type), ("sqlType", sql_type)):
            if self._message.get(field) is not None:
                self._message[field][name] = value

    def save(self) -> Record:
        """Writes the change back into its record, which it returns."""
        return self._record.set_json(self._message)
