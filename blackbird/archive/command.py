"""The command `export.py`: stored market data as Parquet, as a recording, or for other programs."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blackbird import __version__
from blackbird.archive.database_export import DatabaseExport, ExportError
from blackbird.archive.layout import DAY_MS, TimeRange, instruments_of, moment_ms, quoted
from blackbird.archive.reader import Archive, StoredMessage
from blackbird.archive.recording_writer import write_recording
from blackbird.archive.source import SourceError
from blackbird.archive.tardis import write_tardis
from database_manager import DatabaseManager, DatabaseUnavailable, RowsRejected

INTERRUPTED = 130  # 128 + SIGINT
FAILURES = (ExportError, SourceError, DatabaseUnavailable, RowsRejected, duckdb.Error, OSError)


def add_range(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --from, --to and --symbol to a command line."""
    times = "an ISO time, UTC where it names no zone, or milliseconds since 1970"
    parser.add_argument("--from", dest="begin", type=_moment, required=required, metavar="TIME", help=times)
    parser.add_argument(
        "--to",
        dest="end",
        type=_end,
        required=required,
        metavar="TIME",
        help="the same, exclusive; a date alone is included whole",
    )
    parser.add_argument(
        "--symbol",
        action="append",
        default=[],
        metavar="SYMBOL",
        help="only this symbol; may be given several times (default: all)",
    )


def span_of(options: argparse.Namespace) -> TimeRange:
    """Return the range that the command line names; an end that is missing is open."""
    everything = TimeRange()
    begin = everything.begin_ms if options.begin is None else options.begin
    end = everything.end_ms if options.end is None else options.end
    return TimeRange(begin, end)


def _moment(text: str) -> int:
    try:
        return moment_ms(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time like 2026-11-25T10:00, was {text!r}") from None


def _end(text: str) -> int:
    is_date = len(text) == len("2026-11-25") and not text.isdecimal()
    return _moment(text) + (DAY_MS if is_date else 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with the usage and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="export.py",
        description="Export stored order-book messages from the database, in the order of their arrival.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blackbird {__version__}")
    add_range(parser, required=True)
    parser.add_argument(
        "--format",
        choices=("parquet", "recording", "tardis"),
        default="parquet",
        help="parquet: one file per instrument and day (default); recording: one gzipped file of JSON lines;"
        " tardis: one gzipped CSV per symbol, incremental_book_L2",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the folder of the archive (default: ARCHIVE_PATH, or archive), the file of a recording"
        " (market.ndjson.gz), the folder of CSV files (tardis)",
    )
    return parser.parse_args(arguments)


@contextlib.contextmanager
def export_progress(total: int) -> Iterator[Progress]:
    """Show a bar on standard error, if that is a terminal; its first task counts messages."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        progress.add_task("messages", total=total)
        yield progress


def export_archive(
    database: DatabaseManager,
    folder: Path,
    span: TimeRange,
    symbols: Sequence[str] = (),
    *,
    marks_days: bool = False,
) -> list[Path]:
    """Export a range into an archive with a progress bar; return its files.

    `marks_days` see DatabaseExport. Raises one of FAILURES.
    """
    export = DatabaseExport(database, folder)
    with export_progress(export.count(span, symbols)) as progress:
        task = progress.task_ids[0]
        watched = DatabaseExport(
            database, folder, lambda rows: progress.advance(task, rows), marks_days=marks_days
        )
        files = watched.run(span, symbols)
    if not files:
        raise SourceError(f"{_words(span, symbols)}: expected stored messages, found none")
    return files


def _words(span: TimeRange, symbols: Sequence[str]) -> str:
    return " ".join(["the range", *symbols, f"{span.begin_ms} to {span.end_ms}"])


def _convert(archive: Path, options: argparse.Namespace) -> list[Path]:
    """Write what is in an archive in the other formats; return the files."""
    if options.format == "recording":
        source = Archive(archive)
        path = options.out or Path("market.ndjson.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(_watched(source), path)
        return [path]
    folder = options.out or Path("tardis")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for instrument in instruments_of(archive):
        path = folder / f"bybit_incremental_book_L2_{instrument.channel}_{quoted(instrument.symbol)}.csv.gz"
        write_tardis(_watched(Archive(archive, instrument=instrument)), path)
        written.append(path)
    return written


def _watched(source: Archive) -> Iterator[StoredMessage]:
    with export_progress(int(source.total)) as progress:
        for row in source.rows():
            yield row
            progress.update(progress.task_ids[0], completed=source.done)


@dataclass(frozen=True)
class ArchiveSetting:
    """The archive's folder where no other is named; with `keeps_days` retention waits for its exports."""

    folder: Path
    keeps_days: bool = False

    @classmethod
    def of(cls, archive_path: str) -> ArchiveSetting:
        """Return what ARCHIVE_PATH says."""
        return cls(Path(archive_path), keeps_days=True) if archive_path else cls(Path("archive"))

    def marks_days(self, folder: Path) -> bool:
        """Return whether what is exported to `folder` counts for retention."""
        return self.keeps_days and folder.resolve() == self.folder.resolve()


def run(options: argparse.Namespace, database: DatabaseManager, archive: ArchiveSetting) -> list[Path]:
    """Export what the command line asks for; return the files. Raises one of FAILURES."""
    span = span_of(options)
    if options.format == "parquet":
        folder = options.out or archive.folder
        marks_days = archive.marks_days(folder)
        return export_archive(database, folder, span, options.symbol, marks_days=marks_days)
    with tempfile.TemporaryDirectory(prefix="blackbird-export-") as folder:
        export_archive(database, Path(folder), span, options.symbol)
        return _convert(Path(folder), options)


def main(database: DatabaseManager, archive: ArchiveSetting, arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = parse(arguments)
    try:
        for path in run(options, database, archive):
            print(path)
    except FAILURES as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
