"""Status messages of the real services, as a third party that binds `status` gets them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from blackbird.status.messages import WhyNot
from local_exchange.process import ExchangeProcess
from tests.support.book_feed import BookFeed
from tests.support.broker_proxy import BrokerProxy
from tests.support.live_system import LiveSystem
from tests.support.order_client import OrderClient, closing, new_order
from tests.support.status_watch import PUBLISHED, StatusWatch
from tests.support.workspace import Workspace, wait_for

SERVICES = {
    "market_data_collector": "collector",
    "data_storage": "storage",
    "signal": "signal",
    "trading_engine": "engine",
}


@pytest.fixture
def market() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "50") as exchange:
        yield exchange


def test_figures_of_all_services_are_those_of_the_database_once_the_market_rests(
    place: Workspace, market: ExchangeProcess
) -> None:
    watch = StatusWatch(place)
    system = LiveSystem(place, market, **PUBLISHED, STREAM_SILENCE_MS="600000")
    system.start(*SERVICES)
    system.subscribe()
    system.wait_until_it_works()
    market.post("/pause")
    collector = watch.wait("collector", lambda status: status.collector.pending == 0).collector
    signal = watch.wait("signal", lambda status: status.signal.orders_in_flight == 0).signal
    storage = watch.wait("storage", lambda status: status.storage.stored == collector.pushes).storage
    engine = watch.wait("engine", lambda status: status.engine.journal_records == 0).engine
    assert {status.mode for status in watch.newest.values()} == {"simulated"}
    assert len({status.pid for status in watch.newest.values()}) == 4
    assert watch.persistent == 0
    assert all(stream.up for stream in collector.streams)
    assert sum(stream.published for stream in collector.streams) == collector.published == system.updates()
    assert place.query("SELECT count(*) FROM bybit.orderbook") == [(storage.rows,)]
    assert sum(signal.updates.values()) == signal.tick_age.total == collector.published
    ((pnl, closed, credit),) = place.query(
        "SELECT sum(cash), sum(closed_pnl), sum(entry_credit) FROM bybit.pnl"
    )
    assert (engine.pnl, engine.pnl - engine.credit, engine.credit) == (pnl, closed, credit)
    positions = place.query("SELECT channel, symbol_name, size, exposure FROM bybit.position")
    assert {(leg.channel, leg.symbol, leg.position, leg.exposure) for leg in engine.legs} == set(positions)
    ((spreads,),) = place.query("SELECT count(*) FROM bybit.open_spread")
    assert engine.spreads_open == signal.spreads_open == spreads
    assert signal.answers == {action: counts for action, counts in engine.answers.items() if action}
    (pair,) = signal.pairs
    assert sum(each.credit for each in pair.directions) == credit
    for book in signal.books:
        assert book.state == "in sync"
        assert book.bid == next(level.price for level in book.bids if level.remaining)


def test_why_a_pair_is_not_traded_follows_what_happens(place: Workspace) -> None:
    watch = StatusWatch(place)
    feed = BookFeed(place)
    signal = place.start_signal(**PUBLISHED, MAX_BOOK_AGE_MS="0")
    feed.crossed_pair()

    def why(reason: WhyNot) -> None:
        watch.wait("signal", lambda status: [pair.why for pair in status.signal.pairs] == [reason], reason)

    why(WhyNot.SPREADS_UNKNOWN)
    engine = place.start_engine(MAX_RISK_OPEN_POSITION="1")
    why(WhyNot.RISK_LIMIT)
    engine.stop()
    feed.book("linear", "BTCPERP", [("99", "1")], [("1000", "1")])
    why(WhyNot.NO_CROSSING)
    assert signal.stop() == 0


def test_the_engine_shows_open_spreads_and_closed_pnl(place: Workspace) -> None:
    watch = StatusWatch(place)
    place.start_engine(**PUBLISHED)
    client = OrderClient(place)
    order = new_order(size=2)
    assert client.ask(order)["status"] == "ACK"
    assert client.ask(closing(order, size=1))["status"] == "ACK"
    assert client.ask(b"no order")["status"] == "NOT ACK"
    engine = watch.wait("engine", lambda status: status.engine.dead_letters == 1).engine
    (spread,) = engine.open_spreads
    assert (spread.spread_id, spread.quantity, spread.opened_quantity) == (order["spread_id"], 1, 2)
    assert spread.entry == Decimal(str(order["sell_price"])) - Decimal(str(order["buy_price"]))
    assert abs(spread.opened_ms - time.time() * 1000) < 60_000
    assert engine.answers["Close Spread"] == {"ACK": 1}


def test_a_status_comes_while_the_service_has_no_session_of_its_own_and_again_after_an_outage(
    place: Workspace,
) -> None:
    watch = StatusWatch(place)
    first = place.start_engine(**PUBLISHED)
    second = place.start("trading_engine", **PUBLISHED)
    watch.wait("engine", lambda status: status.pid == second.process.pid and status.engine.state == "standby")
    first.kill()
    watch.wait("engine", lambda status: status.pid == second.process.pid and status.engine.state == "active")
    with BrokerProxy(place) as proxy:
        storage = place.start_storage(**PUBLISHED, RABBITMQ_PORT=proxy.port)
        watch.wait("storage", lambda status: status.broker == "connected")
        proxy.cut()
        watch.wait("storage", lambda status: status.broker == "connected")
        assert storage.stop() == 0


def test_with_an_interval_of_zero_there_is_no_connection_for_a_status_and_none_comes(
    place: Workspace,
) -> None:
    watch = StatusWatch(place)
    engine = place.start_engine()
    assert len(engine.broker_connections()) == 1
    assert engine.stop() == 0
    assert not watch.read()


def test_each_service_logs_a_summary_and_no_line_for_an_order(place: Workspace) -> None:
    engine = place.start_engine(LOG_FORMAT="json", SUMMARY_SECONDS="1", **PUBLISHED)
    client = OrderClient(place)
    for _ in range(20):
        assert client.ask(new_order())["status"] == "ACK"

    def summaries() -> list[dict[str, str]]:
        events = [json.loads(line) for line in engine.output.splitlines()]
        return [event for event in events if "20 spreads open" in event["message"]]

    (summary, *_) = wait_for(summaries)
    assert (summary["level"], summary["service"]) == ("INFO", "trading engine")
    assert engine.output.count("Open Spread") == 0
    assert engine.stop() == 0
