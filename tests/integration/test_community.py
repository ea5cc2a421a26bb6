"""TimescaleDB Community: old chunks are compressed, and stay the same to all that reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blackbird.archive.database_export import DatabaseExport
from blackbird.archive.layout import TimeRange
from blackbird.archive.reader import Archive
from blackbird.archive.recording import Recording
from blackbird.archive.source import Timed
from tests.support.editions import community
from tests.support.stored_market import database_of, store
from tests.support.workspace import Workspace, connect

pytestmark = pytest.mark.slow

DAY = 86_400_000
# What docs/capacity.md says, and no less.
RATIOS = {"btc_depth50.ndjson.gz": 14, "btc_depth1.ndjson.gz": 23}


@pytest.fixture
def place(own_place: Workspace) -> Iterator[Workspace]:
    """A database of the Community edition."""
    with community(own_place):
        yield own_place


def run_policies(place: Workspace) -> None:
    """Do what the background worker does once a day."""
    jobs = place.query("SELECT job_id FROM timescaledb_information.jobs WHERE proc_name LIKE '%%compression'")
    assert len(jobs) == 3
    with contextlib.closing(connect(place.environment, place.name)) as connection:
        for (job,) in jobs:
            connection.cursor().execute("CALL run_job(%s)", (job,))


def compressed(place: Workspace) -> dict[str, int]:
    """Return how many chunks of each table are compressed."""
    return dict(
        place.query(
            "SELECT hypertable_name::text, count(*) FROM timescaledb_information.chunks WHERE is_compressed"
            " GROUP BY 1"
        )
    )


def sizes(place: Workspace) -> tuple[int, int]:
    """Return the bytes of the order books before and after compression."""
    ((before, after),) = place.query(
        "SELECT sum(before_compression_total_bytes)::bigint, sum(after_compression_total_bytes)::bigint"
        " FROM unnest(ARRAY['bybit.orderbook', 'bybit.orderbook_update']) AS name,"
        " hypertable_compression_stats(name::regclass)"
    )
    return before, after


def contents(place: Workspace) -> list[list[tuple[Any, ...]]]:
    return [
        place.query("SELECT count(*), sum(price), sum(size), sum(update_id) FROM bybit.orderbook"),
        place.query("SELECT * FROM bybit.orderbook_update ORDER BY number"),
        place.query("SELECT * FROM bybit.gaps ORDER BY 1, 2, 3"),
    ]


def exported(place: Workspace, name: str) -> list[bytes]:
    folder = place.folder / name
    DatabaseExport(database_of(place), folder).run(TimeRange())
    # Messages of one millisecond in two batches have numbers in another order.
    return sorted(msgspec.json.encode(message) for _, message in Archive(folder))


@pytest.mark.parametrize("name", RATIOS)
def test_compressed_order_books_are_the_same_and_many_times_smaller(
    place: Workspace, recordings: Path, name: str
) -> None:
    market: list[Timed] = list(Recording(recordings / name))
    for begin in range(0, len(market), 5000):
        store(place, market[begin : begin + 5000])
    before = contents(place)
    bodies = exported(place, "before")
    assert compressed(place) == {}
    run_policies(place)
    assert compressed(place) == {"orderbook": 2, "orderbook_update": 2}, "before and after midnight"
    assert contents(place) == before
    assert exported(place, "after") == bodies == sorted(msgspec.json.encode(sent) for _, sent in market)
    large, small = sizes(place)
    print(f"{name}: {large:,} bytes, compressed {small:,}: a {large / small:.1f}th")
    assert large / small > RATIOS[name] - 1


def test_a_copy_of_a_message_in_a_compressed_day_is_known_and_a_new_one_is_stored(
    place: Workspace, recordings: Path
) -> None:
    market: list[Timed] = list(Recording(recordings / "btc_depth50.ndjson.gz"))[:200]
    store(place, market[:150])
    run_policies(place)
    store(place, market[100:])
    assert place.query("SELECT count(*) FROM bybit.orderbook_update") == [(200,)]
    levels = sum(len(msgspec.json.decode(side)) for _, sent in market for side in (sent.data.b, sent.data.a))
    assert place.query("SELECT count(*) FROM bybit.orderbook") == [(levels,)]


def test_retention_drops_compressed_days(place: Workspace, recordings: Path) -> None:
    store(place, list(Recording(recordings / "btc_depth50.ndjson.gz"))[:100])
    run_policies(place)
    ((removed,),) = place.query("SELECT bybit.forget_before(%s)", 1_723_161_600_000)
    assert removed > 0
    assert place.query("SELECT bybit.forget_before(%s)", 1_723_161_600_000) == [(0,)]
    assert contents(place) == [[(0, None, None, None)], [], []]
