"""A terminal with a table of what the services do below the lines that matter."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from blackbird.runtime.log_format import takes_colours
from config import Config
from launcher.status_feed import StatusFeed
from launcher.status_table import StatusTable
from launcher.terminal import Terminal

# A line of a log that is neither a warning nor an error, as text or as JSON.
_ORDINARY = re.compile(
    r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:DEBUG|INFO) |\{"time": "[^"]*", "level": "(?:DEBUG|INFO)"'
).match
# In the place of a line: what follows is written below the table.
_FREEZE = "\x00"


class LiveTerminal(Terminal):
    """Shows warnings, errors and the launcher's own lines, and below them `table`, drawn anew by `redraw`.

    The other lines of the programs are in the log files alone. `size` returns columns and lines.
    """

    def __init__(
        self,
        width: int,
        on_closed: Callable[[], None],
        table: StatusTable,
        *,
        colours: bool,
        descriptor: int = 1,
        size: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._table = table
        self._colours = colours
        self._size = size or (lambda: os.get_terminal_size(descriptor))
        self._feed: StatusFeed | None = None
        self._drawn = 0  # lines of the table that are on the screen
        self._is_frozen = False
        super().__init__(width, on_closed, descriptor)

    def follow(self, broker: Mapping[str, Any]) -> None:
        """Keep the table up to date with what the services publish; `broker` is `Config.BROKER_CONFIG`."""
        self._feed = StatusFeed(broker, self._table.take, self.redraw)

    def close(self, timeout: float = 1.0) -> None:
        """Leave the table as it is, and wait until everything is written, for at most `timeout` seconds."""
        if self._feed is not None:
            self._feed.close()
        self.freeze()
        super().close(timeout)

    def show(self, name: str, lines: list[str]) -> None:
        """Show those of the lines that matter, marked with `name`; never blocks."""
        lines = [line for line in lines if not _ORDINARY(line)]
        if lines:
            super().show(name, lines)

    def redraw(self) -> None:
        """Draw the table anew, unless the terminal is still busy; never blocks."""
        if not self.is_busy:
            self.show_unmarked([])

    def freeze(self) -> None:
        """Leave the table as it is, and write what comes below it."""
        self.show_unmarked([_FREEZE])

    def text_of(self, lines: list[str]) -> str:
        """Return what to write: the lines in the place of the table, and the table below them."""
        if self._is_frozen:
            return super().text_of([line for line in lines if line != _FREEZE])
        self._is_frozen = _FREEZE in lines
        text = super().text_of([line for line in lines if line != _FREEZE])
        above = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        self._drawn = 0
        try:
            columns, rows = self._size()
        except OSError:  # a terminal that was closed
            return above + text
        table = self._table.draw(max(20, columns - 1), max(1, rows - 2), colours=self._colours)
        self._drawn = len(table)
        return above + text + super().text_of(table)


def open_live(width: int, on_closed: Callable[[], None]) -> LiveTerminal:
    """Return standard output as a live terminal that follows the services of the settings' broker."""
    terminal = LiveTerminal(width, on_closed, StatusTable(), colours=takes_colours(sys.stdout))
    terminal.follow(Config.BROKER_CONFIG)
    return terminal
