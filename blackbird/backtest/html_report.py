"""A run as one HTML file that needs nothing else: styles, script, figures and curves are in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import jinja2
from markupsafe import Markup

from blackbird import __version__
from blackbird.backtest.marks import Offered
from blackbird.backtest.result import Result
from blackbird.backtest.series import Point
from blackbird.backtest.sheets import Sheet, bps, money, sheets_of
from blackbird.backtest.simulation import Simulation
from blackbird.trading.spreads import Pair

TEMPLATES = Path(__file__).parent / "templates"
UPLOT = Path(__file__).parent.parent / "assets" / "uplot"

Columns = list[list[float | None]]


@dataclass(frozen=True)
class Figure:
    """A figure in large letters; `kind` is up, down or nothing."""

    name: str
    value: str
    kind: str = ""


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map: `share` of the colour of `kind`, in per cent."""

    text: str
    kind: str
    share: int


@dataclass(frozen=True)
class HeatLine:
    """A line of a heat map."""

    head: str
    cells: list[HeatCell]


@dataclass(frozen=True)
class HeatMap:
    """A table whose cells are coloured by their values."""

    title: str
    corner: str
    columns: list[str]
    lines: list[HeatLine]


@dataclass
class Page:
    """What a report shows."""

    title: str
    settings: str
    headline: list[Figure]
    sheets: list[Sheet]
    pair: str = ""
    curves: dict[str, Columns] = field(default_factory=dict)
    heat_maps: list[HeatMap] = field(default_factory=list)


def page_of(simulation: Simulation, result: Result, settings: str) -> Page:
    """Return what the report of a run shows; `settings` is a line of those in force."""
    marks = simulation.marks
    pnl = aligned([marks.total_series.points(), marks.closed_series.points()])
    page = Page(result.source, settings, _headline(result), sheets_of(result), curves={"pnl": pnl})
    if marks.offered:
        pair, offered = _most_traded(simulation)
        page.pair = f"bid({pair.short}) \u2212 ask({pair.long})"
        page.curves["spread"] = aligned(
            [offered.series.points(), offered.entries.points(), offered.exits.points()]
        )
    return page


def html(page: Page) -> str:
    """Return the file's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        vars(page)
        | {
            "version": __version__,
            "css": _asset(TEMPLATES / "report.css"),
            "script": _asset(TEMPLATES / "report.js"),
            "uplot_css": _asset(UPLOT / "uPlot.min.css"),
            "uplot_js": _asset(UPLOT / "uPlot.iife.min.js"),
            "uplot_license": _asset(UPLOT / "LICENSE"),
            "curves_json": _script_json(page.curves),
        }
    )


def aligned(curves: Sequence[Sequence[Point]]) -> Columns:
    """Return curves as uPlot takes them: the times (seconds) of all, and a column of each with its gaps.

    Values of one curve in one millisecond get times that rise by a tenth of it.
    """
    placed = [_placed(points) for points in curves]
    times = sorted(set().union(*placed))
    return [[*times], *([points.get(time) for time in times] for points in placed)]


def _placed(points: Sequence[Point]) -> dict[float, float | None]:
    placed: dict[float, float | None] = {}
    for ms, value in points:
        tenths = 0
        while (time := round(ms / 1000 + tenths / 10_000, 4)) in placed:
            tenths += 1
        placed[time] = float(f"{value:.7g}")
    return placed


def _most_traded(simulation: Simulation) -> tuple[Pair, Offered]:
    sizes: dict[Pair, Decimal] = {}
    for (pair, _), traded in simulation.ledger.traded.items():
        sizes[pair] = sizes.get(pair, Decimal(0)) + traded.value
    pair = max(simulation.marks.offered, key=lambda pair: sizes[pair])
    return pair, simulation.marks.offered[pair]


def _headline(result: Result) -> list[Figure]:
    pnl = result.pnl
    return [
        Figure("total, at mark, after fees", money(pnl.total), _kind(pnl.total)),
        Figure("closed", money(pnl.closed), _kind(pnl.closed)),
        Figure("open at mark", money(pnl.open_at_mark), _kind(pnl.open_at_mark)),
        Figure("fees", money(pnl.fees)),
        Figure("largest drawdown", money(result.drawdown.largest)),
        Figure("break-even fee of a leg, by total", bps(result.break_even.total_bps)),
    ]


def _kind(value: Decimal) -> str:
    return "up" if value > 0 else "down" if value < 0 else ""


def _asset(path: Path) -> Markup:
    return Markup(path.read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


def _script_json(value: object) -> Markup:
    """Return JSON that may stand in a script element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))  # noqa: S704 - escaped
