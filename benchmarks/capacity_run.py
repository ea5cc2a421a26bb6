"""Measures what a push costs each part of the system, and compares a prediction with a run."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple

from benchmarks import machine, market
from benchmarks.capacity_model import PARTS, Costs, DepthCosts, Part
from benchmarks.pipeline import SWINGS, Flow, Pipeline
from benchmarks.place import Place, place
from benchmarks.results import check as check_result
from benchmarks.results import progress
from blackbird.broker.topology import EXCHANGE, STORAGE
from local_exchange.process import ExchangeProcess

COMMAND = "benchmarks/capacity.py --measure"
RATES = (400.0, 1600.0)
CHECKED_RATE = 1000.0
PAIRS = 10
CHECKED_PAIRS = 200
SECONDS = 20.0
# A depth-50 push of the recorded market has 16 rows.
CHANGES = {1: "4", 50: "16"}
SAMPLE = 200
# Else the pairs stop trading when they reach it, a few of them sooner than many.
NO_LIMIT = "1000000000000"


class Measured(NamedTuple):
    """A run at one rate."""

    flow: Flow
    rows: float  # a push
    disk_bytes: float  # a push

    @property
    def rate(self) -> float:
        return self.flow.pushes / self.flow.seconds


def measure() -> Costs:
    """Measure both depths with a few instruments."""
    about = machine.description()
    depths = {depth: _costs(depth) for depth in (1, 50)}
    return Costs(about, machine.cores(), datetime.now(UTC).date().isoformat(), COMMAND, depths)


def _costs(depth: int) -> DepthCosts:
    runs, message_bytes = _runs(depth, PAIRS, RATES)
    parts = {
        name: Part([(round(run.rate, 1), round(run.flow.cpu[name], 4)) for run in runs]) for name in PARTS
    }
    last = runs[-1]
    return DepthCosts(parts, round(message_bytes), round(last.rows, 2), round(last.disk_bytes))


def _runs(depth: int, pairs: int, rates: tuple[float, ...]) -> tuple[list[Measured], float]:
    """Return a run at each rate, and the size of a message."""
    arguments = ("--rate", "0", "--repeat-after", "0", "--swings", SWINGS[depth], "--changes", CHANGES[depth])
    with (
        place(MAX_RISK_OPEN_POSITION=NO_LIMIT) as there,
        ExchangeProcess(*arguments, "--instruments", str(pairs)) as exchange,
        there.raw() as raw,
    ):
        pipeline = Pipeline(there, exchange, market.pair_topics(depth, pairs), depth)
        what = f"depth {depth}, {2 * pairs} instruments"
        # The first pushes make chunks, plans and caches.
        pipeline.flow(raw, rates[0], 3.0, what)
        runs = []
        for rate in rates:
            pipeline.wait_until_drained(raw)
            rows, size = _stored(there)
            flow = pipeline.flow(raw, rate, SECONDS, f"{what}, {rate:.0f} pushes/s")
            now_rows, now_size = _stored(there)
            check_result(flow.pushes >= 0.95 * rate * flow.seconds, "the exchange could not push so many")
            check_result(set(PARTS) <= flow.cpu.keys(), "expected both servers on this machine")
            runs.append(Measured(flow, (now_rows - rows) / flow.pushes, (now_size - size) / flow.pushes))
        return runs, _message_bytes(there, exchange)


def _stored(there: Place) -> tuple[int, int]:
    return (
        int(there.space.query("SELECT count(*) FROM bybit.orderbook")[0][0]),
        int(there.space.query("SELECT pg_database_size(current_database())")[0][0]),
    )


def _message_bytes(there: Place, exchange: ExchangeProcess) -> float:
    with there.raw() as raw:
        queue = raw.declare("", durable=False, exclusive=True)
        raw.bind(queue, EXCHANGE, STORAGE)
        raw.consume(queue)
        exchange.post("/pace", pace=10)
        sizes = [len(raw.take(30).body) for _ in range(SAMPLE)]
        exchange.post("/pace", pace=0)
        time.sleep(0.5)
    return sum(sizes) / len(sizes)


def check(costs: Costs, depth: int) -> str:
    """Return a table of what was predicted for 400 instruments and what they took, side by side."""
    (run,), _ = _runs(depth, CHECKED_PAIRS, (CHECKED_RATE,))
    of_depth = costs.depths[depth]
    lines = [
        f"costs measured {costs.date} on {costs.machine}",
        f"run now on {machine.description()}",
        f"{2 * CHECKED_PAIRS} instruments at depth {depth}, {run.rate:,.0f} pushes/s for {SECONDS:.0f} s",
        "",
        "| | predicted | measured | measured / predicted |",
        "|---|---|---|---|",
    ]
    pairs = [
        *(
            (f"{name.replace('_', ' ')}, cores", of_depth.parts[name].cores(run.rate), run.flow.cpu[name])
            for name in PARTS
        ),
        (
            "all parts, cores",
            sum(of_depth.parts[name].cores(run.rate) for name in PARTS),
            sum(run.flow.cpu[name] for name in PARTS),
        ),
        ("database, thousand rows/s", of_depth.rows * run.rate / 1000, run.rows * run.rate / 1000),
        ("disk, kB a push", of_depth.disk_bytes / 1000, run.disk_bytes / 1000),
    ]
    progress("")
    lines += [
        f"| {what} | {expected:.3f} | {found:.3f} | {found / expected:.2f} |"
        for what, expected, found in pairs
    ]
    return "\n".join(lines)
