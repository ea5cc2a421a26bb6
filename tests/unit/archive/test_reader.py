"""An archive read back: order, groups, ranges, and messages without a key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from blackbird.archive.layout import COLUMNS, TimeRange, file_of
from blackbird.archive.reader import Archive
from blackbird.archive.source import SourceError
from blackbird.market.instrument import Instrument

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")


def row(number: int, key: str | None = "a", cts: int | None = None) -> tuple[Any, ...]:
    cts = number if cts is None else cts
    return number, number + 1, cts, cts, number, number, "delta", "orderbook.50.X", key, "[]", '[["1","2"]]'


def write(folder: Path, instrument: Instrument, day: int, rows: Sequence[tuple[Any, ...]]) -> None:
    path = file_of(folder, instrument, date(1970, 1, day))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(duckdb.connect()) as db:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        db.execute(f"CREATE TABLE written ({columns})")
        db.executemany(f"INSERT INTO written VALUES ({', '.join('?' * len(COLUMNS))})", rows)  # noqa: S608
        db.execute(f"COPY written TO '{path}' (FORMAT parquet)")


def numbers(archive: Archive) -> list[int]:
    return [each.number for each in archive.rows()]


@pytest.mark.parametrize("window", [1, 3, 100_000])
def test_all_instruments_are_read_in_the_order_of_publishing(tmp_path: Path, window: int) -> None:
    write(tmp_path, SPOT, 1, [row(1), row(4), row(5), row(90)])
    write(tmp_path, PERP, 1, [row(2), row(3), row(1_000_000)])
    write(tmp_path, PERP, 2, [row(7, cts=86_400_000)])
    archive = Archive(tmp_path, window_rows=window)
    assert archive.total == 8
    assert numbers(archive) == [1, 2, 3, 4, 5, 7, 90, 1_000_000]
    assert archive.done == 8
    messages = list(archive)
    assert [at for at, _ in messages] == [2, 3, 4, 5, 6, 8, 91, 1_000_001]
    assert [message.instrument for _, message in messages[:3]] == [SPOT, PERP, PERP]
    assert bytes(messages[0][1].data.a) == b'[["1","2"]]'


def test_only_the_range_the_instrument_and_the_groups_asked_for_are_read(tmp_path: Path) -> None:
    write(tmp_path, SPOT, 1, [row(1), row(2, "b"), row(3, "it's")])
    write(tmp_path, PERP, 1, [row(4, "b")])
    assert numbers(Archive(tmp_path, TimeRange(2, 4))) == [2, 3]
    assert numbers(Archive(tmp_path, groups=["b", "it's"])) == [2, 3, 4]
    assert numbers(Archive(tmp_path, instrument=PERP)) == [4]
    assert Archive(tmp_path, groups=["none"]).total == 0
    assert Archive(tmp_path, TimeRange(2, 4)).published_range() == (3, 4)


def test_a_message_without_a_key_has_that_of_its_instrument(tmp_path: Path) -> None:
    write(tmp_path, SPOT, 1, [row(1, None), row(2, "b"), row(5, None), row(6, "c"), row(7, None)])
    write(tmp_path, PERP, 1, [row(3, "x"), row(4, None)])
    found = [(each.number, each.matching_key) for each in Archive(tmp_path).rows()]
    assert found == [(2, "b"), (3, "x"), (4, "x"), (5, "b"), (6, "c"), (7, "c")]


def test_an_archive_without_the_range_is_named(tmp_path: Path) -> None:
    write(tmp_path, SPOT, 1, [row(1)])
    with pytest.raises(SourceError, match="expected an archive with this range, found no file of it"):
        list(Archive(tmp_path, TimeRange(86_400_000, 86_400_001)))
    with pytest.raises(SourceError, match="expected an archive"):
        list(Archive(tmp_path / "nowhere"))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = file_of(tmp_path, SPOT, date(1970, 1, 1))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not Parquet at all")
    with pytest.raises(SourceError, match=r"date=1970-01-01\.parquet"):
        list(Archive(tmp_path))
