"""The four real processes on a recorded market; all that they leave is worked out again from the pushes."""

from __future__ import annotations

import gzip
import itertools
import json
import urllib.request
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from local_exchange.process import ExchangeProcess
from tests.support.naive_market import NaiveEngine, NaiveMarket, NaiveOrder
from tests.support.workspace import Workspace, free_port, wait_for

LIMIT = Decimal(1_000_000)
SPOT = ("spot", "BTCUSDT")
PERP = ("linear", "BTCPERP")


def subscribe(port: int, channel: str, symbol: str) -> None:
    body = json.dumps({"symbol": symbol, "channel": channel, "matching_key": "a"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/subscribe", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own collector
        assert json.load(answer) == {"status": "ok"}


def drained(place: Workspace) -> bool:
    return not any(place.waiting(queue) for queue in ("storage", "signal", "orders"))


def play(place: Workspace, recording: Path, speed: str) -> list[dict[str, Any]]:
    """Play a recording through all services; return the messages in the order of their publishing."""
    port = free_port()
    options = (
        "--recording",
        str(recording),
        "--speed",
        speed,
        "--once",
        "--wait-for",
        "2",
        "--repeat-after",
        "0",
    )
    with ExchangeProcess(*options) as exchange:
        place.start_engine()
        place.start_storage()
        place.start_signal()
        watching = place.channel()
        watching.queue_declare("watch", durable=True)
        watching.queue_bind("watch", "data_feeder", "signal")
        place.start_ready(
            "market_data_collector",
            COLLECTOR_PORT=str(port),
            BYBIT_WS_URL=exchange.url,
            STREAM_SILENCE_MS="60000",
        )
        subscribe(port, *SPOT)
        subscribe(port, *PERP)
        wait_for(lambda: bool(exchange.get("/counters")["finished"]), "the recording played", 600)
        sent = int(exchange.get("/counters")["sent"])
        messages: list[dict[str, Any]] = []

        def all_seen() -> bool:
            while (taken := watching.basic_get("watch", auto_ack=True))[0] is not None:
                messages.append(json.loads(taken[2]))
            return len(messages) >= sent

        wait_for(all_seen, "every push published")
    wait_for(lambda: drained(place), "the queues worked off", 120)
    # The last executions are stored behind their answers.
    engine = place.ask({"action": "List Open Spreads"})
    wait_for(
        lambda: open_spreads_of(place) == {s["spread_id"]: s["quantity"] for s in engine["open_spreads"]}
    )
    return messages


def open_spreads_of(place: Workspace) -> dict[str, Decimal]:
    rows = place.query(
        "SELECT spread_id, sum(CASE action WHEN 'Open Spread' THEN size ELSE -size END)"
        " FROM bybit.\"order\" WHERE type = 'buy' GROUP BY 1"
    )
    return {spread_id: left for spread_id, left in rows if left}


def expected_rows(messages: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Return the rows of each update once, whatever number of times it was published."""
    updates = {}
    for message in messages:
        data = message["data"]
        key = (message["channel"], message["topic"], message["type"], data["u"], data["seq"], message["cts"])
        updates[key] = message
    return Counter(
        (
            message["topic"],
            message["type"],
            message["ts"],
            message["channel"],
            message["data"]["s"],
            message["data"]["u"],
            message["data"]["seq"],
            side,
            Decimal(price),
            Decimal(size),
            message["cts"],
            "a",
        )
        for message in updates.values()
        for side, levels in (("bid", message["data"]["b"]), ("ask", message["data"]["a"]))
        for price, size in levels
    )


def executed(place: Workspace) -> list[NaiveOrder]:
    """Return the executions of the database as the recomputation writes them."""
    rows = place.query(
        "SELECT action, channel, symbol_name, price, size, spread_id"
        ' FROM bybit."order" ORDER BY execution_id, type'
    )
    numbers: dict[str, int] = {}
    orders = []
    for buy, sell in zip(rows[::2], rows[1::2], strict=True):
        number = numbers.setdefault(buy[5], len(numbers))
        legs = (buy[1], buy[2]), buy[3], (sell[1], sell[2]), sell[3]
        orders.append(NaiveOrder(buy[0], *legs, buy[4], number))
    return orders


def assert_explained(place: Workspace, messages: list[dict[str, Any]]) -> None:
    """Check rows, executions, refusals, exposure and PnL against the messages alone."""
    engine = NaiveEngine(LIMIT)
    acked: list[NaiveOrder] = []

    def answer(order: NaiveOrder) -> str:
        refusal = engine(order)
        if not refusal:
            acked.append(order)
        return refusal

    market = NaiveMarket(answer)
    for message in messages:
        market.on_message(message)
    for number, (order, expected) in enumerate(itertools.zip_longest(executed(place), acked)):
        assert order == expected, f"execution {number}"
    assert len(acked) > 100
    refused = place.query("SELECT count(*) FROM bybit.refused_order")[0][0]
    assert refused == engine.answers.get(("Open Spread", "NOT ACK"), 0) + engine.answers.get(
        ("Close Spread", "NOT ACK"), 0
    )
    exposure = place.query('SELECT channel, symbol_name, -sum(flux) FROM bybit."order" GROUP BY 1, 2')
    assert {(channel, symbol): amount for channel, symbol, amount in exposure} == engine.exposure
    assert place.query('SELECT sum(flux) FROM bybit."order"') == [(engine.pnl,)]
    assert Counter(place.query("SELECT * FROM bybit.orderbook")) == expected_rows(messages)


def test_a_recorded_market_is_stored_once_and_every_order_follows_from_it(
    place: Workspace, recordings: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part.ndjson.gz"
    with gzip.open(recordings / "btc_depth50.ndjson.gz", "rt") as whole, gzip.open(part, "wt") as first:
        first.writelines(itertools.islice(whole, 2500))
    assert_explained(place, play(place, part, speed="20"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["btc_depth50", "btc_depth1"])
def test_a_whole_recording_at_ten_times_its_speed(place: Workspace, recordings: Path, name: str) -> None:
    place.environment["ORDERBOOK_DEPTH"] = name.removeprefix("btc_depth")
    assert_explained(place, play(place, recordings / f"{name}.ndjson.gz", speed="10"))
