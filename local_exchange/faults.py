"""The fault switchboard: everything that goes wrong with a real exchange, on demand.

Every fault is a coroutine method with keyword arguments only, and returns how many sockets, topics
or rules it touched; the control endpoint offers the same names. The common arguments narrow it:
`channel` and `symbol` (all where left out), `socket` (the number of one connection).
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_exchange.client_socket import Socket
    from local_exchange.instrument import Feed, Subscription
    from local_exchange.server import LocalExchange

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


# RFC 6455, section 7.4: codes that may stand in a close frame.
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


class FaultError(ValueError):
    """A fault that can't be had; the text says why."""


@dataclass
class Rule:
    """A fault that stands: it meets whoever comes, until its time or its count is over."""

    name: str
    channel: str | None = None
    symbol: str | None = None
    until: float = math.inf
    left: float = math.inf
    value: str | float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def describe(self) -> dict[str, str | float | None]:
        """Show the rule the way the control endpoint lists it."""
        return {
            "fault": self.name,
            "channel": self.channel,
            "symbol": self.symbol,
            "seconds_left": None if math.isinf(self.until) else self.until - time.monotonic(),
            "count_left": None if math.isinf(self.left) else self.left,
            "value": self.value,
        }


def _check_numbers(**numbers: object) -> None:
    """Refuse what JSON may have brought in the place of a number."""
    for name, number in numbers.items():
        if number is not None and not (isinstance(number, int | float) and number >= 0):
            raise FaultError(f"expected {name} to be a number of at least 0, was {number!r}")


