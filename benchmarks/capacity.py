"""Says what a list of instruments takes: processes, cores, broker, database, disk, and what ends first.

uv run benchmarks/capacity.py                           10,000 instruments, as an example
uv run benchmarks/capacity.py --instruments mine.csv    columns channel, symbol, matching_key, rate (pushes/s)
uv run benchmarks/capacity.py --measure costs.json      measure the costs on this machine, about three minutes
uv run benchmarks/capacity.py --check                   predict a run of 400 instruments, and run it
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# This folder's modules are `benchmarks.<name>`, as the type checker sees them.
sys.path[0] = str(ROOT)

from benchmarks.capacity_model import (  # noqa: E402
    CONNECTIONS_OF_ADDRESS,
    Costs,
    Demand,
    DepthCosts,
    Instrument,
    Part,
    Wall,
    connect_minutes,
    demand,
    example,
    partition_rates,
    processes_for,
    read_instruments,
    read_limits,
    share_rates,
    walls,
)

COSTS = ROOT / "benchmarks/costs.json"
LIMITS = ROOT / "benchmarks/limits.json"


def main() -> int:
    """Print the plan, or measure or check the costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--costs", type=Path, default=COSTS, metavar="FILE", help="measured costs")
    parser.add_argument("--instruments", type=Path, metavar="CSV", help="instruments with their rates")
    parser.add_argument("--depth", type=int, choices=(1, 50), default=50)
    parser.add_argument(
        "--partitions", type=int, default=16, metavar="P", help="parts that groups are divided into"
    )
    parser.add_argument("--busy", type=float, default=0.6, help="most of a core that a process may take")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--measure", type=Path, metavar="FILE", help="measure, and write the costs there")
    either.add_argument("--check", action="store_true", help="compare a prediction with a run")
    options = parser.parse_args()
    if options.measure is not None or options.check:
        # Starts services: nothing that a prediction needs.
        from benchmarks import capacity_run  # noqa: PLC0415

        if options.measure is not None:
            capacity_run.measure().write(options.measure)
        else:
            print(capacity_run.check(Costs.read(options.costs), options.depth))
        return 0
    costs = Costs.read(options.costs)
    instruments = example() if options.instruments is None else read_instruments(options.instruments)
    print(f"costs: {options.costs.name}, measured {costs.date} on {costs.machine}")
    print("\n".join(plan(instruments, costs, options.depth, options.partitions, options.busy)))
    return 0


def plan(
    instruments: Sequence[Instrument], costs: Costs, depth: int, partitions: int, busy: float
) -> list[str]:
    """Return the plan as lines of Markdown."""
    of_depth = costs.depths[depth]
    wanted = demand(instruments, of_depth)
    disk, raw = wanted.disk_bytes / 1e9, wanted.raw_bytes / 1e9
    asked = f"{wanted.instruments:,} instruments in {wanted.groups:,} groups at depth {depth}"
    return [
        f"{asked}, {wanted.pushes:,.0f} pushes/s",
        "",
        *_head("part", "load", "cores", "processes", ""),
        *_services(instruments, wanted, of_depth, partitions, busy),
        *_servers(wanted, of_depth),
        _row("disk", f"{disk:,.0f} GB a day uncompressed", "", "", f"as JSON {raw:,.0f} GB"),
        "",
        *_endings(wanted, walls(wanted, of_depth, read_limits(LIMITS), costs.cores)),
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), f"|{'---|' * len(cells)}"]


def _services(
    instruments: Sequence[Instrument], wanted: Demand, costs: DepthCosts, partitions: int, busy: float
) -> list[str]:
    rates = partition_rates(instruments, partitions)
    lines = []
    for name, least in (
        ("collector", math.ceil(wanted.connections / CONNECTIONS_OF_ADDRESS)),
        ("signal", 1),
        ("data_storage", 1),
    ):
        part = costs.parts[name]
        by_load = processes_for(rates, part, busy)
        count = None if by_load is None else max(by_load, least)
        lines.append(
            _row(
                name.replace("_", " "),
                f"{wanted.pushes:,.0f} pushes/s",
                f"{part.us * wanted.pushes / 1e6:.1f}",
                "more parts are needed" if count is None else str(count),
                "" if count is None else _why(name, wanted, rates, part, count),
            )
        )
    return [*lines, _row("trading engine", "orders", "", "1", "one writer an account")]


def _why(name: str, wanted: Demand, rates: Sequence[float], part: Part, count: int) -> str:
    busiest = max(share_rates(rates, min(count, len(rates))))
    text = f"{part.us:.0f} us a push, the busiest process takes {part.cores(busiest):.2f} cores"
    if name == "collector":
        each = math.ceil(wanted.instruments / count)
        text += f"; an address each, connected in {connect_minutes(each):.0f} min"
    return text


def _servers(wanted: Demand, costs: DepthCosts) -> list[str]:
    broker, database = costs.parts["broker"], costs.parts["database"]
    megabytes, megabits = wanted.bytes / 1e6, wanted.bytes * 8 / 1e6
    return [
        _row(
            "broker",
            f"{wanted.queue_writes:,.0f} queue writes/s, {megabytes:,.1f} MB/s in ({megabits:,.0f} Mbit/s)",
            f"{broker.cores(wanted.pushes):.1f}",
            "",
            f"{broker.us:.0f} us a push on one node; each replica costs about that again",
        ),
        _row(
            "database",
            f"{wanted.rows:,.0f} rows/s",
            f"{database.cores(wanted.pushes):.1f}",
            "",
            f"{database.us:.0f} us a push of {costs.rows:.1f} rows",
        ),
    ]


def _endings(wanted: Demand, found: Sequence[Wall]) -> list[str]:
    return [
        *_head("what ends, in this order", "at pushes/s of this mix", "this load", "by"),
        *(
            _row(
                wall.name,
                f"{wanted.pushes / wall.ratio:,.0f}",
                f"{wall.ratio:.1f} times too much" if wall.ratio > 1 else f"{wall.ratio:.0%} of it",
                wall.source,
            )
            for wall in found
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
