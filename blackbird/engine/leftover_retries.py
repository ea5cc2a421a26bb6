"""Tries again and again to trade away what trades have left over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from blackbird.engine.state import EngineState
from blackbird.trading.leftovers import LeftoverKey
from blackbird.trading.records import Leftover

RETRY_SECONDS = 60.0
CHECK_SECONDS = 1.0


class LeftoverDesk(Protocol):
    """The part of TradeDesk that trades leftovers away."""

    def trade_away(self, leftover: Leftover) -> None:
        """Try to trade a leftover away."""


class LeftoverRetries:
    """Has each open leftover tried once in `seconds`, the first time so long after it was left over."""

    def __init__(
        self,
        state: EngineState,
        desk: LeftoverDesk,
        clock: Callable[[], int],
        seconds: float = RETRY_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._state = state
        self._desk = desk
        self._clock = clock
        self._pause_ms = round(seconds * 1000)
        self._check_seconds = check_seconds
        self._tried_at: dict[LeftoverKey, int] = {}

    async def run(self) -> None:
        """Try what is due, until cancelled."""
        while True:
            await asyncio.sleep(self._check_seconds)
            if self._state.engine is not None:
                self.try_due(self._state.engine.leftovers.open)

    def try_due(self, leftovers: dict[LeftoverKey, Leftover]) -> None:
        """Try those of which the pause is over."""
        now = self._clock()
        self._tried_at = {key: at for key, at in self._tried_at.items() if key in leftovers}
        for key, leftover in list(leftovers.items()):
            if now >= self._tried_at.get(key, leftover.since) + self._pause_ms:
                self._tried_at[key] = now
                self._desk.trade_away(leftover)
