"""What the orders of a run came to: answers, spreads, cash, fees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import ACK, NOT_ACK, OPEN_SPREAD, RISK_LIMIT_EXCEED, Order, Reply
from blackbird.trading.spreads import Pair


class Entry(NamedTuple):
    """The prices that a spread was opened at: bid(short) - ask(long), and ask(long)."""

    spread: Decimal
    long_price: Decimal


class ClosedSpread(NamedTuple):
    """A spread of which nothing is left. Money is quote coin, `value` what was paid for its long leg."""

    pair: Pair
    opened_ms: int
    closed_ms: int
    pnl: Decimal
    fees: Decimal
    value: Decimal
    entry: Entry


class Holding:
    """What is open of a pair: `quantity`, and the entry `credit` (sold - bought) of it."""

    __slots__ = ("credit", "quantity")

    def __init__(self) -> None:
        self.quantity = ZERO
        self.credit = ZERO


class _OpenTrade:
    """A spread that is open, with what it has cost and earned so far."""

    __slots__ = ("entry", "fees", "opened_ms", "pair", "pnl", "quantity", "value")

    def __init__(self, order: Order, opened_ms: int, fees: Decimal) -> None:
        self.pair = Pair(order.buy, order.sell)
        self.opened_ms = opened_ms
        self.entry = Entry(EXACT.subtract(order.sell_price, order.buy_price), order.buy_price)
        self.quantity = order.size
        self.value = EXACT.multiply(order.buy_price, order.size)
        self.fees = fees
        self.pnl = ZERO


class Traded:
    """Executions of one pair and action: how many, their size, and the sum of price difference x size."""

    __slots__ = ("count", "difference", "size", "value")

    def __init__(self) -> None:
        self.count = 0
        self.size = ZERO
        self.difference = ZERO  # sold - bought, times size
        self.value = ZERO  # of the leg that was bought

    def add(self, order: Order) -> None:
        """Count an execution."""
        bought = EXACT.multiply(order.buy_price, order.size)
        self.count += 1
        self.size = EXACT.add(self.size, order.size)
        self.value = EXACT.add(self.value, bought)
        self.difference = EXACT.add(
            self.difference, EXACT.subtract(EXACT.multiply(order.sell_price, order.size), bought)
        )


class LimitTime:
    """How long entries have waited at the risk limit: from such a refusal to the next execution."""

    def __init__(self) -> None:
        self._total_ms = 0
        self._since_ms: int | None = None

    def refused(self, now_ms: int) -> None:
        """Note that an entry was refused."""
        if self._since_ms is None:
            self._since_ms = now_ms

    def executed(self, now_ms: int) -> None:
        """Note that an order was executed: what was refused is tried again."""
        self._total_ms = self.until(now_ms)
        self._since_ms = None

    def until(self, now_ms: int) -> int:
        """Return the milliseconds at the limit until now."""
        return self._total_ms + (0 if self._since_ms is None else now_ms - self._since_ms)


class Ledger:
    """The accounts of a run, kept order by order."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()  # by action and status
        self.refusals: Counter[str] = Counter()  # by reason
        self.cash = ZERO  # sum of flux
        self.closed_pnl = ZERO  # of what is closed, before fees
        self.fees = ZERO
        self.turnover: dict[str, Decimal] = {}  # by channel, quote coin
        self.opened = 0
        self.closed: list[ClosedSpread] = []
        self.holdings: dict[Pair, Holding] = {}
        self.traded: dict[tuple[Pair, str], Traded] = {}  # by pair and action
        self.at_limit = LimitTime()
        self._trades: dict[str, _OpenTrade] = {}
        self._pairs_of: dict[Instrument, dict[Pair, None]] = {}

    @property
    def credit(self) -> Decimal:
        """The entry credit of everything that is open."""
        return EXACT.subtract(self.cash, self.closed_pnl)

    @property
    def left(self) -> int:
        """How many spreads are open."""
        return len(self._trades)

    def open_entries(self) -> list[Entry]:
        """Return what the spreads that are open were opened at."""
        return [trade.entry for trade in self._trades.values()]

    def pairs_of(self, instrument: Instrument) -> Iterable[Pair]:
        """Return the pairs of `instrument` that were ever open."""
        return self._pairs_of.get(instrument, ())

    def add(self, order: Order, reply: Reply, now_ms: int, fees: Decimal = ZERO) -> None:
        """Account for an order and its answer, and for the fees of both legs in quote coin."""
        self.answers[order.action, ACK if reply.acked else NOT_ACK] += 1
        if not reply.acked:
            self.refusals[reply.info] += 1
            if reply.info == RISK_LIMIT_EXCEED:
                self.at_limit.refused(now_ms)
            return
        self.at_limit.executed(now_ms)
        self._turn_over(order.buy, order.buy_price, order.size)
        self._turn_over(order.sell, order.sell_price, order.size)
        self.fees = EXACT.add(self.fees, fees)
        self.cash = EXACT.add(
            self.cash, EXACT.multiply(EXACT.subtract(order.sell_price, order.buy_price), order.size)
        )
        if order.action == OPEN_SPREAD:
            self._open(order, fees, now_ms)
        else:
            self._close(order, fees, now_ms)

    def _turn_over(self, leg: Instrument, price: Decimal, size: Decimal) -> None:
        value = EXACT.multiply(price, size)
        self.turnover[leg.channel] = EXACT.add(self.turnover.get(leg.channel, ZERO), value)

    def _open(self, order: Order, fees: Decimal, now_ms: int) -> None:
        self.opened += 1
        trade = self._trades[order.spread_id or ""] = _OpenTrade(order, now_ms, fees)
        pair = trade.pair
        holding = self.holdings.get(pair)
        if holding is None:
            holding = self.holdings[pair] = Holding()
            for leg in pair:
                self._pairs_of.setdefault(leg, {})[pair] = None
        holding.quantity = EXACT.add(holding.quantity, order.size)
        holding.credit = EXACT.add(holding.credit, EXACT.multiply(trade.entry.spread, order.size))
        self.traded.setdefault((pair, order.action), Traded()).add(order)

    def _close(self, order: Order, fees: Decimal, now_ms: int) -> None:
        spread_id = order.spread_id or ""
        trade = self._trades[spread_id]
        holding = self.holdings[trade.pair]
        credit = EXACT.multiply(trade.entry.spread, order.size)
        paid = EXACT.multiply(EXACT.subtract(order.buy_price, order.sell_price), order.size)
        earned = EXACT.subtract(credit, paid)
        self.closed_pnl = EXACT.add(self.closed_pnl, earned)
        holding.quantity = EXACT.subtract(holding.quantity, order.size)
        holding.credit = EXACT.subtract(holding.credit, credit)
        trade.pnl = EXACT.add(trade.pnl, earned)
        trade.fees = EXACT.add(trade.fees, fees)
        trade.quantity = EXACT.subtract(trade.quantity, order.size)
        self.traded.setdefault((trade.pair, order.action), Traded()).add(order)
        if not trade.quantity:
            del self._trades[spread_id]
            self.closed.append(
                ClosedSpread(
                    trade.pair, trade.opened_ms, now_ms, trade.pnl, trade.fees, trade.value, trade.entry
                )
            )
