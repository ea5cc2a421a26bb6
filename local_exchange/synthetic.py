"""A seeded synthetic market whose pairs cross and uncross.

Each base (BTC, ETH, T003, T004, ...) has a fair price that walks at random. The spot leg follows
it; the perpetual follows it plus a premium that swings from below to above, so that spreads open
in both directions and close with a profit. Prices are counted in steps of a few ticks.
"""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.instrument import Instrument, now_ms
from local_exchange.source import BATCH, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from local_exchange.instrument import Feed

# Swing of the premium, in steps, and how many pushes of a base one swing there and back takes.
PREMIUM_STEPS = 4
PREMIUM_PERIOD = 400
# Without crossing, the fair price stays this near to its start, and the spread is wider than that.
CALM_STEPS = 5
# Farther behind than this, the market goes on from now instead of catching up.
LATENESS = 1.0
# How often a market without sockets is looked at again, in seconds.
IDLE = 0.02
SIZES = 997


class _Base:
    """What the legs of one base share."""

    def __init__(self, name: str, price: str, tick: str, size: str) -> None:
        self.name = name
        self.tick = Decimal(tick)
        # Five ticks a step keep a move of the price a change of few levels.
        self.step = self.tick * 5
        self.start = int(Decimal(price) / self.step)
        self.fair = self.start
        self.pushes = 0
        self.period = -1
        self.swings = True
        self.size = float(size)

    def walk(self, rng: random.Random, *, crossing: bool, swings: float, with_premium: bool) -> int:
        """Move the fair price, and return where a leg should be: see `SyntheticMarket`."""
        self.pushes += 1
        draw = rng.random()
        if draw < 0.1:
            self.fair += 1 if draw < 0.05 else -1
        if not crossing:
            self.fair = min(max(self.fair, self.start - CALM_STEPS), self.start + CALM_STEPS)
            return self.fair
        if not with_premium:
            return self.fair
        if swings < 1 and self.pushes // PREMIUM_PERIOD != self.period:
            self.period = self.pushes // PREMIUM_PERIOD
            self.swings = rng.random() < swings
        if not self.swings:
            return self.fair
        swing = math.sin(2 * math.pi * self.pushes / PREMIUM_PERIOD)
        return self.fair + round(PREMIUM_STEPS * swing)


def _base(number: int) -> _Base:
    if number == 1:
        return _Base("BTC", "64000", "0.10", "0.08")
    if number == 2:
        return _Base("ETH", "3200", "0.01", "1.5")
    return _Base(f"T{number:03}", str(100 + 7 * (number % 400)), "0.01", "20")


class _Leg:
    """An instrument of a base: how its numbers are written, and how its book moves.

    The best bid stands `half` steps below the middle, the best ask `half` + 1 above it.
    """

    def __init__(
        self,
        instrument: Instrument,
        base: _Base,
        rng: random.Random,
        *,
        with_premium: bool,
        levels: int,
        half: int,
    ) -> None:
        self.instrument = instrument
        self.base = base
        self.with_premium = with_premium
        self.middle = base.fair
        # Whether levels were traded away that are not there again.
        self.is_thin = False
        self._rng = rng
        self._levels = levels
        self._half = half
        self._prices: dict[int, tuple[float, str]] = {}
        # Linear pads to tick and step, spot does not.
        padded = instrument.channel != "spot"
        self._padded = padded
        decimals = 3 if padded else 6
        texts: list[str] = []
        while len(texts) < SIZES:
            size = f"{base.size * (0.02 + 0.98 * rng.random()):.{decimals}f}"
            texts.append(size if padded else _unpadded(size))
        self._sizes = texts
        for level in range(levels):
            self._put(self.middle - half - level, bid=True)
            self._put(self.middle + 1 + half + level, bid=False)

    def _price(self, step: int) -> tuple[float, str]:
        """Return the price of a step, as a number and as written."""
        price = self._prices.get(step)
        if price is None:
            text = str((step * self.base.step).quantize(self.base.tick))
            price = float(text), text if self._padded else _unpadded(text)
            self._prices[step] = price
        return price

    def _put(self, step: int, *, bid: bool) -> None:
        place, price = self._price(step)
        size = self._sizes[int(self._rng.random() * SIZES)]
        if bid:
            self.instrument.bids.put(-place, price, size)
        else:
            self.instrument.asks.put(place, price, size)

    def _remove(self, step: int, *, bid: bool) -> None:
        if bid:
            self.instrument.bids.remove(-self._price(step)[0])
        else:
            self.instrument.asks.remove(self._price(step)[0])

    def move(self, *, up: bool) -> None:
        """Shift both sides by one step, as far from the old prices as need be."""
        middle = self.middle
        best_bid, best_ask = middle - self._half, middle + 1 + self._half
        worst_bid, worst_ask = best_bid - self._levels + 1, best_ask + self._levels - 1
        if up:
            self._remove(best_ask, bid=False)
            self._put(worst_ask + 1, bid=False)
            self._put(best_bid + 1, bid=True)
            self._remove(worst_bid, bid=True)
            self.middle = middle + 1
        else:
            self._remove(best_bid, bid=True)
            self._put(worst_bid - 1, bid=True)
            self._put(best_ask - 1, bid=False)
            self._remove(worst_ask, bid=False)
            self.middle = middle - 1

    def refill(self) -> None:
        """Put the best missing level of each side back."""
        self.is_thin = False
        for bid in (True, False):
            for depth in range(self._levels):
                step = self.middle + (-self._half - depth if bid else 1 + self._half + depth)
                place = self._price(step)[0]
                side, place = (self.instrument.bids, -place) if bid else (self.instrument.asks, place)
                if place not in side.levels:
                    self._put(step, bid=bid)
                    self.is_thin = True
                    break

    def resize(self, depth: int, *, bid: bool) -> None:
        """Give the level this deep in the book another size; one that was traded away is there again."""
        step = self.middle + (-self._half - depth if bid else 1 + self._half + depth)
        place, price = self._price(step)
        side, place = (self.instrument.bids, -place) if bid else (self.instrument.asks, place)
        level = side.levels.get(place, ("", ""))[1]
        size = self._sizes[int(self._rng.random() * SIZES)]
        while f',"{size}"]' in level:
            size = self._sizes[int(self._rng.random() * SIZES)]
        side.put(place, price, size)


