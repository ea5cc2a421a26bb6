"""The quotes of a run, compared with an independent replay of what was stored."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_exchange.process import ExchangeProcess
from tests.support.live_system import LiveSystem
from tests.support.naive_market import ASKS, BIDS, NaiveBook
from tests.support.workspace import Workspace, wait_for

Instrument = tuple[str, str]
Point = tuple[str, str, int]  # channel, symbol, second


def stored_messages(place: Workspace) -> dict[Instrument, list[tuple[int, dict[str, Any], int]]]:
    """Return (number, message, published_at) of each instrument's messages in the order of arrival."""
    levels: dict[tuple[Any, ...], dict[str, list[tuple[str, str]]]] = defaultdict(
        lambda: {BIDS: [], ASKS: []}
    )
    for *key, side, price, size in place.query(
        "SELECT ts_orderbook, update_id, sequence_id, channel, topic, type, side, price::text, size::text"
        " FROM bybit.orderbook"
    ):
        levels[tuple(key)][BIDS if side == "bid" else ASKS].append((price, size))
    messages = defaultdict(list)
    for *key, published_at, number in place.query(
        "SELECT ts_orderbook, update_id, sequence_id, channel, topic, type, published_at, number"
        " FROM bybit.orderbook_update ORDER BY number"
    ):
        cts, u, seq, channel, topic, kind = key
        data = {"u": u, "seq": seq, **levels[tuple(key)]}
        message = {"type": kind, "cts": cts, "data": data}
        messages[channel, topic.rpartition(".")[2]].append((number, message, published_at))
    return messages


def replayed(place: Workspace, points: list[Point]) -> dict[Point, tuple[Any, ...]]:
    """Return state, bid, bid size, ask and ask size at these points, from the stored messages alone."""
    messages = stored_messages(place)
    numbers = {
        (channel, symbol, second): number
        for channel, symbol, second, number in place.query(
            "SELECT channel, symbol_name, quoted_at, number FROM bybit.quote"
        )
    }
    found = {}
    for instrument in {point[:2] for point in points}:
        book = NaiveBook()
        waiting = iter(messages[instrument])
        following = next(waiting, None)
        for point in sorted((point for point in points if point[:2] == instrument), key=lambda p: p[2]):
            while following is not None and following[0] <= numbers[point]:
                book.apply(following[1], following[2])
                following = next(waiting, None)
            found[point] = quote_of(book)
    return found


def quote_of(book: NaiveBook) -> tuple[Any, ...]:
    if not book.in_sync:
        return "waits for snapshot", None, None, None, None
    bid = max(book.reported[BIDS], default=None)
    ask = min(book.reported[ASKS], default=None)
    return (
        "in sync",
        bid,
        None if bid is None else book.reported[BIDS][bid],
        ask,
        None if ask is None else book.reported[ASKS][ask],
    )


def check_quotes(place: Workspace, count: int) -> dict[Point, tuple[Any, ...]]:
    """Fail unless `count` random quotes equal the replay of the stored messages; return them."""
    quotes = {
        (row[0], row[1], row[2]): row[3:]
        for row in place.query(
            "SELECT channel, symbol_name, quoted_at, state, bid, bid_size, ask, ask_size FROM bybit.quote"
        )
    }
    assert len(quotes) >= count
    points = random.Random(1).sample(sorted(quotes), count)
    assert replayed(place, points) == {point: quotes[point] for point in points}
    return quotes


def run(place: Workspace, tmp_path: Path, pairs: int, enough: Callable[[], bool]) -> None:
    """Trade on so many pairs, with lost updates, until there is enough; then stop and store everything."""
    options = ("--instruments", str(pairs), "--rate", "20", "--record", str(tmp_path / "pushes"))
    with ExchangeProcess(*options) as exchange:
        system = LiveSystem(place, exchange)
        system.start("trading_engine", "data_storage", "signal", "market_data_collector")
        bases = ["BTC", "ETH", *(f"T{number:03}" for number in range(3, pairs + 1))][:pairs]
        for base in bases:
            for channel, suffix in (("spot", "USDT"), ("linear", "PERP")):
                body = {"channel": channel, "symbol": base + suffix, "matching_key": base}
                assert system.request("/subscribe", body)[0] == 200
        faulty = random.Random(2)

        def go_on() -> bool:
            exchange.fault("gap", symbol=f"{faulty.choice(bases)}USDT", count=1)
            time.sleep(0.2)  # between two lost updates
            return enough()

        wait_for(go_on, "enough quotes", 120)
        exchange.post("/pace", pace=0)
        wait_for(lambda: not any(place.waiting(queue) for queue in ("storage", "signal", "orders")))
        assert system.executions() > 0
        assert system.services["signal"].stop() == 0
        wait_for(lambda: not place.waiting("quote"))


def quotes_of(place: Workspace) -> int:
    return int(place.query("SELECT count(*) FROM bybit.quote WHERE number IS NOT NULL")[0][0])


def test_quotes_are_those_of_a_replay_of_the_stored_messages(place: Workspace, tmp_path: Path) -> None:
    run(place, tmp_path, 6, lambda: quotes_of(place) >= 100)
    quotes = check_quotes(place, 100)
    assert {quote[0] for quote in quotes.values()} >= {"in sync"}
    assert len({quote[1:] for quote in quotes.values()}) > 12, "the market has not moved"


@pytest.mark.slow
def test_a_thousand_quotes_of_a_longer_run_are_those_of_a_replay(place: Workspace, tmp_path: Path) -> None:
    run(place, tmp_path, 15, lambda: quotes_of(place) >= 1500)
    quotes = check_quotes(place, 1000)
    assert {quote[0] for quote in quotes.values()} == {"in sync", "waits for snapshot"}
