"""An event loop whose clock the waits themselves move on: minutes of deadlines pass in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Clock(selectors.DefaultSelector):
    """Passes the time that the loop would sleep, unless there is something to read."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "deadlock: no timer and nothing to read"
            self.now += max(0.0, timeout)
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Use only with fakes: what needs real time, sockets for instance, does not get it."""

    def __init__(self) -> None:
        self._virtual_clock = _Clock()
        super().__init__(self._virtual_clock)

    def time(self) -> float:
        return self._virtual_clock.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in virtual time, and whatever it has started until it ends."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
