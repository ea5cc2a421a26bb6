"""Hands the newest page to those who look at it, made once however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple, Protocol

from blackbird.monitor.sources import Sources

INTERVAL_SECONDS = 0.4
# A chart of a point per second needs no more.
TURNS_PER_CHART = 3


class Renderer(Protocol):
    """Makes the messages (Page)."""

    def snapshot(self, sources: Sources, key: str, now_ms: int) -> str:
        """Return what the page shows now."""

    def charts(self, sources: Sources, key: str) -> str:
        """Return the arrays of the charts."""


class _Made(NamedTuple):
    turn: int
    text: str


class PageFeed:
    """Follows a clock of its own; who cannot keep up is given the newest, and misses what was before."""

    def __init__(self, page: Renderer, sources: Callable[[], Sources], clock: Callable[[], int]) -> None:
        self.viewers = 0
        self._page = page
        self._sources = sources
        self._clock = clock
        self._turn = 0
        self._turned = asyncio.Condition()
        self._made: dict[tuple[str, str], _Made] = {}

    async def run(self) -> None:
        """Have the page made anew at each turn, until cancelled; nothing is made that nobody looks at."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            async with self._turned:
                self._turn += 1
                if not self.viewers:
                    self._made.clear()
                self._turned.notify_all()

    async def follow(self, key: str) -> AsyncIterator[tuple[str, str]]:
        """Yield the page with pair `key` as (event, data), now and at each turn; charts at each third."""
        seen = charted = -TURNS_PER_CHART
        self.viewers += 1
        try:
            while True:
                seen = self._turn
                yield "snapshot", self._make("snapshot", key)
                if seen - charted >= TURNS_PER_CHART:
                    charted = seen
                    yield "charts", self._make("charts", key)
                async with self._turned:
                    await self._turned.wait_for(partial(self._is_past, seen))
        finally:
            self.viewers -= 1

    def _is_past(self, turn: int) -> bool:
        return self._turn != turn

    def _make(self, event: str, key: str) -> str:
        made = self._made.get((event, key))
        if made is None or made.turn != self._turn:
            sources = self._sources()
            text = (
                self._page.charts(sources, key)
                if event == "charts"
                else self._page.snapshot(sources, key, self._clock())
            )
            made = self._made[event, key] = _Made(self._turn, text)
        return made.text
