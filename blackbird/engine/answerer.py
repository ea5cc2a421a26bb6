"""Answers the requests of the `orders` queue: decide, journal, reply, acknowledge."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.broker.topology import ORDERS
from blackbird.engine.reply_addresses import ReplyAddresses
from blackbird.engine.requests import CRASHED, Decision, Request, decide
from blackbird.engine.state import EngineState
from blackbird.runtime.worker_thread import WorkerThread
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import encode_reply

logger = logging.getLogger(__name__)

DISK_PAUSE = 1.0


class ReplySession(Protocol):
    """The broker session that brought the requests; all but the acknowledgement raise SessionLost."""

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        """Send a message."""

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Move a body that is not a request to the dead-letter queue."""

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it too; on an ended session nothing happens."""

    async def declare_queue(self, name: str) -> int:
        """Declare a queue, which takes a round trip to the broker."""

    def close(self) -> None:
        """End the session; the broker redelivers what is not acknowledged."""


class Answerer:
    """Answers requests with the core of `state`; calls `on_journaled` when there is something to store.

    With a `sender` deciding waits for the exchange, and is done in that thread. `remembered`: ReplyAddresses;
    `disk_pause` is how many seconds a journal that takes nothing is left alone.
    """

    def __init__(
        self,
        state: EngineState,
        on_journaled: Callable[[], None],
        sender: WorkerThread | None = None,
        *,
        remembered: int,
        disk_pause: float = DISK_PAUSE,
    ) -> None:
        self._state = state
        self._on_journaled = on_journaled
        self._sender = sender
        self._disk_pause = disk_pause
        self._reply_addresses = ReplyAddresses(remembered)

    def session_ended(self, reason: BaseException | None) -> None:
        """Take note of why the session ended on which the last replies were sent."""
        self._reply_addresses.session_ended(reason)

    async def answer(self, engine: TradingEngine, session: ReplySession, requests: Sequence[Request]) -> None:
        """Decide on requests, journal what was decided, reply, acknowledge: in this order."""
        try:
            decisions = await self._decide(engine, requests)
            journaled = self._state.append([each.record for each in decisions if each.record is not None])
        except Exception as error:
            # The process edge. What the core holds may be ahead of the journal now: it is recovered, and the
            # broker redelivers what was not answered.
            logger.exception("orders not answered, the state is recovered (%s)", type(error).__name__)
            self._state.invalidate()
            await asyncio.sleep(self._disk_pause if isinstance(error, sqlite3.Error) else 0)
            session.close()
            return
        # The requests of a session that has ended meanwhile are redelivered and get the same answers.
        with contextlib.suppress(SessionLost):
            for decision in decisions:
                await self._reply(session, decision)
            session.acknowledge(requests[-1].delivery_tag, multiple=True)
        # Not before: a line in the log takes a tenth of the time to the answer.
        for decision in decisions:
            _log(decision)
        if journaled:
            self._on_journaled()
        if any(decision.dead_letter == CRASHED for decision in decisions):
            # The crash may have left anything in memory.
            self._state.invalidate()
            session.close()

    async def _decide(self, engine: TradingEngine, requests: Sequence[Request]) -> list[Decision]:
        def decide_all() -> list[Decision]:
            return [decide(engine, request) for request in requests]

        return decide_all() if self._sender is None else await self._sender.run(decide_all)

    async def _reply(self, session: ReplySession, decision: Decision) -> None:
        properties = decision.request.properties
        if decision.dead_letter is not None:
            session.dead_letter(ORDERS, decision.dead_letter, properties, decision.request.body)
        address = properties.reply_to
        if address and not self._reply_addresses.is_muted(address):
            correlation = BasicProperties(correlation_id=properties.correlation_id)
            session.publish("", address, encode_reply(decision.reply), correlation)
            await self._reply_addresses.sent(address, partial(session.declare_queue, ORDERS))


def _log(decision: Decision) -> None:
    order, reply = decision.order, decision.reply
    if order is not None:
        logger.info(
            "%s %s: %s %s, buy %s at %s, sell %s at %s",
            reply.status,
            reply.info,
            order.action,
            order.size,
            order.buy,
            order.buy_price,
            order.sell,
            order.sell_price,
        )
