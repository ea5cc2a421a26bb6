"""What the fault switches of the public side have in common: which sockets, topics and feeds are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_exchange.fault_rules import FaultError, FaultRules, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_exchange.client_socket import Socket
    from local_exchange.instrument import Feed, Subscription
    from local_exchange.server import LocalExchange


class FaultSwitches:
    """The exchange, its standing faults, and the narrowing by `channel`, `symbol` and `socket`."""

    def __init__(self, exchange: LocalExchange, rules: FaultRules) -> None:
        self._exchange = exchange
        self._rules = rules

    def _stand(
        self,
        name: str,
        channel: str | None,
        symbol: str | None,
        seconds: float | None,
        count: int | None,
        **given: Any,
    ) -> int:
        self._rules.add(Rule(name, channel, symbol, given=given), seconds=seconds, count=count)
        return 1

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
        """Return the topics with sockets and a book.

        Raises:
            FaultError: the pushes are those of a recording, as they are.
        """
        if self._exchange.source.verbatim:
            raise FaultError("expected a source with fresh numbers, was a verbatim replay")
        feeds = {s.feed: None for s in self._subscriptions(channel, symbol, None)}
        return [feed for feed in feeds if feed.instrument.window(1) != ("", "")]
