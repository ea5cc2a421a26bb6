"""Runs the benchmarks and prints one table: `uv run benchmarks/run.py --help`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# This folder's modules are `benchmarks.<name>`, as the type checker sees them.
sys.path[0] = str(ROOT)

from benchmarks import machine  # noqa: E402
from benchmarks.results import Row, WrongResult, progress, table  # noqa: E402

# name -> what it measures; each is a module of this folder with `run(quick=...)`.
BENCHMARKS = {
    "books": "a decoded delta to the best prices, without a broker",
    "storage": "queue to table, against bare COPY and a bare consumer",
    "views": "the views at a prompt, of a million executions and a day of quotes",
    "updates": "book updates through the signal engine, against a bare consumer",
    "ticks": "a book message to the order that it causes, against a bare relay",
    "orders": "an order to its answer, against a bare echo",
    "collector": "exchange pushes to both routing keys, against a bare publisher",
    "tls": "bursts over wss://, against the same over ws://",
    "latency": "exchange to `signal`, against a bare publisher",
    "pipeline": "everything at once: exchange to table, signal and orders",
    "scale": "cost and memory with instruments and messages; a burst",
    "backtest": "backtests from archive and database, against the bare core",
    "status": "what a status of the signal engine costs, without a broker",
    "monitor": "the page: CPU and memory with and without viewers, and how soon old figures are grey",
    "cryptofeed_comparison": "cryptofeed's order book and backends on the same messages",
    "peers": "books of nautilus_trader and hftbacktest on the same messages",
}


def main() -> int:
    """Run what the command line names; the exit status is 1 where a result was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:22} {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds")
    parser.add_argument("--minutes", type=float, default=1.0, help="length of the pipeline's run (default 1)")
    options = parser.parse_args()
    names = options.names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"expected one of {', '.join(BENCHMARKS)}, was {', '.join(unknown)}")
    print(f"machine: {machine.description()}")
    rows: list[Row] = []
    wrong = False
    for number, name in enumerate(names, 1):
        begin = time.monotonic()
        progress(f"[{number}/{len(names)}] {name}: {BENCHMARKS[name]}")
        benchmark = importlib.import_module(f"benchmarks.{name}")
        more = {"minutes": options.minutes} if name == "pipeline" else {}
        try:
            rows += benchmark.run(quick=options.quick, **more)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other figures are not lost for it
            wrong = True
            if not isinstance(error, WrongResult):
                traceback.print_exc()
            rows.append(Row(name, "counts nothing", note=f"{type(error).__name__}: {error}"))
        progress(f"[{number}/{len(names)}] {name}: done in {time.monotonic() - begin:.0f} s")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    print(table(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
