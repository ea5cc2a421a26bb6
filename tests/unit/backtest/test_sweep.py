"""Sweeps: grids, results that add up to those of single runs, interruptions, workers that die."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from blackbird.archive.market import Market
from blackbird.archive.source import SourceError
from blackbird.backtest.parameters import Clock, Parameters
from blackbird.backtest.simulation import Simulation
from blackbird.backtest.sweep import Grid, Line, Sweep, SweepError
from blackbird.backtest.sweep_command import heat_maps, sheets_of
from blackbird.trading.signal import Signal

DEADLY = 666
GRID = Grid.parse(["limit=5e5,1e6", "fee_bp=0,1"])


class Here(Executor):
    """Runs tasks in this process, at once; `failing` says which, by its settings."""

    def __init__(self, failing: Callable[[Parameters], bool] = lambda _: False) -> None:
        self.tasks: list[Parameters] = []
        self._failing = failing

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append(arguments[1])
        if self._failing(arguments[1]):
            future.set_exception(SourceError("no market"))
        else:
            future.set_result(task(*arguments))
        return future


@pytest.fixture
def market(recordings: Path) -> Market:
    """The depth-50 recording."""
    return Market(recordings / "btc_depth50.ndjson.gz")


@pytest.fixture
def sweep(market: Market) -> Sweep:
    """Four combinations on the depth-50 recording."""
    return Sweep(GRID, market, Parameters())


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["speed=1"], "expected each of limit, "),
        (["limit=1", "limit=2"], "expected each of limit, "),
        (["limit"], "limit: expected a number, was ''"),
        (["limit=1,x"], "limit: expected a number, was 'x'"),
        (["limit=1,1"], "limit: expected each value once"),
        (["limit=-1"], "limit: expected a number of at least 0, was '-1'"),
        (["max_age_ms=0.5"], "max_age_ms: expected a whole number, was '0.5'"),
        (["close_rule=fast"], "close_rule: expected one of seed, signed, was 'fast'"),
    ],
)
def test_what_is_no_grid_is_named(texts: list[str], why: str) -> None:
    with pytest.raises(SweepError, match=f"^{why}"):
        Grid.parse(texts)


def test_a_grid_changes_the_settings_that_it_names_and_no_others() -> None:
    grid = Grid.parse(["limit=5e5", "fee_bp=0.5", "max_age_ms=1000", "close_rule=signed", "min_profit_bp=2"])
    base = Parameters(risk_model="position", unique_order=False)
    (combination,) = grid
    assert grid.parameters(base, combination) == replace(
        base,
        limit=Decimal(500_000),
        taker_fees={"spot": Decimal("0.00005"), "linear": Decimal("0.00005")},
        limits=replace(base.limits, stale_after_ms=1000),
        close_rule="signed",
        min_profit_bps=Decimal(2),
    )


def test_each_line_has_the_figures_of_a_run_of_its_own(sweep: Sweep, market: Market, tmp_path: Path) -> None:
    lines = sweep.run(tmp_path / "sweep.csv", Here())
    assert [(line["limit"], line["fee_bp"]) for line in lines] == list(sweep.grid)
    for line, combination in zip(lines, sweep.grid, strict=True):
        simulation = Simulation(sweep.grid.parameters(Parameters(), combination))
        simulation.run(market.open())
        assert Decimal(line["pnl_total"]) == simulation.marks.total
        assert int(line["opened"]) == simulation.ledger.opened
    assert Decimal(lines[2]["pnl_total"]) == Decimal("-156.3800871")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == lines


def test_processes_give_the_same_file_as_one_process_and_again(sweep: Sweep, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("here.csv", "first.csv", "second.csv")]
    sweep.run(files[0], Here())
    sweep.run(files[1])
    sweep.run(files[2])
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def test_an_interrupted_sweep_goes_on_where_it_was(sweep: Sweep, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.csv", tmp_path / "sweep.csv"
    sweep.run(whole, Here())
    text = whole.read_text().splitlines(keepends=True)
    # The line that was being written is cut off.
    path.write_text("".join([text[0], text[3], text[1], text[2][:20]]))
    here = Here()
    sweep.run(path, here)
    assert [parameters.limit for parameters in here.tasks] == [Decimal("5e5"), Decimal("1e6")]
    assert path.read_bytes() == whole.read_bytes()
    here.tasks.clear()
    sweep.run(path, here)
    assert here.tasks == []


def test_what_failed_has_its_reason_and_is_tried_again(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    lines = sweep.run(
        path,
        Here(
            lambda parameters: parameters.limit == Decimal("5e5") and not any(parameters.taker_fees.values())
        ),
    )
    assert [line["error"] for line in lines] == ["no market", "", "", ""]
    here = Here()
    assert [line["error"] for line in sweep.run(path, here)] == ["", "", "", ""]
    assert len(here.tasks) == 1


def test_the_file_of_another_sweep_is_left_alone(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    sweep.run(path, Here())
    before = path.read_bytes()
    with pytest.raises(SweepError, match="expected a file of these axes"):
        replace(sweep, grid=Grid.parse(["limit=1"])).run(path, Here())
    with pytest.raises(SweepError, match="expected this market and these settings"):
        replace(sweep, base=Parameters(close_rule="signed")).run(path, Here())
    assert path.read_bytes() == before


@dataclass(frozen=True)
class DeadlyParameters(Parameters):
    """Settings of which one limit kills the process that uses it."""

    def new_signal(self, clock: Clock) -> Signal:
        if self.limit == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().new_signal(clock)


def test_a_worker_that_dies_fails_its_combination_and_no_other(market: Market, tmp_path: Path) -> None:
    grid = Grid.parse([f"limit=5e5,{DEADLY},1e6,2e6"])
    lines = Sweep(grid, market, DeadlyParameters()).run(tmp_path / "sweep.csv")
    assert [line["error"][:17] for line in lines] == ["", "BrokenProcessPool", "", ""]
    assert Decimal(lines[2]["pnl_total"]) == Decimal("-156.3800871")


def line(limit: str, fee: str, total: str, error: str = "") -> Line:
    figures = dict.fromkeys(("pnl_closed", "pnl_open", "fees", "drawdown"), "0")
    return {
        "limit": limit,
        "fee_bp": fee,
        "pnl_total": total,
        "opened": "1",
        "left": "0",
        "hit_rate": "",
        "error": error,
        **figures,
    }


LINES = [line("5e5", "0", "-2"), line("5e5", "1", "4"), line("1e6", "0", "0"), line("1e6", "1", "", "gone")]


def test_best_worst_and_failed_are_tables() -> None:
    best, failed = sheets_of(GRID, LINES)
    assert [each[:3] for each in best.lines] == [
        ("5e5", "1", "4.0000"),
        ("1e6", "0", "0.0000"),
        ("5e5", "0", "\u22122.0000"),
    ]
    assert failed.lines == [("1e6", "1", "gone")]
    many = [line(str(limit), "0", str(limit)) for limit in range(12)]
    best, worst = sheets_of(GRID, many)
    assert [each[0] for each in best.lines] == ["11", "10", "9", "8", "7"]
    assert [each[0] for each in worst.lines] == ["4", "3", "2", "1", "0"]


def test_a_heat_map_has_the_totals_by_two_axes() -> None:
    (heat,) = heat_maps(GRID, LINES)
    assert (heat.corner, heat.columns) == ("limit \\ fee_bp", ["0", "1"])
    assert [each.head for each in heat.lines] == ["5e5", "1e6"]
    cells = [cell for each in heat.lines for cell in each.cells]
    assert [(cell.text, cell.kind, cell.share) for cell in cells] == [
        ("\u22122.0000", "down", 30),
        ("4.0000", "up", 60),
        ("0.0000", "", 0),
        ("failed", "", 0),
    ]
