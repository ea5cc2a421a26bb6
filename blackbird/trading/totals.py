"""What was traded, by pair and by channel."""

from __future__ import annotations

from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.books import Books, PairBooks
from blackbird.trading.orders import OPEN_SPREAD
from blackbird.trading.records import Execution
from blackbird.trading.spreads import Pair, pair_of


class Traded:
    """What was traded of a pair: `cash` received less paid, the value of each leg, and the executions.

    `cash_without_spread` is the part of the cash that closes have brought beyond all that was open.
    """

    __slots__ = ("cash", "cash_without_spread", "closed", "long_value", "opened", "short_value")

    def __init__(self) -> None:
        self.cash = ZERO
        self.cash_without_spread = ZERO
        self.long_value = ZERO
        self.short_value = ZERO
        self.opened = 0
        self.closed = 0

    @property
    def turnover(self) -> Decimal:
        """The value of what was traded of both legs."""
        return EXACT.add(self.long_value, self.short_value)


class Totals:
    """Sums over all executions of each pair (long, short).

    `fees` are those that are known of executions: of real orders, and of a simulation that charges some.
    """

    def __init__(self) -> None:
        self.pairs: dict[Pair, Traded] = {}
        self.fees = ZERO

    def books(self) -> list[PairBooks]:
        """Return what was traded of each pair."""
        return [
            PairBooks(pair.long, pair.short, **{name: getattr(each, name) for name in Traded.__slots__})
            for pair, each in self.pairs.items()
        ]

    def restore(self, books: Books) -> None:
        """Begin with the books of an earlier run."""
        self.fees = books.fees
        for each in books.pairs:
            traded = self.pairs[Pair(each.long, each.short)] = Traded()
            for name in Traded.__slots__:
                setattr(traded, name, getattr(each, name))

    def add(self, record: Execution, bought: Decimal, sold: Decimal, cash: Decimal) -> None:
        """Count an execution, of which one leg was bought and the other sold for so much signed cash."""
        pair = pair_of(record.order)
        traded = self.pairs.get(pair)
        if traded is None:
            traded = self.pairs[pair] = Traded()
        traded.cash = EXACT.add(traded.cash, cash)
        if record.order.action == OPEN_SPREAD:
            traded.opened += 1
            traded.long_value = EXACT.subtract(traded.long_value, bought)
            traded.short_value = EXACT.add(traded.short_value, sold)
        else:
            traded.closed += 1
            traded.long_value = EXACT.add(traded.long_value, sold)
            traded.short_value = EXACT.subtract(traded.short_value, bought)
        if record.traded is not None:
            self._add_fees(record.traded.buy.fee, record.traded.sell.fee)
        elif record.fees is not None:
            self._add_fees(*record.fees)

    def turnover(self) -> dict[str, Decimal]:
        """Return the value of what was traded on each channel."""
        values: dict[str, Decimal] = {}
        for pair, traded in self.pairs.items():
            for leg, value in ((pair.long, traded.long_value), (pair.short, traded.short_value)):
                values[leg.channel] = EXACT.add(values.get(leg.channel, ZERO), value)
        return values

    def _add_fees(self, *fees: Decimal | None) -> None:
        for fee in fees:
            if fee is not None:
                self.fees = EXACT.add(self.fees, fee)

    def add_without_spread(self, record: Execution, size: Decimal) -> None:
        """Count the part of an executed close that is beyond all that was open."""
        executed = record.traded or record.order
        traded = self.pairs[pair_of(record.order)]
        cash = EXACT.multiply(EXACT.subtract(executed.sell_price, executed.buy_price), size)
        traded.cash_without_spread = EXACT.add(traded.cash_without_spread, cash)
