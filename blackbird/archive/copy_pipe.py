"""A pipe from a COPY statement to a reader that takes a file: no file between, and no message in Python."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from typing import IO, Self

_PIPE_BYTES = 1 << 20  # the most that an ordinary user may ask for; a tenth faster than the default


class CopyPipe:
    """Writes into a pipe in a thread; `path` is where the other end is read.

    On leaving, the reading end is closed first: a writer that is not done would wait for ever.
    """

    def __init__(self, write: Callable[[IO[bytes]], object], on_progress: Callable[[int], None]) -> None:
        self._write = write
        self._on_progress = on_progress
        self._failure: BaseException | None = None
        self._reader, self._writer = os.pipe()
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.path = f"/dev/fd/{self._reader}"
        self._thread = threading.Thread(target=self._run, name="pump")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        self._thread.join()
        # It is the cause of what the reader complains of.
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with os.fdopen(self._writer, "wb", _PIPE_BYTES) as file:
                self._write(_Counted(file, self._on_progress))  # type: ignore[arg-type]  # it is only written to
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads
            self._failure = error


class _Counted:
    """A file to write to that reports the rows written, many at a time."""

    REPORT_ROWS = 5000

    def __init__(self, file: IO[bytes], on_progress: Callable[[int], None]) -> None:
        self._file = file
        self._on_progress = on_progress
        self._rows = 0

    def write(self, row: bytes) -> int:
        """Write a row: libpq hands them over one by one."""
        self._rows += 1
        if self._rows == self.REPORT_ROWS:
            self._on_progress(self._rows)
            self._rows = 0
        return self._file.write(row)
