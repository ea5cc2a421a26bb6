"""A selector that coalesces the reads of an event loop, and how long it rests for that."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

MEASURE_SECONDS = 0.1
# Of a new measurement; the rest is what was measured before.
SMOOTHING = 0.3


# Returns how many seconds an event loop should rest after it found something.
Pace = Callable[[], float]


class PacedSelector(selectors.DefaultSelector):
    """Has an event loop poll its sockets at most once in `pace` seconds.

    What comes alone is read at once; reads are coalesced while more and more comes. Calls from other threads
    do not wait.
    """

    def __init__(self, pace: Pace | float) -> None:
        super().__init__()
        self._pace = pace if callable(pace) else lambda: pace
        self._found = 0.0
        self._threads = selectors.SelectSelector()  # which waits to the microsecond

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file; the first one has to be the socket by which threads wake the event loop.

        asyncio makes and registers that before anything else, and has no public name for it.
        """
        if not self._threads.get_map():
            self._threads.register(fileobj, events)
            if events != selectors.EVENT_READ or not _is_one_of_a_pair(fileobj):
                raise RuntimeError("expected the event loop to register the socket that wakes it first")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready within `timeout` seconds; without a rest where the loop has work (0)."""
        if timeout is None or timeout > 0:
            rest = self._found + self._pace() - time.monotonic()
            if rest > 0:
                self._rest(rest if timeout is None else min(rest, timeout))
                timeout = None if timeout is None else max(0.0, timeout - rest)
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


def _is_one_of_a_pair(fileobj: FileDescriptorLike) -> bool:
    """Return whether a file is a socket that was made as one of a connected pair."""
    descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return copy.family == socket.AF_UNIX and copy.getpeername() in {"", b""}
    except OSError:
        return False


class LoadPace:
    """Rests that grow with the load: from none while there is room to `longest` seconds.

    A wake-up costs this process and those behind it more than a message does, and a rest costs latency. So
    there is none up to `calm` messages a second. Above that, rests grow with the rate, until `busy` messages
    a second, and with the shortage of idle processor time, from a share of ENOUGH down to one of SHORT.
    """

    ENOUGH, SHORT = 0.4, 0.1

    def __init__(
        self,
        longest: float,
        *,
        calm: float,
        busy: float,
        idle_share: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest = longest
        self._calm = calm
        self._busy = busy
        self._idle_share = idle_share or IdleShare().measure
        self._clock = clock
        self._messages = 0
        self._measured = clock()
        self._rate = 0.0
        self._idle = 1.0
        self._rest = 0.0

    def count(self, messages: int) -> None:
        """Count messages that were read."""
        self._messages += messages

    def __call__(self) -> float:
        """Return the rest that is right just now, in seconds."""
        elapsed = self._clock() - self._measured
        if elapsed >= MEASURE_SECONDS:
            self._measure(elapsed)
        return self._rest

    def _measure(self, elapsed: float) -> None:
        self._rate += SMOOTHING * (self._messages / elapsed - self._rate)
        if self._rate > self._calm:
            self._idle += SMOOTHING * (self._idle_share() - self._idle)
        self._messages = 0
        self._measured += elapsed
        load = (self._rate - self._calm) / (self._busy - self._calm)
        shortage = (self.ENOUGH - self._idle) / (self.ENOUGH - self.SHORT)
        self._rest = self._longest * min(1.0, max(0.0, load)) * min(1.0, max(0.0, shortage))


class IdleShare:
    """The share of the machine's processor time that was idle between one look and the next."""

    def __init__(self, source: Path = Path("/proc/stat")) -> None:
        self._source = source
        self._last = self._read()

    def measure(self) -> float:
        """Return the share since the last time; 0 where the system does not tell it."""
        idle, total = self._read()
        before_idle, before_total = self._last
        self._last = idle, total
        return (idle - before_idle) / (total - before_total) if total > before_total else 0.0

    def _read(self) -> tuple[int, int]:
        try:
            with self._source.open(encoding="ascii") as lines:
                # user nice system idle iowait irq softirq steal (docs.kernel.org/filesystems/proc.html)
                fields = [int(field) for field in lines.readline().split()[1:9]]
        except (OSError, ValueError):
            return 0, 0
        return sum(fields[3:5]), sum(fields)