class Faults:
    """The switches of one exchange."""

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        self._rules: list[Rule] = []

    def standing(self) -> list[Rule]:
        """Faults that stand now."""
        return [rule for rule in self._rules if rule.left > 0]

    def meet(self, name: str, channel: str, symbol: str | None = None) -> Rule | None:
        """Return the standing fault that meets this channel and symbol, and count it."""
        for rule in self.standing():
            if rule.name != name or rule.channel not in {None, channel}:
                continue
            if rule.symbol not in {None, symbol}:
                continue
            rule.left -= 1
            return rule
        return None

    def _stand(
        self,
        name: str,
        channel: str | None,
        symbol: str | None,
        seconds: float | None,
        count: int | None,
        value: str | float | None = None,
    ) -> int:
        _check_numbers(seconds=seconds, count=count)
        rule = Rule(name, channel, symbol, value=value)
        if seconds is not None:
            rule.until = time.monotonic() + seconds
            asyncio.get_running_loop().call_later(seconds, self._end, rule)
        if count is not None:
            rule.left = count
        self._rules.append(rule)
        return 1

    def _end(self, rule: Rule) -> None:
        if rule in self._rules:
            self._rules.remove(rule)
        rule.ended.set()

    def _sockets(self, channel: str | None, symbol: str | None, socket: int | None) -> Iterator[Socket]:
        for one in list(self._exchange.sockets.values()):
            if channel not in {None, one.channel} or socket not in {None, one.number}:
                continue
            symbols = {s.feed.instrument.symbol for s in one.subscriptions.values()}
            if symbol is None or symbol in symbols:
                yield one

    def _subscriptions(
        self, channel: str | None, symbol: str | None, socket: int | None
    ) -> Iterator[Subscription]:
        for one in self._sockets(channel, symbol, socket):
            for subscription in list(one.subscriptions.values()):
                if symbol in {None, subscription.feed.instrument.symbol}:
                    yield subscription

    def _feeds(self, channel: str | None, symbol: str | None) -> list[Feed]:
        """Topics with sockets and a book."""
        if self._exchange.source.verbatim:
            raise FaultError("expected a source with fresh numbers, was a verbatim replay")
        feeds = {s.feed: None for s in self._subscriptions(channel, symbol, None)}
        return [feed for feed in feeds if feed.instrument.window(1) != ("", "")]

    # Connections.

    async def drop(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        socket: int | None = None,
        how: Literal["close", "fin", "rst"] = "close",
        code: int = 1001,
        reason: str = "",
    ) -> int:
        """Drop connections: with a close frame, by TCP FIN alone, or by TCP RST."""
        if how not in {"close", "fin", "rst"}:
            raise FaultError(f"expected how to be close, fin or rst, was {how}")
        if code not in CLOSE_CODES:
            raise FaultError(f"expected a close code that may be sent, was {code}")
        sockets = list(self._sockets(channel, symbol, socket))
        for one in sockets:
            if how == "close":
                one.end()
                self._exchange.background(one.close(code, reason))
            elif how == "fin":
                one.finish()
            else:
                one.reset()
        return len(sockets)

    async def refuse_tcp(self, *, seconds: float | None = None) -> int:
        """Refuse new TCP connections on the WebSocket port; what is connected stays."""
        _check_numbers(seconds=seconds)
        await self._exchange.stop_listening()
        rule = Rule("refuse_tcp", until=math.inf if seconds is None else time.monotonic() + seconds)
        self._rules.append(rule)
        if seconds is not None:
            self._exchange.background(self._listen_after(rule, seconds))
        return 1

    async def _listen_after(self, rule: Rule, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._end(rule)
        if not any(other.name == "refuse_tcp" for other in self._rules):
            await self._exchange.start_listening()

    async def refuse_handshake(
        self,
        *,
        channel: str | None = None,
        status: int = 503,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Answer new connections with an HTTP error instead of 101."""
        if status not in range(300, 600):
            raise FaultError(f"expected an HTTP status of 300 to 599, was {status}")
        return self._stand("refuse_handshake", channel, None, seconds, count, status)

    async def hang_handshake(
        self,
        *,
        channel: str | None = None,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Accept new TCP connections and never answer the handshake (until the fault ends)."""
        return self._stand("hang_handshake", channel, None, seconds, count)

    async def no_pong(
        self, *, channel: str | None = None, socket: int | None = None, new: bool = False
    ) -> int:
        """Answer no protocol PING; with `new` also on connections still to come."""
        if new:
            self._stand("no_pong", channel, None, None, None)
        sockets = list(self._sockets(channel, None, socket))
        for one in sockets:
            one.no_pong = True
        return len(sockets)

    async def no_close_answer(
        self, *, channel: str | None = None, socket: int | None = None, new: bool = False
    ) -> int:
        """Answer no close frame; with `new` also on connections still to come."""
        if new:
            self._stand("no_close_answer", channel, None, None, None)
        sockets = list(self._sockets(channel, None, socket))
        for one in sockets:
            one.no_close_answer = True
        return len(sockets)

    # Subscriptions.

    async def refuse_subscription(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        text: str | None = None,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Refuse subscribes, with the text given or that of an unknown topic."""
        return self._stand("refuse_subscription", channel, symbol, seconds, count, text)

    async def slow_ack(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        delay: float | None = None,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Answer subscribes after `delay` seconds, or never where it is left out."""
        _check_numbers(delay=delay)
        return self._stand("slow_ack", channel, symbol, seconds, count, delay)

    # Pushes.

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
        _check_numbers(seconds=seconds)
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
        _check_numbers(count=count)
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
        """Push a snapshot that nobody asked for."""
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
        """Push a removal of a level that no client holds (not on depth 1)."""
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
        """Send one frame that is no message.

        Kinds: text, list, number, null, empty, object, cut, nan; `huge` (valid JSON of `size`
        bytes), `binary` (a binary frame).
        """
        _check_numbers(size=size)
        if kind not in {*GARBAGE, "huge", "binary"}:
            raise FaultError(f"expected kind to be huge, binary or of {list(GARBAGE)}, was {kind}")
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

    async def clear(self) -> int:
        """End every fault that stands, and every silence."""
        # Those whose count is used up may still have a handshake hanging.
        rules = list(self._rules)
        for rule in rules:
            self._end(rule)
        sockets = list(self._exchange.sockets.values())
        self._set_silent(list(self._subscriptions(None, None, None)), sockets, silent=False)
        for one in sockets:
            one.no_pong = one.no_close_answer = False
        if any(rule.name == "refuse_tcp" for rule in rules):
            await self._exchange.start_listening()
        return len(rules)
