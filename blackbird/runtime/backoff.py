"""The delay between attempts that keep failing."""

from __future__ import annotations

import asyncio
import random
from typing import Self


class Backoff:
    """Delays that double from `shortest` to `longest` seconds, until `reset`.

    A random share of each delay, up to `jitter`, is left out: clients that failed together must not return
    together. Iterating paces a loop of attempts, the first of them at once:

        async for _ in Backoff(0.1, 10.0):
            ...
    """

    def __init__(self, shortest: float, longest: float, *, jitter: float = 0.0) -> None:
        self._shortest = shortest
        self._longest = longest
        self._jitter = jitter
        self._next = shortest
        self._begun = False

    def reset(self) -> None:
        """Begin with the shortest delay again."""
        self._next = self._shortest

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt."""
        delay = self._next
        self._next = min(delay * 2, self._longest)
        return delay * (1 - self._jitter * random.random())  # noqa: S311 - not a secret

    async def wait(self) -> None:
        """Sleep for the next delay."""
        await asyncio.sleep(self.next_delay())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        if self._begun:
            await self.wait()
        self._begun = True
