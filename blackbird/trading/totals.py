"""What was traded, by pair and by channel."""

from __future__ import annotations

from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.orders import OPEN_SPREAD
from blackbird.trading.records import Execution
from blackbird.trading.spreads import Pair, pair_of


class Traded:
    """What was traded of a pair: `cash` received less paid, `turnover` of both legs, and the executions.

    `cash_without_spread` is the part of the cash that closes have brought beyond all that was open.
    """

    __slots__ = ("cash", "cash_without_spread", "closed", "opened", "turnover")

    def __init__(self) -> None:
        self.cash = ZERO
        self.cash_without_spread = ZERO
        self.turnover = ZERO
        self.opened = 0
        self.closed = 0


class Totals:
    """Sums over all executions: of each pair (long, short), and the `turnover` of each channel.

    `fees` are those that are known of executions: of real orders, and of a simulation that charges some.
    """

    def __init__(self) -> None:
        self.pairs: dict[Pair, Traded] = {}
        self.turnover: dict[str, Decimal] = {}
        self.fees = ZERO

    def add(self, record: Execution) -> None:
        """Count an execution."""
        order, bought, sold = record.order, record.buy_flux, record.sell_flux
        pair = pair_of(order)
        traded = self.pairs.get(pair)
        if traded is None:
            traded = self.pairs[pair] = Traded()
        traded.cash = EXACT.add(traded.cash, EXACT.add(bought, sold))
        traded.turnover = EXACT.add(traded.turnover, EXACT.subtract(sold, bought))
        if order.action == OPEN_SPREAD:
            traded.opened += 1
        else:
            traded.closed += 1
        turnover = self.turnover
        turnover[order.buy.channel] = EXACT.subtract(turnover.get(order.buy.channel, ZERO), bought)
        turnover[order.sell.channel] = EXACT.add(turnover.get(order.sell.channel, ZERO), sold)
        fees = record.fees
        if record.traded is not None:
            fees = record.traded.buy.fee, record.traded.sell.fee
        for fee in fees or ():
            if fee is not None:
                self.fees = EXACT.add(self.fees, fee)

    def add_without_spread(self, record: Execution, size: Decimal) -> None:
        """Count the part of an executed close that is beyond all that was open."""
        executed = record.traded or record.order
        traded = self.pairs[pair_of(record.order)]
        cash = EXACT.multiply(EXACT.subtract(executed.sell_price, executed.buy_price), size)
        traded.cash_without_spread = EXACT.add(traded.cash_without_spread, cash)
