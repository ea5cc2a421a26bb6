"""Where the page and the metrics take their figures from."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from blackbird.bybit.environment import SIMULATED
from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.monitor.board import Board
from blackbird.monitor.database import Facts
from blackbird.monitor.history import History
from blackbird.monitor.queues import QueueWatch

# What is older than this is shown as old: looked at every quarter of a second, it is so within two seconds.
# Where the services publish more seldom (STATUS_INTERVAL_MS), it is three times as long as they pause.
STALE_SECONDS = 1.5
INTERVALS = 3
_BASIS_POINTS = Decimal(10_000)


class Rules(NamedTuple):
    """The settings that the figures depend on; fees are fractions of the price, by channel."""

    close_rule: str
    taker_fees: Mapping[str, Decimal]
    min_profit_bps: Decimal
    max_book_age_ms: int

    def costs(
        self, long: Instrument, short: Instrument, long_price: Decimal, short_price: Decimal
    ) -> Decimal:
        """Return what a round trip costs in fees at these prices, per unit of size."""
        fee = self.taker_fees.get(long.channel, ZERO) + self.taker_fees.get(short.channel, ZERO)
        return fee * (long_price + short_price)

    def fees(self, turnover: Mapping[str, Decimal]) -> Decimal:
        """Return the fees on traded values by channel."""
        return sum((value * self.taker_fees.get(channel, ZERO) for channel, value in turnover.items()), ZERO)


class Pnl(NamedTuple):
    """Quote coin, all groups. `marked` and `total` are None while an open spread has no price to close at.

    `fees_charged` says what `fees` are: those of the fills of real orders as far as they are known, else the
    rates of the settings times what was traded.
    """

    closed: Decimal
    marked: Decimal | None
    fees: Decimal
    total: Decimal | None
    turnover: Decimal
    fees_charged: bool


class Sources(NamedTuple):
    """The newest of all that is shown."""

    board: Board
    history: History
    queues: QueueWatch
    rules: Rules
    facts: Facts | None  # None before the database was read

    @property
    def stale_seconds(self) -> float:
        """How old a figure may be before it is shown as old."""
        intervals = [status.interval_seconds for status in self.board.statuses.values()]
        return max([STALE_SECONDS, *(INTERVALS * interval for interval in intervals)])

    def pnl(self) -> Pnl | None:
        """Return the PnL as it is now, None before the trading engine was heard.

        Closed is what is no longer open has brought; open at mark is what closing the rest at the best prices
        would add; cash of positions that no spread accounts for is in neither. No fee is in the cash. Real
        orders have the fees that were charged, simulated ones those of the settings on all that was traded.
        """
        status = self.board.statuses.get("engine")
        if status is None or status.engine is None:
            return None
        engine = status.engine
        marked: Decimal | None = ZERO
        for pair in engine.pairs:
            if not pair.quantity:
                continue
            exit_price = self.board.exit_price(pair.long, pair.short)
            if exit_price is None or marked is None:
                marked = None
                continue
            marked += EXACT.subtract(pair.credit, EXACT.multiply(exit_price, pair.quantity))
        charged = status.mode != SIMULATED
        fees = engine.fees if charged else self.rules.fees(engine.turnover)
        closed = EXACT.subtract(engine.pnl, EXACT.add(engine.credit, engine.cash_without_spread))
        total = None if marked is None else closed + marked - fees
        return Pnl(closed, marked, fees, total, sum(engine.turnover.values(), ZERO), charged)


def basis_points(value: Decimal, price: Decimal) -> Decimal:
    """Return `value` in hundredths of a per cent of `price`."""
    return value / price * _BASIS_POINTS


def base_coin(instruments: list[Instrument]) -> str:
    """Return the coin that all of these are sizes of, as far as their symbols tell, else nothing."""
    coins = {_base(instrument.symbol) for instrument in instruments}
    return coins.pop() if len(coins) == 1 else ""


def _base(symbol: str) -> str:
    symbol = symbol.partition("-")[0]
    for quote in ("USDT", "USDC", "PERP", "USD"):
        if symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote)
    return symbol
