"""Runs the trades of real orders side by side, one task each, from the order to the answer.

The desk belongs to the service: trades go on when a broker session ends and while the core is recovered. When
the process ends, or another engine takes the history over, they are left to the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from blackbird.engine.admission import Admission, Tolerances, trade_id_of
from blackbird.engine.exchange import Connect
from blackbird.engine.requests import CRASHED, Decision, NewOrder, name_of, refuse
from blackbird.engine.running_trade import RunningTrade
from blackbird.engine.state import EngineState
from blackbird.engine.trade_books import TradeBooks
from blackbird.engine.trade_runs import TradeRuns
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leftover_trade import OpenTrade
from blackbird.trading.orders import INTERNAL_ERROR, Refused, Reply
from blackbird.trading.records import Leftover
from blackbird.trading.trade import TradeState

logger = logging.getLogger(__name__)

LINK_PREFIX_LENGTH = 8
CONNECT_SECONDS = 5.0
# How long recovery holds the orders for what the exchange says of the trades that were open.
RESUME_SECONDS = 5.0


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
        self._runs = TradeRuns(state, self._books, clock, self._rules)
        self._deciding: set[str] = set()  # the names of orders
        self._tasks: set[asyncio.Task[None]] = set()

    # --- orders ----------------------------------------------------------------------------------

    def is_deciding(self, name: str) -> bool:
        """Return whether the order known by `name` is being decided on: its askers will be told."""
        return name in self._deciding

    def running(self) -> list[TradeState]:
        """Return the trades that run, from the intent on; leftovers that are traded away are none."""
        return [state for state in self._runs.states() if isinstance(state, TradeState)]

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
        return self._runs.add(admission.admit(engine, candidate, trade_id), admission)

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

    async def _run(self, name: str, running: RunningTrade, begin: Callable[[], Awaitable[None]]) -> None:
        """Run a trade to its end and tell its askers."""
        reply = await self._runs.run(running, begin, self._connected())
        if reply is not None:
            await self._answer(name, reply)

    async def _answer(self, name: str, answer: Decision | Reply) -> None:
        # Who asks from here on is not told any more: the answer is known.
        self._deciding.discard(name)
        await self._askers.answer(name, answer)

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

    async def _rules(self, instrument: Instrument) -> InstrumentRules:
        return await self._connected().exchange.account.prepare(instrument)

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
            exchange = self._connect(link_prefix=prefix, on_event=self._runs.on_event)
            self._admission = Admission(exchange, prefix, self._tolerances, self._clock)
            self._is_connecting.set()
            await exchange.wait_until_connected(CONNECT_SECONDS)
        open_trades = [state for state in self._state.open_trades() if state.trade_id not in self._runs]
        resumed = [self._resume(state) for state in open_trades]
        self._runs.reserve(engine, self._admission)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESUME_SECONDS):
                for running in resumed:
                    await running.was_asked_about.wait()

    def _resume(self, state: OpenTrade) -> RunningTrade:
        name = name_of_trade(state)
        logger.warning("trade %s, %s: taken up again", state.trade_id, name)
        running = self._runs.add(state, self._connected())
        self._spawn(name, self._run(name, running, running.resume))
        return running

    def trade_away(self, leftover: Leftover) -> None:
        """Try to trade a leftover away, unless that is under way."""
        name = name_of_leftover(leftover)
        if name not in self._deciding:
            self._spawn(name, self._trade_away(name, leftover))

    async def _trade_away(self, name: str, leftover: Leftover) -> None:
        admission = self._connected()
        try:
            state = await admission.prepare_leftover(leftover)
            engine = await self._state.wait_for_engine()
            if engine.leftovers.find(*leftover.key) is None:
                raise Refused("it was resolved meanwhile")
        except Refused as refused:
            logger.warning("%s is not traded now: %s", name, refused)
        else:
            engine.leftovers.in_trade.add(leftover.key)
            running = self._runs.add(state, admission)
            await self._run(name, running, running.start)
        self._deciding.discard(name)

    async def finish(self, seconds: float) -> None:
        """Give what runs `seconds` to end, and leave the rest to the journal."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        if self._runs:
            logger.warning("%s trades are left open, the next start takes them up", len(self._runs))
        self.abandon()

    def abandon(self) -> None:
        """Leave all trades to the engine that has the journal next."""
        for task in self._tasks:
            task.cancel()
        self._deciding.clear()
        if self._admission is not None:
            self._runs.abandon(self._admission)


def name_of_trade(state: OpenTrade) -> str:
    """Return what a trade is known by: its order's name, or its leftover's."""
    if isinstance(state, TradeState):
        return name_of(state.order, state.request_key)
    return name_of_leftover(state.leftover)


def name_of_leftover(leftover: Leftover) -> str:
    """Return what a leftover is known by."""
    return f"leftover {leftover.number} of {leftover.trade_id}"
