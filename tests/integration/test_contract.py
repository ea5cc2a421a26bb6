"""What other people's programs meet at the broker and in the database: names, shapes and numbers."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.support.book_feed import BookFeed, book_message, dead_letters, now_ms, updates
from tests.support.engine_stand_in import EngineStandIn
from tests.support.order_client import ACK, LINEAR, SPOT, Accounts, OrderClient, closing, new_order
from tests.support.workspace import (
    Workspace,
    drop_database,
    free_port,
    free_ports,
    make_database,
    make_virtual_host,
    management,
    wait_for,
    workspace,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace with storage and trading engine for the tests that leave them as they were."""
    with workspace(tmp_path_factory.mktemp("contract"), MAX_BOOK_AGE_MS="0") as made:
        made.start_storage()
        made.start_engine(MAX_RISK_OPEN_POSITION="100000")
        yield made


@pytest.fixture(scope="module")
def client(shared: Workspace) -> OrderClient:
    return OrderClient(shared)


def legs() -> dict[str, list[str]]:
    """Return two legs that no other test trades."""
    name = uuid.uuid4().hex[:8]
    return {"buy": ["linear", f"{name}PERP"], "sell": ["spot", f"{name}USDT"]}


# --- broker --------------------------------------------------------------------------------------


def test_exchange_and_queues_are_declared_as_promised(shared: Workspace) -> None:
    exchange = management(shared.environment, "GET", f"exchanges/{shared.name}/data_feeder")
    assert (exchange["type"], exchange["durable"], exchange["auto_delete"]) == ("topic", True, False)
    for name in ("storage", "signal", "subscription", "orders"):
        queue = management(shared.environment, "GET", f"queues/{shared.name}/{name}")
        assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (True, False, False), name
    orders = management(shared.environment, "GET", f"queues/{shared.name}/orders")
    # RabbitMQ 4 shows the type that a declaration without arguments means.
    assert orders["arguments"] in ({}, {"x-queue-type": "classic"})
    signal = management(shared.environment, "GET", f"queues/{shared.name}/signal")
    assert signal["arguments"]["x-max-length"] >= 100_000
    bindings = management(shared.environment, "GET", f"bindings/{shared.name}")
    bound = {
        (each["destination"], each["routing_key"]) for each in bindings if each["source"] == "data_feeder"
    }
    assert {("storage", "storage"), ("signal", "signal"), ("subscription", "subscription")} <= bound


def test_third_party_client_may_declare_orders_without_arguments(shared: Workspace) -> None:
    channel = shared.channel()
    assert channel.queue_declare("orders", durable=True).method.queue == "orders"
    with pytest.raises(ChannelClosedByBroker):
        channel.queue_declare("orders", durable=True, arguments={"x-max-length": 5})
    channel.connection.close()


def test_third_party_client_bound_to_a_key_sees_every_message_and_takes_none_away(shared: Workspace) -> None:
    feed = BookFeed(shared)
    client = shared.channel()
    queue = client.queue_declare("", exclusive=True).method.queue
    client.queue_bind(queue, "data_feeder", "storage")
    before = updates(shared)
    sent = [book_message("OTHER", number, bids=[("1", "1")], cts=number) for number in range(20)]
    for message in sent:
        feed.publish("storage", message)
    seen = [json.loads(client.basic_get(queue, auto_ack=True)[2] or b"") for _ in sent]
    assert seen == sent
    wait_for(lambda: updates(shared) == before + 20)


def test_body_that_cannot_be_understood_is_in_the_dead_letter_queue_with_its_reason(
    shared: Workspace,
) -> None:
    feed = BookFeed(shared)
    feed.publish("storage", b'{"topic": 7}')
    reason, body = wait_for(lambda: dead_letters(shared, "storage"))[0]
    assert body == b'{"topic": 7}'
    assert "topic" in reason
    shared.channel().basic_publish("", "orders", b'{"action": "Sell All"}')
    reason, body = wait_for(lambda: dead_letters(shared, "orders"))[0]
    assert body == b'{"action": "Sell All"}'
    assert reason.startswith("action: expected 'Open Spread' or 'Close Spread', was 'Sell All'")


