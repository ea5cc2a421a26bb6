"""Backtests: messages per second from an archive and from the database, against the bare core.

The bare core is `Signal` and `TradingEngine` driven by a loop over a list of bodies, and nothing else. It is
all in this process, but for the database server; times are by the clock, in alternating rounds.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb

from benchmarks import market
from benchmarks.place import Place, place
from benchmarks.results import Row, check, thousands
from blackbird.archive.copy_pipe import CopyPipe
from blackbird.archive.database_export import DatabaseExport
from blackbird.archive.layout import TimeRange
from blackbird.archive.parsed import parsed
from blackbird.archive.reader import Archive
from blackbird.archive.source import Timed
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.simulation import Simulation
from blackbird.market.book_message import decode_book
from tests.support.stored_market import database_of, store
from tests.support.workspace import connect

STORED_AT_ONCE = 10_000
DATABASE_LEAST = 15_000  # depth-50 messages per second, on two cores

Seconds = dict[str, list[float]]


def run(*, quick: bool) -> list[Row]:
    bodies = [market.body(push, "a") for push in market.updates(50, 20_000 if quick else 100_000)]
    messages: list[Timed] = []
    for body in bodies:
        message = decode_book(body)
        # In the order of the bodies, which is that of their arrival.
        messages.append((max(message.ts, messages[-1][0] if messages else 0), message))
    seconds: Seconds = {}
    with place() as somewhere, tempfile.TemporaryDirectory(prefix="blackbird-benchmark-") as folder:
        for begin in range(0, len(messages), STORED_AT_ONCE):
            store(somewhere.space, messages[begin : begin + STORED_AT_ONCE])
        somewhere.space.query("ANALYZE bybit.orderbook, bybit.orderbook_update")
        export = DatabaseExport(database_of(somewhere.space), Path(folder) / "archive")
        for _ in range(1 if quick else 3):
            _round(bodies, messages, export, Path(folder), seconds)
            _bare_copy(somewhere, seconds)
    return _rows(len(bodies), seconds)


def _round(
    bodies: list[bytes], messages: list[Timed], export: DatabaseExport, folder: Path, seconds: Seconds
) -> None:
    archive = folder / "archive"
    cash = []

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - begin)

    def from_archive() -> None:
        simulation = Simulation(Parameters())
        simulation.run(Archive(archive))
        cash.append(simulation.ledger.cash)

    def from_database() -> None:
        shutil.rmtree(archive, ignore_errors=True)
        timed("export", lambda: export.run(TimeRange()))
        from_archive()

    timed("core", lambda: cash.append(_bare_core(bodies, messages)))
    timed("database", from_database)
    timed("archive", from_archive)
    timed("pipe", lambda: _bare_pipe(messages, folder / "pipe.parquet"))
    kept = parsed(messages)
    timed("parsed", lambda: Simulation(Parameters()).run(kept))
    timed("untraded", lambda: _books_alone(kept))
    check(len(set(cash)) == 1, f"the cash of the runs differs: {cash}")


def _bare_core(bodies: list[bytes], messages: list[Timed]) -> Decimal:
    now = [0]
    signal = Parameters().new_signal(lambda: now[0])
    engine = Parameters().new_engine(lambda: now[0])
    for body, (at, _) in zip(bodies, messages, strict=True):
        now[0] = at
        scan = signal.scan(signal.on_book(decode_book(body), at))
        while scan.order is not None:
            scan.answer(engine.answer_of(engine.execute(scan.order)))
    return engine.pnl


def _books_alone(messages: list[Timed]) -> None:
    signal = Parameters().new_signal(lambda: 0)
    for at, message in messages:
        signal.on_book(message, at)


def _bare_pipe(messages: list[Timed], path: Path) -> None:
    """Write as many rows as an export does, made before, through the same pipe into Parquet."""
    rows = [
        b'%d,%d,%d,"%b","%b"\n'
        % (at, message.cts, message.data.u, _csv(message.data.b), _csv(message.data.a))
        for at, message in messages
    ]
    columns = "{'at': 'BIGINT', 'cts': 'BIGINT', 'u': 'BIGINT', 'bids': 'VARCHAR', 'asks': 'VARCHAR'}"
    with (
        duckdb.connect() as db,
        CopyPipe(lambda file: [file.write(row) for row in rows], lambda _: None) as pipe,
    ):
        db.execute(
            f"COPY (FROM read_csv('{pipe.path}', header = false, auto_detect = false, delim = ',',"
            f" quote = '\"', escape = '\"', columns = {columns})) TO '{path}'"
            " (FORMAT parquet, COMPRESSION zstd)"
        )


def _bare_copy(there: Place, seconds: Seconds) -> None:
    """Have the server send the rows of all levels, to nowhere."""
    with contextlib.closing(connect(there.environment, there.space.name)) as database:
        begin = time.perf_counter()
        database.cursor().copy_expert(
            "COPY (SELECT ts_orderbook, update_id, side, price, size FROM bybit.orderbook) TO STDOUT",
            _Nowhere(),
        )
        seconds.setdefault("copy", []).append(time.perf_counter() - begin)


class _Nowhere(io.BytesIO):
    """A file that forgets what is written to it."""

    def write(self, row: object, /) -> int:
        return len(row)  # type: ignore[arg-type]  # bytes


def _csv(side: object) -> bytes:
    return bytes(side).replace(b'"', b'""')  # type: ignore[call-overload,no-any-return]  # msgspec.Raw


def _rows(count: int, seconds: Seconds) -> list[Row]:
    rate = {name: count / statistics.median(each) for name, each in seconds.items()}

    def row(what: str, name: str, against: str, ceiling: str, least: float | None = None) -> Row:
        return Row(
            what,
            thousands(rate[name], "msg/s"),
            f"{thousands(rate[against], 'msg/s')} {ceiling}",
            rate[name] / rate[against],
            least=least,
        )

    required = f"{thousands(DATABASE_LEAST, 'msg/s')} required"
    return [
        row("backtest from the archive, depth 50, trading", "archive", "core", "bare core", 0.70),
        row("from the database, by way of the archive", "database", "core", "bare core", 0.40),
        Row(
            "the same",
            thousands(rate["database"], "msg/s"),
            required,
            rate["database"] / DATABASE_LEAST,
            least=1.0,
        ),
        row("export from the database into Parquet", "export", "pipe", "bare pipe"),
        row("the same", "export", "copy", "bare COPY of the levels to nowhere"),
        row("backtest of a parsed market (sweeps)", "parsed", "core", "bare core"),
        row("signal core on a parsed market, no trading", "untraded", "core", "bare core"),
    ]
