"""Where the archive's files are, and which of them a time range needs."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from blackbird.archive.layout import DAY_MS, TimeRange, file_of, files_of, instruments_of, moment_ms
from blackbird.market.instrument import Instrument

DAY = 1_723_161_600_000  # 2024-08-09
ODD = Instrument("option", "A/B..C%D")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2024-08-09", DAY),
        ("2024-08-09T01:00", DAY + 3_600_000),
        ("2024-08-09T01:00:00.250+01:00", DAY + 250),
        ("2024-08-09 00:00:00Z", DAY),
        ("1723161600001", DAY + 1),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(text: str, ms: int) -> None:
    assert moment_ms(text) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "-5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        moment_ms(text)


def test_a_range_is_cut_into_days() -> None:
    assert list(TimeRange(DAY - 5, DAY + DAY_MS + 7).days()) == [
        (date(2024, 8, 8), TimeRange(DAY - 5, DAY)),
        (date(2024, 8, 9), TimeRange(DAY, DAY + DAY_MS)),
        (date(2024, 8, 10), TimeRange(DAY + DAY_MS, DAY + DAY_MS + 7)),
    ]
    assert list(TimeRange(DAY, DAY + DAY_MS).days()) == [(date(2024, 8, 9), TimeRange(DAY, DAY + DAY_MS))]


def test_files_are_found_by_range_and_no_symbol_leaves_the_folder(tmp_path: Path) -> None:
    paths = [file_of(tmp_path, ODD, date(2024, 8, day)) for day in (8, 9, 10)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert paths[0].parent.parent.parent == tmp_path
    (paths[0].parent / "date=2024-08-09.parquet.part").touch()
    (paths[0].parent / "date=other.parquet").touch()
    assert [path for _, path in files_of(tmp_path, TimeRange())] == paths
    assert [path for _, path in files_of(tmp_path, TimeRange(DAY, DAY + 1))] == paths[1:2]
    assert [path for _, path in files_of(tmp_path, TimeRange(DAY - 1, DAY))] == paths[:1]
    assert instruments_of(tmp_path) == [ODD]