# --- orders --------------------------------------------------------------------------------------


def test_order_as_the_contract_writes_it_is_acked_with_the_same_correlation_id(shared: Workspace) -> None:
    body = {
        "order_id": uuid.uuid4().hex,
        "action": "Open Spread",
        "spread_id": "4c1e",
        "expires_at": now_ms() + 60_000,
        **legs(),
        "buy_price": 61800.3,
        "sell_price": 61837.63,
        "size": 0.25,
        "ts_buy": 1723161256298,
        "ts_sell": 1723161256208,
    }
    channel = shared.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    properties = pika.BasicProperties(reply_to=queue, correlation_id="mine")
    channel.basic_publish("", "orders", json.dumps(body).encode(), properties)

    def reply() -> tuple[Any, bytes] | None:
        method, got, answer = channel.basic_get(queue, auto_ack=True)
        return None if method is None or answer is None else (got, answer)

    got, answer = wait_for(reply)
    assert got.correlation_id == "mine"
    assert json.loads(answer) == ACK


def test_numbers_are_taken_exactly_as_they_are_written(shared: Workspace, client: OrderClient) -> None:
    order = new_order(**legs())
    text = json.dumps({**order, "buy_price": 1, "sell_price": 2, "size": 3})
    text = text.replace('"buy_price": 1', '"buy_price": 0.1').replace(
        '"sell_price": 2', '"sell_price": 1.10E0'
    )
    text = text.replace('"size": 3', '"size": 0.12345678901234567891')
    assert client.ask(text.encode()) == ACK
    rows = wait_for(
        lambda: shared.query(
            'SELECT type, price, size, flux FROM bybit."order" WHERE order_id = %s ORDER BY type',
            order["order_id"],
        )
    )
    size = Decimal("0.12345678901234567891")
    assert rows == [
        ("buy", Decimal("0.1"), size, -size / 10),
        ("sell", Decimal("1.1"), size, size + size / 10),
    ]
    assert client.open_spreads()[-1]["quantity"] == size
    assert client.open_spreads()[-1]["spread"] == 1


def test_order_is_known_by_its_id_alone(client: OrderClient) -> None:
    order = new_order(**legs())
    assert client.ask(order) == ACK
    assert client.ask({**order, "size": 77, "action": "Close Spread"}) == ACK
    assert client.ask({**order, "order_id": uuid.uuid4().hex, "spread_id": None}) == ACK, "another order"


def test_copy_of_an_order_without_id_is_already_placed(client: OrderClient) -> None:
    order = new_order(order_id=None, spread_id=None, **legs())
    already = {"status": "NOT ACK", "info": "order already placed"}
    assert client.ask(order) == ACK
    assert client.ask(order) == already
    assert client.ask({**order, "size": 1.0, "sell_price": 101.00}) == already, "the same numbers"
    for change in ({"size": 2}, {"ts_buy": 1}, {"ts_sell": 1}, {"buy_price": 99}, {"sell_price": 102}):
        assert client.ask({**order, **change}) == ACK


def test_expired_order_is_answered_so(client: OrderClient) -> None:
    order = new_order(expires_at=now_ms() - 1, **legs())
    assert client.ask(order) == {"status": "NOT ACK", "info": "expired"}
    assert client.ask({**order, "expires_at": now_ms() + 60_000})["info"] == "expired", "its first answer"


def test_exposure_may_reach_the_limit_and_not_pass_it_and_may_always_shrink(client: OrderClient) -> None:
    pair = legs()
    whole = new_order(buy_price=100, sell_price=99, size=1000, **pair)
    assert client.ask(whole) == ACK
    crumb = {"buy_price": 1, "sell_price": 1, "size": 0.00000001}
    assert client.ask(new_order(**crumb, **pair)) == {"status": "NOT ACK", "info": "risk limit exceed"}
    # Below the limit again by one close, it may grow by as much.
    assert client.ask(closing(whole, size=500)) == ACK
    assert (
        client.ask(new_order(buy_price=100, sell_price=99, size=502, **pair))["info"] == "risk limit exceed"
    )


