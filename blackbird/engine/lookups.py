"""What the trading engine's history has of an order, of a request, or of a real trade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blackbird.engine.history_rows import (
    FILLS,
    LEFTOVERS,
    REFUSED_ORDERS,
    LeftoverRow,
    OrderRow,
    RefusedOrderRow,
    executions,
    pair_of_leftover,
    refusals,
)
from blackbird.trading.orders import UNWIND, Order
from blackbird.trading.records import Execution, Refusal
from blackbird.trading.spreads import Pair, pair_of
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
_FILLED = "SELECT exec_id, trade_id FROM {fills} WHERE link_id LIKE %s"
_TRADED = "SELECT {columns} FROM {orders} WHERE trade_id = %s AND action <> %s ORDER BY execution_id, type"
_LEFT_OVER = "SELECT {columns} FROM {leftovers} WHERE trade_id = %s AND long_channel IS NOT NULL LIMIT 1"


class StoredTrade(NamedTuple):
    """What is stored of a real trade, whose fills are booked for `trade_id`.

    `pair` is None where nothing stored names it: of an order that was not filled there are no legs.
    """

    trade_id: str
    pair: Pair | None
    exec_ids: frozenset[str]


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


def find_trade(cursor: Cursor, orders: Table, link_id: str) -> StoredTrade:
    """Return what is stored of the trade that the order `link_id` belongs to.

    `orders` is the table of the executions.
    """
    of_trade, _, _ = link_id.rpartition("-")
    cursor.execute(_FILLED.format(fills=FILLS.name), [f"{of_trade}-%"])
    fills = cursor.fetchall()
    # What traded a leftover away is booked for the trade that had left it over.
    trade_id = fills[0][1] if fills else of_trade.rpartition("-")[2]
    return StoredTrade(trade_id, _pair(cursor, orders, trade_id), frozenset(exec_id for exec_id, _ in fills))


def _pair(cursor: Cursor, orders: Table, trade_id: str) -> Pair | None:
    columns = ", ".join(OrderRow._fields)
    cursor.execute(_TRADED.format(columns=columns, orders=orders.name), [trade_id, UNWIND])
    for execution in executions(map(OrderRow._make, cursor.fetchall())):
        if isinstance(execution, Execution):
            return pair_of(execution.order)
    columns = ", ".join(LeftoverRow._fields)
    cursor.execute(_LEFT_OVER.format(columns=columns, leftovers=LEFTOVERS.name), [trade_id])
    row = cursor.fetchone()
    return None if row is None else pair_of_leftover(LeftoverRow._make(row))
