"""Books of nautilus_trader and hftbacktest on the same market, next to ours.

Each program gets the same messages in the form that it keeps in memory for a run, applies one after the other
and asks for the best prices after each; CPU time counts. They are brought into an environment of their own
under `.tools` by uv; where that fails the comparison is left out. It is no ceiling, and there is no target:
ours checks each message (sequence, times, decimals) and keeps prices as exact decimals, nautilus_trader keeps
them as integers of a fixed precision, and hftbacktest as floats of a fixed tick in compiled code, without
objects.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import market
from benchmarks.others import missing
from benchmarks.results import Row, check, progress, thousands
from blackbird.archive.parsed import parsed
from blackbird.archive.reader import StoredMessage
from blackbird.archive.tardis import write_tardis
from blackbird.market.book_message import BookMessage, decode_book
from blackbird.market.order_book import OrderBook
from tests.support.workspace import HERE

FOLDER = HERE / ".tools" / "peers"
PACKAGES = ("hftbacktest==2.4.4", "nautilus_trader==1.221.0")
SIDE = Path(__file__).resolve().parent / "peers_side.py"
DEPTH = 50
MESSAGES = 50_000
ROUNDS = 3
TICK = 0.005  # half of one: the others keep floats

Best = tuple[float, float]


def run(*, quick: bool) -> list[Row]:
    pushes = _one_round(5_000 if quick else MESSAGES)
    if in_the_way := missing(FOLDER, PACKAGES):
        progress(f"peers: left out, {in_the_way}")
        return []
    bodies = [market.body(push, "a") for push in pushes]
    messages = [decode_book(body) for body in bodies]
    read = [message for _, message in parsed((0, message) for message in messages)]
    rates = {
        "parsed": _rate(lambda: _books(read), len(read)),
        "JSON": _rate(lambda: _books(decode_book(body) for body in bodies), len(read)),
    }
    ends = _books(read)
    rows = []
    with tempfile.TemporaryDirectory(prefix="blackbird-peers-") as folder:
        for peer in _peers(pushes, Path(folder)):
            check(peer["messages"] == len(pushes), f"messages of {peer['name']}: {peer['messages']}")
            check(_agree(peer["best"], ends), f"best prices of {peer['name']}: {peer['best']}, ours {ends}")
            rate = peer["messages"] / peer["seconds"]
            rows += [
                Row(
                    f"comparison: depth-{DEPTH} messages into books, from {form}",
                    thousands(ours, "msg/s"),
                    f"{thousands(rate, 'msg/s')} {peer['name']}",
                    ours / rate,
                )
                for form, ours in rates.items()
            ]
    return rows


def _one_round(count: int) -> list[market.Push]:
    """Return up to `count` pushes, none of a second round of the recording: not all clear at a snapshot."""
    pushes: list[market.Push] = []
    begun = set()
    for channel, message in market.updates(DEPTH, count):
        if message["type"] == "snapshot" and channel in begun:
            break
        begun.add(channel)
        pushes.append((channel, message))
    return pushes


def _rate(work: Any, count: int) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return count / statistics.median(times)


def _books(messages: Iterable[BookMessage]) -> dict[str, Best]:
    books: dict[str, OrderBook] = {}
    best: dict[str, tuple[Decimal | None, Decimal | None]] = {}
    for message in messages:
        book = books.get(message.channel)
        if book is None:
            book = books[message.channel] = OrderBook()
        book.apply(message, message.ts)
        best[message.channel] = (book.bids.best_price(), book.asks.best_price())
    return {channel: (float(bid or 0), float(ask or 0)) for channel, (bid, ask) in best.items()}


def _agree(theirs: list[list[float]], ours: dict[str, Best]) -> bool:
    pairs = zip(itertools.chain(*theirs), itertools.chain(*ours.values()), strict=True)
    return all(abs(one - other) < TICK for one, other in pairs)


def _peers(pushes: list[market.Push], folder: Path) -> list[dict[str, Any]]:
    files: dict[str, list[StoredMessage]] = {}
    for number, (channel, message) in enumerate(pushes):
        data = message["data"]
        files.setdefault(channel, []).append(
            StoredMessage(
                # One microsecond apart, which is how they tell messages apart.
                (message["ts"] * 1000 + number) * 1000,
                message["ts"],
                message["ts"],
                message["cts"],
                data["u"],
                data["seq"],
                message["type"],
                message["topic"],
                "a",
                channel,  # type: ignore[arg-type]
                data["s"],
                json.dumps(data["b"]).encode(),
                json.dumps(data["a"]).encode(),
            )
        )
    paths = []
    for channel, rows in files.items():
        paths.append(str(folder / f"{channel}.csv.gz"))
        write_tardis(rows, Path(paths[-1]))
    progress("peers: nautilus_trader and hftbacktest")
    python = str(FOLDER / "bin" / "python")
    done = subprocess.run(
        [python, str(SIDE), *paths], capture_output=True, text=True, check=False, timeout=900
    )
    check(done.returncode == 0, done.stderr[-500:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
