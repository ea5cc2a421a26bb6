"""Parsed messages: to the rules they are what they were parsed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackbird.archive.parsed import parsed
from blackbird.archive.recording import Recording
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import result_of
from blackbird.backtest.simulation import Simulation
from tests.support.market import PERP, book_message


@pytest.mark.parametrize(("name", "most"), [("btc_depth50", None), ("btc_depth1", 20_000)])
def test_a_parsed_market_gives_the_same_figures_again_and_again(
    recordings: Path, name: str, most: int | None
) -> None:
    messages = list(Recording(recordings / f"{name}.ndjson.gz"))[:most]
    kept = parsed(messages)
    results = []
    for each in (messages, kept, kept):
        simulation = Simulation(Parameters())
        simulation.run(each)
        results.append(result_of(simulation, name))
    assert results[0] == results[1] == results[2]
    assert results[0].orders


def test_what_cannot_be_read_is_refused_by_the_book_as_before() -> None:
    simulation = Simulation(Parameters())
    simulation.run(parsed([(1, book_message("snapshot", 1, [("x", "1")], instrument=PERP))]))
    assert (simulation.messages, simulation.invalid) == (1, 1)
