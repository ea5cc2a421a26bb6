"""cryptofeed's order book and backends on a file of messages; runs in the environment that has cryptofeed.

    python cryptofeed_side.py book|rabbitmq|postgres FILE [settings as JSON]

Prints one line of JSON. The book is updated as cryptofeed's Bybit handler does it; the backends are called as
its feeds call them, one message after the other.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptofeed.backends.postgres import BookPostgres  # type: ignore[import-not-found]
from cryptofeed.backends.rabbitmq import BookRabbit  # type: ignore[import-not-found]
from cryptofeed.defines import ASK, BID, BYBIT  # type: ignore[import-not-found]
from cryptofeed.types import OrderBook  # type: ignore[import-not-found]
from yapic import json as yapic_json  # type: ignore[import-not-found]

Message = dict[str, Any]


def apply(book: Any, message: Message) -> Any:
    """Return the book after a message, as cryptofeed/exchanges/bybit.py has it."""
    data = message["data"]
    if message["type"] == "snapshot":
        book = OrderBook(BYBIT, data["s"], max_depth=0)
    for side, levels in ((BID, data["b"]), (ASK, data["a"])):
        for price_text, size_text in levels:
            price, size = Decimal(price_text), Decimal(size_text)
            if size == 0:
                if price in book.book[side]:
                    del book.book[side][price]
            else:
                book.book[side][price] = size
    book.timestamp = message["ts"] / 1000
    book.delta = None if message["type"] == "snapshot" else {BID: data["b"], ASK: data["a"]}
    return book


def books(bodies: list[str], _: Any) -> Message:
    """Time decoding with applying, and applying alone."""
    messages = [yapic_json.loads(body) for body in bodies]
    applied = decoded = float("inf")
    best: list[str] = []
    for _ in range(5):
        book = None
        begin = time.process_time()
        for message in messages:
            book = apply(book, message)
            best = [str(book.book.bids.index(0)[0]), str(book.book.asks.index(0)[0])]
        applied = min(applied, time.process_time() - begin)
        begin = time.process_time()
        for body in bodies:
            yapic_json.loads(body)
        decoded = min(decoded, time.process_time() - begin)
    return {"seconds": applied, "with_decoding": applied + decoded, "best": best}


async def _through(backend: Any, bodies: list[str]) -> None:
    kept: dict[str, Any] = {}
    for body in bodies:
        message = yapic_json.loads(body)
        name = message["topic"]
        kept[name] = apply(kept.get(name), message)
        await backend(kept[name], time.time())


def rabbitmq(bodies: list[str], settings: Any) -> Message:
    """Time publishing until the last message is with the broker."""

    async def run() -> float:
        backend = BookRabbit(snapshot_interval=10**9, **settings)
        await backend.connect()
        begin = time.perf_counter()
        await _through(backend, bodies)
        return time.perf_counter() - begin

    return {"seconds": asyncio.run(run()), "cpu": time.process_time()}


def postgres(bodies: list[str], settings: Any) -> Message:
    """Time storing until the last message is committed."""

    async def run() -> float:
        backend = BookPostgres(snapshot_interval=10**9, **settings)
        begin = time.perf_counter()
        backend.start(asyncio.get_running_loop())
        await _through(backend, bodies)
        await backend.queue.join()
        return time.perf_counter() - begin

    return {"seconds": asyncio.run(run()), "cpu": time.process_time()}


if __name__ == "__main__":
    program = {"book": books, "rabbitmq": rabbitmq, "postgres": postgres}[sys.argv[1]]
    lines = Path(sys.argv[2]).read_text().splitlines()
    print(json.dumps(program(lines, json.loads(sys.argv[3]) if len(sys.argv) > 3 else None)))
