"""The arithmetic of capacity, against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.capacity import COSTS, LIMITS, plan
from benchmarks.capacity_model import (
    PARTS,
    Costs,
    DepthCosts,
    Instrument,
    Limit,
    Part,
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

# 100 us a push at 1,000 pushes/s, and 0.02 cores at rest.
PART = Part(((500.0, 0.06), (1000.0, 0.1)))
DEPTH = DepthCosts(dict.fromkeys(PARTS, PART), message_bytes=500, rows=16, disk_bytes=2500)
PAIR = [Instrument("spot", "AUSDT", "a", 30.0), Instrument("linear", "APERP", "a", 10.0)]


@pytest.mark.parametrize(
    ("rate", "cores"), [(0.0, 0.02), (500.0, 0.06), (750.0, 0.08), (1000.0, 0.1), (5000.0, 0.5)]
)
def test_cores_follow_the_measured_points_and_beyond_them_the_last(rate: float, cores: float) -> None:
    assert PART.cores(rate) == pytest.approx(cores)


def test_cores_are_never_below_nothing() -> None:
    assert Part(((500.0, 0.01), (1000.0, 0.1))).cores(0) == 0


def test_the_example_is_10_000_instruments_with_35_750_pushes_a_second() -> None:
    wanted = demand(example(), DEPTH)
    assert (wanted.instruments, wanted.groups, wanted.pushes) == (10_000, 5_000, 35_750)
    assert wanted.busiest_group == 80
    assert wanted.connections == 5_000


def test_broker_database_and_disk_follow_from_the_pushes() -> None:
    wanted = demand(PAIR, DEPTH)
    assert wanted.pushes == 40
    assert wanted.queue_writes == 80
    assert wanted.bytes == 20_000
    assert wanted.rows == 640
    assert wanted.disk_bytes == 40 * 2500 * 86_400
    assert wanted.raw_bytes == 40 * 500 * 86_400


def test_a_group_is_in_one_partition_by_the_hash_of_its_key() -> None:
    # crc32(b"a") = 0xE8B7BE43
    assert partition_rates(PAIR, 16) == [40.0 if number == 3 else 0.0 for number in range(16)]


def test_partitions_of_the_example_are_even() -> None:
    rates = partition_rates(example(), 16)
    assert sum(rates) == 35_750
    assert max(rates) < 1.1 * 35_750 / 16


def test_a_process_has_the_partitions_of_its_remainder() -> None:
    assert share_rates([1.0, 2.0, 4.0, 8.0, 16.0], 2) == [21.0, 10.0]


@pytest.mark.parametrize(("busy", "count"), [(0.6, 1), (0.3, 2), (0.15, 4), (0.05, None)])
def test_as_many_processes_as_keep_the_busiest_below_its_share(busy: float, count: int | None) -> None:
    # 0.1 cores a partition; of three processes one would still have two of the four.
    assert processes_for([1000.0] * 4, PART, busy) == count


def test_connections_beyond_the_first_450_wait_for_five_minutes_each_time() -> None:
    assert [connect_minutes(count) for count in (1, 450, 451, 1000, 10_000)] == [0, 0, 5, 10, 110]


def test_what_ends_is_listed_with_what_ends_first_at_the_top() -> None:
    limits = [
        Limit("a broker", "queue writes/s", 40.0, "somebody"),
        Limit("a database", "rows/s", 6400.0, "me"),
    ]
    found = walls(demand(PAIR, DEPTH), DEPTH, limits, cores=2)
    assert (found[0].name, found[0].ratio) == ("a broker", 2.0)
    ratios = {wall.name: wall.ratio for wall in found}
    assert ratios["a database"] == pytest.approx(0.1)
    # Six parts of 100 us, 40 pushes/s, two cores.
    assert ratios["one machine of 2 cores with everything on it"] == pytest.approx(0.012)
    assert ratios["one process of signal"] == pytest.approx(0.004)
    assert list(ratios.values()) == sorted(ratios.values(), reverse=True)


def test_instruments_are_read_from_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("channel,symbol,matching_key,rate\nspot,AUSDT,a,30\nlinear,APERP,a,10\n")
    assert read_instruments(file) == PAIR


def test_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    costs = Costs("a machine", 2, "2026-12-01", "a command", {50: DEPTH})
    costs.write(tmp_path / "costs.json")
    again = Costs.read(tmp_path / "costs.json")
    assert (again.machine, again.cores, again.date) == ("a machine", 2, "2026-12-01")
    assert again.depths[50].parts["broker"].cores(750) == pytest.approx(0.08)


@pytest.mark.parametrize("depth", [1, 50])
def test_the_costs_and_limits_of_the_repository_say_where_they_are_from(depth: int) -> None:
    costs = Costs.read(COSTS)
    assert costs.machine
    assert costs.date
    assert set(costs.depths[depth].parts) == set(PARTS)
    for limit in read_limits(LIMITS):
        assert limit.source.startswith(("published: ", "measured: "))
    lines = plan(example(), costs, depth, 16, 0.6)
    assert any(line.startswith("| broker | 71,500 queue writes/s") for line in lines)
