"""Broker and database that stop, block or fill up under the services: on servers of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pika.spec import BasicProperties

from blackbird.broker.session import Session, connection_parameters, keep_session
from blackbird.broker.topology import ORDERS
from config import Config
from local_exchange.process import ExchangeProcess
from tests.support.book_feed import BookFeed, book_message, dead_letters, updates
from tests.support.broker_proxy import BrokerProxy
from tests.support.live_system import SERVICES, LiveSystem, ServerPair
from tests.support.order_client import ACK, Accounts, OrderClient, new_order
from tests.support.workspace import Workspace, connect, wait_for, workspace


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerPair]:
    with tempfile.TemporaryDirectory(prefix="blackbird-servers-") as folder:
        # The servers' own users have to get in.
        Path(folder).chmod(0o755)
        pair = ServerPair(Path(folder))
        try:
            pair.setup("start")
            yield pair
        finally:
            pair.setup("stop")


@pytest.fixture
def place(servers: ServerPair, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(tmp_path, MAX_BOOK_AGE_MS="3000", **servers.settings) as made:
        yield made


@pytest.fixture
def market() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "25", "--seed", "3") as exchange:
        yield exchange


def settle(system: LiveSystem) -> None:
    """Stop the market, wait until everything is worked off, and check database against broker and engine."""
    system.exchange.post("/pause")
    wait_for(system.is_stored, "every published update stored", 60)
    system.check_storage()
    client = OrderClient(system.place)
    wait_for(lambda: client.open_spreads() == Accounts(system.place).open_spreads, "every execution stored")


def test_broker_restarted_all_four_services_come_back_with_bounded_loss_and_fresh_snapshots(
    servers: ServerPair, place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market, PUBLISH_BUFFER="100")
    system.start(*SERVICES)
    system.subscribe()
    system.wait_until_it_works()
    snapshots = system.snapshots()
    servers.setup("stop", "broker")
    wait_for(lambda: "RabbitMQ" in str(system.request("/health")))
    wait_for(lambda: system.request("/health")[1]["dropped"] > 0, "the buffer full")
    servers.setup("start", "broker")
    place.await_ready(*system.services.values())
    wait_for(lambda: system.snapshots() >= snapshots + 2, "a fresh snapshot of each instrument")
    system.wait_until_it_works()
    settle(system)
    for name in SERVICES:
        assert "Traceback" not in system.services[name].output, name
        assert system.services[name].stop() == 0, name


def test_broker_that_is_short_of_memory_is_waited_for_and_a_service_can_be_stopped_meanwhile(
    servers: ServerPair, place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market, STATUS_INTERVAL_MS="500")
    system.start(*SERVICES)
    system.subscribe()
    system.wait_until_it_works()
    servers.setup("rabbitmqctl", "set_vm_memory_high_watermark", "0")
    try:
        wait_for(lambda: "memory or disk alarm" in str(system.request("/health")), "the alarm in /health")
        assert system.services["trading_engine"].stop(seconds=5) == 0
        assert system.services["signal"].stop(seconds=5) == 0
    finally:
        servers.setup("rabbitmqctl", "set_vm_memory_high_watermark", "0.4")
    system.start("trading_engine", "signal")
    system.wait_until_it_works()
    settle(system)


def test_an_alarm_reaches_a_publisher_that_publishes_nothing_and_leaves_a_consumer_alone(
    servers: ServerPair, place: Workspace
) -> None:
    port = int(servers.settings["RABBITMQ_PORT"])
    where = connection_parameters(**{**Config.BROKER_CONFIG, "virtual_host": place.name, "port": port})

    async def run() -> None:
        heard: list[str | None] = []
        sessions: list[Session] = []
        served = asyncio.Event()

        async def publisher(session: Session) -> None:
            session.on_blocked(heard.append)
            await session.confirm_publishes(lambda _: None)
            sessions.append(session)
            served.set()

        keeping = asyncio.create_task(keep_session(where, publisher))
        await served.wait()
        consumer = await Session.open(where)
        await consumer.declare_queue(ORDERS)
        consumer.publish("", ORDERS, b"x", BasicProperties())
        await asyncio.to_thread(servers.setup, "rabbitmqctl", "set_vm_memory_high_watermark", "0")
        try:
            async with asyncio.timeout(5):
                while not heard:
                    await asyncio.sleep(0.01)
            assert (heard, sessions[0].blocked) == (["low on memory"], "low on memory")
            message = None
            while message is None:
                message = await consumer.get(ORDERS)
            consumer.acknowledge(message[0])
            assert await consumer.declare_queue(ORDERS) == 0
            assert consumer.blocked is None
        finally:
            await asyncio.to_thread(servers.setup, "rabbitmqctl", "set_vm_memory_high_watermark", "0.4")
        async with asyncio.timeout(20):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        assert heard == ["low on memory", None]
        assert len(sessions) == 1
        await consumer.closed()
        keeping.cancel()
        await asyncio.wait([keeping])

    asyncio.run(run())


def test_database_stopped_storage_catches_up_and_the_engine_goes_on_acking_though_killed(
    servers: ServerPair, place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market)
    system.start(*SERVICES)
    system.subscribe()
    system.wait_until_it_works()
    client = OrderClient(place)
    servers.setup("stop", "database")
    orders = [new_order(buy=["linear", "OTHER"], sell=["spot", "OTHER"]) for _ in range(20)]
    assert all(answer == ACK for answer in client.settle(orders).values())
    system.services["trading_engine"].kill()
    system.services["data_storage"].kill()
    system.start("trading_engine", "data_storage", ready=False)
    wait_for(lambda: place.consumers("orders") == 1, "the engine holds the queue")
    servers.setup("start", "database")
    assert client.settle(orders) == {order["order_id"]: ACK for order in orders}
    system.wait_until_it_works()
    settle(system)
    assert {order["order_id"] for order in orders} <= set(Accounts(place).orders)


def test_stopped_database_is_named_in_health_within_seconds_while_trading_goes_on(
    servers: ServerPair, place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market)
    system.start(*SERVICES)
    client = OrderClient(place)

    def is_named() -> bool:
        status, health = system.request("/health")
        return status == 503 and any(
            entry.startswith("storage: no consumer") and "database" in entry for entry in health["down"]
        )

    for subscribed in (False, True):
        if subscribed:
            system.subscribe()
        wait_for(lambda: system.request("/health")[0] == 200, "a system that works")
        servers.setup("stop", "database")
        wait_for(is_named, "the stopped database named", 10)
        order = new_order(buy=["linear", "OTHER"], sell=["spot", "OTHER"])
        assert client.settle([order])[order["order_id"]] == ACK
        servers.setup("start", "database")
        wait_for(lambda: system.request("/health")[0] == 200, "a system that works again", 40)
    system.wait_until_it_works()
    settle(system)


@pytest.fixture
def small_disk(servers: ServerPair) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    folder = Path(servers.settings["PGDATA_PATH"]).parent / "small"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system of a test's own needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as output:
        try:
            while True:
                output.write(b"x" * 4096)
        except OSError:
            pass
    return filler


def run_alone(place: Workspace, statement: str) -> None:
    """Run what cannot be part of a transaction."""
    with contextlib.closing(connect(place.environment, place.name)) as connection:
        connection.cursor().execute(statement)


def data_folder(place: Workspace) -> Path:
    """The database's folder; skips where that is a path in a container."""
    [(folder, port)] = place.query("SELECT current_setting('data_directory'), current_setting('port')")
    lock = Path(folder, "postmaster.pid")
    reached = place.environment.get("POSTGRES_PORT", Config.DB_CONFIG["port"])
    if not lock.exists() or {lock.read_text().splitlines()[3], port} != {reached}:
        pytest.skip("the database runs in a container or on another machine")
    return lock.parent


