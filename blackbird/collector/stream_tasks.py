"""The tasks that run the streams: one for each, started and cancelled with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from blackbird.bybit.stream import Stream

# How long the end waits for connections to close.
CLOSE_SECONDS = 0.5


class StreamTasks:
    """The set of stream tasks; `failure` is done when one of them failed, a fault of this program."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def rebuild(self, streams: Iterable[Stream]) -> None:
        """Replace the set by one task for each of `streams`.

        The task of a stream that stays is taken over as it is. Cancelled and started anew it would have to
        connect again: its book would miss pushes, and Bybit allows 500 new connections in five minutes.
        """
        before, self._tasks = self._tasks, {}
        for stream in streams:
            task = before.pop(stream, None)
            self._tasks[stream] = self._start(stream) if task is None else task
        for task in before.values():
            task.cancel()  # which closes its connection
            self._closing.add(task)

    async def close(self) -> None:
        """Cancel all tasks, and wait for their connections to close, at most CLOSE_SECONDS."""
        tasks = [*self._tasks.values(), *self._closing]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    def _start(self, stream: Stream) -> asyncio.Task[None]:
        task = asyncio.create_task(stream.run(), name=str(stream.instrument))
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)
