"""What the trading engine says of itself: exposure, PnL, open spreads, answers, what is not stored yet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import islice
from typing import Literal, Protocol

from blackbird.engine.answer_counts import AnswerCounts
from blackbird.engine.journal_loops import StoreLoop
from blackbird.engine.state import EngineState
from blackbird.market.decimals import EXACT, ZERO
from blackbird.runtime.failure_log import FailureLog
from blackbird.status.messages import (
    EngineStatus,
    LeftoverStatus,
    LegStatus,
    OpenSpreadStatus,
    PairTotals,
    TradeStatus,
)
from blackbird.trading.engine import TradingEngine
from blackbird.trading.records import Leftover
from blackbird.trading.spreads import Holding, Pair, Spread
from blackbird.trading.totals import Traded
from blackbird.trading.trade import TradeState

MOST_SPREADS = 50


class Desk(Protocol):
    """The part of TradeDesk that is described."""

    def running(self) -> list[TradeState]:
        """Return the trades that run."""


class EngineStatusSource:
    """Describes a trading engine made of these parts, `desk` being None where orders are simulated.

    `blank` is an engine without a history, for the settings that it has. A status made while the state is
    recovered has no figures.
    """

    def __init__(
        self,
        blank: TradingEngine,
        state: EngineState,
        answers: AnswerCounts,
        storing: StoreLoop,
        desk: Desk | None = None,
        *,
        is_connected: Callable[[], bool],
        stores: bool,
    ) -> None:
        self._blank = blank
        self._state = state
        self._answers = answers
        self._storing = storing
        self._desk = desk
        self._is_connected = is_connected
        self._stores = stores
        self._failures = FailureLog()

    @property
    def is_connected(self) -> bool:
        """Whether there is a session to work on."""
        return self._is_connected()

    @property
    def failure_counts(self) -> Mapping[str, int]:
        """How often which programming error was survived."""
        return self._failures.counts

    async def describe(self) -> EngineStatus:
        """Return what the trading engine does."""
        engine = self._state.engine or self._blank
        journal = self._state.journal
        answers = self._answers
        holdings = engine.spreads.holdings
        return EngineStatus(
            state=self._activity(),
            stores=self._stores,
            limit=engine.limit,
            risk_model=engine.risk_model,
            legs=[
                LegStatus(leg.channel, leg.symbol, exposure, engine.positions.get(leg, ZERO))
                for leg, exposure in engine.risks.items()
            ],
            pnl=engine.pnl,
            credit=_total(holding.credit for holding in holdings.values()),
            cash_without_spread=_total(traded.cash_without_spread for traded in engine.totals.pairs.values()),
            turnover=engine.totals.turnover(),
            pairs=[_totals(pair, traded, holdings.get(pair)) for pair, traded in engine.totals.pairs.items()],
            spreads_open=len(engine.spreads),
            open_spreads=[_spread(spread) for spread in islice(engine.spreads, MOST_SPREADS)],
            orders_known=len(engine.orders),
            answers={action: dict(counts) for action, counts in answers.counts.items()},
            answer_time=answers.times.counts(),
            journal_records=0 if journal is None else journal.records,
            stored_lag_seconds=self._storing.lag_seconds,
            dead_letters=answers.dead_letters,
            fees=engine.totals.fees,
            running_trades=[] if self._desk is None else [_trade(each) for each in self._desk.running()],
            leftovers=[_leftover(each) for each in engine.leftovers.open.values()],
        )

    def _activity(self) -> Literal["active", "recovering", "waiting", "standby"]:
        if self._state.stands_by:
            return "standby"
        if not self._is_connected():
            return "waiting"
        return "recovering" if self._state.engine is None else "active"


def _total(amounts: Iterable[Decimal]) -> Decimal:
    return functools.reduce(EXACT.add, amounts, ZERO)


def _totals(pair: Pair, traded: Traded, holding: Holding | None) -> PairTotals:
    return PairTotals(
        long=pair.long,
        short=pair.short,
        cash=traded.cash,
        credit=ZERO if holding is None else holding.credit,
        cash_without_spread=traded.cash_without_spread,
        quantity=ZERO if holding is None else holding.quantity,
        open_spreads=0 if holding is None else len(holding.spreads),
        turnover=traded.turnover,
        opened=traded.opened,
        closed=traded.closed,
    )


def _spread(spread: Spread) -> OpenSpreadStatus:
    return OpenSpreadStatus(
        spread_id=spread.spread_id,
        long=spread.pair.long,
        short=spread.pair.short,
        entry=spread.spread,
        quantity=spread.quantity,
        opened_quantity=spread.opened,
        opened_ms=spread.opened_ms,
    )


def _trade(state: TradeState) -> TradeStatus:
    order = state.order
    return TradeStatus(
        trade_id=state.trade_id,
        action=order.action,
        buy=order.buy,
        sell=order.sell,
        size=order.size,
        since_ms=state.intended_at,
    )


def _leftover(leftover: Leftover) -> LeftoverStatus:
    return LeftoverStatus(
        trade_id=leftover.trade_id,
        channel=leftover.instrument.channel,
        symbol=leftover.instrument.symbol,
        size=leftover.size,
        reason=leftover.reason,
        since_ms=leftover.since,
    )
