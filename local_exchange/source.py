"""What a source of market data is to the exchange: instruments, and pushes that fall due."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from local_exchange.instrument import DEPTHS, Feed, Instrument, Subscription, now_ms

if TYPE_CHECKING:
    from collections.abc import Callable

# Pushes made in one go before the event loop gets its turn.
BATCH = 64


class Source(ABC):
    """A market: what is traded, and a player that makes the pushes when they are due."""

    # Whether pushes fall due at times; where not, the source gives as much as the sockets take.
    timed = True
    # Whether the messages go out exactly as recorded.
    verbatim = False
    # How often it has begun again from its first push.
    rounds = 0

    def __init__(self) -> None:
        self.instruments: dict[tuple[str, str], Instrument] = {}

    @abstractmethod
    def play(self, now: float) -> float | None:
        """Make pushes that are due at `now` (seconds of a steady clock), `BATCH` at most.

        Returns:
            Seconds until the next is due (0: there is more at once), None when all is played.
        """

    @abstractmethod
    def set_rate(self, rate: float) -> None:
        """Change the rate or the speed."""

    def depths(self, instrument: Instrument) -> tuple[int, ...]:
        """Return the depths served for an instrument."""
        return DEPTHS[instrument.channel]

    def feed(self, channel: str, topic: str) -> Feed | None:
        """Return the feed of a topic, None where the topic is not served."""
        instrument, depth = self._parse(channel, topic)
        if instrument is None or depth not in self.depths(instrument):
            return None
        return instrument.feed(depth)

    def takes_silently(self, channel: str, topic: str) -> bool:
        """Return whether a topic that is not served is accepted all the same, and nothing comes of it.

        So it is on Bybit's option channel with a depth that it does not serve.
        """
        return channel == "option" and self._parse(channel, topic)[0] is not None

    def _parse(self, channel: str, topic: str) -> tuple[Instrument | None, int]:
        """Return instrument and depth of a topic, no instrument where it is not a topic of one."""
        kind, _, rest = topic.partition(".")
        depth, _, symbol = rest.partition(".")
        if kind != "orderbook" or not depth.isdecimal() or str(int(depth)) != depth:
            return None, 0
        return self.instruments.get((channel, symbol)), int(depth)

    def subscribe(self, feed: Feed, socket: int, write: Callable[[bytes], None]) -> Subscription:
        """Add a socket to a topic; its first push is to be sent by `open`."""
        if not feed.subscriptions:
            # While it had no sockets, updates may have been missed that no `u` was spent on.
            self.renew(feed)
            feed.begun = False
        subscription = Subscription(feed, socket, write)
        feed.subscriptions[socket] = subscription
        feed.rewire()
        self.follow(feed.instrument)
        return subscription

    def open(self, subscription: Subscription) -> None:
        """Send the book as it is now, if there is one yet."""
        subscription.feed.send_snapshot_to(subscription, self.stamp())

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a socket off its topic."""
        feed = subscription.feed
        feed.subscriptions.pop(subscription.socket, None)
        feed.rewire()
        self.follow(feed.instrument)

    def renew(self, feed: Feed) -> None:
        """Give a topic that had no sockets the next update id."""
        feed.u += 1

    def follow(self, instrument: Instrument) -> None:
        """Take up a change in the set of topics that have sockets."""
        instrument.follow(instrument.used_feeds())

    @abstractmethod
    def trade(self, instrument: Instrument, *, bid: bool, left: dict[float, str]) -> None:
        """Take away what was traded.

        Args:
            instrument: whose book was traded on.
            bid: the side whose levels were taken.
            left: by place, the size that a level has left as it is written, "" where it is gone.
        """

    def repeat(self, feed: Feed) -> None:
        """Push the last update of a quiet topic again."""
        feed.repeat(self.stamp())

    def stamp(self) -> int:
        """Return the `ts` of a push that is made now."""
        return now_ms()
