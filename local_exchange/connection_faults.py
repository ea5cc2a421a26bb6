"""Faults of connections and subscriptions, on demand."""

from __future__ import annotations

from typing import Literal

from local_exchange.fault_rules import FaultError, Rule, check_choice, check_numbers
from local_exchange.fault_switches import FaultSwitches
from local_exchange.public_requests import FIRST, First

# RFC 6455, section 7.4: codes that may stand in a close frame.
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


class ConnectionFaults(FaultSwitches):
    """Faults of what connects and subscribes."""

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
        check_choice("how", how, ("close", "fin", "rst"))
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
        rule = Rule("refuse_tcp")
        self._rules.add(rule, seconds=seconds)
        await self._exchange.stop_listening()
        self._exchange.background(self._listen_after(rule))
        return 1

    async def _listen_after(self, rule: Rule) -> None:
        await rule.ended.wait()
        if not self._rules.has("refuse_tcp"):
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
        return self._stand("refuse_handshake", channel, None, seconds, count, status=status)

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
        return self._stand("refuse_subscription", channel, symbol, seconds, count, text=text)

    async def slow_ack(
        self,
        *,
        channel: str | None = None,
        symbol: str | None = None,
        delay: float | None = None,
        only_ack: bool = False,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Answer subscribes after `delay` seconds, or never where it is left out.

        With `only_ack` the snapshot and the pushes after it come without delay, and only the acknowledgement
        is late.
        """
        check_numbers(delay=delay)
        return self._stand("slow_ack", channel, symbol, seconds, count, delay=delay, only_ack=only_ack)

    async def answer_order(
        self,
        *,
        first: First,
        channel: str | None = None,
        symbol: str | None = None,
        seconds: float | None = None,
        count: int | None = None,
    ) -> int:
        """Answer subscribes with the acknowledgement (`ack`) or with the snapshot (`snapshot`) first."""
        check_choice("first", first, FIRST)
        return self._stand("answer_order", channel, symbol, seconds, count, first=first)
