"""First answers that the trading engine has forgotten, which are looked up before requests are decided."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from blackbird.engine.requests import Request, decoded
from blackbird.market.fields import InvalidMessage
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.trading.engine import TradingEngine, request_key
from blackbird.trading.ledger import fingerprint
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Refusal
from database_manager import DatabaseUnavailable, RowsRejected

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

Find = Callable[[Sequence[str], Sequence[Order]], Awaitable[list[Execution | Refusal]]]


class Forgotten(NamedTuple):
    """What has to be looked up: ids of orders and keys of requests, and orders that may be copies."""

    keys: list[str]
    orders: list[Order]


def forgotten(engine: TradingEngine, requests: Sequence[Request]) -> Forgotten:
    """Return what of `requests` may have been answered long ago."""
    found = Forgotten([], [])
    if engine.orders.forgotten_ms is None:
        return found
    for request in requests:
        try:
            order = decoded(request.body)
        except InvalidMessage:
            continue
        if not isinstance(order, Order) or not engine.may_be_forgotten(order):
            continue
        if order.order_id is None:
            found.orders.append(order)
        key = order.order_id
        if key is None and request.redelivered:
            properties = request.properties
            key = request_key(properties.reply_to, properties.correlation_id, request.body)
        if key is not None and key not in engine.orders:
            found.keys.append(key)
    return found


def _key(record: Execution | Refusal) -> str | None:
    order_id = record.order.order_id if isinstance(record, Execution) else record.order_id
    return order_id or record.request_key


def _fingerprint(record: Execution | Refusal) -> bytes | None:
    return fingerprint(record.order) if isinstance(record, Execution) else None


async def recall(
    engine: TradingEngine, requests: Sequence[Request], find: Find, lost: asyncio.Future[None]
) -> None:
    """Have `engine` remember what it has forgotten of the orders in `requests`.

    They are held while the database is away. Raises what the session was `lost` by meanwhile.
    """
    wanted = forgotten(engine, requests)
    if not wanted.keys and not wanted.orders:
        return
    backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
    waiting = ThrottledLog()
    while True:
        try:
            records = await find(*wanted)
        except (DatabaseUnavailable, RowsRejected) as error:
            waiting.warn("orders are held, their first answers are looked up: %s", error)
        else:
            copies = {fingerprint(order) for order in wanted.orders}
            for record in records:
                # Of those with the same buy leg as a copy most may have another sell leg.
                if _key(record) in wanted.keys or _fingerprint(record) in copies:
                    engine.remember(record)
            return
        await asyncio.wait([lost], timeout=backoff.next())
        if lost.done():
            lost.result()
