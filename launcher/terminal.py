"""Where the lines of all processes go: terminal and log files, neither of which may block the launcher."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path


class Terminal:
    """Writes marked lines to standard output, from a thread of its own.

    A terminal that is paused (Ctrl-S) or slow must block neither the services nor Ctrl-C: lines that it
    does not take are dropped and counted. `on_closed` is called, from that thread, once nothing reads the
    output any more.
    """

    def __init__(self, width: int, on_closed: Callable[[], None], descriptor: int = 1) -> None:
        self._width = width
        self._on_closed = on_closed
        self._descriptor = descriptor
        self._batches: queue.Queue[list[str] | None] = queue.Queue(maxsize=1000)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_batches, name="terminal", daemon=True)
        self._thread.start()

    def show(self, name: str, lines: list[str]) -> None:
        """Show lines marked with `name`; never blocks."""
        self.show_unmarked([f"{name:<{self._width}} | {line}" for line in lines])

    def show_unmarked(self, lines: list[str]) -> None:
        """Show lines as they are; never blocks."""
        if self._dropped:
            lines = [f"({self._dropped} lines not shown here; they are in the log files)", *lines]
        try:
            self._batches.put_nowait(lines)
            self._dropped = 0
        except queue.Full:
            self._dropped += len(lines) - bool(self._dropped)

    def freeze(self) -> None:
        """Leave what is shown as it is: nothing of a plain terminal changes any more anyway."""

    @property
    def is_busy(self) -> bool:
        """Return whether lines wait to be written."""
        return not self._batches.empty()

    def text_of(self, lines: list[str]) -> str:
        """Return lines as they are written."""
        return "".join(f"{line}\n" for line in lines)

    def close(self, timeout: float = 1.0) -> None:
        """Wait until everything shown so far is written, for at most `timeout` seconds."""
        with contextlib.suppress(queue.Full):
            self._batches.put(None, timeout=timeout)
            self._thread.join(timeout)

    def _write_batches(self) -> None:
        while (lines := self._batches.get()) is not None:
            unwritten = self.text_of(lines).encode(errors="replace")
            try:
                while unwritten:
                    unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            except OSError:
                self._on_closed()
                break
        # Nothing reads the output any more: go on taking lines, so that the queue never fills.
        while lines is not None:
            lines = self._batches.get()


class LogFile(RotatingFileHandler):
    """One program's lines on disk, rotated by size; a failure to write is reported once."""

    def __init__(self, path: Path, size: int, copies: int, report: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=size, backupCount=copies, encoding="utf-8", errors="replace", delay=True
        )
        self._path = path
        self._report = report
        self._reported = False

    def write(self, lines: list[str]) -> None:
        """Append lines, all to the same file."""
        self.handle(makeLogRecord({"msg": "\n".join(lines)}))

    def handleError(self, record: LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Report once that lines are not written, and why."""
        if not self._reported:
            self._reported = True
            reason = sys.exc_info()[1]
            self._report(f"cannot write {self._path}: {reason} (reported once); lost: {record.msg[:80]!r}")
