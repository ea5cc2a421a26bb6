"""Requests of the `orders` queue, and what is decided on each."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

from pika.spec import BasicProperties

from blackbird.market.fields import InvalidMessage
from blackbird.trading.engine import TradingEngine, request_key
from blackbird.trading.orders import (
    ACK,
    INTERNAL_ERROR,
    LEFTOVER_RESOLVED,
    NOT_ACK,
    OPEN_SPREADS,
    LeftoverRequest,
    Order,
    Refused,
    Reply,
    decode_request,
    invalid_order,
)
from blackbird.trading.records import Record

logger = logging.getLogger(__name__)

CRASHED = "crashed the handler twice"

# An order may be looked at twice, see recollection.py.
decoded = lru_cache(maxsize=1024)(decode_request)


class Request(NamedTuple):
    """A delivery of the `orders` queue."""

    delivery_tag: int
    redelivered: bool
    properties: BasicProperties
    body: bytes
    arrived: float = 0.0  # time.perf_counter


class Decision(NamedTuple):
    """A request with the reply to it.

    `record` is what has to be journaled before the reply is sent, None where nothing was decided anew, and
    `order` the order that it is about. `dead_letter` is the reason for dead-lettering the body, None for a
    body that was understood.
    """

    request: Request
    reply: Reply
    record: Record | None = None
    order: Order | None = None
    dead_letter: str | None = None


class NewOrder(NamedTuple):
    """A valid order that has no answer yet; `key` identifies its request where it has no id."""

    request: Request
    order: Order
    key: str | None

    @property
    def name(self) -> str:
        """What the order is known by: its id, or the key of its request."""
        return name_of(self.order, self.key)


def name_of(order: Order, key: str | None) -> str:
    """Return what an order is known by: its id, or the key of its request."""
    return order.order_id if order.order_id is not None else str(key)


def examine(engine: TradingEngine, request: Request) -> Decision | NewOrder:
    """Return the decision on a request that needs no new one, else its order."""
    try:
        order = decoded(request.body)
    except InvalidMessage as error:
        why = str(error)
        return Decision(request, Reply(NOT_ACK, invalid_order(why)), dead_letter=why)
    if order is None:
        return Decision(request, Reply(ACK, OPEN_SPREADS, engine.spreads.listed()))
    if isinstance(order, LeftoverRequest):
        return _resolve(engine, request, order)
    if order.order_id is not None:
        key = None
        known = engine.first_answer(order.order_id)
    else:
        key = request_key(request.properties.reply_to, request.properties.correlation_id, request.body)
        known = engine.first_answer(key) if request.redelivered else None
    if known is not None:
        return Decision(request, known)
    return NewOrder(request, order, key)


def _resolve(engine: TradingEngine, request: Request, resolve: LeftoverRequest) -> Decision:
    try:
        record = engine.resolve_leftover(resolve)
    except Refused as refused:
        return Decision(request, Reply(NOT_ACK, str(refused)))
    return Decision(request, Reply(ACK, LEFTOVER_RESOLVED), record)


def decide(engine: TradingEngine, request: Request) -> Decision:
    """Decide on one request of a simulation.

    An order that crashes the engine raises what it raised; redelivered, it is refused instead, so that the
    orders behind it go on.
    """
    new = examine(engine, request)
    if isinstance(new, Decision):
        return new
    order, key = new.order, new.key
    try:
        record = engine.execute(order, key)
    except Exception:
        if not request.redelivered:
            raise
        logger.exception("order %s crashed the engine again", order.order_id)
        return refuse(engine, new, INTERNAL_ERROR)._replace(order=None, dead_letter=CRASHED)
    return Decision(request, engine.answer_of(record), record, order)


def refuse(engine: TradingEngine, new: NewOrder, info: str) -> Decision:
    """Refuse a new order for the reason `info`."""
    record = engine.refuse(new.order, info, new.key)
    return Decision(new.request, engine.answer_of(record), record, new.order)
