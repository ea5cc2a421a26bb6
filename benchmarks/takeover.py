"""How long nothing is answered when the trading engine dies and a standby takes over.

    .venv/bin/python -m benchmarks.takeover --rounds 10

Two engines with journals of their own work on one broker and database, as on two hosts. In every round the
one that works is killed (with `--ends`: ended in order), and an order is sent at once; the time until its
answer is the figure. Then the other one is started again, and stands by. Ends with 1 where one took longer
than 7 s, or where an order is not stored exactly once at the end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.support.order_client import ACK, OrderClient, new_order
from tests.support.workspace import ANY_AGE, Service, Workspace, wait_for, workspace

LIMIT_SECONDS = 7.0
STANDBY = "SELECT 1 FROM bybit.history WHERE standby_seen > clock_timestamp() - interval '1 second'"


class Pair:
    """An engine that works, and one on standby."""

    def __init__(self, place: Workspace) -> None:
        self._place = place
        self._started = 0
        self.working = self._start()
        place.await_ready(self.working)
        self.standby = self._start()
        self.answered = 0

    def _start(self) -> Service:
        self._started += 1
        journal = self._place.folder / f"journal-{self._started % 2}"
        return self._place.start("trading_engine", JOURNAL_PATH=str(journal))

    def take_over(self, *, ends: bool) -> float:
        """End the engine that works; return the seconds from then until the other one's first answer."""
        wait_for(lambda: self._place.query(STANDBY), "a standby")
        client = OrderClient(self._place)
        if ends:
            self.working.stop()
        began = time.monotonic()
        if not ends:
            self.working.kill()
        if client.ask(new_order()) != ACK:
            raise SystemExit("an order was refused")
        seconds = time.monotonic() - began
        self.answered += 1
        self.working, self.standby = self.standby, self._start()
        return seconds


def main() -> int:
    """Print the time of each round, their median and the worst."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ends", action="store_true", help="end the engine in order, instead of killing it")
    arguments = parser.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as folder, workspace(Path(folder), **ANY_AGE) as place:
        pair = Pair(place)
        for number in range(1, arguments.rounds + 1):
            seconds.append(pair.take_over(ends=arguments.ends))
            print(f"round {number}: {seconds[-1]:.2f} s", flush=True)
        wait_for(lambda: _stored(place) >= 2 * pair.answered, "all orders stored")
        is_right = _stored(place) == 2 * pair.answered
    print(f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    return 0 if is_right and max(seconds) <= LIMIT_SECONDS else 1


def _stored(place: Workspace) -> int:
    return int(place.query('SELECT count(*) FROM bybit."order"')[0][0])


if __name__ == "__main__":
    sys.exit(main())
