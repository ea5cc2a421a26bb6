"""An instrument of the stand-in: its book, and one feed for each depth that is asked of it.

The push path is here. While the book changes, each feed in use collects the touched levels inside
its depth window; a push renders them into one ready WebSocket frame for all sockets.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Depths that Bybit serves on each channel.
DEPTHS: dict[str, tuple[int, ...]] = {
    "spot": (1, 50, 200, 1000),
    "linear": (1, 50, 200, 1000),
    "inverse": (1, 50, 200, 1000),
    "option": (25, 100),
}


def text_frame(payload: bytes) -> bytes:
    """Return payload as one unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        return b"\x81" + length.to_bytes(1, "big") + payload
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big") + payload
    return b"\x81\x7f" + length.to_bytes(8, "big") + payload


def now_ms() -> int:
    """Milliseconds since 1970, the unit of `ts` and `cts`."""
    return time.time_ns() // 1_000_000


class Side:
    """One side of a book, best price first.

    A level is known by its place: a number that sorts (the ask's price, minus the bid's price, in
    whatever unit the source counts). The texts are what goes over the wire.
    """

    __slots__ = ("levels", "places", "windows")

    def __init__(self) -> None:
        self.places: list[float] = []
        # By place: the price, and the level as it is written.
        self.levels: dict[float, tuple[str, str]] = {}
        # For each feed in use: its depth, and the places touched since its last push, with the
        # price if the level was in the window then, and "" if it was not.
        self.windows: tuple[tuple[int, dict[float, str]], ...] = ()

    def put(self, place: float, price: str, size: str) -> None:
        """Set the size of a level, inserting it where it is not there."""
        known = place in self.levels
        self.levels[place] = (price, f'["{price}","{size}"]')
        places = self.places
        index = bisect_left(places, place)
        if known:
            for depth, touched in self.windows:
                if index < depth:
                    touched.setdefault(place, price)
            return
        places.insert(index, place)
        for depth, touched in self.windows:
            if index < depth:
                touched.setdefault(place, "")
                if len(places) > depth:
                    pushed_out = places[depth]
                    touched.setdefault(pushed_out, self.levels[pushed_out][0])

    def remove(self, place: float) -> None:
        """Take a level away; one that is not there changes nothing."""
        level = self.levels.pop(place, None)
        if level is None:
            return
        places = self.places
        index = bisect_left(places, place)
        del places[index]
        for depth, touched in self.windows:
            if index < depth:
                touched.setdefault(place, level[0])
                if len(places) >= depth:
                    touched.setdefault(places[depth - 1], "")

    def replace(self, levels: Iterable[tuple[float, str, str]]) -> None:
        """Make the side hold exactly these (place, price, size), touching only what differs."""
        wanted = {place: (price, size) for place, price, size in levels}
        for place in [place for place in self.places if place not in wanted]:
            self.remove(place)
        for place, (price, size) in wanted.items():
            level = self.levels.get(place)
            if level is None or level[1] != f'["{price}","{size}"]':
                self.put(place, price, size)

    def sizes(self) -> Iterator[tuple[float, str, str]]:
        """Return place, price and size of each level, best first."""
        for place in self.places:
            price, level = self.levels[place]
            yield place, price, level[len(price) + 5 : -2]

    def window(self, depth: int) -> str:
        """Render the best levels, without the brackets round the list."""
        levels = self.levels
        return ",".join([levels[place][1] for place in self.places[:depth]])

    def changes(self, depth: int, touched: dict[float, str]) -> str:
        """Render what a client of this depth has to change, and begin to collect anew."""
        places = self.places
        levels = self.levels
        last = places[depth - 1] if len(places) >= depth else None
        rendered = []
        for place, price in touched.items():
            level = levels.get(place)
            if level is not None and (last is None or place <= last):
                rendered.append(level[1])
            elif price:
                rendered.append(f'["{price}","0"]')
        touched.clear()
        return ",".join(rendered)


class Subscription:
    """One topic on one socket."""

    __slots__ = ("feed", "silent", "skip", "socket", "write")

    def __init__(self, feed: Feed, socket: int, write: Callable[[bytes], None]) -> None:
        self.feed = feed
        self.socket = socket
        self.write = write
        # Pushes to withhold before the next one goes out; see the fault `gap`.
        self.skip = 0
        # Withhold all pushes; see the fault `silence`.
        self.silent = False

    @property
    def withheld(self) -> bool:
        """Whether the next push will not be written."""
        return self.silent or self.skip > 0

    def withhold(self, _frame: bytes) -> None:
        """Stand in for `write` while pushes are withheld."""
        self.feed.sent -= 1
        if self.skip > 0:
            self.skip -= 1
            if not self.withheld:
                self.feed.rewire()


