"""The trades that run: each to its end and into the books, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal

from blackbird.engine.admission import Admission
from blackbird.engine.exchange import Pushed
from blackbird.engine.late_fills import LateFills
from blackbird.engine.positions import reducible, reducible_with_leftovers
from blackbird.engine.running_trade import RunningTrade
from blackbird.engine.state import EngineState
from blackbird.engine.trade_books import TradeBooks
from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.runtime.backoff import Backoff
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leftover_trade import AnyTrade, LeftoverTrade, OpenTrade
from blackbird.trading.leg_order import Fill, Side
from blackbird.trading.orders import Reply
from blackbird.trading.trade import Trade, TradeState

logger = logging.getLogger(__name__)

# Before a trade that an unhandled exception ended is resumed.
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class TradeRuns:
    """Runs trades side by side, and books them.

    `rules` returns those of an instrument, or raises Refused or LookUpFailed.
    """

    def __init__(
        self,
        state: EngineState,
        books: TradeBooks,
        clock: Callable[[], int],
        rules: Callable[[Instrument], Awaitable[InstrumentRules]],
    ) -> None:
        self._state = state
        self._books = books
        self._clock = clock
        self._running: dict[str, RunningTrade] = {}  # by trade id, from the intent on
        self._late_fills = LateFills(state, books, rules, self.__contains__, self.on_event)

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, trade_id: str) -> bool:
        return trade_id in self._running

    def states(self) -> list[OpenTrade]:
        """Return what is known of the trades that run."""
        return [running.trade.state for running in self._running.values()]

    def add(self, state: OpenTrade, admission: Admission) -> RunningTrade:
        """Return the trade of this state, ready to be run."""
        trade: AnyTrade
        if isinstance(state, TradeState):
            trade = Trade(state, self._reducible)
        else:
            trade = LeftoverTrade(state, self._reducible_with_leftovers)
        running = RunningTrade(trade, admission.exchange, self._state, self._clock)
        self._running[state.trade_id] = running
        return running

    async def run(
        self, running: RunningTrade, begin: Callable[[], Awaitable[None]], admission: Admission
    ) -> Reply | None:
        """Run a trade to its end, book it, and return the answer to its order; a leftover has none."""
        trade_id = running.trade.trade_id
        reply = await self._booked(running, begin)
        self._running.pop(trade_id, None)
        admission.release(trade_id)
        return reply

    async def _booked(self, running: RunningTrade, begin: Callable[[], Awaitable[None]]) -> Reply | None:
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await begin()
                return await self._book(running.trade)
            except Exception:
                # The process edge of a trade of which orders are at the exchange: it is taken up again.
                logger.exception("trade %s: unhandled exception, resuming it", running.trade.trade_id)
                await asyncio.sleep(backoff.next())
                begin = running.resume

    async def _book(self, trade: AnyTrade) -> Reply | None:
        if isinstance(trade, Trade):
            return await self._books.book(trade)
        await self._books.book_leftover(trade)
        return None

    def on_event(self, event: Pushed) -> None:
        """Take what the exchange pushed of one of our orders."""
        _, _, rest = event.link_id.partition("-")
        trade_id = rest.partition("-")[0]
        running = self._running.get(trade_id)
        if running is not None:
            running.on_event(event)
        elif isinstance(event, Fill):
            if self._books.knows(trade_id, event.instrument):
                self._books.add_late_fill(event, trade_id)
            else:
                self._late_fills.add(event, trade_id)

    def reserve(self, engine: TradingEngine, admission: Admission) -> None:
        """Count with a new core what the running trades may come to."""
        for running in self._running.values():
            state = running.trade.state
            if isinstance(state, TradeState):
                admission.reserve(engine, state)
            else:
                engine.leftovers.in_trade.add(state.leftover.key)

    def abandon(self, admission: Admission) -> None:
        """Forget all trades, whose tasks have ended."""
        self._late_fills.abandon()
        for trade_id in self._running:
            admission.release(trade_id)
        self._running.clear()

    def _trades(self) -> Iterator[AnyTrade]:
        return (running.trade for running in self._running.values())

    def _reducible(self, instrument: Instrument, side: Side) -> Decimal:
        engine = self._state.engine
        return ZERO if engine is None else reducible(engine, self._trades(), instrument, side)

    def _reducible_with_leftovers(self, instrument: Instrument, side: Side) -> Decimal:
        engine = self._state.engine
        return ZERO if engine is None else reducible_with_leftovers(engine, self._trades(), instrument, side)