def test_close_of_a_spread_that_is_unknown_or_smaller_is_an_invalid_order(client: OrderClient) -> None:
    order = new_order(size=2, **legs())
    assert client.ask(order) == ACK
    for wrong in (
        closing(order, spread_id="unknown"),
        closing(order, size=2.00000001),
        closing(order, buy=order["buy"], sell=order["sell"]),
        new_order(spread_id=order["spread_id"], **legs()),
    ):
        answer = client.ask(wrong)
        assert answer["status"] == "NOT ACK"
        assert answer["info"].startswith("invalid order: spread_id: expected")
    assert client.ask(closing(order, size=2)) == ACK
    assert client.ask(closing(order, size=1))["info"].startswith("invalid order: spread_id"), "it is gone"


def test_close_without_spread_id_reduces_the_oldest_of_its_pair_as_far_as_there_are_any(
    client: OrderClient,
) -> None:
    pair = legs()
    opens = [new_order(size=size, **pair) for size in (1, 2, 4)]
    other = new_order(size=9, **legs())
    for order in (*opens, other):
        assert client.ask(order) == ACK

    def left() -> list[Decimal | None]:
        quantities = {spread["spread_id"]: spread["quantity"] for spread in client.open_spreads()}
        return [quantities.get(order["spread_id"]) for order in (*opens, other)]

    assert client.ask(closing(opens[0], spread_id=None, size=2.5)) == ACK
    assert left() == [None, Decimal("0.5"), 4, 9]
    # More than there is: what the spreads do not hold is exposure the other way round.
    assert client.ask(closing(opens[0], spread_id=None, size=10)) == ACK
    assert left() == [None, None, None, 9]
    assert client.ask(closing(opens[0], spread_id=None, size=1)) == ACK, "judged by risk alone"


def test_open_spreads_are_listed_oldest_first_with_exact_numbers(client: OrderClient) -> None:
    pair = legs()
    opens = [new_order(buy_price=61800.3, sell_price=61837.63, size=size, **pair) for size in (0.25, 0.5)]
    for order in opens:
        assert client.ask(order) == ACK
    mine = [spread for spread in client.open_spreads() if spread["long"] == pair["buy"]]
    assert mine == [
        {
            "spread_id": order["spread_id"],
            "long": pair["buy"],
            "short": pair["sell"],
            "spread": Decimal("37.33"),
            "quantity": Decimal(str(order["size"])),
            "long_price": Decimal("61800.3"),
            "short_price": Decimal("61837.63"),
        }
        for order in opens
    ]


def test_request_without_reply_to_is_worked_off_all_the_same(shared: Workspace, client: OrderClient) -> None:
    order = new_order(**legs())
    shared.channel().basic_publish("", "orders", json.dumps(order).encode())
    wait_for(lambda: shared.query('SELECT 1 FROM bybit."order" WHERE order_id = %s', order["order_id"]))
    assert client.ask(order) == ACK


def test_signal_engine_sends_orders_as_promised(place: Workspace) -> None:
    engine = EngineStandIn(place)
    place.start_signal(ORDER_TIMEOUT_MS="7000")
    engine.wait_for(lambda: engine.answered, "its question")
    asked = place.channel()
    assert asked.queue_declare("orders", passive=True).method.consumer_count == 1
    before = now_ms()
    feed = BookFeed(place)
    feed.crossed_pair()
    order = engine.execute()
    assert set(order) == {
        *("order_id", "action", "spread_id", "expires_at", "buy", "buy_price", "sell", "sell_price"),
        *("size", "ts_buy", "ts_sell"),
        *("published_buy", "published_sell", "received_buy", "received_sell", "decided_at"),
    }
    assert (order["buy"], order["sell"]) == (LINEAR, SPOT)
    assert before + 7000 <= order["expires_at"] <= now_ms() + 7000