class Feed:
    """One topic `orderbook.<depth>.<symbol>` of one channel."""

    def __init__(self, instrument: Instrument, depth: int) -> None:
        self.instrument = instrument
        self.depth = depth
        self.topic = f"orderbook.{depth}.{instrument.symbol}"
        # Rises from one run of the exchange to the next, so that no update id is seen twice.
        self.u = now_ms() // 100 % 1_000_000_000
        # Pushes written to sockets, snapshots and repeats included.
        self.sent = 0
        self.subscriptions: dict[int, Subscription] = {}
        # Called with each payload and the numbers of the sockets that it goes to.
        self.tap: Callable[[Feed, bytes, list[int]], None] | None = None
        self.touched_bids: dict[float, str] = {}
        self.touched_asks: dict[float, str] = {}
        # Whether the sockets have a book that a delta can change.
        self.begun = False
        self.last_payload = b""
        self.last_push = 0.0
        # Of the last push: kind, bids, asks, u, seq, cts.
        self._last = ("snapshot", "", "", 0, 0, 0)
        self._writers: tuple[Callable[[bytes], None], ...] = ()
        # Spot and option name `ts` before `type`, the others after it; option has an `id`, too.
        self._type_first = instrument.channel in {"linear", "inverse"}
        self._with_id = instrument.channel == "option"
        head = '"type":"%s","ts":%d' if self._type_first else '"ts":%d,"type":"%s"'
        if self._with_id:
            head += f',"id":"{self.topic}-%d-%d"'
        self._template = (
            f'{{"topic":"{self.topic}",{head},"data":{{"s":"{instrument.symbol}",'
            '"b":[%s],"a":[%s],"u":%d,"seq":%d},"cts":%d}'
        )

    def rewire(self) -> None:
        """Take up a change of the subscriptions or of what is withheld from them."""
        self._writers = tuple(
            subscription.withhold if subscription.withheld else subscription.write
            for subscription in self.subscriptions.values()
        )

    def render(self, kind: str, bids: str, asks: str, u: int, seq: int, cts: int, ts: int) -> bytes:
        """Return a push."""
        if self._type_first:
            return (self._template % (kind, ts, bids, asks, u, seq, cts)).encode()
        if self._with_id:
            return (self._template % (ts, kind, seq, ts, bids, asks, u, seq, cts)).encode()
        return (self._template % (ts, kind, bids, asks, u, seq, cts)).encode()

    def publish(self, kind: str, bids: str, asks: str, ts: int) -> None:
        """Push the next update, with `seq` and `cts` of the instrument."""
        self.u += 1
        instrument = self.instrument
        self._last = (kind, bids, asks, self.u, instrument.seq, instrument.cts)
        self.send(self.render(*self._last, ts))

    def send(self, payload: bytes) -> None:
        """Write a payload to all sockets of the topic."""
        if self.tap is not None:
            self.tap(self, payload, [s.socket for s in self.subscriptions.values() if not s.withheld])
        frame = text_frame(payload)
        self.last_payload = payload
        self.last_push = time.monotonic()
        self.sent += len(self._writers)
        for write in self._writers:
            write(frame)

    def repeat(self, ts: int) -> None:
        """Push the last update again: same content, `u`, `seq` and `cts`, a new `ts`."""
        self.send(self.render(*self._last, ts))

    def push_changes(self, ts: int) -> None:
        """Push what changed since the last push, if anything did inside the window."""
        if not self.touched_bids and not self.touched_asks:
            return
        instrument = self.instrument
        bids = instrument.bids.changes(self.depth, self.touched_bids)
        asks = instrument.asks.changes(self.depth, self.touched_asks)
        if self.depth == 1 or not self.begun:
            self.begun = True
            self.publish_snapshot(ts)
        elif bids or asks:
            self.publish("delta", bids, asks, ts)

    def publish_snapshot(self, ts: int) -> None:
        """Push the whole window."""
        bids, asks = self.instrument.window(self.depth)
        self.publish("snapshot", bids, asks, ts)

    def send_snapshot_to(self, subscription: Subscription, ts: int) -> None:
        """Write the window as it is now to one socket; the others have it already.

        An empty book has `u` 0, as captured on Bybit; the next push is a snapshot then.
        """
        instrument = self.instrument
        bids, asks = instrument.window(self.depth)
        self.begun = bool(bids or asks)
        if subscription.withheld:
            return
        snapshot = ("snapshot", bids, asks, self.u if self.begun else 0, instrument.seq, instrument.cts)
        payload = self.render(*snapshot, ts)
        if len(self.subscriptions) == 1:
            self._last = snapshot
            self.last_payload = payload
            self.last_push = time.monotonic()
        if self.tap is not None:
            self.tap(self, payload, [subscription.socket])
        self.sent += 1
        subscription.write(text_frame(payload))


class Instrument:
    """A (channel, symbol) with its book and its feeds."""

    def __init__(self, channel: str, symbol: str) -> None:
        self.channel = channel
        self.symbol = symbol
        self.bids = Side()
        self.asks = Side()
        self.seq = now_ms()
        self.cts = now_ms()
        self.feeds: dict[int, Feed] = {}
        # Feeds with sockets whose pushes come from changes of the book.
        self.following: tuple[Feed, ...] = ()

    def feed(self, depth: int) -> Feed:
        """Return the feed of a depth, made on first use."""
        if depth not in self.feeds:
            self.feeds[depth] = Feed(self, depth)
        return self.feeds[depth]

    def side(self, *, bid: bool) -> Side:
        """Return one side of the book, as it is now."""
        return self.bids if bid else self.asks

    def window(self, depth: int) -> tuple[str, str]:
        """Render the best bids and asks."""
        return self.bids.window(depth), self.asks.window(depth)

    def follow(self, feeds: Iterable[Feed]) -> None:
        """Let exactly these feeds collect changes of the book from now on."""
        self.following = tuple(feeds)
        for feed in self.feeds.values():
            if feed not in self.following:
                feed.touched_bids.clear()
                feed.touched_asks.clear()
        self.bids.windows = tuple((feed.depth, feed.touched_bids) for feed in self.following)
        self.asks.windows = tuple((feed.depth, feed.touched_asks) for feed in self.following)

    def push_changes(self, ts: int) -> None:
        """Push what changed since the last push on every feed that follows the book."""
        for feed in self.following:
            feed.push_changes(ts)

    def used_feeds(self) -> Iterator[Feed]:
        """Feeds with at least one socket."""
        return (feed for feed in self.feeds.values() if feed.subscriptions)
