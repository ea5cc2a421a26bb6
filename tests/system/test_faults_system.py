"""The four services together on a market that the test moves by hand, and on one that moves by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from local_exchange.process import ExchangeProcess
from tests.support.live_system import SERVICES, LiveSystem
from tests.support.order_client import Accounts, OrderClient
from tests.support.workspace import Workspace, wait_for

LINEAR = {"channel": "linear", "symbol": "BTCPERP"}
SPOT = {"channel": "spot", "symbol": "BTCUSDT"}


@pytest.fixture
def still() -> Iterator[ExchangeProcess]:
    """An exchange whose books are what the test sets them to."""
    with ExchangeProcess("--rate", "0", "--repeat-after", "0") as exchange:
        set_book(exchange, LINEAR, 90, 100)
        set_book(exchange, SPOT, 99, 110)
        yield exchange


def set_book(
    exchange: ExchangeProcess, instrument: dict[str, str], bid: int, ask: int, size: str = "1"
) -> None:
    exchange.post("/book", **instrument, b=[[str(bid), size]], a=[[str(ask), size]])


@pytest.fixture
def system(place: Workspace, still: ExchangeProcess) -> LiveSystem:
    """The four services, both books known."""
    made = LiveSystem(place, still, STREAM_SILENCE_MS="600000")
    made.start(*SERVICES)
    made.subscribe()
    wait_for(lambda: made.updates() >= 2, "both first snapshots stored")
    return made


def executed(system: LiveSystem) -> list[tuple[Any, ...]]:
    return system.place.query('SELECT action, type, price FROM bybit."order" ORDER BY execution_id, type')


def test_signal_engine_that_starts_later_has_full_books_with_nobody_subscribing_again(
    system: LiveSystem,
) -> None:
    system.services["signal"].kill()
    set_book(system.exchange, SPOT, 105, 110)
    wait_for(lambda: system.updates() >= 3)
    purge = system.place.channel()
    purge.queue_purge("signal")
    purge.connection.close()
    # Nothing moves any more, and no push waits: it has to ask for the books.
    system.start("signal")
    wait_for(lambda: len(executed(system)) == 2)
    assert executed(system) == [("Open Spread", "buy", 100), ("Open Spread", "sell", 105)]


def test_lost_update_is_never_traded_on(system: LiveSystem) -> None:
    system.exchange.fault("gap", **SPOT, count=1)
    set_book(system.exchange, SPOT, 120, 125)  # lost
    set_book(system.exchange, SPOT, 98, 111)  # shows that one was lost
    wait_for(lambda: "snapshot" in kinds(system, "BTCUSDT")[1:], "a fresh snapshot")
    set_book(system.exchange, SPOT, 107, 112)
    wait_for(lambda: executed(system))
    assert executed(system) == [("Open Spread", "buy", 100), ("Open Spread", "sell", 107)]


def kinds(system: LiveSystem, symbol: str) -> list[str]:
    rows = system.place.query(
        "SELECT type FROM bybit.orderbook_update WHERE topic LIKE %s ORDER BY ts_orderbook, update_id",
        f"%{symbol}",
    )
    return [kind for (kind,) in rows]


def test_faults_of_one_stream_leave_the_other_alone_and_trading_goes_on(system: LiveSystem) -> None:
    faults: list[tuple[str, dict[str, Any]]] = [
        ("garbage", {}),
        ("drop", {"how": "rst"}),
        ("restart", {}),
        ("cross", {}),
        ("silence", {"seconds": 0.5}),
    ]
    linear = sockets_of(system, LINEAR)
    bid = 110
    for fault, given in faults:
        # The stream may still be on its way back from the fault before.
        wait_for(lambda: system.exchange.fault(fault, **SPOT, **given) == 1, f"{fault} switched")  # noqa: B023
        before = len(executed(system))

        def trades(before: int = before) -> bool:
            nonlocal bid
            bid += 1
            set_book(system.exchange, SPOT, bid, bid + 20)
            # Size that was taken is not there again: linear reports another one.
            set_book(system.exchange, LINEAR, 90, 100, size=str(bid))
            return len(executed(system)) > before

        wait_for(trades, f"a trade after {fault}")
    prices = {price for _, kind, price in executed(system) if kind == "sell"}
    assert prices <= set(range(111, bid + 1)), "only prices that the exchange really had"
    assert sockets_of(system, LINEAR) == linear, "the other stream was connected anew"


def sockets_of(system: LiveSystem, instrument: dict[str, str]) -> list[int]:
    """Return the numbers of the exchange's sockets that have the instrument's topic."""
    return [
        socket["socket"]
        for socket in system.exchange.get("/sockets")
        if any(topic.endswith(f".{instrument['symbol']}") for topic in socket["topics"])
    ]


def test_each_service_killed_in_turn_under_a_moving_market_leaves_exact_accounts(place: Workspace) -> None:
    rng = random.Random(12)
    with ExchangeProcess("--rate", "40", "--seed", "5") as exchange:
        system = LiveSystem(place, exchange, MAX_RISK_OPEN_POSITION="50000", MAX_BOOK_AGE_MS="3000")
        system.start(*SERVICES)
        system.subscribe()
        system.wait_until_it_works()
        for name in rng.sample(SERVICES, 4):
            system.services[name].kill()
            system.start(name)
        system.wait_until_it_works()
        exchange.post("/pause")
        wait_for(system.is_stored, "every published update stored", 60)
        system.check_storage()
        client = OrderClient(place)
        wait_for(lambda: client.open_spreads() == Accounts(place).open_spreads, "every execution stored")
        assert Accounts(place).largest <= 50_000


def test_all_stopped_under_full_load_end_with_0_within_5_seconds_and_lose_nothing(place: Workspace) -> None:
    with ExchangeProcess("--rate", "300") as exchange:
        system = LiveSystem(place, exchange, MAX_BOOK_AGE_MS="3000", STATUS_INTERVAL_MS="500")
        system.start(*SERVICES)
        system.subscribe()
        system.wait_until_it_works()
        for name in SERVICES:
            system.services[name].process.terminate()
        assert {name: system.services[name].stop(seconds=5) for name in SERVICES} == dict.fromkeys(
            SERVICES, 0
        )
        exchange.post("/pause")
        system.start("data_storage", "trading_engine")
        wait_for(system.is_stored, "every published update stored", 60)
        system.check_storage()
        client = OrderClient(place)
        wait_for(lambda: client.open_spreads() == Accounts(place).open_spreads, "every execution stored")
