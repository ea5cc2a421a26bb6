"""The trading of one matching group: its waiting messages and its order in flight."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
from pika.spec import BasicProperties

from blackbird.market.book_message import BookMessage
from blackbird.trading.signal import OrderScan
from blackbird.trading.spreads import Pair


class PendingUpdate(msgspec.Struct, gc=False):
    """A book message that waits to be worked off."""

    delivery_tag: int
    message: BookMessage
    received_ms: int
    body: bytes
    properties: BasicProperties


class GroupLane:
    """The trading of one matching group: while its order is out, the group's messages wait here.

    `look` is the look that the order came from, None while none is out; `late` says that the answer takes
    long.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.inbox: deque[PendingUpdate] = deque()
        self.look: OrderScan | None = None
        self.late = False
        self.late_timer: asyncio.TimerHandle | None = None
        # What an instrument that came from another group gives reason to look at.
        self.moved_in: list[Pair] = []

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is out and nothing waits."""
        return self.look is None and not self.inbox and not self.moved_in
