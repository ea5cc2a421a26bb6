"""The user's request to stop: Ctrl-C, SIGTERM, or a terminal that was closed."""

from __future__ import annotations

import asyncio
import signal


class StopRequest:
    """Whether, and by which signal, the user has asked the launcher to stop.

    The first request ends everything in order; a second one is for a user who does not want to wait for that.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        self.signal: signal.Signals | None = None

    def watch_signals(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP as requests."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has its command ignore SIGHUP on purpose.
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._loop.add_signal_handler(number, self._request, number)

    def request_from_thread(self) -> None:
        """Request the end from another thread, as SIGHUP would."""
        self._loop.call_soon_threadsafe(self._request, signal.SIGHUP)

    def is_set(self) -> bool:
        """Return whether the end has been requested."""
        return self._first.is_set()

    async def wait(self) -> None:
        """Return once the end has been requested."""
        await self._first.wait()

    async def wait_for_second(self) -> None:
        """Return once the end has been requested twice."""
        await self._second.wait()

    def _request(self, number: signal.Signals) -> None:
        if self.signal is None:
            self.signal = number
            self._first.set()
        else:
            self._second.set()
