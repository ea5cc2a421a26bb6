"""The report's text: figures, curves, size, and that it asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from blackbird.archive.recording import Recording
from blackbird.backtest.html_report import Page, aligned, html, page_of
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import result_of
from blackbird.backtest.series import Point, ThinnedSeries
from blackbird.backtest.sheets import Sheet
from blackbird.backtest.simulation import Simulation

MOST_BYTES = 2_000_000


@pytest.fixture
def report(recordings: Path) -> str:
    """The report of the depth-50 recording."""
    simulation = Simulation(Parameters())
    simulation.run(Recording(recordings / "btc_depth50.ndjson.gz"))
    result = result_of(simulation, "<a market>")
    return html(page_of(simulation, result, "CLOSE_RULE=seed"))


def curves_in(text: str) -> dict[str, list[list[float | None]]]:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    curves: dict[str, list[list[float | None]]] = json.loads(found[1])
    return curves


def test_the_report_has_the_figures_and_the_curves_end_with_them(report: str) -> None:
    assert "\u2212156.3801" in report
    assert "CLOSE_RULE=seed" in report
    times, total, closed = curves_in(report)["pnl"]
    assert [value for value in total if value is not None][-1] == -156.3801
    assert [value for value in closed if value is not None][-1] == 145.4959
    assert times == sorted(set(times))  # type: ignore[type-var]
    assert min(value for value in total if value is not None) == -1009.243


def test_the_report_is_small_and_names_no_address_to_load_from(report: str) -> None:
    assert len(report.encode()) < MOST_BYTES
    assert "default-src 'none'" in report
    assert re.findall(r"(?:src|href)=[\"'](?!data:)", report) == []
    assert "@import" not in report
    assert "url(" not in report
    assert "Permission is hereby granted" in report


def test_names_from_a_recording_are_text_and_nothing_else(report: str) -> None:
    assert "&lt;a market&gt;" in report
    assert "<a market>" not in report


def test_curves_of_any_length_fit() -> None:
    series = []
    for _ in range(5):
        one = ThinnedSeries()
        for ms in range(200_000):
            one.add(1_700_000_000_000 + ms, -1234.567891 * (ms * 7919 % 1000))
        series.append(one.points())
    page = Page(
        "t", "", [], [Sheet("t", [("a", "b")])], "p", {"pnl": aligned(series), "spread": aligned(series)}
    )
    assert len(html(page).encode()) < MOST_BYTES


def test_a_run_without_orders_has_a_report() -> None:
    simulation = Simulation(Parameters())
    text = html(page_of(simulation, result_of(simulation, "nothing"), ""))
    assert curves_in(text) == {"pnl": [[], [], []]}
    assert "All settings have their defaults." in text
    assert 'id="spread"' not in text


def test_curves_of_one_chart_share_their_times_and_have_gaps() -> None:
    curves = [[Point(1000, 1), Point(2000, 2), Point(2000, 3)], [Point(2000, 9), Point(3000, 8)]]
    assert aligned(curves) == [[1.0, 2.0, 2.0001, 3.0], [1, 2, 3, None], [None, 9, None, 8]]
