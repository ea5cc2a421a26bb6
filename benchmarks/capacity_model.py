"""The arithmetic of capacity: what a list of instruments costs, by costs that were measured."""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from blackbird.bybit.connection_budget import CONNECTIONS, CONNECTIONS_WINDOW

# Bybit's limit of market-data connections an address and category.
CONNECTIONS_OF_ADDRESS = 1000
# Each push goes to one queue for storage and one for the signal engine.
QUEUES = 2
DAY = 86_400
PARTS = ("collector", "signal", "data_storage", "trading_engine", "broker", "database")


@dataclass(frozen=True)
class Instrument:
    """One subscription: what it sends a second, and which group it belongs to."""

    channel: str
    symbol: str
    matching_key: str
    rate: float


@dataclass(frozen=True)
class Part:
    """CPU of one part: what it took at each measured rate, as (pushes/s, cores), the lowest rate first.

    A part takes something without any push, and reads more of them at once the more there are. Beyond the
    highest rate a push is taken to cost what it did there, which is rather too much than too little.
    """

    points: Sequence[tuple[float, float]]

    @property
    def us(self) -> float:
        """Microseconds a push at the highest rate."""
        rate, cores = self.points[-1]
        return cores / rate * 1e6

    def cores(self, rate: float) -> float:
        """Return the cores at a rate: between the measured ones and below them on the line through two."""
        if rate >= self.points[-1][0]:
            return rate * self.us / 1e6
        above = next(number for number in range(1, len(self.points)) if rate <= self.points[number][0])
        (low_rate, low), (high_rate, high) = self.points[above - 1 : above + 1]
        return max(0.0, low + (rate - low_rate) * (high - low) / (high_rate - low_rate))


@dataclass(frozen=True)
class DepthCosts:
    """What a push of one depth costs."""

    parts: Mapping[str, Part]
    message_bytes: float
    rows: float
    disk_bytes: float  # in the database, indexes included, before compression


@dataclass(frozen=True)
class Costs:
    """Measured costs, and where and when they were measured."""

    machine: str
    cores: int
    date: str
    command: str
    depths: Mapping[int, DepthCosts]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` has written; raises ValueError or KeyError for any other file."""
        data = json.loads(path.read_text())
        depths = {
            int(depth): DepthCosts(**{**costs, "parts": {n: Part(**p) for n, p in costs["parts"].items()}})
            for depth, costs in data["depths"].items()
        }
        return cls(data["machine"], data["cores"], data["date"], data["command"], depths)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Limit:
    """What a part was seen to do, by somebody who is named in `source`."""

    name: str
    unit: str
    value: float
    source: str


def read_limits(path: Path) -> list[Limit]:
    return [Limit(**limit) for limit in json.loads(path.read_text())]


def read_instruments(path: Path) -> list[Instrument]:
    """Read a CSV file with the columns channel, symbol, matching_key and rate (pushes/s)."""
    with path.open(newline="") as file:
        return [
            Instrument(row["channel"], row["symbol"], row["matching_key"], float(row["rate"]))
            for row in csv.DictReader(file)
        ]


# Instruments and their pushes a second: few are busy, most are quiet.
EXAMPLE = ((50, 40.0), (450, 15.0), (2000, 6.0), (7500, 2.0))


def example() -> list[Instrument]:
    """Return 10,000 instruments in 5,000 pairs of spot and linear."""
    rates = [rate for count, rate in EXAMPLE for _ in range(count)]
    return [
        Instrument(("spot", "linear")[i % 2], f"C{i // 2:04}{('USDT', 'PERP')[i % 2]}", f"c{i // 2:04}", rate)
        for i, rate in enumerate(rates)
    ]


@dataclass(frozen=True)
class Demand:
    """What all instruments together ask for, at one depth."""

    instruments: int
    groups: int
    pushes: float  # a second
    busiest_group: float  # pushes a second
    connections: int  # of the category with the most
    bytes: float  # a second, into the broker
    rows: float  # a second
    disk_bytes: float  # a day

    @property
    def queue_writes(self) -> float:
        return self.pushes * QUEUES

    @property
    def raw_bytes(self) -> float:
        """The same pushes as they are sent, a day."""
        return self.bytes * DAY


def demand(instruments: Sequence[Instrument], costs: DepthCosts) -> Demand:
    """Add up what the instruments send."""
    groups: defaultdict[str, float] = defaultdict(float)
    for instrument in instruments:
        groups[instrument.matching_key] += instrument.rate
    pushes = sum(groups.values())
    return Demand(
        len(instruments),
        len(groups),
        pushes,
        max(groups.values()),
        max(Counter(instrument.channel for instrument in instruments).values()),
        pushes * costs.message_bytes,
        pushes * costs.rows,
        pushes * costs.disk_bytes * DAY,
    )


def partition_rates(instruments: Iterable[Instrument], partitions: int) -> list[float]:
    """Return the pushes a second of each of so many parts, to which groups go by the hash of their key."""
    rates = [0.0] * partitions
    for instrument in instruments:
        rates[zlib.crc32(instrument.matching_key.encode()) % partitions] += instrument.rate
    return rates


def share_rates(rates: Sequence[float], processes: int) -> list[float]:
    """Return the pushes a second of each process, where process i has the partitions p with p % n = i."""
    return [sum(rates[number::processes]) for number in range(processes)]


def processes_for(rates: Sequence[float], part: Part, busy: float) -> int | None:
    """Return how many processes keep the busiest below `busy` of a core; None: more than there are rates."""
    return next((n for n in range(1, len(rates) + 1) if part.cores(max(share_rates(rates, n))) <= busy), None)


def connect_minutes(connections: int) -> float:
    """Return how long one address takes to connect so many streams within Bybit's limit of new ones."""
    return (math.ceil(connections / CONNECTIONS) - 1) * CONNECTIONS_WINDOW / 60


@dataclass(frozen=True)
class Wall:
    """Something that ends: `ratio` is this load to what it holds."""

    name: str
    ratio: float
    source: str


def walls(wanted: Demand, costs: DepthCosts, limits: Sequence[Limit], cores: int) -> list[Wall]:
    """Return what ends, the first to end first."""
    parts = costs.parts
    found = [
        Wall(
            f"one machine of {cores} cores with everything on it",
            sum(part.us for part in parts.values()) * wanted.pushes / 1e6 / cores,
            "measured costs",
        ),
        Wall(
            f"one address ({CONNECTIONS_OF_ADDRESS:,} connections a category)",
            wanted.connections / CONNECTIONS_OF_ADDRESS,
            "Bybit",
        ),
        *(
            Wall(
                f"one process of {name.replace('_', ' ')}",
                wanted.pushes * parts[name].us / 1e6,
                "measured costs",
            )
            for name in ("collector", "signal", "data_storage")
        ),
        Wall(
            "the busiest group in one signal engine",
            wanted.busiest_group * parts["signal"].us / 1e6,
            "measured costs; a group cannot be divided",
        ),
    ]
    asked = {"queue writes/s": wanted.queue_writes, "rows/s": wanted.rows}
    found += [Wall(limit.name, asked[limit.unit] / limit.value, limit.source) for limit in limits]
    return sorted(found, key=lambda wall: -wall.ratio)
