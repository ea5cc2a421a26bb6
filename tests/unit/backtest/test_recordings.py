"""The recorded markets as backtests: their published figures, and what the report makes of them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from blackbird.archive.recording import Recording
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import Orders, Result, result_of
from blackbird.backtest.simulation import Simulation
from blackbird.trading.pair_checks import Limits

# What a live system has by default: it withholds nothing of these markets.
DEFAULT_LIMITS = Limits(10_000, 1000, 2000, Decimal("1.5"))


def result(path: Path, parameters: Parameters | None = None) -> Result:
    simulation = Simulation(parameters or Parameters(limits=DEFAULT_LIMITS))
    simulation.run(Recording(path))
    assert simulation.engine.pnl == simulation.ledger.cash
    assert simulation.ledger.left == len(simulation.engine.spreads)
    return result_of(simulation, path.name)


def test_depth_50_gives_the_published_figures(recordings: Path) -> None:
    run = result(recordings / "btc_depth50.ndjson.gz")
    assert run.messages == 9667
    assert run.orders == [
        Orders("Open Spread", "ACK", 773),
        Orders("Open Spread", "NOT ACK", 153),
        Orders("Close Spread", "ACK", 1100),
    ]
    assert run.refusals == {"risk limit exceed": 153}
    assert run.withheld == {}
    assert (run.spreads.opened, run.spreads.closed, run.spreads.left) == (773, 633, 140)
    assert run.pnl.closed == Decimal("145.4959031")
    assert run.pnl.credit == Decimal("90.3569498")
    assert run.pnl.cash == Decimal("235.8528529")
    assert run.pnl.open_at_mark - run.pnl.credit == Decimal("-392.2329400")
    assert run.pnl.total == Decimal("-156.3800871")
    assert run.exposures == {
        "spot:BTCUSDT": Decimal("-921588.1904669"),
        "linear:BTCPERP": Decimal("921352.337614"),
    }
    assert round(run.break_even.cash_bps or Decimal(0), 3) == Decimal("0.127")


def test_depth_1_gives_the_published_figures(recordings: Path) -> None:
    run = result(recordings / "btc_depth1.ndjson.gz")
    assert run.messages == 94_129
    assert [orders.count for orders in run.orders] == [317, 234, 628]
    assert run.pnl.closed == Decimal("211.5184714")
    assert run.pnl.cash == Decimal("402.9136848")
    assert run.pnl.total == Decimal("-21.7446632")
    assert run.spreads.left == 41
    assert round(run.break_even.cash_bps or Decimal(0), 3) == Decimal("0.184")


def test_fees_are_taken_off_and_change_the_orders_as_in_the_live_system(recordings: Path) -> None:
    fees = {"spot": Decimal("0.00001"), "linear": Decimal("0.00001")}
    run = result(
        recordings / "btc_depth50.ndjson.gz",
        Parameters(taker_fees=fees, close_rule="signed", limits=DEFAULT_LIMITS),
    )
    assert run.pnl.fees == run.turnover * fees["spot"]
    assert run.pnl.total == run.pnl.closed + run.pnl.open_at_mark - run.pnl.fees
    assert run.spreads.closed
    # The signed rule closes what has earned its fees, as far as they could be known.
    assert run.spreads.hit_rate == 1.0
    assert run.fee_table[-1].name == "as set"
    assert run.fee_table[-1].total == run.pnl.total
    free = next(line for line in run.fee_table if line.name == "no fees")
    assert (free.fees, free.total) == (Decimal(0), run.pnl.total + run.pnl.fees)


def test_a_recording_of_a_group_that_is_not_asked_for_has_no_messages(recordings: Path) -> None:
    assert list(Recording(recordings / "btc_depth50.ndjson.gz", ["b"])) == []


@pytest.mark.parametrize("name", ["btc_depth50.ndjson.gz"])
def test_progress_is_the_bytes_read(recordings: Path, name: str) -> None:
    source = Recording(recordings / name)
    seen = []
    simulation = Simulation(Parameters())
    simulation.run(source, lambda count: seen.append((count, source.done)))
    assert [count for count, _ in seen] == list(range(1000, 9001, 1000))
    done = [read for _, read in seen]
    assert done == sorted(done)
    assert 0 < done[0] < done[-1] <= source.total
