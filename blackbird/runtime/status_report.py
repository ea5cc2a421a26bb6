"""A service's status message: what all services say of themselves, round what each says of its work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from blackbird import __version__
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.process_usage import cpu_seconds, resident_bytes
from blackbird.status.messages import Body, Status

ServiceName = Literal["collector", "signal", "engine", "storage"]


@dataclass(frozen=True)
class Identity:
    """Which service it is, and in which mode orders are sent."""

    service: ServiceName
    mode: str
    mode_text: str


class StatusSource(Protocol):
    """A service, as its status is made of it."""

    @property
    def is_connected(self) -> bool:
        """Whether it has a session with the broker to work on."""

    @property
    def failure_counts(self) -> Mapping[str, int]:
        """How often it has survived which programming error."""

    async def describe(self) -> Body:
        """Return what it does; gives way to other work where that takes long."""


class StatusReport:
    """Makes one status after the other, numbered. `clock` returns milliseconds since 1970."""

    def __init__(
        self,
        identity: Identity,
        source: StatusSource,
        interval_seconds: float,
        clock: Callable[[], int] = milliseconds,
    ) -> None:
        self.interval_seconds = interval_seconds
        self._identity = identity
        self._source = source
        self._clock = clock
        self._number = 0
        self._host = socket.gethostname()
        self._started_ms = clock()

    async def make(self) -> Status:
        """Return the status as of now."""
        body: dict[str, Any] = {self._identity.service: await self._source.describe()}
        self._number += 1
        return Status(
            service=self._identity.service,
            version=__version__,
            mode=self._identity.mode,
            mode_text=self._identity.mode_text,
            host=self._host,
            pid=os.getpid(),
            started_ms=self._started_ms,
            published_ms=self._clock(),
            number=self._number,
            interval_seconds=self.interval_seconds,
            broker="connected" if self._source.is_connected else "not connected",
            cpu_seconds=cpu_seconds(),
            resident_bytes=resident_bytes(),
            failures=dict(self._source.failure_counts),
            **body,
        )
