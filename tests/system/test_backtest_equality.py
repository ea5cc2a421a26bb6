"""The orders of a live run, made again by a backtest of what it stored."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.workspace import HERE, Workspace
from tests.system.test_whole_system import play

NOW = ("--from", "2024-01-01", "--to", "2100-01-01")
DIFFERENT = 3


def backtest(place: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "backtest.py"), *NOW, "--compare", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=place.environment, cwd=place.folder, check=False
    )


def assert_same_orders(place: Workspace, least: int) -> None:
    answer = backtest(place, "--json")
    assert answer.returncode == 0, answer.stderr
    figures = json.loads(answer.stdout)
    ((executions,),) = place.query('SELECT count(DISTINCT execution_id) FROM bybit."order"')
    ((refusals,),) = place.query("SELECT count(*) FROM bybit.refused_order")
    assert executions > least
    assert answer.stderr == f"the same {executions:,} executions and {refusals:,} refusals as live\n"
    ((cash,),) = place.query('SELECT sum(flux) FROM bybit."order"')
    assert figures["pnl"]["cash"] == pytest.approx(float(cash))
    assert sum(figures["refusals"].values()) == refusals


@pytest.fixture
def part(recordings: Path, tmp_path: Path) -> Path:
    """The beginning of a recording."""
    path = tmp_path / "part.ndjson.gz"
    with gzip.open(recordings / "btc_depth50.ndjson.gz", "rt") as whole, gzip.open(path, "wt") as first:
        first.writelines(itertools.islice(whole, 2500))
    return path


def test_a_backtest_makes_the_orders_of_the_live_run_again(place: Workspace, part: Path) -> None:
    play(place, part, speed="20")
    assert_same_orders(place, 100)

    # A live run that did something else, in the middle of it: the execution and both books are named.
    place.query(
        'UPDATE bybit."order" SET size = size * 2 WHERE execution_id ='
        ' (SELECT min(execution_id) + 40 FROM bybit."order") RETURNING 1'
    )
    answer = backtest(place)
    assert answer.returncode == DIFFERENT
    assert "live:     " in answer.stderr
    assert "spot:BTCUSDT, update " in answer.stderr
    assert "linear:BTCPERP, update " in answer.stderr


def test_live_simulation_backtest_and_views_have_the_same_fees(place: Workspace, part: Path) -> None:
    place.environment |= {"TAKER_FEE_SPOT": "0.00002", "TAKER_FEE_LINEAR": "0.00001", "CLOSE_RULE": "signed"}
    play(place, part, speed="20")
    assert_same_orders(place, 20)
    pnl = json.loads(backtest(place, "--json").stdout, parse_float=Decimal)["pnl"]
    rates = "CASE channel WHEN 'spot' THEN 0.00002 ELSE 0.00001 END"
    ((fees, expected),) = place.query(f'SELECT sum(fee), sum(price * size * {rates}) FROM bybit."order"')  # noqa: S608
    assert pnl["fees"] == fees == expected > 0
    assert place.query("SELECT sum(fee), sum(closed_pnl) FROM bybit.spread") == [(fees, pnl["closed"])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["btc_depth50", "btc_depth1"])
def test_whole_recordings_at_ten_times_their_speed(place: Workspace, recordings: Path, name: str) -> None:
    place.environment["ORDERBOOK_DEPTH"] = name.removeprefix("btc_depth")
    play(place, recordings / f"{name}.ndjson.gz", speed="10")
    assert_same_orders(place, 500)
