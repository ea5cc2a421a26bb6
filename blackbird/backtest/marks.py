"""What a run is worth at the books' best prices, message by message, and what spreads the books offer."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from blackbird.backtest.ledger import Ledger
from blackbird.backtest.series import ThinnedSeries
from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook
from blackbird.trading.orders import OPEN_SPREAD, Order
from blackbird.trading.spreads import Pair

# Entries and exits are drawn as dots, which need more room than a line.
TRADE_COLUMNS = 300

Prices = tuple[Decimal | None, Decimal | None]  # best bid and ask


class Drawdown:
    """The largest fall of a curve from its highest point so far; the curve begins at 0."""

    def __init__(self) -> None:
        self.largest = ZERO
        self.start_ms = self.end_ms = 0
        self._peak = ZERO
        self._peak_ms = 0

    def add(self, ms: int, value: Decimal) -> None:
        """Add the next value."""
        if not self._peak_ms:
            self._peak_ms = ms
        if value > self._peak:
            self._peak, self._peak_ms = value, ms
        elif (fall := self._peak - value) > self.largest:
            self.largest, self.start_ms, self.end_ms = fall, self._peak_ms, ms


class Offered:
    """The spread that the books offer for a pair, bid(short) - ask(long), weighted by time."""

    def __init__(self, now_ms: int) -> None:
        self.highest = 0.0
        self._positive_ms = 0
        self.series = ThinnedSeries()
        self.entries = ThinnedSeries(TRADE_COLUMNS)
        self.exits = ThinnedSeries(TRADE_COLUMNS)
        self._sum = 0.0  # of spread x milliseconds, while above 0
        self._spread = 0.0
        self._since_ms = now_ms

    def set(self, spread: float, now_ms: int) -> None:
        """Note that this spread is offered from now on."""
        if self._spread > 0:
            self._sum += self._spread * (now_ms - self._since_ms)
            self._positive_ms += now_ms - self._since_ms
        self._spread = spread
        self._since_ms = now_ms
        self.highest = max(self.highest, spread)
        self.series.add(now_ms, spread)

    def until(self, now_ms: int) -> tuple[int, float]:
        """Return for how many milliseconds until now it was above 0, and its mean over that time."""
        since = now_ms - self._since_ms if self._spread > 0 else 0
        positive_ms = self._positive_ms + since
        return positive_ms, (self._sum + self._spread * since) / positive_ms if positive_ms else 0.0


class Marks:
    """The value of what `ledger` has open, at the best prices of `books` that are left for us.

    The long leg is sold at the best bid, the short leg bought back at the best ask, whatever the sizes there.
    A pair with an empty side is valued at the prices of its last mark.
    """

    def __init__(self, books: Mapping[Instrument, OrderBook], ledger: Ledger) -> None:
        self._books = books
        self._ledger = ledger
        self._prices: dict[Instrument, Prices] = {}
        self._differences: dict[Pair, Decimal] = {}  # bid(long) - ask(short) at the last mark
        self._exits: dict[Pair, Decimal] = {}  # what closing would bring: minus what it costs
        self.exits = ZERO  # the sum of them
        self.drawdown = Drawdown()
        self.total_series = ThinnedSeries()
        self.closed_series = ThinnedSeries()
        self.offered: dict[Pair, Offered] = {}

    @property
    def open_at_mark(self) -> Decimal:
        """What the open spreads would bring if they were closed now: entry credit and exit."""
        return EXACT.add(self._ledger.credit, self.exits)

    @property
    def total(self) -> Decimal:
        """PnL closed, open at mark, less fees."""
        return EXACT.subtract(EXACT.add(self._ledger.cash, self.exits), self._ledger.fees)

    def on_book(self, instrument: Instrument, now_ms: int) -> bool:
        """Take what an instrument's book offers after a message, before anything is traded on it.

        Returns whether its best prices have changed.
        """
        book = self._books.get(instrument)
        if book is None:
            return False
        prices = book.bids.best_price(), book.asks.best_price()
        if prices == self._prices.get(instrument):
            return False
        self._prices[instrument] = prices
        for pair in self._ledger.pairs_of(instrument):
            self._offer(pair, now_ms)
        return True

    def on_execution(self, order: Order, now_ms: int) -> None:
        """Note the spread at which an order was executed."""
        price = float(order.sell_price) - float(order.buy_price)
        if order.action == OPEN_SPREAD:
            pair = Pair(order.buy, order.sell)
            if pair not in self.offered:
                # The first order of a pair is made at what is offered then.
                self.offered[pair] = Offered(now_ms)
                self.offered[pair].set(price, now_ms)
            self.offered[pair].entries.add(now_ms, price)
        else:
            self.offered[Pair(order.sell, order.buy)].exits.add(now_ms, -price)

    def mark(self, instrument: Instrument, now_ms: int) -> None:
        """Value the pairs of an instrument anew, after the orders that its last message gave reason for."""
        pairs = self._ledger.pairs_of(instrument)
        if not pairs:
            return
        for pair in pairs:
            self._mark(pair)
        total = self.total
        self.drawdown.add(now_ms, total)
        self.total_series.add(now_ms, float(total))
        self.closed_series.add(now_ms, float(self._ledger.closed_pnl))

    def _offer(self, pair: Pair, now_ms: int) -> None:
        bid, ask = self._prices[pair.short][0], self._prices[pair.long][1]
        offered = self.offered.get(pair)
        if offered is not None and bid is not None and ask is not None:
            offered.set(float(bid) - float(ask), now_ms)

    def _mark(self, pair: Pair) -> None:
        long, short = self._books.get(pair.long), self._books.get(pair.short)
        if long is None or short is None:
            return
        bid, ask = long.bids.best_price(), short.asks.best_price()
        if bid is not None and ask is not None:
            self._differences[pair] = EXACT.subtract(bid, ask)
        difference = self._differences.get(pair)
        if difference is None:
            return
        value = EXACT.multiply(self._ledger.holdings[pair].quantity, difference)
        self.exits = EXACT.add(self.exits, EXACT.subtract(value, self._exits.get(pair, ZERO)))
        self._exits[pair] = value
