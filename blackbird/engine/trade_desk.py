"""Runs the trades of real orders side by side, one task each, from the order to the answer.

The desk belongs to the service: trades go on when a broker session ends and while the core is recovered. When
the process ends, or another engine takes the history over, they are left to the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from functools import partial
from typing import Any, Protocol

from blackbird.engine.admission import Admission, Tolerances, trade_id_of
from blackbird.engine.exchange import Connect, Pushed
from blackbird.engine.positions import reducible
from blackbird.engine.requests import CRASHED, Decision, NewOrder, name_of, refuse
from blackbird.engine.running_trade import RunningTrade
from blackbird.engine.state import EngineState
from blackbird.engine.trade_books import TradeBooks
from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.runtime.backoff import Backoff
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leg_order import Side
from blackbird.trading.orders import INTERNAL_ERROR, Refused, Reply
from blackbird.trading.trade import Trade, TradeState

logger = logging.getLogger(__name__)

LINK_PREFIX_LENGTH = 8
CONNECT_SECONDS = 5.0
# How long recovery holds the orders for what the exchange says of the trades that were open.
RESUME_SECONDS = 5.0
# Before a trade that an unhandled exception ended is resumed.
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class Askers(Protocol):
    """Those who wait for what becomes of an order, by its name."""

    async def answer(self, name: str, answer: Decision | Reply) -> None:
        """Tell them; it is journaled."""

    def fail(self) -> None:
        """Have the core recovered, and all requests brought again."""


class TradeDesk:
    """The trades that run on the account that `connect` connects to."""

    def __init__(
        self,
        state: EngineState,
        connect: Connect,
        tolerances: Tolerances,
        clock: Callable[[], int],
        *,
        askers: Askers,
        on_journaled: Callable[[], None],
    ) -> None:
        self._state = state
        self._connect = connect
        self._tolerances = tolerances
        self._clock = clock
        self._askers = askers
        self._on_journaled = on_journaled
        self._books = TradeBooks(state, clock, on_journaled=on_journaled, on_invalid=askers.fail)
        self.journal = self._books.journal
        self._admission: Admission | None = None
        self._is_connecting = asyncio.Event()
        self._running: dict[str, RunningTrade] = {}  # by trade id, from the intent on
        self._deciding: set[str] = set()  # the names of orders
        self._tasks: set[asyncio.Task[None]] = set()

    # --- orders ----------------------------------------------------------------------------------

    def is_deciding(self, name: str) -> bool:
        """Return whether the order known by `name` is being decided on: its askers will be told."""
        return name in self._deciding

    def running(self) -> list[TradeState]:
        """Return the trades that run, from the intent on."""
        return [running.trade.state for running in self._running.values()]

    def begin(self, new: NewOrder) -> None:
        """Decide on an order, and trade it unless it is refused."""
        self._spawn(new.name, self._place_order(new))

    async def _place_order(self, new: NewOrder) -> None:
        try:
            running = await self._admitted(new)
        except Refused as refused:
            await self._refuse(new, str(refused))
        except Exception:
            # The process edge of an order of which nothing was sent. What the core holds may be anything.
            logger.exception("order %s crashed the engine, the state is recovered", new.order.order_id)
            if new.request.redelivered:
                await self._refuse(new, INTERNAL_ERROR, dead_letter=CRASHED)
            self._fail(new.name)
        else:
            await self._run(new.name, running, running.start)

    async def _admitted(self, new: NewOrder) -> RunningTrade:
        """Return the trade of an order, not begun; raises Refused."""
        admission = self._connected()
        engine = await self._state.wait_for_engine()
        engine.check(new.order)
        # An order without an id may be a copy of an earlier one: a trade of its own all the same.
        is_copy = engine.first_answer(new.name) is not None
        trade_id = trade_id_of(f"{new.name} {self._clock()}" if is_copy else new.name)
        candidate = await admission.prepare(new)
        # Meanwhile the core may have been recovered. From here on nothing else happens in between.
        engine = await self._state.wait_for_engine()
        return self._new_trade(admission.admit(engine, candidate, trade_id))

    async def _refuse(self, new: NewOrder, info: str, dead_letter: str | None = None) -> None:
        engine = await self._state.wait_for_engine()
        decision = refuse(engine, new, info)._replace(dead_letter=dead_letter)
        if decision.record is not None and not self.journal(decision.record):
            self._deciding.discard(new.name)
            return
        await self._answer(new.name, decision)

    def _fail(self, name: str) -> None:
        """Have the core recovered, and an order that was not answered brought again."""
        self._deciding.discard(name)
        self._state.invalidate()
        self._askers.fail()

    # --- trades ----------------------------------------------------------------------------------

    def on_event(self, event: Pushed) -> None:
        """Take what the exchange pushed of one of our orders."""
        _, _, rest = event.link_id.partition("-")
        trade_id = rest.partition("-")[0]
        running = self._running.get(trade_id)
        if running is not None:
            running.on_event(event)
        else:
            self._books.on_event(event, trade_id)

    def _new_trade(self, state: TradeState) -> RunningTrade:
        exchange = self._connected().exchange
        running = RunningTrade(Trade(state, self._reducible), exchange, self._state, self._clock)
        self._running[state.trade_id] = running
        return running

    async def _run(self, name: str, running: RunningTrade, run: Callable[[], Awaitable[None]]) -> None:
        """Run a trade to its end, book it and tell its askers."""
        reply = await self._ended(running, run)
        self._running.pop(running.trade.state.trade_id, None)
        self._connected().release(running.trade.state.trade_id)
        await self._answer(name, reply)

    async def _answer(self, name: str, answer: Decision | Reply) -> None:
        # Who asks from here on is not told any more: the answer is known.
        self._deciding.discard(name)
        await self._askers.answer(name, answer)

    async def _ended(self, running: RunningTrade, run: Callable[[], Awaitable[None]]) -> Reply:
        """Return the answer to a trade's order once it is over and booked, whatever goes wrong meanwhile."""
        backoff = Backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await run()
                return await self._books.book(running.trade)
            except Exception:
                # The process edge of a trade of which orders are at the exchange: it is taken up again.
                logger.exception("trade %s: unhandled exception, resuming it", running.trade.state.trade_id)
                await asyncio.sleep(backoff.next())
                run = running.resume

    def _reducible(self, instrument: Instrument, side: Side) -> Decimal:
        engine = self._state.engine
        if engine is None:
            return ZERO
        return reducible(engine, (each.trade for each in self._running.values()), instrument, side)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._deciding.add(name)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, name))

    def _on_done(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("order %s: unhandled exception, the state is recovered", name, exc_info=error)
            self._fail(name)

    def _connected(self) -> Admission:
        assert self._admission is not None  # noqa: S101 - no order comes before `recover` is through
        return self._admission

    # --- beginning and end -----------------------------------------------------------------------

    async def run(self) -> None:
        """Stay connected to the exchange from the first recovery on, until cancelled."""
        await self._is_connecting.wait()
        await self._connected().exchange.run()

    async def recover(self, engine: TradingEngine) -> None:
        """Connect to the exchange, and take up the trades that the journal has open, with a new core.

        Returns when the exchange has been asked about all that these have sent, after `RESUME_SECONDS` at
        the latest.
        """
        if self._admission is None:
            prefix = self._state.history_id.replace("-", "")[:LINK_PREFIX_LENGTH]
            exchange = self._connect(link_prefix=prefix, on_event=self.on_event)
            self._admission = Admission(exchange, prefix, self._tolerances, self._clock)
            self._is_connecting.set()
            await exchange.wait_until_connected(CONNECT_SECONDS)
        open_trades = self._state.open_trades()
        resumed = [self._resume(state) for state in open_trades if state.trade_id not in self._running]
        for running in self._running.values():
            self._admission.reserve(engine, running.trade.state)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESUME_SECONDS):
                for running in resumed:
                    await running.was_asked_about.wait()

    def _resume(self, state: TradeState) -> RunningTrade:
        name = name_of(state.order, state.request_key)
        logger.warning("trade %s, order %s: taken up again", state.trade_id, name)
        running = self._new_trade(state)
        self._spawn(name, self._run(name, running, running.resume))
        return running

    async def finish(self, seconds: float) -> None:
        """Give what runs `seconds` to end, and leave the rest to the journal."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        if self._running:
            logger.warning("%s trades are left open, the next start takes them up", len(self._running))
        self.abandon()

    def abandon(self) -> None:
        """Leave all trades to the engine that has the journal next."""
        for task in self._tasks:
            task.cancel()
        self._deciding.clear()
        for trade_id in self._running:
            self._connected().release(trade_id)
        self._running.clear()
