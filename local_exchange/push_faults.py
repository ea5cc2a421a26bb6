"""Faults of what is pushed, on demand."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

from local_exchange.fault_rules import FaultError, check_choice, check_numbers
from local_exchange.fault_switches import FaultSwitches

if TYPE_CHECKING:
    from local_exchange.client_socket import Socket
    from local_exchange.instrument import Subscription

GARBAGE = {
    "text": b"this is not JSON",
    "list": b"[1,2,3]",
    "number": b"42",
    "null": b"null",
    "empty": b"",
    "object": b"{}",
    "cut": b'{"topic":"orderbook.50.BTCUSDT","type":"del',
    "nan": b'{"topic":"orderbook.50.BTCUSDT","type":"snapshot","ts":NaN,"data":{},"cts":NaN}',
}


class PushFaults(FaultSwitches):
    """Faults of what open connections get."""

    async def silence(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        socket: int | None = None,
        seconds: float | None = None,
        new: bool = False,
    ) -> int:
        """Withhold all pushes of open connections, which are otherwise alive and well.

        With `new`, subscriptions still to come are silent, too (those open stay so when the
        fault ends).
        """
        check_numbers(seconds=seconds)
        if new:
            self._stand("silence", channel, symbol, seconds, None)
        silenced = list(self._subscriptions(channel, symbol, socket))
        sockets = list(self._sockets(channel, symbol, socket)) if symbol is None else []
        self._set_silent(silenced, sockets, silent=True)
        if seconds is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, lambda: self._set_silent(silenced, sockets, silent=False))
        return len({subscription.socket for subscription in silenced} | {s.number for s in sockets})

    def _set_silent(self, subscriptions: list[Subscription], sockets: list[Socket], *, silent: bool) -> None:
        for one in sockets:
            one.silent = silent
        for subscription in subscriptions:
            subscription.silent = silent
            subscription.feed.rewire()

    async def gap(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        socket: int | None = None,
        count: int = 1,
    ) -> int:
        """Lose the next `count` pushes of each topic, so that `u` has a hole."""
        check_numbers(count=count)
        if count < 1:
            raise FaultError(f"expected count to be at least 1, was {count}")
        subscriptions = list(self._subscriptions(channel, symbol, socket))
        for subscription in subscriptions:
            subscription.skip = count
            subscription.feed.rewire()
        return len(subscriptions)

    async def repeat(self, *, channel: str | None = None, symbol: str | None = None) -> int:
        """Push the last update once more, with the same `u`."""
        feeds = self._feeds(channel, symbol)
        for feed in feeds:
            self._exchange.source.repeat(feed)
        return len(feeds)

    async def snapshot(self, *, channel: str | None = None, symbol: str | None = None) -> int:
        """Push an unsolicited snapshot."""
        feeds = self._feeds(channel, symbol)
        for feed in feeds:
            feed.publish_snapshot(self._exchange.source.stamp())
        return len(feeds)

    async def restart(self, *, channel: str | None = None, symbol: str | None = None) -> int:
        """Push a snapshot with `u` = 1, as after a restart of Bybit's service; `u` goes on from 1."""
        feeds = self._feeds(channel, symbol)
        for feed in feeds:
            feed.u = 0
            feed.publish_snapshot(self._exchange.source.stamp())
        return len(feeds)

    async def cross(self, *, channel: str | None = None, symbol: str | None = None) -> int:
        """Push an update that makes the client's book crossed; the exchange's own book is not.

        Only a snapshot (a new subscription, `snapshot`) heals a delta feed; depth 1 is healed by
        its next push.
        """
        feeds = [f for f in self._feeds(channel, symbol) if f.instrument.asks.places]
        for feed in feeds:
            asks = feed.instrument.asks
            # Where there is a second ask, the bid stands above the best one, not only at it.
            price = asks.levels[asks.places[:2][-1]][0]
            ts = self._exchange.source.stamp()
            if feed.depth == 1:
                feed.publish("snapshot", f'["{price}","1"]', asks.window(1), ts)
            else:
                feed.publish("delta", f'["{price}","1"]', "", ts)
        return len(feeds)

    async def delete_absent(self, *, channel: str | None = None, symbol: str | None = None) -> int:
        """Push a removal of a level that clients do not hold (not on depth 1)."""
        feeds = [f for f in self._feeds(channel, symbol) if f.depth > 1 and f.instrument.asks.places]
        for feed in feeds:
            asks = feed.instrument.asks
            price = Decimal(asks.levels[asks.places[-1]][0]) * 2
            feed.publish("delta", "", f'["{price}","0"]', self._exchange.source.stamp())
        return len(feeds)

    async def garbage(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        socket: int | None = None,
        kind: str = "text",
        size: int = 10_000_000,
    ) -> int:
        """Send one frame that is not a message.

        Kinds: text, list, number, null, empty, object, cut, nan; `huge` (valid JSON of `size`
        bytes), `binary` (a binary frame).
        """
        check_numbers(size=size)
        check_choice("kind", kind, (*GARBAGE, "huge", "binary"))
        payload = GARBAGE.get(kind, b"")
        if kind == "huge":
            payload = b'{"padding":"' + b"x" * max(0, size - 14) + b'"}'
        sockets = list(self._sockets(channel, symbol, socket))
        for one in sockets:
            if kind == "binary":
                one.write_binary(bytes(range(256)))
            else:
                one.reply(payload)
        return len(sockets)

    async def send(
        self,
        *,
        text: str,
        channel: str | None = None,
        symbol: str | None = None,
        socket: int | None = None,
    ) -> int:
        """Send any text as one frame; no `u` is spent on it, no counter counts it."""
        sockets = list(self._sockets(channel, symbol, socket))
        for one in sockets:
            one.reply(text.encode())
        return len(sockets)
