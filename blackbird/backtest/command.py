"""The command `backtest.py`: reads its command line, runs, and shows the figures."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from blackbird import __version__
from blackbird.backtest import terminal
from blackbird.backtest.html_report import html, page_of
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.recording import Recording
from blackbird.backtest.result import result_of, to_json
from blackbird.backtest.sheets import sheets_of
from blackbird.backtest.simulation import Simulation
from blackbird.backtest.source import Source, SourceError

INTERRUPTED = 130  # 128 + SIGINT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with the usage and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="backtest.py",
        description="Trade a stored market with the rules and settings of the live system, without a broker."
        " Settings come from the environment and variables.env, as for the services.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blackbird {__version__}")
    market = parser.add_mutually_exclusive_group(required=True)
    market.add_argument("--recording", type=Path, metavar="FILE", help="a recording (.ndjson, .ndjson.gz)")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="KEY",
        help="only this matching key; may be given several times (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with curves to this file")
    return parser.parse_args(arguments)


def source_of(options: argparse.Namespace) -> Source:
    """Return the market that the command line names; raises SourceError."""
    path: Path = options.recording
    if not path.is_file():
        raise SourceError(f"{path}: expected a recording, was no file")
    return Recording(path, options.group)


def run(options: argparse.Namespace, parameters: Parameters, settings: str) -> Simulation:
    """Play the market that the command line names; raises SourceError."""
    source = source_of(options)
    simulation = Simulation(parameters)
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
    return simulation


def main(parameters: Parameters, settings: str, arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status. `settings` is a line of those in force."""
    options = parse(arguments)
    # What the rules log about a book at hand is counted in the table.
    logging.basicConfig(level=logging.ERROR)
    try:
        run(options, parameters, settings)
    except (SourceError, OSError) as error:
        print(f"backtest.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
