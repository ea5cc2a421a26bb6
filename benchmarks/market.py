"""The messages that benchmarks are made of: the recorded market where it is there, else a synthetic one."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pika.spec import BasicProperties

from local_exchange.synthetic import SyntheticMarket

HERE = Path(__file__).resolve().parent.parent
RECORDINGS = (HERE / os.environ.get("BLACKBIRD_SHARED", "../shared") / "recordings").resolve()

Push = tuple[str, dict[str, Any]]  # channel, message
Topics = list[tuple[str, str]]


def properties(queue: str) -> BasicProperties:
    """Return properties like the collector's, for a message to one queue alone."""
    headers: dict[str, Any] = {"CC": [queue], "published_at": 1_723_161_255_608, "number": 2**60}
    return BasicProperties(delivery_mode=2, content_type="application/json", headers=headers)


def body(push: Push, matching_key: str) -> bytes:
    """Return a push as the collector publishes it."""
    channel, message = push
    return json.dumps(
        {**message, "channel": channel, "matching_key": matching_key}, separators=(",", ":")
    ).encode()


@cache
def _recorded(depth: int) -> list[Push]:
    path = RECORDINGS / f"btc_depth{depth}.ndjson.gz"
    if not path.exists():
        return []
    with gzip.open(path) as lines:
        parsed = [json.loads(line) for line in lines]
    return [(line["category"], line["message"]) for line in parsed]


def updates(depth: int, count: int) -> Iterator[Push]:
    """Yield `count` pushes of a BTC market, each an update of its own."""
    recorded = _recorded(depth)
    if not recorded:
        topics = [("spot", f"orderbook.{depth}.BTCUSDT"), ("linear", f"orderbook.{depth}.BTCPERP")]
        made = SyntheticMarket(pairs=1).stream(topics, count)
        for _, push in zip(range(count), made, strict=False):
            yield push
        return
    # Another round goes on where the one before ended.
    first, last = recorded[0][1]["cts"], max(message["cts"] for _, message in recorded)
    for number in range(count):
        rounds, index = divmod(number, len(recorded))
        channel, message = recorded[index]
        later = rounds * (last - first + 1)
        data = message["data"]
        moved = {**data, "u": data["u"] + rounds * 1_000_000, "seq": data["seq"] + rounds * 100_000_000}
        yield (
            channel,
            {**message, "ts": message["ts"] + later, "cts": message["cts"] + later, "data": moved},
        )


def pair_topics(depth: int, pairs: int) -> Topics:
    """Return the topics of `pairs` spot/linear pairs of the synthetic market."""
    names = ["BTC", "ETH", *(f"T{number:03}" for number in range(3, pairs + 1))][:pairs]
    return [
        (channel, f"orderbook.{depth}.{name}{suffix}")
        for name in names
        for channel, suffix in (("spot", "USDT"), ("linear", "PERP"))
    ]


def group_of(symbol: str) -> str:
    """Return the name of the base, as the group of a pair."""
    return symbol.removesuffix("USDT").removesuffix("PERP")


def calm(depth: int, pairs: int, count: int, *, changes: int = 4) -> tuple[list[Push], SyntheticMarket]:
    """Return pushes of pairs that never cross, and the market as it is after them."""
    market = SyntheticMarket(pairs=max(pairs, 1), crossing=False, changes=changes)
    topics = pair_topics(depth, pairs)
    made = list(market.stream(topics, count))
    return made[-count:] if depth == 1 else made, market


def whole_books(count: int, *, crossing: bool = False) -> tuple[list[Push], SyntheticMarket]:
    """Return snapshots of 50 levels a side of one pair, each with the change of one push."""
    market = SyntheticMarket(pairs=1, crossing=crossing)
    pushes: list[Push] = []
    for channel, message in market.stream(pair_topics(50, 1), count):
        data = message["data"]
        bids, asks = market.instruments[channel, data["s"]].window(50)
        whole = {**data, "b": json.loads(f"[{bids}]"), "a": json.loads(f"[{asks}]")}
        pushes.append((channel, {**message, "type": "snapshot", "data": whole}))
    return pushes[-count:], market


def best_bid(market: SyntheticMarket, channel: str, symbol: str) -> tuple[str, str]:
    """Return the best bid (price, size) of an instrument as the exchange has it."""
    bids, _ = market.instruments[channel, symbol].window(1)
    price, size = json.loads(f"[{bids}]")[0]
    return price, size


def snapshot(
    channel: str, symbol: str, update: int, bids: Sequence[Sequence[str]], asks: Sequence[Sequence[str]]
) -> Push:
    """Return a depth-1 snapshot with these levels."""
    data = {"s": symbol, "b": list(bids), "a": list(asks), "u": update, "seq": update}
    topic = f"orderbook.1.{symbol}"
    now = 1_800_000_000_000 + update
    return channel, {"topic": topic, "type": "snapshot", "ts": now, "data": data, "cts": now}
