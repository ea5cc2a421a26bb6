"""The fault switchboard: everything that goes wrong with a real exchange, on demand.

Every fault is a coroutine method with keyword arguments only, and returns how many sockets, topics
or rules it touched; the control interface offers the same names. The common arguments narrow it:
`channel` and `symbol` (all where left out), `socket` (the number of one connection).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_exchange.connection_faults import ConnectionFaults
from local_exchange.fault_rules import FaultError, FaultRules, Rule
from local_exchange.push_faults import PushFaults

if TYPE_CHECKING:
    from local_exchange.server import LocalExchange

__all__ = ["FaultError", "Faults"]


class Faults(ConnectionFaults, PushFaults):
    """The switches of the public side of one exchange."""

    def __init__(self, exchange: LocalExchange) -> None:
        super().__init__(exchange, FaultRules())

    def standing(self) -> list[Rule]:
        """Return the faults that stand now."""
        return self._rules.standing()

    def meet(self, name: str, channel: str, symbol: str | None = None) -> Rule | None:
        """Return the standing fault that meets this channel and symbol, and count it."""
        return self._rules.meet(name, channel, symbol)

    async def clear(self) -> int:
        """End every fault that stands, and every silence."""
        rules = self._rules.end_all()
        sockets = list(self._exchange.sockets.values())
        self._set_silent(list(self._subscriptions(None, None, None)), sockets, silent=False)
        for one in sockets:
            one.no_pong = one.no_close_answer = False
        if any(rule.name == "refuse_tcp" for rule in rules):
            await self._exchange.start_listening()
        return len(rules)


# What the control interface offers of them.
NAMES = (
    "drop",
    "refuse_tcp",
    "refuse_handshake",
    "hang_handshake",
    "no_pong",
    "no_close_answer",
    "refuse_subscription",
    "slow_ack",
    "answer_order",
    "silence",
    "gap",
    "repeat",
    "snapshot",
    "restart",
    "cross",
    "delete_absent",
    "garbage",
    "send",
    "clear",
)
