"""Open spreads, as the trading engine accounts for them and the signal engine closes them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import CLOSE_SPREAD, Executed, OpenSpread, Order


def new_id() -> str:
    """Return an id that no other order or spread has."""
    return uuid.uuid4().hex


class Pair(NamedTuple):
    """Two instruments of a group in the order of a trade: buy `long`, sell `short`."""

    long: Instrument
    short: Instrument

    def __str__(self) -> str:
        return f"long {self.long} short {self.short}"


def pair_of(order: Order) -> Pair:
    """Return the pair that an order opens or closes."""
    if order.action == CLOSE_SPREAD:
        return Pair(long=order.sell, short=order.buy)
    return Pair(long=order.buy, short=order.sell)


class Spread:
    """An open spread: `spread` is bid(short) - ask(long) at entry, `quantity` what is left of `opened`.

    `long_price` is ask(long) at entry, None where it is not known; `opened_ms` is when it was opened, in
    milliseconds since 1970, 0 where that is not known.
    """

    __slots__ = ("long_price", "opened", "opened_ms", "pair", "quantity", "serial", "spread", "spread_id")

    def __init__(
        self,
        spread_id: str,
        pair: Pair,
        spread: Decimal,
        quantity: Decimal,
        long_price: Decimal | None = None,
        opened_ms: int = 0,
    ) -> None:
        self.spread_id = spread_id
        self.pair = pair
        self.spread = spread
        self.quantity = quantity
        self.long_price = long_price
        self.opened = quantity
        self.opened_ms = opened_ms
        self.serial = 0  # the order of opening, set by OpenSpreads

    @classmethod
    def opened_by(cls, order: Order, executed: Executed, opened_ms: int = 0) -> Spread:
        """Return the spread that an Open order has opened."""
        bought_at = executed.buy_price
        entry = EXACT.subtract(executed.sell_price, bought_at)
        pair = Pair(order.buy, order.sell)
        return cls(order.spread_id or new_id(), pair, entry, executed.size, bought_at, opened_ms)

    @classmethod
    def listed_as(cls, listed: OpenSpread) -> Spread:
        """Return the spread that an engine lists."""
        pair = Pair(listed.long, listed.short)
        return cls(listed.spread_id, pair, listed.spread, listed.quantity, listed.long_price)

    @property
    def short_price(self) -> Decimal | None:
        """bid(short) at entry, None where it is not known."""
        return None if self.long_price is None else EXACT.add(self.long_price, self.spread)


class Holding:
    """What is open of a pair: its spreads, their `quantity`, and what they were opened for (`credit`)."""

    __slots__ = ("credit", "quantity", "spreads")

    def __init__(self) -> None:
        self.spreads: dict[str, Spread] = {}
        self.quantity = ZERO
        self.credit = ZERO

    def add(self, spread: Decimal, size: Decimal) -> None:
        """Count so much opened at this spread; a negative size was closed."""
        self.quantity = EXACT.add(self.quantity, size)
        self.credit = EXACT.add(self.credit, EXACT.multiply(spread, size))


class OpenSpreads:
    """All open spreads in the order in which they were opened, and those of each pair and instrument."""

    def __init__(self) -> None:
        self._spreads: dict[str, Spread] = {}
        self.holdings: dict[Pair, Holding] = {}
        self._pairs_of: dict[Instrument, dict[Pair, None]] = {}
        self._widest: dict[Pair, Decimal] = {}
        self._serial = 0

    def __iter__(self) -> Iterator[Spread]:
        return iter(self._spreads.values())

    @classmethod
    def of(cls, listed: Iterable[OpenSpread]) -> OpenSpreads:
        """Return the spreads of an engine's answer, oldest first."""
        spreads = cls()
        for spread in listed:
            spreads.add(Spread.listed_as(spread))
        return spreads

    def replaced(self, listed: Iterable[OpenSpread], is_replaced: Callable[[Pair], bool]) -> OpenSpreads:
        """Return these spreads with those of some pairs taken from an engine's answer instead."""
        spreads = OpenSpreads()
        for kept in self:
            if not is_replaced(kept.pair):
                spreads.add(kept)
        for spread in map(Spread.listed_as, listed):
            if is_replaced(spread.pair):
                spreads.add(spread)
        return spreads

    def listed(self) -> list[OpenSpread]:
        """Return the spreads as the engine's answer lists them, oldest first."""
        return [
            OpenSpread(
                spread.spread_id,
                *spread.pair,
                spread.spread,
                spread.quantity,
                spread.long_price,
                spread.short_price,
            )
            for spread in self._spreads.values()
        ]

    def __len__(self) -> int:
        return len(self._spreads)

    def get(self, spread_id: str) -> Spread | None:
        """Return the open spread with this id."""
        return self._spreads.get(spread_id)

    def add(self, spread: Spread) -> None:
        """Add a spread that was just opened."""
        self._serial += 1
        spread.serial = self._serial
        self._spreads[spread.spread_id] = spread
        holding = self.holdings.get(spread.pair)
        if holding is None:
            holding = self.holdings[spread.pair] = Holding()
            for leg in spread.pair:
                self._pairs_of.setdefault(leg, {})[spread.pair] = None
        holding.spreads[spread.spread_id] = spread
        holding.add(spread.spread, spread.quantity)
        self._widest[spread.pair] = max(spread.spread, self._widest.get(spread.pair, spread.spread))

    def reduce(self, spread: Spread, size: Decimal) -> None:
        """Take `size` from a spread; one of which nothing is left is gone."""
        spread.quantity = EXACT.subtract(spread.quantity, size)
        # Exact: a unary minus would round to the 28 digits of the default context.
        self.holdings[spread.pair].add(spread.spread, size.copy_negate())
        if not spread.quantity:
            self._remove(spread)

    def _remove(self, spread: Spread) -> None:
        del self._spreads[spread.spread_id]
        of_pair = self.holdings[spread.pair].spreads
        del of_pair[spread.spread_id]
        if not of_pair:
            del self.holdings[spread.pair], self._widest[spread.pair]
            for leg in spread.pair:
                del self._pairs_of[leg][spread.pair]
        elif spread.spread == self._widest[spread.pair]:
            self._widest[spread.pair] = max(other.spread for other in of_pair.values())

    def widest(self, pair: Pair) -> Decimal | None:
        """Return the largest entry spread of `pair`, None where it has none open."""
        return self._widest.get(pair)

    def pairs_of(self, instrument: Instrument) -> Iterable[Pair]:
        """Return the pairs of `instrument` that have spreads open."""
        return self._pairs_of.get(instrument, ())

    def of_pairs(self, pairs: Sequence[Pair]) -> list[Spread]:
        """Return the spreads of `pairs`, oldest first."""
        holdings = [self.holdings[pair] for pair in pairs if pair in self.holdings]
        spreads = [spread for holding in holdings for spread in holding.spreads.values()]
        spreads.sort(key=lambda spread: spread.serial)
        return spreads