def _unpadded(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


class SyntheticMarket(Source):
    """Pairs of instruments, each pushed `rate` times a second while somebody is subscribed.

    Args:
        pairs: spot/linear pairs: BTCUSDT/BTCPERP, ETHUSDT/ETHPERP, T003USDT/T003PERP, ...
        rate: pushes a second of each instrument that is subscribed; 0: only by `step` and
            `set_book`.
        levels: levels that the book holds on each side.
        changes: levels that change at each push, moves of the price not counted.
        seed: same seed and same order of pushes, same market.
        crossing: whether the legs of a base cross.
        swings: the share of the premium's swings that take place; in the others it stays at zero.
    """

    def __init__(
        self,
        *,
        pairs: int = 2,
        rate: float = 20.0,
        levels: int = 60,
        changes: int = 4,
        seed: int = 1,
        crossing: bool = True,
        swings: float = 1.0,
    ) -> None:
        super().__init__()
        self.rate = rate
        self.levels = levels
        self.changes = changes
        self.crossing = crossing
        self.swings = swings
        self._rng = random.Random(seed)  # noqa: S311 - a market, not a secret
        self._legs: dict[tuple[str, str], _Leg] = {}
        self._walking: list[_Leg] = []
        self._turn = 0
        self._credit = 0.0
        self._last: float | None = None
        for number in range(1, pairs + 1):
            self._add_base(number)
        self._newest = now_ms()

    def _add_base(self, number: int) -> None:
        base = _base(number)
        name = base.name
        self._add_leg("spot", f"{name}USDT", base)
        self._add_leg("linear", f"{name}PERP", base, with_premium=True)
        if number <= 2:
            # The same symbol on two channels is two instruments, as on the real exchange.
            self._add_leg("linear", f"{name}USDT", base)
            self._add_leg("inverse", f"{name}USD", base)
            self._add_leg("option", f"{name}-25DEC26-{base.start * base.step:.0f}-C", base)

    def _add_leg(self, channel: str, symbol: str, base: _Base, *, with_premium: bool = False) -> None:
        instrument = Instrument(channel, symbol)
        half = 0 if self.crossing else CALM_STEPS + 1
        self.instruments[channel, symbol] = instrument
        self._legs[channel, symbol] = _Leg(
            instrument, base, self._rng, with_premium=with_premium, levels=self.levels, half=half
        )

    def _push(self, leg: _Leg, ts: int) -> None:
        """Move a leg one update on, and push it."""
        ts = self._newest = max(self._newest, ts)
        instrument = leg.instrument
        target = leg.base.walk(
            self._rng, crossing=self.crossing, swings=self.swings, with_premium=leg.with_premium
        )
        if target != leg.middle:
            leg.move(up=target > leg.middle)
        if leg.is_thin:
            leg.refill()
        # The best level of one side always changes, so that depth 1 has a push each time.
        rng = self._rng
        leg.resize(0, bid=rng.random() < 0.5)
        deepest = min(max((feed.depth for feed in instrument.following), default=1), self.levels)
        if deepest > 1:
            for _ in range(self.changes - 1):
                bid = rng.random() < 0.5
                # Near the top more often than deep in the book.
                leg.resize(int(rng.random() ** 2 * deepest), bid=bid)
        instrument.seq += 3 + int(rng.random() * 30)
        instrument.cts = max(instrument.cts, ts - 1)
        instrument.push_changes(ts)

    def play(self, now: float) -> float | None:
        """Push the instruments in turn, evenly spread over time."""
        if self._last is None:
            self._last = now
        rate = self.rate * len(self._walking)
        if not rate:
            self._last = now
            return IDLE
        self._credit = min(self._credit + (now - self._last) * rate, LATENESS * rate + 1)
        self._last = now
        ts = now_ms()
        for _ in range(min(int(self._credit), BATCH)):
            self._credit -= 1
            self._turn = (self._turn + 1) % len(self._walking)
            # Late or not, it was made when it was due: that is what tells the order of two streams.
            self._push(self._walking[self._turn], ts - int(self._credit / rate * 1000))
        return max(0.0, (1 - self._credit) / rate)

    def stamp(self) -> int:
        """Return the time of day, but nothing before the newest push: time does not go back."""
        self._newest = max(self._newest, now_ms())
        return self._newest

    def set_rate(self, rate: float) -> None:
        """Change the pushes a second of each instrument."""
        self.rate = rate

    def follow(self, instrument: Instrument) -> None:
        """Walk only what has sockets, and what was traded on."""
        super().follow(instrument)
        self._choose_walking()

    def _choose_walking(self) -> None:
        self._walking = [leg for leg in self._legs.values() if leg.instrument.following or leg.is_thin]

    def step(self, channel: str, symbol: str, count: int = 1) -> None:
        """Make the next pushes of one instrument now.

        Raises:
            KeyError: there is no such instrument.
        """
        for _ in range(count):
            self._push(self._legs[channel, symbol], self.stamp())

    def set_book(
        self, channel: str, symbol: str, bids: Iterable[tuple[str, str]], asks: Iterable[tuple[str, str]]
    ) -> None:
        """Make a book exactly this, push the difference, and walk it no more.

        Args:
            channel: channel of the instrument.
            symbol: symbol, listed anew where it is unknown.
            bids: [price, size] texts, written to the wire as they are.
            asks: likewise.
        """
        self._legs.pop((channel, symbol), None)
        instrument = self.instruments.setdefault((channel, symbol), Instrument(channel, symbol))
        instrument.bids.replace((-float(price), price, size) for price, size in bids)
        instrument.asks.replace((float(price), price, size) for price, size in asks)
        self.follow(instrument)
        self._push_book(instrument)

    def trade(self, instrument: Instrument, *, bid: bool, left: dict[float, str]) -> None:
        """Take away what was traded, and push it; a book that walks fills up again by itself."""
        side = instrument.side(bid=bid)
        for place, size in left.items():
            if size:
                side.put(place, side.levels[place][0], size)
            else:
                side.remove(place)
        leg = self._legs.get((instrument.channel, instrument.symbol))
        if leg is not None:
            leg.is_thin = True
            self._choose_walking()
        self._push_book(instrument)

    def _push_book(self, instrument: Instrument) -> None:
        instrument.seq += 3
        ts = self.stamp()
        instrument.cts = ts
        instrument.push_changes(ts)

    def stream(self, topics: Iterable[tuple[str, str]], pushes: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (channel, message) without a network: a snapshot of each topic, then pushes.

        Args:
            topics: (channel, topic) pairs, as a client would subscribe them.
            pushes: how many times an instrument of these topics is moved on, in turn.

        Raises:
            ValueError: a topic is not served.
        """
        made: list[tuple[str, dict[str, Any]]] = []

        def collect(feed: Feed, payload: bytes, _sockets: list[int]) -> None:
            made.append((feed.instrument.channel, json.loads(payload)))

        subscriptions = []
        for channel, topic in topics:
            feed = self.feed(channel, topic)
            if feed is None:
                raise ValueError(f"expected a topic that is served, was {topic} on {channel}")
            feed.tap = collect
            subscriptions.append(self.subscribe(feed, 0, lambda _frame: None))
            self.open(subscriptions[-1])
        for number in range(pushes):
            yield from made
            made.clear()
            self._push(self._walking[number % len(self._walking)], self.stamp())
        yield from made
        for subscription in subscriptions:
            self.unsubscribe(subscription)
            subscription.feed.tap = None
