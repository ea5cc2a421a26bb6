"""What a benchmark found: each number next to its ceiling, and the target's verdict as a ratio."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass


class WrongResult(Exception):
    """What was measured did not do its work: the measurement counts nothing."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is measured / ceiling; the target is a least or a most of it."""

    what: str
    measured: str
    ceiling: str = ""
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        if self.least is not None:
            return f">= {self.least:.2f}"
        return f"<= {self.most:.2f}" if self.most is not None else ""

    @property
    def verdict(self) -> str:
        if self.ratio is None or (self.least is None and self.most is None):
            return ""
        met = self.ratio >= self.least if self.least is not None else self.ratio <= (self.most or 0)
        return "met" if met else "MISSED"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, aligned for a terminal."""
    heads = ("measured here", "result", "ceiling in the same run", "ratio", "target", "verdict", "")
    cells = [
        (
            row.what,
            row.measured,
            row.ceiling,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            row.verdict,
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (heads, *cells)) for column in range(len(heads))]
    lines = [heads, tuple("-" * width for width in widths), *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def progress(text: str) -> None:
    """Say what is going on; on a terminal in one line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text[:150]}")
    else:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def check(condition: object, text: str) -> None:
    """Raise WrongResult with `text` where the condition does not hold."""
    if not condition:
        raise WrongResult(text)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values are (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def thousands(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}"


def millis(seconds: Sequence[float]) -> str:
    return f"p50 {percentile(seconds, 0.5) * 1000:.2f} ms, p99 {percentile(seconds, 0.99) * 1000:.2f} ms"
