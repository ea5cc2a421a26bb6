"""The book itself: a decoded delta of ten levels to the best prices."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from sortedcontainers import SortedDict

from benchmarks import market
from benchmarks.results import Row, check, progress, thousands
from blackbird.market.book_message import BookMessage, decode_book
from blackbird.market.order_book import OrderBook

LEVELS = 10


class _SortedDictBook:
    """What one would write first: a SortedDict of floats a side."""

    def __init__(self) -> None:
        self.bids: SortedDict[float, float] = SortedDict()
        self.asks: SortedDict[float, float] = SortedDict()

    def apply(self, data: dict[str, Any], kind: str) -> None:
        for side, levels in ((self.bids, data["b"]), (self.asks, data["a"])):
            if kind == "snapshot":
                side.clear()
            for price_text, size_text in levels:
                price, size = float(price_text), float(size_text)
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)

    def best(self) -> tuple[float, float]:
        return self.bids.peekitem(-1)[0], self.asks.peekitem(0)[0]


def ten_level_bodies(count: int) -> list[bytes]:
    """Return a snapshot of 50 levels a side, then `count` deltas of ten levels."""
    made, _ = market.calm(50, 1, count * 6 + 2, changes=LEVELS)
    channel = made[0][0]
    bodies: list[bytes] = []
    update = 0
    for push in made:
        data = push[1]["data"]
        levels = len(data["b"]) + len(data["a"])
        if push[0] != channel or (bodies and levels != LEVELS):
            continue
        # The others are left out: sizes and prices are as they come, only the numbering has no gap.
        update = update + 1 if bodies else 1000
        message = {**push[1], "data": {**data, "u": update}}
        bodies.append(market.body((channel, message), "a"))
        if len(bodies) > count:
            break
    return bodies


def _microseconds(run: Callable[[], None], messages: int, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        run()
        times.append((time.process_time() - begin) / messages * 1e6)
    return min(times)


def run(*, quick: bool) -> list[Row]:
    bodies = ten_level_bodies(2_000 if quick else 10_000)
    rounds = 3 if quick else 7
    count = len(bodies) - 1
    check(count > 500, "too few deltas of ten levels in the synthetic market")
    decoded = [decode_book(body) for body in bodies]
    parsed = [json.loads(body) for body in bodies]
    ends: dict[str, tuple[float, float]] = {}

    def ours(messages: list[BookMessage]) -> None:
        book = OrderBook()
        bid = ask = None
        for message in messages:
            book.apply(message, 0)
            bid, ask = book.bids.best_price(), book.asks.best_price()
        check(bid and ask, "a side of the book is empty")
        ends["ours"] = float(bid or 0), float(ask or 0)

    def theirs(messages: list[dict[str, Any]]) -> None:
        book = _SortedDictBook()
        best = 0.0, 0.0
        for message in messages:
            book.apply(message["data"], message["type"])
            best = book.best()
        ends["theirs"] = best

    progress("book: applying ten-level deltas")
    applied = _microseconds(lambda: ours(decoded), count, rounds)
    sorted_dict = _microseconds(lambda: theirs(parsed), count, rounds)
    whole = _microseconds(lambda: ours([decode_book(body) for body in bodies]), count, rounds)
    with_json = _microseconds(lambda: theirs([json.loads(body) for body in bodies]), count, rounds)
    with_msgspec = _microseconds(
        lambda: theirs([msgspec.json.decode(body) for body in bodies]), count, rounds
    )
    check(ends["ours"] == ends["theirs"], f"the books end at different prices: {ends}")
    return [
        Row(
            "book: decoded ten-level delta to best prices",
            f"{applied:.1f} us",
            "10 us asked",
            applied / 10,
            most=1.0,
            note="exact decimals, read from the JSON of the levels, checked; CPU time",
        ),
        Row("  the same into SortedDicts of floats", f"{sorted_dict:.1f} us"),
        Row(
            "book: body to best prices",
            thousands(1e6 / whole, "msg/s"),
            f"{thousands(1e6 / with_msgspec, 'msg/s')} (msgspec + SortedDict)",
            with_msgspec / whole,
            note=f"json + SortedDict {thousands(1e6 / with_json, 'msg/s')}",
        ),
    ]
