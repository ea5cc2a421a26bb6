"""Stored market data out of the database: exact, whole or not at all, and readable by other programs."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbird.archive.database_export import DatabaseExport, ExportError
from blackbird.archive.layout import DAY_MS, TimeRange, moment_ms
from blackbird.archive.reader import Archive
from blackbird.archive.recording import Recording
from blackbird.archive.recording_writer import write_recording
from blackbird.archive.source import Timed
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.simulation import Simulation
from blackbird.market.book_message import BookData, BookMessage
from database_manager import Cursor, DatabaseManager
from local_exchange.replay import Replay
from tests.support.market import PERP, SPOT, book_message
from tests.support.stored_market import database_of, store
from tests.support.workspace import HERE, Workspace

T = TypeVar("T")

RECORDING = "btc_depth50.ndjson.gz"
EVERYTHING = TimeRange()
# Both pin other versions than ours: they are installed apart.
PEERS = HERE / ".tools/peers/bin/python"
DAY = 1_723_161_600_000  # 2024-08-09


def export(place: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "export.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=place.environment, cwd=place.folder, check=False
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def messages(archive: Archive) -> list[tuple[Any, ...]]:
    return [(published_at, *as_tuple(message)) for published_at, message in archive]


def as_tuple(message: Any) -> tuple[Any, ...]:
    data = message.data
    head = message.topic, message.type, message.ts, message.cts, message.channel, message.matching_key
    return (*head, data.s, data.u, data.seq, bytes(data.b), bytes(data.a))


def small_market() -> list[Timed]:
    """Two instruments around midnight, and a message without levels."""
    return [
        (
            ms,
            book_message(kind, u, bids, asks, instrument=instrument, time=ms - 1, ts=ms, seq=u + 1, key="b"),
        )
        for ms, instrument, kind, u, bids, asks in (
            (DAY - 2000, SPOT, "snapshot", 5, [("10.10", "1"), ("10", "2.50")], [("11", "3")]),
            (DAY - 1999, PERP, "snapshot", 7, [("9", "1")], [("9.5", "3"), ("12", "0.1")]),
            (DAY + 500, SPOT, "delta", 6, [], []),
            (DAY + 1000, SPOT, "delta", 7, [], [("11", "0")]),
        )
    ]


@pytest.fixture
def market(place: Workspace) -> Workspace:
    """A database with a small market."""
    store(place, small_market())
    return place


@pytest.mark.parametrize("name", [RECORDING, "btc_depth1.ndjson.gz"])
def test_a_recording_comes_out_as_it_went_in(place: Workspace, recordings: Path, name: str) -> None:
    stored = list(Recording(recordings / name))[:20_000]
    store(place, stored)
    out = place.folder / "out" / "market.ndjson.gz"
    answer = export(
        place, "--from", "2024-08-08", "--to", "2024-08-09", "--format", "recording", "--out", str(out)
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"{out}\n", "")
    with gzip.open(out, "rt") as file:
        lines = [json.loads(line) for line in file]
    with gzip.open(recordings / name, "rt") as file:
        recorded = [json.loads(line)["message"] for line in itertools.islice(file, len(stored))]
    for line, body in zip(lines, recorded, strict=True):
        assert line["message"] == body
    assert [line["number"] for line in lines] == sorted({line["number"] for line in lines})
    assert [(line["published_at"], line["matching_key"]) for line in lines] == [(at, "a") for at, _ in stored]
    # Another program's reading of the same file.
    assert len(Replay(out, verbatim=True).lines) == len(stored)
    sums = place.query("SELECT count(*), sum(price), sum(size) FROM bybit.orderbook")[0]
    levels = [level for line in lines for side in "ba" for level in line["message"]["data"][side]]
    assert sums == (
        len(levels),
        sum(Decimal(price) for price, _ in levels),
        sum(Decimal(size) for _, size in levels),
    )
    # The same market to the rules, too.
    runs = [Simulation(Parameters()), Simulation(Parameters())]
    runs[0].run(stored)
    runs[1].run(Recording(out))
    assert runs[0].ledger.cash == runs[1].ledger.cash
    assert name != RECORDING or runs[0].ledger.cash == Decimal("235.8528529")


# Numbers as exchanges write them, and as none should; ties, and zeros of other lengths.
_NUMBERS = st.one_of(
    st.decimals("0.001", 999, places=3).map(str),
    st.sampled_from(["1", "1.0", "1.00", "01", "1e2", "100", "2E+0", "0.5", "00.5"]),
)
_SIZES = st.one_of(st.sampled_from(["0", "0.0", "0e1", "00"]), _NUMBERS)


@st.composite
def _sides(draw: st.DrawFn) -> bytes:
    levels = draw(st.lists(st.tuples(_NUMBERS, _SIZES), max_size=8))
    match draw(st.sampled_from(["as drawn", "rising", "falling", "removed first"])):
        case "rising":
            levels.sort(key=lambda level: Decimal(level[0]))
        case "falling":
            levels.sort(key=lambda level: -Decimal(level[0]))
        case "removed first":
            sign = draw(st.sampled_from([1, -1]))
            levels.sort(key=lambda level: (level[1] != "0", sign * Decimal(level[0])))
    return json.dumps(levels, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode()


@st.composite
def _markets(draw: st.DrawFn) -> list[Timed]:
    drawn = draw(st.lists(st.tuples(st.sampled_from(["snapshot", "delta"]), _sides(), _sides()), min_size=20))
    keys = st.sampled_from(["a", "b", 'é\\\\"\t'])
    return [
        (
            DAY + u,
            BookMessage(
                "orderbook.50.BTCUSDT",
                cast("Any", kind),
                DAY + draw(st.integers(0, 9)),
                BookData("BTCUSDT", msgspec.Raw(bids), msgspec.Raw(asks), u, u),
                DAY,
                "spot",
                draw(keys),
            ),
        )
        for u, (kind, bids, asks) in enumerate(drawn)
    ]


@settings(max_examples=10)
@given(market=_markets())
def test_bodies_come_out_byte_for_byte_whatever_their_levels(place: Workspace, market: list[Timed]) -> None:
    place.query("TRUNCATE bybit.orderbook")
    store(place, market)
    out = place.folder / "market.ndjson.gz"
    with TemporaryDirectory(dir=place.folder) as folder:
        DatabaseExport(database_of(place), Path(folder)).run(EVERYTHING)
        write_recording(Archive(Path(folder)).rows(), out)
    assert [as_tuple(message) for _, message in Recording(out)] == [
        as_tuple(message) for _, message in market
    ]


def test_the_archive_has_a_file_per_instrument_and_day_and_reads_in_order(market: Workspace) -> None:
    folder = market.folder / "archive"
    answer = export(market, "--from", "2024-08-01", "--to", "2024-08-31", "--out", str(folder))
    assert answer.returncode == 0, answer.stderr
    assert files(folder) == [
        "channel=linear/symbol=BTCPERP/date=2024-08-08.parquet",
        "channel=spot/symbol=BTCUSDT/date=2024-08-08.parquet",
        "channel=spot/symbol=BTCUSDT/date=2024-08-09.parquet",
    ]
    assert sorted(answer.stdout.split()) == [str(folder / name) for name in files(folder)]
    assert messages(Archive(folder)) == [(at, *as_tuple(message)) for at, message in small_market()]


def test_an_analyst_reads_the_archive_with_sql(market: Workspace) -> None:
    DatabaseExport(database_of(market), market.folder / "archive").run(EVERYTHING)
    with closing(duckdb.connect()) as db:
        found = db.execute(
            "SELECT symbol, count(*), max(cts) FROM read_parquet($files, hive_partitioning = true)"
            " GROUP BY 1 ORDER BY 1",
            {"files": str(market.folder / "archive/*/*/*.parquet")},
        ).fetchall()
    assert found == [("BTCPERP", 1, DAY - 2000), ("BTCUSDT", 3, DAY + 999)]


def test_parts_of_a_day_add_up_and_may_be_exported_again(market: Workspace) -> None:
    folder = market.folder / "archive"
    whole = DatabaseExport(database_of(market), market.folder / "whole")
    whole.run(EVERYTHING)
    parts = DatabaseExport(database_of(market), folder)
    for begin, end in ((DAY + 600, DAY + 2000), (DAY - 5000, DAY), (DAY, DAY + 600), (DAY, DAY + 700)):
        parts.run(TimeRange(begin, end))
    assert messages(Archive(folder)) == messages(Archive(market.folder / "whole"))


def test_days_in_the_archive_of_the_settings_may_be_removed_once_they_are_whole(market: Workspace) -> None:
    def archived() -> list[tuple[int, int, bool]]:
        return market.query(
            "SELECT day, messages, bybit.is_archived(day) FROM bybit.archived_day ORDER BY day"
        )

    day = DAY - DAY_MS
    assert export(market, "--from", "2024-08-08", "--to", "2024-08-09").returncode == 0
    assert archived() == []
    market.environment["ARCHIVE_PATH"] = str(market.folder / "kept")
    assert export(market, "--from", "2024-08-08", "--to", "2024-08-09", "--out", "other").returncode == 0
    assert archived() == []
    assert export(market, "--from", "2024-08-08", "--to", "2024-08-08", "--symbol", "BTCPERP").returncode == 0
    assert archived() == [(day, 1, False)]
    assert export(market, "--from", "2024-08-08", "--to", "2024-08-09").returncode == 0
    assert archived() == [(day, 2, True), (DAY, 2, True)]
    assert len(files(market.folder / "kept")) == 3


def test_only_the_symbols_asked_for_are_exported(market: Workspace) -> None:
    folder = market.folder / "archive"
    answer = export(
        market, "--from", "2024-08-08", "--to", "2024-08-09", "--symbol", "BTCPERP", "--out", str(folder)
    )
    assert answer.returncode == 0, answer.stderr
    assert files(folder) == ["channel=linear/symbol=BTCPERP/date=2024-08-08.parquet"]


def test_messages_without_number_are_in_the_order_of_their_times(market: Workspace) -> None:
    market.query("UPDATE bybit.orderbook_update SET number = NULL, published_at = NULL RETURNING 1")
    DatabaseExport(database_of(market), market.folder / "archive").run(EVERYTHING)
    assert [row[0] for row in messages(Archive(market.folder / "archive"))] == [
        DAY - 2001,
        DAY - 2000,
        DAY + 499,
        DAY + 999,
    ]


class BreakingDatabase(DatabaseManager):
    """A database whose COPY sends only the first bytes, and then fails or ends as if nothing were wrong."""

    def __init__(self, whole: DatabaseManager, most: int, failure: Exception | None) -> None:
        self._whole = whole
        self._most = most
        self._failure = failure

    def transaction(self, work: Callable[[Cursor], T]) -> T:
        return self._whole.transaction(
            lambda cursor: work(cast("Cursor", BreakingCursor(cursor, self._most, self._failure)))
        )


class BreakingCursor:
    def __init__(self, cursor: Cursor, most: int, failure: Exception | None) -> None:
        self._cursor = cursor
        self._most = most
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def copy_expert(self, statement: str, file: Any) -> None:
        breaking = Breaking(file, self._most)
        self._cursor.copy_expert(statement, cast("Any", breaking))
        if self._failure is not None:
            raise self._failure


class Breaking:
    def __init__(self, file: Any, left: int) -> None:
        self._file = file
        self._left = left

    def write(self, row: bytes) -> None:
        self._file.write(row[: self._left])
        self._left -= min(self._left, len(row))


def first_bytes(rows: int, more: int) -> Callable[[Workspace], int]:
    def count(place: Workspace) -> int:
        lengths: list[int] = []

        class Lengths:
            def write(self, row: bytes) -> None:
                lengths.append(len(row))

        class Measured(BreakingCursor):
            def copy_expert(self, statement: str, file: Any) -> None:
                del file
                self._cursor.copy_expert(statement, cast("Any", Lengths()))
                raise ExportError

        class MeasuredDatabase(BreakingDatabase):
            def transaction(self, work: Callable[[Cursor], T]) -> T:
                return self._whole.transaction(lambda cursor: work(cast("Cursor", Measured(cursor, 0, None))))

        with pytest.raises(ExportError):
            DatabaseExport(MeasuredDatabase(database_of(place), 0, None), place.folder / "measured").run(
                EVERYTHING
            )
        return sum(lengths[:rows]) + more

    return count


@pytest.mark.parametrize(
    "length",
    [first_bytes(1, 0), first_bytes(1, 1), first_bytes(1, 40), first_bytes(1, -3), first_bytes(0, 0)],
    ids=["between rows", "in the first column", "in a row", "in the last column", "before the first"],
)
@pytest.mark.parametrize("failure", [None, RuntimeError("gone")], ids=["silently", "with an error"])
def test_a_copy_that_breaks_off_leaves_what_was_there_and_nothing_else(
    market: Workspace, length: Callable[[Workspace], int], failure: Exception | None
) -> None:
    folder = market.folder / "archive"
    most = length(market)
    with pytest.raises((ExportError, duckdb.Error, RuntimeError)) as raised:
        DatabaseExport(BreakingDatabase(database_of(market), most, failure), folder).run(EVERYTHING)
    assert failure is None or raised.value is failure
    assert files(folder) == []
    DatabaseExport(database_of(market), folder).run(EVERYTHING)
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    with pytest.raises((ExportError, duckdb.Error, RuntimeError)):
        DatabaseExport(BreakingDatabase(database_of(market), most, failure), folder).run(EVERYTHING)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_nothing_stored_is_named(market: Workspace) -> None:
    answer = export(market, "--from", "2025-01-01", "--to", "2025-01-02")
    assert answer.returncode == 1
    assert answer.stderr == (
        f"export.py: the range {moment_ms('2025-01-01')} to {moment_ms('2025-01-03')}:"
        " expected stored messages, found none\n"
    )


def test_a_database_that_is_away_is_named_in_a_line(market: Workspace) -> None:
    market.environment["POSTGRES_PORT"] = "1"
    answer = export(market, "--from", "2024-08-08", "--to", "2024-08-09")
    assert answer.returncode == 1
    assert answer.stderr.startswith("export.py: connection to server")


@pytest.fixture
def tardis_files(place: Workspace, recordings: Path) -> list[Path]:
    """The first messages of a recording as CSV."""
    store(place, list(Recording(recordings / RECORDING))[:3000])
    folder = place.folder / "tardis"
    answer = export(
        place, "--from", "2024-08-08", "--to", "2024-08-09", "--format", "tardis", "--out", str(folder)
    )
    assert answer.returncode == 0, answer.stderr
    return [Path(line) for line in answer.stdout.split()]


def test_csv_has_a_line_per_level_in_the_order_of_arrival(place: Workspace, tardis_files: list[Path]) -> None:
    assert [path.name for path in tardis_files] == [
        "bybit_incremental_book_L2_linear_BTCPERP.csv.gz",
        "bybit_incremental_book_L2_spot_BTCUSDT.csv.gz",
    ]
    count = 0
    lines: list[list[str]] = []
    for path in tardis_files:
        with gzip.open(path, "rt") as file:
            head, *lines = (line.rstrip("\n").split(",") for line in file)
        assert head == [
            "exchange",
            "symbol",
            "timestamp",
            "local_timestamp",
            "is_snapshot",
            "side",
            "price",
            "amount",
        ]
        assert [line[3] for line in lines] == sorted(line[3] for line in lines)
        count += len(lines)
    assert place.query("SELECT count(*) FROM bybit.orderbook") == [(count,)]
    assert lines[0] == [
        "bybit-spot",
        "BTCUSDT",
        "1723161254206000",
        "1723161254206000",
        "true",
        "bid",
        "61837.63",
        "3.78826",
    ]


@pytest.mark.slow
def test_hftbacktest_and_nautilus_read_the_csv(tardis_files: list[Path]) -> None:
    if not PEERS.exists():
        pytest.skip("no environment with hftbacktest and nautilus_trader: see docs/developing.md")
    for path, symbol in zip(tardis_files, ("BTCPERP", "BTCUSDT"), strict=True):
        with gzip.open(path, "rt") as file:
            levels = sum(1 for _ in file) - 1
        command = [str(PEERS), str(HERE / "tests/support/read_tardis.py"), str(path), symbol]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        events, deltas = map(int, printed.splitlines()[-1].split())
        # hftbacktest adds two events that empty the book before the snapshot.
        assert (events, deltas) == (levels + 2, levels)
