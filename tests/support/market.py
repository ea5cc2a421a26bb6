"""Order-book messages made by hand, and a signal core driven by answers made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec

from blackbird.market.book_message import BookData, BookMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook, Outcome
from blackbird.trading.orders import ACK, NOT_ACK, Order, Reply
from blackbird.trading.pair_checks import Limits
from blackbird.trading.signal import Signal
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair
from tests.support.naive_market import ASKS, BIDS, NaiveBook

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
DATED = Instrument("linear", "BTC-27DEC24")

TextLevels = Iterable[tuple[str, str]]

PLACED = Reply(ACK, "order placed")
REFUSED = Reply(NOT_ACK, "order not placed")
BEYOND_RISK = Reply(NOT_ACK, "risk limit exceed")


def levels_json(levels: TextLevels) -> msgspec.Raw:
    """Return levels as they come in a message."""
    return msgspec.Raw(msgspec.json.encode(list(levels)))


def book_message(
    kind: str,
    u: int,
    bids: TextLevels = (),
    asks: TextLevels = (),
    *,
    instrument: Instrument = SPOT,
    key: str = "a",
    time: int | None = None,
    cts: int | None = None,
    ts: int | None = None,
    seq: int | None = None,
    depth: int = 50,
) -> BookMessage:
    """Return a push; `time` is both clocks of the exchange, `cts` and `seq`, and `u` by default."""
    time = u if time is None else time
    cts = time if cts is None else cts
    seq = time if seq is None else seq
    return BookMessage(
        topic=f"orderbook.{depth}.{instrument.symbol}",
        type="snapshot" if kind == "snapshot" else "delta",
        ts=cts if ts is None else ts,
        data=BookData(instrument.symbol, levels_json(bids), levels_json(asks), u, seq),
        cts=cts,
        channel=instrument.channel,  # type: ignore[arg-type]  # some tests make channels that are none
        matching_key=key,
    )


class Market:
    """A signal core whose clock, books and answers are set by hand. `sent` is every order, in order."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        rules: SpreadRules | None = None,
        order_timeout_ms: int = 2000,
    ) -> None:
        self.now = 1_000_000
        self.signal = Signal(
            clock=lambda: self.now, limits=limits, rules=rules, order_timeout_ms=order_timeout_ms
        )
        self.answer: Callable[[Order], Reply] = lambda _: PLACED
        self.sent: list[Order] = []
        self._updates: dict[Instrument, itertools.count[int]] = {}

    def apply(self, message: BookMessage, received_ms: int | None = None) -> list[Order]:
        """Bring a message, taken from the broker now, and scan; return the orders that this sent."""
        received_ms = self.now if received_ms is None else received_ms
        return self.scan(self.signal.on_book(message, received_ms, self.now))

    def scan(self, pairs: Sequence[Pair]) -> list[Order]:
        """Scan pairs, answering each order; return the orders."""
        sent: list[Order] = []
        scan = self.signal.scan(pairs)
        while (order := scan.order) is not None:
            sent.append(order)
            self.sent.append(order)
            scan.answer(self.answer(order))
        return sent

    def snapshot(
        self, instrument: Instrument, bids: TextLevels = (), asks: TextLevels = (), key: str = "a"
    ) -> list[Order]:
        """Bring the next message of an instrument, a snapshot."""
        return self.apply(
            book_message("snapshot", self._next(instrument), bids, asks, instrument=instrument, key=key)
        )

    def delta(
        self, instrument: Instrument, bids: TextLevels = (), asks: TextLevels = (), key: str = "a"
    ) -> list[Order]:
        """Bring the next message of an instrument, a delta."""
        return self.apply(
            book_message("delta", self._next(instrument), bids, asks, instrument=instrument, key=key)
        )

    def skip_update(self, instrument: Instrument) -> None:
        """Lose the next message of an instrument."""
        self._next(instrument)

    def bids(self, instrument: Instrument) -> dict[Decimal, Decimal]:
        """Return what is left for us of the bids."""
        return self.signal.keeper.books[instrument].bids.available()

    def asks(self, instrument: Instrument) -> dict[Decimal, Decimal]:
        """Return what is left for us of the asks."""
        return self.signal.keeper.books[instrument].asks.available()

    def open_spreads(self) -> list[tuple[Instrument, Instrument, Decimal, Decimal]]:
        """Return (long, short, entry, quantity) of what is open, oldest first."""
        return [(*spread.pair, spread.spread, spread.quantity) for spread in self.signal.spreads]

    def _next(self, instrument: Instrument) -> int:
        return next(self._updates.setdefault(instrument, itertools.count(100)))


def assert_same_book(book: OrderBook, naive: NaiveBook) -> None:
    for side, reported in ((book.bids, naive.reported[BIDS]), (book.asks, naive.reported[ASKS])):
        assert side.reported() == reported
    for side, name in ((book.bids, BIDS), (book.asks, ASKS)):
        assert side.available() == naive.available(name)
        best = None if side.best_price() is None else side.best()
        assert (best and (best.price, best.remaining)) == naive.best(name)
    assert book.in_sync == naive.in_sync
    assert book.cts == naive.cts or not book.in_sync
    assert book.received_ms == naive.received_ms


def decimals(levels: dict[str, str]) -> dict[Decimal, Decimal]:
    """Return {price: size} with exact numbers."""
    return {Decimal(price): Decimal(size) for price, size in levels.items()}


def brief(order: Order) -> tuple[str, str, Decimal, str, Decimal, Decimal]:
    """Return (action, bought symbol, its price, sold symbol, its price, size)."""
    return (
        order.action.split()[0],
        order.buy.symbol,
        order.buy_price,
        order.sell.symbol,
        order.sell_price,
        order.size,
    )


__all__ = [
    "BEYOND_RISK",
    "DATED",
    "PERP",
    "PLACED",
    "REFUSED",
    "SPOT",
    "Market",
    "Outcome",
    "assert_same_book",
    "book_message",
    "brief",
    "decimals",
]