def test_disk_of_the_database_full_costs_no_message_and_no_execution(
    place: Workspace, small_disk: Path
) -> None:
    data = data_folder(place)
    space = small_disk / "tables"
    space.mkdir()
    os.chown(space, data.stat().st_uid, -1)
    name = f"small_{place.name}"
    run_alone(place, f"CREATE TABLESPACE {name} LOCATION '{space}'")
    place.query(f"ALTER TABLE bybit.orderbook_update SET TABLESPACE {name}")
    place.query(f'ALTER TABLE bybit."order" SET TABLESPACE {name}')
    storage = place.start_storage()
    engine = place.start_engine()
    filler = fill(small_disk)
    feed = BookFeed(place)
    for number in range(500):
        feed.publish("storage", book_message("BTCUSDT", number, bids=[("1", "1")], cts=number))
    client = OrderClient(place)
    orders = [new_order() for _ in range(200)]
    assert all(answer == ACK for answer in client.settle(orders).values())
    assert "messages wait for the database: could not extend file" in storage.first_warning()
    assert "executions wait in the journal for the database: could not extend file" in engine.first_warning()
    filler.unlink()
    wait_for(lambda: updates(place) == 500)
    wait_for(lambda: len(Accounts(place).orders) == 200)
    assert dead_letters(place, "storage") == []
    assert storage.stop() == engine.stop() == 0
    place.close()
    place.query("DROP SCHEMA bybit CASCADE")
    run_alone(place, f"DROP TABLESPACE {name}")


def test_disk_of_the_journal_full_orders_wait_until_there_is_room(place: Workspace, small_disk: Path) -> None:
    engine = place.start_engine(JOURNAL_PATH=str(small_disk / "journal"))
    client = OrderClient(place)
    assert client.ask(new_order()) == ACK
    filler = fill(small_disk)
    connections = engine.broker_connections()
    orders = [new_order() for _ in range(100)]
    for order in orders:
        client.send(order, order["order_id"])
    wait_for(lambda: engine.broker_connections() != connections, "the orders left with the broker")
    filler.unlink()
    assert client.settle(orders) == {order["order_id"]: ACK for order in orders}
    wait_for(lambda: len(Accounts(place).orders) == 101)
    assert client.open_spreads() == Accounts(place).open_spreads


def test_idle_for_ten_heartbeats_and_the_next_message_goes_through(
    place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market, RABBITMQ_HEARTBEAT="1")
    system.start(*SERVICES)
    connections = {name: system.services[name].broker_connections() for name in SERVICES}
    idle_since = time.monotonic()
    wait_for(lambda: time.monotonic() > idle_since + 11)
    system.subscribe()
    system.wait_until_it_works()
    for name in SERVICES:
        assert system.services[name].broker_connections() == connections[name] != frozenset(), name


@pytest.mark.slow
def test_network_that_is_gone_without_a_word_is_noticed_by_the_heartbeat(place: Workspace) -> None:
    with BrokerProxy(place) as proxy:
        engine = place.start_engine(RABBITMQ_PORT=proxy.port, RABBITMQ_HEARTBEAT="1")
        connections = engine.broker_connections()
        proxy.silence()
        wait_for(lambda: not engine.broker_connections() & connections, "the connection given up", 30)
        proxy.go_on()
        client = OrderClient(place)
        order = new_order()
        assert client.settle([order])[order["order_id"]] == ACK
        engine.kill()
