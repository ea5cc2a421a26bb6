"""The part of `backtest.py` that sweeps: executors, progress, table and heat map."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blackbird.archive.market import Market
from blackbird.backtest import terminal
from blackbird.backtest.html_report import Figure, HeatCell, HeatLine, HeatMap, Page, html
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.sheets import Sheet, money
from blackbird.backtest.sweep import Grid, Line, Sweep, SweepError

SHOWN = 5  # of the best and of the worst
MOST_HEAT_MAPS = 12
SHOWN_FIGURES = ("pnl_total", "pnl_closed", "pnl_open", "fees", "drawdown", "opened", "left", "hit_rate")
FAILED = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sweep to a command line."""
    parser.add_argument(
        "--sweep",
        nargs="+",
        metavar="NAME=VALUES",
        help="run every combination of these values, like limit=5e5,1e6 fee_bp=0,1,5.5 max_age_ms=1000",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sweep.csv"),
        metavar="FILE",
        help="where the lines of a sweep go; one that was interrupted goes on there (default: sweep.csv)",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run the sweep on a Dask scheduler, like tcp://host:8786 (uv sync --group cluster), instead of"
        " on this machine's cores",
    )


def run_sweep(options: argparse.Namespace, market: Market, parameters: Parameters, settings: str) -> int:
    """Run the sweep that the command line asks for; return the exit status. Raises SweepError."""
    # Other processes may have another current folder.
    market = replace(market, path=market.path.resolve())
    sweep = Sweep(Grid.parse(options.sweep), market, parameters)
    with _executor(options.cluster) as executor, _progress(len(list(sweep.grid))) as progress:
        task = progress.task_ids[0]
        lines = sweep.run(options.out, executor, lambda: progress.advance(task))
    sheets = sheets_of(sweep.grid, lines)
    if options.html is not None:
        options.html.write_text(html(_page(sweep, lines, sheets, settings)), encoding="utf-8")
    if options.json:
        sys.stdout.write(json.dumps(lines, indent=2) + "\n")
    else:
        terminal.show(sheets, terminal.console())
    return FAILED if any(line["error"] for line in lines) else 0


@contextlib.contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    try:
        from distributed import Client  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise SweepError("--cluster: expected Dask, was not installed: uv sync --group cluster") from None
    with Client(address) as client:
        # Tasks with the same arguments would be taken for one.
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Progress]:
    error = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error, disable=not error.is_terminal, transient=True) as progress:
        progress.add_task("combinations", total=total)
        yield progress


def sheets_of(grid: Grid, lines: Sequence[Line]) -> list[Sheet]:
    """Return the best and the worst combinations by total PnL, and those that failed, as tables."""
    ranked = sorted((line for line in lines if not line["error"]), key=_total, reverse=True)
    heads = (*grid.axes, *SHOWN_FIGURES)
    best, rest = ranked[:SHOWN], ranked[SHOWN:]
    sheets = [Sheet("Best by total PnL", [_cells(line, heads) for line in best], heads)]
    if rest:
        sheets.append(Sheet("Worst", [_cells(line, heads) for line in rest[-SHOWN:]], heads))
    if failed := [line for line in lines if line["error"]]:
        heads = (*grid.axes, "error")
        sheets.append(Sheet("Failed", [_cells(line, heads) for line in failed], heads))
    return sheets


def _total(line: Line) -> Decimal:
    return Decimal(line["pnl_total"])


def _cells(line: Line, names: Sequence[str]) -> tuple[str, ...]:
    exact = {"pnl_total", "pnl_closed", "pnl_open", "fees", "drawdown"}
    return tuple(money(Decimal(line[name])) if name in exact else line[name] for name in names)


def _page(sweep: Sweep, lines: Sequence[Line], sheets: list[Sheet], settings: str) -> Page:
    totals = [_total(line) for line in lines if not line["error"]]
    headline = [
        Figure("combinations", f"{len(lines):,}"),
        Figure("best total", money(max(totals, default=None))),
        Figure("worst total", money(min(totals, default=None))),
    ]
    title = f"{sweep.market.path}, sweep"
    return Page(title, settings, headline, sheets, heat_maps=heat_maps(sweep.grid, lines))


def heat_maps(grid: Grid, lines: Sequence[Line]) -> list[HeatMap]:
    """Return total PnL by the two axes with the most values, a map for each combination of the others."""
    by_size = sorted(grid.axes, key=lambda name: -len(grid.axes[name]))
    down, across = by_size[0], by_size[1] if len(by_size) > 1 else None
    others = [name for name in grid.axes if name not in {down, across}]
    found = {tuple(line[name] for name in grid.axes): line for line in lines}
    largest = max((abs(_total(line)) for line in lines if not line["error"]), default=Decimal(0))
    maps = []
    for fixed in itertools.product(*(grid.axes[name] for name in others)):
        chosen = dict(zip(others, fixed, strict=True))
        columns = grid.axes[across] if across else [""]
        heat_lines = [
            HeatLine(
                value,
                [
                    _heat(grid, found, {**chosen, down: value, across or "": other}, largest)
                    for other in columns
                ],
            )
            for value in grid.axes[down]
        ]
        title = " ".join(["Total PnL", *(f"{name}={value}" for name, value in chosen.items())])
        corner = f"{down} \\ {across}" if across else down
        maps.append(HeatMap(title, corner, columns if across else ["total"], heat_lines))
    return maps[:MOST_HEAT_MAPS]


def _heat(
    grid: Grid, found: Mapping[tuple[str, ...], Line], values: Mapping[str, str], largest: Decimal
) -> HeatCell:
    line = found[tuple(values[name] for name in grid.axes)]
    if line["error"]:
        return HeatCell("failed", "", 0)
    total = _total(line)
    share = int(60 * abs(total) / largest) if largest else 0
    return HeatCell(money(total), "up" if total > 0 else "down" if total < 0 else "", share)
