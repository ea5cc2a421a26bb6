"""A selector that coalesces the reads of an event loop."""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


class PacedSelector(selectors.DefaultSelector):
    """Has an event loop look at its sockets at most once in `pace` seconds.

    Something that comes alone is seen at once; while more and more comes, it is taken together. What other
    threads ask of the loop does not wait.
    """

    def __init__(self, pace: float) -> None:
        super().__init__()
        self._pace = pace
        self._found = 0.0
        self._threads = selectors.SelectSelector()  # which waits to the microsecond

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a socket; the first one is the event loop's own, by which threads wake it."""
        if not self._threads.get_map():
            self._threads.register(fileobj, events)
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready within `timeout` seconds; without a pause where the loop has work (0)."""
        if timeout is None or timeout > 0:
            pause = self._found + self._pace - time.monotonic()
            if pause > 0:
                self._rest(pause if timeout is None else min(pause, timeout))
                timeout = None if timeout is None else max(0.0, timeout - pause)
        found = super().select(timeout)
        if found:
            self._found = time.monotonic()
        return found

    def close(self) -> None:
        """Watch nothing any more."""
        self._threads.close()
        super().close()

    def _rest(self, seconds: float) -> None:
        self._threads.select(seconds)
