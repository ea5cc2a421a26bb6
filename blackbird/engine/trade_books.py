"""Books what became of trades: in the core and in the journal, as one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from blackbird.engine.lookups import StoredTrade
from blackbird.engine.state import EngineState
from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leftover_trade import AnyTrade, LeftoverTrade
from blackbird.trading.leg_order import Fill
from blackbird.trading.orders import Reply
from blackbird.trading.records import Booking, Record, TradeOutcome
from blackbird.trading.settlement import late_fills, trade_away
from blackbird.trading.spreads import Pair, pair_of
from blackbird.trading.trade import Trade
from blackbird.trading.trade_outcome import outcome_of

logger = logging.getLogger(__name__)

DISK_PAUSE = 1.0
# Trades that are over, of which a fill may still come.
REMEMBERED_TRADES = 10_000


@dataclass
class _Booked:
    """What is remembered of a trade that is booked, `trade_id` being what its fills are booked for."""

    trade_id: str
    pair: Pair | None
    rules: dict[Instrument, InstrumentRules]
    fills: set[str]


class TradeBooks:
    """Books trades with the core of `state`.

    `on_journaled` is called when there is something to store, `on_invalid` when the core has to be recovered.
    """

    def __init__(
        self,
        state: EngineState,
        clock: Callable[[], int],
        *,
        on_journaled: Callable[[], None],
        on_invalid: Callable[[], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self._on_journaled = on_journaled
        self._on_invalid = on_invalid
        self._booked: OrderedDict[str, _Booked] = OrderedDict()
        self._amending: set[asyncio.Task[Reply | None]] = set()

    async def book(self, trade: Trade) -> Reply:
        """Book a trade that is over, however long it takes, and return the answer to its order."""
        outcome = outcome_of(trade, self._clock())
        self._remember_trade(trade, outcome.trade_id, pair_of(outcome.order))
        reply = await self._journaled(lambda engine: engine.book(outcome), ended=outcome.trade_id)
        assert reply is not None  # noqa: S101 - something was booked
        _log(outcome, reply)
        return reply

    async def book_leftover(self, trade: LeftoverTrade) -> None:
        """Book what became of a leftover that was to be traded away, however long it takes."""
        state, fills, at = trade.state, trade.fills, self._clock()
        leftover, rules = state.leftover, state.leg.rules
        self._remember_trade(trade, leftover.trade_id, leftover.pair)

        def amend(engine: TradingEngine) -> Booking | None:
            if not fills:
                engine.leftovers.in_trade.discard(leftover.key)
                return None
            number = engine.leftovers.next_number(leftover.trade_id)
            return engine.amend(trade_away(leftover, fills, rules, number, at))

        await self._journaled(amend, ended=state.trade_id)
        filled = sum((fill.quantity for fill in fills), ZERO)
        logger.warning(
            "trade %s: %s of the %s %s that were left over are traded away",
            *(leftover.trade_id, filled, leftover.size.copy_abs(), leftover.instrument),
        )

    def journal(self, record: Record) -> bool:
        """Write a record that no trade ended with; return whether the journal took it.

        Where it did not the core is ahead of it, and recovered.
        """
        try:
            self._state.append([record])
        except sqlite3.Error:
            logger.exception("request not answered, the state is recovered")
            self._state.invalidate()
            self._on_invalid()
            return False
        self._on_journaled()
        return True

    def knows(self, trade_id: str, instrument: Instrument) -> bool:
        """Return whether it is known here what was booked of an instrument of a trade."""
        booked = self._booked.get(trade_id)
        return booked is not None and instrument in booked.rules

    def remember_stored(self, trade_id: str, stored: StoredTrade, rules: InstrumentRules) -> None:
        """Take note of a trade that was booked by an earlier process, or long ago."""
        booked = self._booked.get(trade_id)
        if booked is None:
            booked = _Booked(stored.trade_id, stored.pair, {}, set())
            self._remember(trade_id, booked)
        booked.rules[rules.instrument] = rules
        booked.fills |= stored.exec_ids

    def add_late_fill(self, fill: Fill, trade_id: str) -> None:
        """Leave a fill over that is not booked, of a trade that is, and that is known here."""
        booked = self._booked[trade_id]
        if fill.exec_id not in booked.fills:
            logger.error("fill of an order whose trade is booked, left over: %s", fill)
            booked.fills.add(fill.exec_id)
            self._amend(booked, fill)

    def _amend(self, booked: _Booked, fill: Fill) -> None:
        at, trade_id = self._clock(), booked.trade_id

        def amend(engine: TradingEngine) -> Booking:
            number = engine.leftovers.next_number(trade_id)
            return engine.amend(late_fills(trade_id, [fill], booked.rules, booked.pair, number, at))

        task = asyncio.get_running_loop().create_task(self._journaled(amend))
        self._amending.add(task)
        task.add_done_callback(self._amending.discard)

    async def _journaled(
        self, book: Callable[[TradingEngine], Booking | None], ended: str | None = None
    ) -> Reply | None:
        """Book and journal, and return the answer to what was booked."""
        while True:
            engine = await self._state.wait_for_engine()
            booking = book(engine)
            try:
                self._state.append([] if booking is None else [booking], ended)
            except sqlite3.Error:
                # The core is ahead of the journal now.
                logger.exception("trade %s not booked yet, the state is recovered", ended)
                self._state.invalidate()
                await asyncio.sleep(DISK_PAUSE)
                self._on_invalid()
            else:
                self._on_journaled()
                return None if booking is None else engine.answer_of(booking)

    def _remember_trade(self, trade: AnyTrade, trade_id: str, pair: Pair | None) -> None:
        rules = {leg.rules.instrument: leg.rules for leg in trade.legs}
        fills = {fill.exec_id for fill in trade.fills}
        self._remember(trade.trade_id, _Booked(trade_id, pair, rules, fills))

    def _remember(self, trade_id: str, booked: _Booked) -> None:
        self._booked[trade_id] = booked
        if len(self._booked) > REMEMBERED_TRADES:
            self._booked.popitem(last=False)


def _log(outcome: TradeOutcome, reply: Reply) -> None:
    order = outcome.order
    size = outcome.traded.size if outcome.traded is not None else 0
    logger.info(
        "%s %s: %s %s of %s, buy %s, sell %s, trade %s",
        *(reply.status, reply.info, order.action, size, order.size, order.buy, order.sell, outcome.trade_id),
    )
    for unwound in outcome.unwound:
        logger.warning(
            "trade %s: unwound %s of %s, bought for %s, sold for %s",
            *(outcome.trade_id, unwound.size, unwound.instrument, unwound.bought.flux, unwound.sold.flux),
        )
    for leftover in outcome.leftovers:
        logger.log(
            logging.ERROR if leftover.blocks else logging.INFO,
            "trade %s: left over %s of %s: %s",
            *(outcome.trade_id, leftover.size, leftover.instrument, leftover.reason),
        )
