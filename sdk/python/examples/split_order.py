"""Splits an order with a list of lines into one record for each line."""

from millrace import Record, function


@function(name="split-order", version="1.0.0")
def handle(record: Record):
    order = record.json()
    parts = []
    for number, line in enumerate(order["lines"], start=1):
        part = record.copy().set_json({"order": order["id"], "line": number, **line})
        part.key = f"{order['id']}-{number}".encode()
        parts.append(part)
    return parts
