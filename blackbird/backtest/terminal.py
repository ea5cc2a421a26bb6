"""A run's progress and its figures in the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from blackbird.archive.source import Source
from blackbird.backtest.sheets import Sheet

# As wide as the widest table, where the output is no terminal.
WIDTH = 160


def console() -> Console:
    """Return standard output."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(width=WIDTH, highlight=False)


def error_console() -> Console:
    """Return standard error."""
    error = Console(stderr=True, highlight=False)
    return error if error.is_terminal else Console(stderr=True, width=WIDTH, highlight=False)


@contextlib.contextmanager
def progress_of(source: Source) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, if that is a terminal; the function given is told how many messages."""
    error = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error, disable=not error.is_terminal, transient=True) as progress:
        task = progress.add_task(source.name, total=source.total)

        def show(messages: int) -> None:
            progress.update(task, completed=source.done, description=f"{messages:,} messages")

        yield show


def show(sheets: list[Sheet], out: Console) -> None:
    """Print tables."""
    for sheet in sheets:
        table = Table(
            title=sheet.title,
            title_justify="left",
            title_style="bold",
            show_header=bool(sheet.heads),
            box=None,
            pad_edge=False,
        )
        for number, head in enumerate(sheet.heads or ("", "")):
            table.add_column(head, justify="right" if number else "left")
        for line in sheet.lines:
            table.add_row(*line)
        out.print(table)
        out.print()
