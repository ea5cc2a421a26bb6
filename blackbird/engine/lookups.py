"""Records of the trading engine's history that are found by the order or by the request."""

from __future__ import annotations

from collections.abc import Sequence

from blackbird.engine.history_rows import REFUSED_ORDERS, OrderRow, RefusedOrderRow, executions, refusals
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Refusal
from database_manager import Cursor, Table

# Each part by an index of its own: one condition for all of them would read the whole table.
_EXECUTED = """
SELECT {columns} FROM {orders} WHERE execution_id = ANY (ARRAY(
  SELECT execution_id FROM {orders} WHERE order_id = ANY (%(keys)s)
  UNION SELECT execution_id FROM {orders} WHERE request_key = ANY (%(keys)s)
  UNION SELECT execution_id FROM {orders} WHERE ts_orderbook = ANY (%(times)s) AND type = 'buy'
        AND (channel, symbol_name, coalesce(asked_price, price), coalesce(asked_size, size)) IN %(legs)s
)) ORDER BY execution_id, type
"""
_REFUSED = """
SELECT {columns} FROM {refused} WHERE order_id = ANY (%(keys)s)
UNION SELECT {columns} FROM {refused} WHERE request_key = ANY (%(keys)s)
"""
_NO_LEG = (("", "", 0, 0),)


def find(
    cursor: Cursor, orders: Table, keys: Sequence[str], copies: Sequence[Order]
) -> list[Execution | Refusal]:
    """Return the records of orders and requests known by `keys`, and those with the buy leg of `copies`.

    `orders` is the table of the executions.
    """
    legs = tuple((*order.buy, order.buy_price, order.size) for order in copies)
    values = {"keys": list(keys), "times": [order.ts_buy for order in copies], "legs": legs or _NO_LEG}
    cursor.execute(_EXECUTED.format(columns=", ".join(OrderRow._fields), orders=orders.name), values)
    executed = list(executions(map(OrderRow._make, cursor.fetchall())))
    columns = ", ".join(RefusedOrderRow._fields)
    cursor.execute(_REFUSED.format(columns=columns, refused=REFUSED_ORDERS.name), values)
    refused = refusals(map(RefusedOrderRow._make, cursor.fetchall()))
    return [*(each for each in executed if isinstance(each, Execution)), *refused]
