"""Shows a supervisor that a service's event loop turns: systemd's watchdog, and a file for containers.

A supervisor cannot see from the outside whether a process that has no port still works. Whether broker and
database answer is not part of it: a service waits for them, and a restart would not bring them back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class Heartbeat:
    """Beats once a second while a service runs.

    With `alive_file` each beat sets that file's time (deploy/image/alive compares it). `notify_address` is
    the socket of systemd's protocol (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html).
    """

    def __init__(self, alive_file: Path | None, notify_address: str) -> None:
        self._alive_file = alive_file
        # A leading @ stands for the zero byte of an abstract name.
        self._notify_address = "\0" + notify_address[1:] if notify_address[:1] == "@" else notify_address

    @classmethod
    def of(cls, alive_file: str, environment: Mapping[str, str] = os.environ) -> Heartbeat:
        """Return the heartbeat for the file, with no name none, and for the supervisor of this process."""
        return cls(Path(alive_file) if alive_file else None, environment.get("NOTIFY_SOCKET", ""))

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat while the block runs; systemd also learns that the service is ready, and that it stops."""
        if self._alive_file is None and not self._notify_address:
            yield
            return
        self._notify("READY=1")
        beating = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            yield
        finally:
            beating.cancel()
            self._notify("STOPPING=1")

    async def _beat(self) -> None:
        while True:
            self._notify("WATCHDOG=1")
            self._touch()
            await asyncio.sleep(BEAT_SECONDS)

    def _touch(self) -> None:
        if self._alive_file is None:
            return
        try:
            self._alive_file.touch()
        except OSError as error:
            logger.error("ALIVE_FILE: the file's time can't be set: %s", error)
            self._alive_file = None

    def _notify(self, state: str) -> None:
        if not self._notify_address:
            return
        # Without waiting: a supervisor that reads nothing must not stop the service.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as peer,
        ):
            peer.sendto(state.encode(), self._notify_address)