# --- database ------------------------------------------------------------------------------------


def columns(place: Workspace, table: str) -> list[tuple[str, str]]:
    query = (
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'bybit' AND table_name = %s ORDER BY ordinal_position"
    )
    return [(name, kind) for name, kind in place.query(query, table)]


def test_tables_have_the_promised_columns_in_the_promised_order(shared: Workspace) -> None:
    orderbook = columns(shared, "orderbook")
    assert [name for name, _ in orderbook] == [
        *("topic", "type", "ts_message", "channel", "symbol_name", "update_id", "sequence_id"),
        *("side", "price", "size", "ts_orderbook", "matching_key"),
    ]
    order = columns(shared, "order")
    assert [name for name, _ in order[:7]] == [
        *("channel", "symbol_name", "price", "size", "type", "flux", "ts_orderbook")
    ]
    assert {"order_id", "action", "spread_id", "placed_at"} <= {name for name, _ in order[7:]}
    kinds = dict(order)
    assert {kinds[name] for name in ("price", "size", "flux")} == {"numeric"}


def test_orderbook_is_a_hypertable_of_one_day_chunks_where_timescaledb_is(shared: Workspace) -> None:
    if not shared.query("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("plain PostgreSQL: no TimescaleDB here")
    assert shared.query(
        "SELECT column_name, integer_interval FROM timescaledb_information.dimensions"
        " WHERE hypertable_schema = 'bybit' AND hypertable_name = 'orderbook'"
    ) == [("ts_orderbook", 86_400_000)]


def test_exposure_and_pnl_follow_from_the_rows(shared: Workspace, client: OrderClient) -> None:
    pair = legs()
    opened = new_order(buy_price=100, sell_price=103, size=2, **pair)
    assert client.ask(opened) == ACK
    assert client.ask(closing(opened, buy_price=101.5, sell_price=100.25, size=0.5)) == ACK
    rows = wait_for(
        lambda: (
            len(
                found := shared.query(
                    'SELECT type, channel, flux, ts_orderbook, action, spread_id FROM bybit."order"'
                    " WHERE spread_id = %s ORDER BY execution_id, type",
                    opened["spread_id"],
                )
            )
            == 4
            and found
        )
    )
    spread_id = opened["spread_id"]
    assert rows == [
        ("buy", "linear", Decimal(-200), opened["ts_buy"], "Open Spread", spread_id),
        ("sell", "spot", Decimal(206), opened["ts_sell"], "Open Spread", spread_id),
        ("buy", "spot", Decimal("-50.75"), opened["ts_buy"], "Close Spread", spread_id),
        ("sell", "linear", Decimal("50.125"), opened["ts_sell"], "Close Spread", spread_id),
    ]
    Accounts(shared)


# --- starting and settings -----------------------------------------------------------------------


def test_services_wait_for_broker_and_database_that_are_not_there_yet(tmp_path: Path) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    place = Workspace(tmp_path, name, {"MAX_BOOK_AGE_MS": "0"})
    try:
        services = [place.start(each) for each in ("trading_engine", "data_storage", "signal")]
        for service in services:
            assert "does not serve the virtual host" in service.first_warning()
        make_virtual_host(place.environment, name)
        wait_for(lambda: len(services[0].warnings) > 1, "the engine misses its database")
        assert "recovery pending, orders are held" in services[0].warnings[-1]
        client = OrderClient(place)
        client.send({"action": "List Open Spreads"}, "early")
        make_database(place.environment, name)
        client.wait("early")
        feed = BookFeed(place)
        feed.publish("storage", book_message("BTCUSDT", 1, bids=[("1", "1")]))
        wait_for(lambda: updates(place) == 1)
        place.await_ready(*services)
        assert [service.stop() for service in services] == [0, 0, 0]
    finally:
        place.close()
        drop_database(place.environment, name)
        management(place.environment, "DELETE", f"vhosts/{name}")


@pytest.mark.parametrize("service", ["trading_engine", "data_storage", "signal"])
def test_service_that_still_waits_ends_by_itself_with_status_0(tmp_path: Path, service: str) -> None:
    place = Workspace(tmp_path, "nowhere", {"RABBITMQ_PORT": "1", "POSTGRES_PORT": "1"})
    try:
        started = place.start(service)
        assert "no broker at localhost:1" in started.first_warning()
        assert started.stop(seconds=5) == 0
    finally:
        place.close()


def test_a_service_touches_its_file_and_tells_systemd_until_it_ends(tmp_path: Path) -> None:
    collector, monitor = map(str, free_ports(2))
    names = ("trading_engine", "data_storage", "signal", "market_data_collector", "monitor")
    with contextlib.ExitStack() as stack:
        supervisors = {}
        services = []
        for name in names:
            (tmp_path / name).mkdir()
            address = f"blackbird-{uuid.uuid4().hex}"
            supervisor = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            supervisor.bind(f"\0{address}")
            supervisor.settimeout(60)
            supervisors[name] = supervisor
            settings = {
                "RABBITMQ_PORT": "1",
                "POSTGRES_PORT": "1",
                "ALIVE_FILE": str(tmp_path / name / "alive"),
            }
            settings |= {"COLLECTOR_PORT": collector, "MONITOR_PORT": monitor, "NOTIFY_SOCKET": f"@{address}"}
            place = Workspace(tmp_path / name, "nowhere", settings)
            stack.callback(place.close)
            services.append(place.start(name))
        for name, supervisor in supervisors.items():
            assert supervisor.recv(100) == b"READY=1"
            assert supervisor.recv(100) == b"WATCHDOG=1"
            wait_for((tmp_path / name / "alive").exists, f"{name} touches its file", 60)
        for service, supervisor in zip(services, supervisors.values(), strict=True):
            service.process.send_signal(signal.SIGTERM)
            while supervisor.recv(100) != b"STOPPING=1":
                pass


def test_queues_that_are_there_with_other_arguments_are_used_and_when_deleted_made_anew(
    place: Workspace,
) -> None:
    channel = place.channel()
    for queue in ("storage", "signal"):
        channel.queue_declare(queue, durable=True)
    storage = place.start_storage()
    feed = BookFeed(place, declare=False)
    feed.publish("storage", book_message("BTCUSDT", 1, bids=[("2", "1")], cts=1))
    wait_for(lambda: updates(place) == 1)
    channel.queue_delete("storage")

    def stored_again() -> bool:
        feed.publish("storage", book_message("BTCUSDT", 2, bids=[("2", "1")], cts=2))
        return updates(place) == 2

    wait_for(stored_again)
    with pytest.raises(ChannelClosedByBroker, match="inequivalent arg"):
        place.channel().queue_declare("storage", durable=True)
    assert storage.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("service", ["market_data_collector", "trading_engine", "data_storage", "signal"])
def test_service_that_is_told_to_end_while_it_still_imports_ends_with_status_0(
    tmp_path: Path, service: str, number: signal.Signals
) -> None:
    nowhere = {"RABBITMQ_PORT": "1", "POSTGRES_PORT": "1", "COLLECTOR_PORT": str(free_port())}
    place = Workspace(tmp_path, "nowhere", {**nowhere, "PYTHONPROFILEIMPORTTIME": "1"})
    try:
        started = place.start(service)
        wait_for(lambda: "asyncio.events" in started.output, "the import that is under way")
        started.process.send_signal(number)
        assert started.process.wait(5) == 0
        assert "Traceback" not in started.output
    finally:
        place.close()


@pytest.mark.parametrize("service", ["trading_engine", "data_storage", "signal"])
def test_service_that_is_told_to_end_again_and_again_ends_with_status_0(
    place: Workspace, service: str
) -> None:
    started = place.start_ready(service)

    def has_ended() -> bool:
        started.process.send_signal(signal.SIGTERM)
        started.process.send_signal(signal.SIGINT)
        return started.process.poll() is not None

    wait_for(has_ended)
    assert started.process.returncode == 0
