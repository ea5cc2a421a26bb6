"""The command `backtest.py`: reads its command line, runs, and shows the figures."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb

from blackbird import __version__
from blackbird.archive.command import FAILURES, ArchiveSetting, add_range, export_archive, span_of
from blackbird.archive.database_export import DatabaseExport
from blackbird.archive.market import Market
from blackbird.archive.reader import Archive
from blackbird.archive.source import Source, SourceError
from blackbird.backtest import terminal
from blackbird.backtest.compare import Comparison, read_orders
from blackbird.backtest.html_report import html, page_of
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import result_of, to_json
from blackbird.backtest.sheets import sheets_of
from blackbird.backtest.simulation import Simulation
from blackbird.backtest.sweep import SweepError
from blackbird.backtest.sweep_command import add_options, run_sweep
from database_manager import DatabaseManager

INTERRUPTED = 130  # 128 + SIGINT
DIFFERENT = 3


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with the usage and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="backtest.py",
        description="Trade a stored market with the rules and settings of the live system, without a broker."
        " Settings come from the environment and variables.env, as for the services. With --from and --to the"
        " market is read from the database, by way of the archive, which a later run finds there.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blackbird {__version__}")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="a recording (.ndjson, .ndjson.gz)")
    add_range(parser, required=False)
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="FOLDER",
        help="the archive to read; with --from or --to, the one that the range is exported to first"
        " (default: ARCHIVE_PATH, or archive)",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="KEY",
        help="only this matching key; may be given several times (default: all)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare the orders with those that the database has of the same time; show the first that"
        f" differs with both books, and end with exit status {DIFFERENT} then",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with curves to this file")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.recording is None and not _has_range(options) and options.archive is None:
        parser.error("expected --from and --to, --archive or --recording")
    if options.recording is not None and (_has_range(options) or options.archive or options.compare):
        parser.error("--recording goes without --from, --to, --archive and --compare")
    return options


def _has_range(options: argparse.Namespace) -> bool:
    return options.begin is not None or options.end is not None


def market_of(options: argparse.Namespace, database: DatabaseManager, archive: ArchiveSetting) -> Market:
    """Return the market that the command line names, exported if need be; raises one of FAILURES."""
    groups = tuple(options.group)
    recording: Path | None = options.recording
    if recording is not None:
        if not recording.is_file():
            raise SourceError(f"{recording}: expected a recording, was no file")
        return Market(recording, groups=groups)
    folder = options.archive or archive.folder
    if _has_range(options) and not _is_exported(folder, options, database):
        export_archive(database, folder, span_of(options), marks_days=archive.marks_days(folder))
    return Market(folder, span_of(options), groups)


def _is_exported(folder: Path, options: argparse.Namespace, database: DatabaseManager) -> bool:
    """Return whether the archive has as many messages of the range as the database."""
    span = span_of(options)
    stored = DatabaseExport(database, folder).count(span)
    try:
        return bool(stored) and int(Archive(folder, span).total) == stored
    except (SourceError, duckdb.Error):
        return False


def run(
    options: argparse.Namespace,
    parameters: Parameters,
    settings: str,
    database: DatabaseManager,
    archive: ArchiveSetting,
) -> int:
    """Play the market that the command line names; return the exit status. Raises one of FAILURES."""
    market = market_of(options, database, archive)
    if options.sweep:
        return run_sweep(options, market, parameters, settings)
    source = market.open()
    comparison = _comparison(source, database) if options.compare else None
    simulation = Simulation(parameters)
    if comparison is not None:
        books = simulation.signal.keeper.books
        simulation.on_order = lambda order, reply: comparison.on_order(order, reply, books)
    with terminal.progress_of(source) as on_progress:
        simulation.run(source, on_progress)
    if not simulation.messages:
        raise SourceError(f"{source.name}: expected order-book messages, was empty")
    result = result_of(simulation, source.name)
    if options.html is not None:
        options.html.write_text(html(page_of(simulation, result, settings)), encoding="utf-8")
    if options.json:
        sys.stdout.write(to_json(result).decode() + "\n")
    else:
        terminal.show(sheets_of(result), terminal.console())
    return 0 if comparison is None else _report(comparison)


def _comparison(source: Source, database: DatabaseManager) -> Comparison | None:
    if not isinstance(source, Archive):
        return None
    return Comparison(read_orders(database, *source.published_range()))


def _report(comparison: Comparison) -> int:
    """Say on standard error how the orders compare; return the exit status."""
    lines = comparison.finish()
    if not lines:
        count = f"{comparison.executions:,} executions and {comparison.refusals.total():,} refusals"
        print(f"the same {count} as live", file=sys.stderr)
        return 0
    print("\n".join(lines), file=sys.stderr)
    if comparison.difference is not None:
        terminal.show(comparison.difference.books, terminal.error_console())
    return DIFFERENT


def main(
    parameters: Parameters,
    settings: str,
    database: DatabaseManager,
    archive: ArchiveSetting,
    arguments: Sequence[str] | None = None,
) -> int:
    """Do what the command line asks for; return the exit status. `settings` is a line of those in force."""
    options = parse(arguments)
    # What the rules log about a book at hand is counted in the table.
    logging.basicConfig(level=logging.ERROR)
    try:
        return run(options, parameters, settings, database, archive)
    except (*FAILURES, SweepError) as error:
        print(f"backtest.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
