"""What the exchange sent, kept as an independent source of truth."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from local_exchange.instrument import Feed


class Record:
    """The file of `--record`: a recording of what was sent, with the sockets that got it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._start: int | None = None

    def add(self, feed: Feed, payload: bytes, sockets: list[int]) -> None:
        """Write one push."""
        if not sockets:
            return
        now = time.perf_counter_ns()
        if self._start is None:
            self._start = now
        head = b'{"t":%d,"category":"%s","sockets":[%s],"message":' % (
            now - self._start,
            feed.instrument.channel.encode(),
            ",".join(map(str, sockets)).encode(),
        )
        self._file.write(head + payload + b"}\n")

    def flush(self) -> None:
        """Make the file complete up to now."""
        self._file.flush()

    def close(self) -> None:
        """Write the rest."""
        self._file.close()
