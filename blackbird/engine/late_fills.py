"""Fills of trades that an earlier process has booked: what is not stored of them is left over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from blackbird.bybit.look_ups import LookUpFailed
from blackbird.engine.lookups import StoredTrade
from blackbird.engine.state import EngineState
from blackbird.engine.trade_books import TradeBooks
from blackbird.market.instrument import Instrument
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leg_order import Fill
from blackbird.trading.orders import Refused
from database_manager import DatabaseUnavailable, RowsRejected

logger = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

T = TypeVar("T")


class LateFills:
    """Finds out what is known of the trade of a fill, and has `deliver` take the fill then.

    `rules` returns those of an instrument, or raises Refused or LookUpFailed; `is_running` says it of a
    trade by its id.
    """

    def __init__(
        self,
        state: EngineState,
        books: TradeBooks,
        rules: Callable[[Instrument], Awaitable[InstrumentRules]],
        is_running: Callable[[str], bool],
        deliver: Callable[[Fill], None],
    ) -> None:
        self._state = state
        self._books = books
        self._rules = rules
        self._is_running = is_running
        self._deliver = deliver
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, fill: Fill, trade_id: str) -> None:
        """Take a fill whose trade is not known to this process."""
        task = asyncio.get_running_loop().create_task(self._learn(fill, trade_id))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def abandon(self) -> None:
        """Leave what is not looked up yet."""
        for task in self._tasks:
            task.cancel()

    async def _learn(self, fill: Fill, trade_id: str) -> None:
        stored = await self._persist(fill, lambda: self._stored(fill))
        rules = await self._persist(fill, lambda: self._rules(fill.instrument))
        while self._is_to_be_resumed(trade_id):
            await asyncio.sleep(SHORTEST_PAUSE)
        if not self._books.knows(trade_id, fill.instrument):
            self._books.remember_stored(trade_id, stored, rules)
        self._deliver(fill)

    def _is_to_be_resumed(self, trade_id: str) -> bool:
        """Return whether a trade is open in the journal, and recovery has not taken it up yet."""
        is_open = any(trade.trade_id == trade_id for trade in self._state.open_trades())
        return is_open and not self._is_running(trade_id)

    async def _stored(self, fill: Fill) -> StoredTrade:
        await self._state.wait_for_engine()
        return await self._state.find_trade(fill.link_id)

    async def _persist(self, fill: Fill, work: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        waiting = ThrottledLog()
        while True:
            try:
                return await work()
            except (DatabaseUnavailable, RowsRejected, LookUpFailed, Refused) as error:
                waiting.warn("fill %s is not booked yet: %s", fill.exec_id, error)
                await asyncio.sleep(backoff.next())

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("fill not booked: compare the account with bybit.position", exc_info=error)
