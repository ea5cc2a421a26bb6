"""Runs one trade: does at the exchange what its state machine says, and tells it what came of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from blackbird.bybit.look_ups import LookUpFailed
from blackbird.engine.exchange import Exchange
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.trading.leftover_trade import AnyTrade, OpenTrade
from blackbird.trading.leg_order import LegEvent
from blackbird.trading.order_sequence import Action, LookUp, Send

logger = logging.getLogger(__name__)

DISK_PAUSE = 0.5

# What is told to the trade; it returns what is to be done.
_Step = Callable[[], list[Action]]


class Intents(Protocol):
    """The part of EngineState that keeps what trades are about to do."""

    async def intend(self, trade: OpenTrade) -> None:
        """Bring what a trade is about to do to the disk itself; raises sqlite3.Error."""


class RunningTrade:
    """A trade on its way; nothing of it is sent before the intent is on the disk."""

    def __init__(
        self, trade: AnyTrade, exchange: Exchange, intents: Intents, clock: Callable[[], int]
    ) -> None:
        self.trade = trade
        self._exchange = exchange
        self._intents = intents
        self._clock = clock
        self._steps: asyncio.Queue[_Step] = asyncio.Queue()
        self._requests: set[asyncio.Task[None]] = set()
        self.was_asked_about = asyncio.Event()  # the exchange has said something of every order

    def on_event(self, event: LegEvent) -> None:
        """Take what was pushed of one of the trade's orders."""
        self._steps.put_nowait(partial(self._take, event))

    async def start(self) -> None:
        """Run the trade from its beginning to its end."""
        await self._run(self.trade.start(self._clock()))

    async def resume(self) -> None:
        """Run a trade to its end that was begun earlier."""
        await self._run(self.trade.resume(self._clock()))

    async def _run(self, actions: list[Action]) -> None:
        try:
            while True:
                await self._do(actions)
                if self.trade.is_over:
                    return
                actions = (await self._next())()
                if all(sent.is_over or not sent.is_unasked for sent in self.trade.orders):
                    self.was_asked_about.set()
        finally:
            self.was_asked_about.set()
            for request in self._requests:
                request.cancel()

    async def _next(self) -> _Step:
        """Return the next thing that happens to the trade: an event, or that it is time."""
        wake_at = self.trade.wake_at
        seconds = None if wake_at is None else max(0.0, (wake_at - self._clock()) / 1000)
        try:
            async with asyncio.timeout(seconds):
                return await self._steps.get()
        except TimeoutError:
            return lambda: self.trade.tick(self._clock())

    async def _do(self, actions: list[Action]) -> None:
        if any(isinstance(action, Send) and action.is_new for action in actions):
            await self._intend()
        for action in actions:
            self._request(self._send(action) if isinstance(action, Send) else self._look_up(action))

    async def _intend(self) -> None:
        waiting = ThrottledLog()
        while True:
            try:
                await self._intents.intend(self.trade.state)
            except sqlite3.Error as error:
                # Orders that expire meanwhile are not sent.
                waiting.warn("trade %s waits for the journal: %s", self.trade.trade_id, error)
                await asyncio.sleep(DISK_PAUSE)
            else:
                return

    def _request(self, work: Coroutine[Any, Any, None]) -> None:
        request = asyncio.get_running_loop().create_task(work)
        self._requests.add(request)
        request.add_done_callback(self._on_requested)

    def _on_requested(self, request: asyncio.Task[None]) -> None:
        self._requests.discard(request)
        error = None if request.cancelled() else request.exception()
        if error is not None:
            self._steps.put_nowait(partial(_fail, error))

    async def _send(self, send: Send) -> None:
        # For the first sending of the first orders there was room.
        if not (send.is_new and send.order.limit is not None):
            await self._exchange.legs.wait_for_room([send.order.instrument])
        event = await self._exchange.legs.send(send.order, send.deadline)
        self._steps.put_nowait(partial(self._take, event))

    async def _look_up(self, look_up: LookUp) -> None:
        link_id = look_up.link_id
        try:
            found = await self._exchange.account.look_up(link_id, look_up.instrument)
        except LookUpFailed as error:
            logger.warning("%s", error)
            self._steps.put_nowait(lambda: self.trade.look_up_failed(link_id, self._clock()))
            return
        missed = self._pushes_missed(link_id)
        self._steps.put_nowait(
            lambda: self.trade.looked_up(link_id, found, self._clock(), pushes_missed=missed)
        )

    def _take(self, event: LegEvent) -> list[Action]:
        missed = self._pushes_missed(event.link_id)
        return self.trade.take(event, self._clock(), pushes_missed=missed)

    def _pushes_missed(self, link_id: str) -> bool:
        return self._exchange.was_down_since(self.trade.sent_at(link_id))


def _fail(error: BaseException) -> list[Action]:
    """Raise what a request has raised where the trade runs, which ends there."""
    raise error
