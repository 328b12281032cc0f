"""Drops the orders of test customers and routes big ones to a topic of their own."""

from millrace import Record, function

TEST_CUSTOMERS = range(0, 100)
BIG = 800


@function(name="route-orders", version="1.0.0")
def handle(record: Record):
    change = record.change()
    if not change.rows:
        return record
    order = change.rows[0]
    if int(order["customer_id"]) in TEST_CUSTOMERS:
        return None
    if float(order["unit_price"]) >= BIG:
        return record.to("orders.big")
    return record
