"""Sessions with the real broker: what holds with and without the fast path, and how each end is named."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pika.spec import Basic, BasicProperties

from blackbird.broker.errors import (
    AccessRefused,
    BrokerUnreachable,
    DeclaredOtherwise,
    NotABroker,
    QueueInUse,
    TlsFailed,
    VirtualHostMissing,
)
from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.session import Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.topology import COLLECTOR_SUBSCRIPTIONS, EXCHANGE, ORDERS, RESYNC, SIGNAL, STORAGE
from config import Config
from tests.support.book_feed import dead_letters
from tests.support.broker_proxy import BrokerProxy
from tests.support.certificates import make_certificate
from tests.support.workspace import Workspace, free_port, management, wait_for

SIZES = [0, 1, 100, 2_000, 65_000, 131_064, 131_065, 400_000, 50]
NO_PROPERTIES = BasicProperties()


@pytest.fixture(params=[True, False], ids=["fast path", "plain pika"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def closed_sockets() -> Iterator[None]:
    """A socket that a test leaves open is warned of here, which fails it."""
    yield
    gc.collect()


def parameters(place: Workspace, **changed: Any) -> BrokerParameters:
    """Return the parameters of a connection to the test's virtual host."""
    return connection_parameters(**{**Config.BROKER_CONFIG, "virtual_host": place.name, **changed})


@contextlib.asynccontextmanager
async def opened(where: BrokerParameters) -> AsyncIterator[Session]:
    session = await Session.open(where)
    try:
        yield session
    finally:
        await session.closed()


class Inbox:
    """A handler that keeps what it is given, and can be waited for."""

    def __init__(self) -> None:
        self.messages: list[tuple[Basic.Deliver, BasicProperties, bytes]] = []
        self._arrived = asyncio.Event()

    def take(self, _: Any, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self.messages.append((deliver, properties, body))
        self._arrived.set()

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.messages]

    @property
    def last_tag(self) -> int:
        return self.messages[-1][0].delivery_tag or 0

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()


async def is_alive(session: Session) -> bool:
    """Return whether the session is open once the broker has processed what was sent before."""
    await session.set_prefetch(0)
    return session.is_open


# --- messages ------------------------------------------------------------------------------------


def test_messages_of_every_size_arrive_whole_in_order_and_as_bytes(place: Workspace, fast_path: bool) -> None:
    bodies = [os.urandom(size) for size in SIZES * 3]

    async def run() -> Inbox:
        inbox = Inbox()
        async with opened(parameters(place, fast_path=fast_path)) as session:
            queue = await session.declare_private_queue()
            await session.consume(queue, inbox.take, auto_ack=True)
            for number, body in enumerate(bodies):
                session.publish("", queue, body, BasicProperties(headers={"number": number}, delivery_mode=2))
            await inbox.wait_for(len(bodies))
            assert {deliver.routing_key for deliver, _, _ in inbox.messages} == {queue}
            assert {deliver.exchange for deliver, _, _ in inbox.messages} == {""}
        return inbox

    inbox = asyncio.run(run())
    assert inbox.bodies == bodies
    assert {type(body) for body in inbox.bodies} == {bytes}
    assert [properties.headers for _, properties, _ in inbox.messages] == [
        {"number": number} for number in range(len(bodies))
    ]
    assert [deliver.delivery_tag for deliver, _, _ in inbox.messages] == list(range(1, len(bodies) + 1))
    assert not any(deliver.redelivered for deliver, _, _ in inbox.messages)


def test_what_was_not_acknowledged_is_redelivered_and_marked_so(place: Workspace, fast_path: bool) -> None:
    async def run() -> Inbox:
        first, second = Inbox(), Inbox()
        where = parameters(place, fast_path=fast_path)
        async with opened(where) as session:
            await session.declare_queue(ORDERS)
            await session.consume(ORDERS, first.take)
            for number in range(4):
                session.publish("", ORDERS, b"%d" % number, NO_PROPERTIES)
            await first.wait_for(4)
            session.acknowledge(2, multiple=True)
        async with opened(where) as session:
            await session.consume(ORDERS, second.take)
            session.publish("", ORDERS, b"new", NO_PROPERTIES)
            await second.wait_for(3)
        return second

    inbox = asyncio.run(run())
    assert [(body, bool(deliver.redelivered)) for deliver, _, body in inbox.messages] == [
        (b"2", True),
        (b"3", True),
        (b"new", False),
    ]


def test_a_cancelled_consumer_gets_nothing_more_and_nothing_is_lost(
    place: Workspace, fast_path: bool
) -> None:
    async def run() -> tuple[Inbox, Inbox]:
        first, second = Inbox(), Inbox()
        async with opened(parameters(place, fast_path=fast_path)) as session:
            await session.declare_queue(ORDERS)
            tag = await session.consume(ORDERS, first.take)
            session.publish("", ORDERS, b"before", NO_PROPERTIES)
            await first.wait_for(1)
            session.acknowledge(first.last_tag)
            for number in range(100):
                session.publish("", ORDERS, b"%d" % number, NO_PROPERTIES)
            taken = len(first.messages)
            await session.cancel(tag)  # before its answer come deliveries that were on their way
            await session.consume(ORDERS, second.take)
            session.publish("", ORDERS, b"after", NO_PROPERTIES)
            await second.wait_for(101 - (taken - 1))
            assert len(first.messages) == taken
        return first, second

    first, second = asyncio.run(run())
    assert sorted(first.bodies + second.bodies) == sorted(
        [b"before", b"after", *(b"%d" % number for number in range(100))]
    )


def test_acknowledgements_one_by_one_many_at_once_and_none_at_all_go_together_on_one_channel(
    place: Workspace, fast_path: bool
) -> None:
    async def run() -> None:
        inboxes = singles, many, automatic = Inbox(), Inbox(), Inbox()
        async with opened(parameters(place, fast_path=fast_path)) as session:
            queues = {inbox: await session.declare_private_queue() for inbox in inboxes}
            for inbox, queue in queues.items():
                await session.consume(queue, inbox.take, auto_ack=inbox is automatic)
            for inbox in (many, singles, automatic, many, automatic, singles):  # delivery tags 1 to 6
                session.publish("", queues[inbox], b"", NO_PROPERTIES)
                await inbox.wait_for(len(inbox.messages) + 1)
            assert [deliver.delivery_tag for deliver, _, _ in singles.messages] == [2, 6]
            session.acknowledge(2)
            session.acknowledge(2)
            session.acknowledge(3, multiple=True)  # 1; the others are settled
            session.acknowledge(3, multiple=True)
            session.acknowledge(6)
            session.acknowledge(5, multiple=True)
            session.acknowledge(6, multiple=True)
            assert await is_alive(session)

    asyncio.run(run())


def test_deliveries_that_are_given_back_leave_a_cancelled_consumer_uncounted_and_come_again_in_order(
    place: Workspace, fast_path: bool
) -> None:
    async def run() -> list[bytes]:
        async with opened(parameters(place, fast_path=fast_path)) as session:
            await session.declare_feed()
            inbox = Inbox()
            tag = await session.consume(STORAGE, inbox.take)
            for number in range(4):
                session.publish("data_feeder", STORAGE, b"%d" % number, NO_PROPERTIES)
            await inbox.wait_for(4)
            session.acknowledge(1)
            await session.cancel(tag)
            session.requeue(4)
            session.acknowledge(4, multiple=True)  # by somebody who does not know
            async with asyncio.timeout(10):
                while await session.count_consumers(STORAGE):
                    await asyncio.sleep(0.01)
            again = Inbox()
            await session.consume(STORAGE, again.take)
            await again.wait_for(3)
            session.acknowledge(again.last_tag, multiple=True)
            assert await is_alive(session)
            return again.bodies

    assert asyncio.run(run()) == [b"1", b"2", b"3"]


class Undecodable(BasicProperties):
    """Properties with a header that AMQP allows and pika cannot decode."""

    def __init__(self, table: bytes) -> None:
        super().__init__(headers={}, correlation_id="c")
        self._table = table

    def encode(self) -> list[bytes]:
        flags = BasicProperties.FLAG_HEADERS | BasicProperties.FLAG_CORRELATION_ID
        return [struct.pack(">HI", flags, len(self._table)), self._table, b"\x01c"]


def nested(depth: int) -> bytes:
    """Return a field value of arrays in arrays."""
    value = b""
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


@pytest.mark.parametrize(
    "table",
    [b"\x04whenT" + struct.pack(">Q", 2**63 - 1), b"\x04deep" + nested(2000)],
    ids=["timestamp beyond the year 9999", "nested 2000 deep"],
)
@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_headers_that_pika_cannot_decode_count_as_missing(
    place: Workspace, fast_path: bool, table: bytes, size: int
) -> None:
    async def run() -> None:
        inbox = Inbox()
        async with opened(parameters(place, fast_path=fast_path)) as session:
            await session.declare_queue(ORDERS)
            session.publish("", ORDERS, b"x" * size, Undecodable(table))
            peeked = None
            while peeked is None:
                peeked = await session.peek(ORDERS)
            await session.consume(ORDERS, inbox.take)
            session.publish("", ORDERS, b"next", NO_PROPERTIES)
            await inbox.wait_for(2)
            for properties, body in (peeked, inbox.messages[0][1:]):
                assert body == b"x" * size
                assert properties.headers is None
                assert properties.correlation_id == "c"

    asyncio.run(run())


# --- exceptions of handlers ----------------------------------------------------------------------


def test_a_message_that_its_handler_fails_on_is_dead_lettered_and_the_others_go_on(
    place: Workspace, fast_path: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> Inbox:
        inbox = Inbox()

        def handle(channel: Any, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            inbox.take(channel, deliver, properties, body)
            if body == b"bad":
                raise KeyError("no such pair")

        async with opened(parameters(place, fast_path=fast_path)) as session:
            await session.declare_queue(ORDERS)
            await session.consume(ORDERS, handle)
            for body in (b"1", b"bad", b"2"):
                session.publish("", ORDERS, body, BasicProperties(correlation_id="c"))
            await inbox.wait_for(3)
            session.acknowledge(2, multiple=True)  # as one does who acknowledges many at once
            session.acknowledge(3, multiple=True)
            assert await is_alive(session)
        return inbox

    inbox = asyncio.run(run())
    assert inbox.bodies == [b"1", b"bad", b"2"]
    letters = dead_letters(place, ORDERS)
    assert [body for _, body in letters] == [b"bad"]
    assert "KeyError('no such pair')" in letters[0][0]
    assert place.waiting(ORDERS) == 0
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in tracebacks if record.exc_info] == [KeyError]


def test_a_failing_handler_of_a_private_queue_drops_the_message_or_hands_it_to_its_own_dead_letters(
    place: Workspace, fast_path: bool
) -> None:
    async def run() -> None:
        inbox = Inbox()
        put_aside: list[tuple[str, bytes]] = []

        def handle(*delivery: Any) -> None:
            inbox.take(*delivery)
            raise ValueError

        async with opened(parameters(place, fast_path=fast_path)) as session:
            dropping, keeping, automatic = [await session.declare_private_queue() for _ in range(3)]
            await session.consume(dropping, handle)
            await session.consume(
                keeping, handle, dead_letter=lambda reason, _, body: put_aside.append((reason, body))
            )
            await session.consume(automatic, handle, auto_ack=True)
            for queue in (dropping, keeping, automatic):
                session.publish("", queue, b"x", NO_PROPERTIES)
            await inbox.wait_for(3)
            assert put_aside == [("handler failed: ValueError()", b"x")]
            session.acknowledge(3, multiple=True)
            assert await is_alive(session)

    asyncio.run(run())


def test_publishes_are_confirmed_in_order_and_a_failing_handler_of_confirms_ends_the_session(
    place: Workspace, fast_path: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        confirmed: list[int] = []
        enough = asyncio.Event()

        def confirm(frame: Any) -> None:
            confirmed.append(frame.method.delivery_tag)
            if confirmed[-1] == 100:
                enough.set()
            if confirmed[-1] > 100:
                raise KeyError("tag")

        async with opened(parameters(place, fast_path=fast_path)) as session:
            await session.confirm_publishes(confirm)
            await session.redeclare()  # what this publishes for itself has no number
            for _ in range(100):
                session.publish("", "nowhere", b"x", NO_PROPERTIES)
            async with asyncio.timeout(20):
                await enough.wait()
            assert confirmed == sorted(confirmed)
            session.publish("", "nowhere", b"x", NO_PROPERTIES)
            with pytest.raises(SessionLost, match="KeyError"):
                await asyncio.wait_for(session.lost, 20)

    asyncio.run(run())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


# --- outages -------------------------------------------------------------------------------------


def test_a_cut_connection_is_replaced_and_unacknowledged_messages_come_on_the_new_one(
    place: Workspace, fast_path: bool
) -> None:
    with BrokerProxy(place) as proxy:
        where = parameters(place, host="127.0.0.1", port=int(proxy.port), fast_path=fast_path)

        async def run() -> tuple[int, Inbox]:
            inboxes: list[Inbox] = []
            served = asyncio.Event()

            async def serve(session: Session) -> None:
                inboxes.append(Inbox())
                await session.declare_queue(ORDERS)
                await session.consume(ORDERS, inboxes[-1].take)
                if len(inboxes) == 1:
                    session.publish("", ORDERS, b"x" * 1000, NO_PROPERTIES)
                served.set()

            keeping = asyncio.create_task(keep_session(where, serve))
            async with asyncio.timeout(20):
                await served.wait()
                await inboxes[0].wait_for(1)
                served.clear()
                cut = await asyncio.to_thread(proxy.cut)
                await served.wait()
                await inboxes[1].wait_for(1)
            keeping.cancel()
            await asyncio.wait([keeping])
            return cut, inboxes[1]

        cut, inbox = asyncio.run(run())
    assert cut == 1
    assert [(body, bool(deliver.redelivered)) for deliver, _, body in inbox.messages] == [(b"x" * 1000, True)]


def test_a_broker_that_does_not_answer_a_close_keeps_no_socket_open(
    place: Workspace, fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.broker.connection.CLOSE_SECONDS", 0.1)
    with BrokerProxy(place) as proxy:

        async def run() -> None:
            session = await Session.open(
                parameters(place, host="127.0.0.1", port=int(proxy.port), fast_path=fast_path)
            )
            await asyncio.to_thread(proxy.silence)
            await session.closed()
            assert session.lost.done()

        asyncio.run(run())


@pytest.mark.parametrize("tls", [False, True])
def test_an_opening_that_is_cancelled_keeps_no_socket_open(place: Workspace, tls: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = parameters(place, port=silent.getsockname()[1], tls=tls)

        async def run() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await Session.open(where)
            async with asyncio.timeout(20):
                while len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0.01)

        asyncio.run(run())


# --- TLS -----------------------------------------------------------------------------------------


def test_messages_go_over_tls_to_a_broker_with_a_certificate_of_the_given_authority(
    place: Workspace, fast_path: bool, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)
    bodies = [os.urandom(size) for size in SIZES]
    with BrokerProxy(place, certificate.server) as proxy:
        where = parameters(
            place, port=int(proxy.port), tls=True, ca_file=str(certificate.file), fast_path=fast_path
        )

        async def run() -> Inbox:
            inbox = Inbox()
            async with opened(where) as session:
                queue = await session.declare_private_queue()
                await session.consume(queue, inbox.take, auto_ack=True)
                for body in bodies:
                    session.publish("", queue, body, NO_PROPERTIES)
                await inbox.wait_for(len(bodies))
            return inbox

        assert asyncio.run(run()).bodies == bodies


def test_a_certificate_of_another_host_or_of_an_unknown_authority_is_refused(
    place: Workspace, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "elsewhere.example")
    with BrokerProxy(place, other.server) as proxy:
        port = int(proxy.port)
        assert_refused(TlsFailed, parameters(place, port=port, tls=True, ca_file=str(other.file)))
        assert_refused(TlsFailed, parameters(place, port=port, tls=True))


# --- how each end is named -----------------------------------------------------------------------


def assert_refused(kind: type[SessionLost], where: BrokerParameters) -> SessionLost:
    with pytest.raises(SessionLost) as caught:
        asyncio.run(Session.open(where))
    assert type(caught.value) is kind, caught.value
    return caught.value


def test_the_causes_of_a_refused_connection_are_told_apart(place: Workspace) -> None:
    unused = parameters(place, port=1)
    assert assert_refused(BrokerUnreachable, unused).described(unused.address) == (
        "no broker at localhost:1 (Connection refused)"
    )
    assert_refused(BrokerUnreachable, parameters(place, host="nowhere.invalid"))
    assert_refused(AccessRefused, parameters(place, password="wrong"))
    assert_refused(VirtualHostMissing, parameters(place, virtual_host="nowhere"))
    assert_refused(TlsFailed, parameters(place, tls=True))  # the port does not speak TLS
    postgres = int(place.environment.get("POSTGRES_PORT", Config.DB_CONFIG["port"]))
    assert_refused(NotABroker, parameters(place, port=postgres))


async def raises(kind: type[SessionLost], where: BrokerParameters, serve: Callable[[Session], Any]) -> None:
    async with opened(where) as session:
        with pytest.raises(SessionLost) as caught:
            await serve(session)
        assert type(caught.value) is kind, caught.value


def test_the_causes_of_a_closed_channel_are_told_apart(place: Workspace, fast_path: bool) -> None:
    channel = place.channel()
    channel.exchange_declare(EXCHANGE, "direct", durable=True)
    channel.queue_declare(ORDERS, durable=True)
    channel.basic_consume(ORDERS, print, exclusive=True)
    where = parameters(place, fast_path=fast_path)

    async def consume(session: Session) -> None:
        await session.consume(ORDERS, print, exclusive=True)

    async def run() -> None:
        await raises(DeclaredOtherwise, where, lambda session: session.declare_feed())
        await raises(QueueInUse, where, consume)

    asyncio.run(run())
    permissions = {"configure": "", "write": "", "read": ""}
    management(place.environment, "PUT", f"permissions/{place.name}/{Config.RABBITMQ_USER}", permissions)
    asyncio.run(raises(AccessRefused, where, lambda session: session.declare_queue(COLLECTOR_SUBSCRIPTIONS)))


def test_an_outage_is_one_log_line_of_ours_and_none_of_pika(
    place: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    where = parameters(place, virtual_host="nowhere")

    async def serve(_: Session) -> None:
        raise AssertionError

    async def run() -> None:
        keeping = asyncio.create_task(keep_session(where, serve))
        async with asyncio.timeout(20):
            while not ours():
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.wait([keeping])

    def ours() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name.startswith("blackbird")]

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    cause = "530 NOT_ALLOWED - vhost nowhere not found"
    assert ours() == [
        f"the broker at {where.address} does not serve the virtual host ({cause}); trying again"
    ]


# --- topology and names --------------------------------------------------------------------------


def test_a_deleted_exchange_is_back_with_all_bindings_within_the_interval_and_without_traffic(
    place: Workspace, fast_path: bool
) -> None:
    where = parameters(place, fast_path=fast_path)

    async def run() -> None:
        requests = Inbox()
        served = asyncio.Event()

        async def serve(session: Session) -> None:
            await session.declare_feed()
            queue = await session.declare_private_queue()
            await session.bind(queue, RESYNC)
            await session.consume(queue, requests.take)
            served.set()

        keeping = asyncio.create_task(keep_session(where, serve))
        async with asyncio.timeout(20):
            await served.wait()
            before = await asyncio.to_thread(bindings, place)
            await asyncio.to_thread(delete_exchange, place)
            while await asyncio.to_thread(bindings, place) != before:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(publish_resync, place)
            await requests.wait_for(1)
        keeping.cancel()
        await asyncio.wait([keeping])

    asyncio.run(run())


def test_a_collector_without_traffic_hears_of_resync_again_after_the_exchange_was_deleted(
    place: Workspace,
) -> None:
    place.start("market_data_collector", COLLECTOR_PORT=str(free_port()))
    wait_for(lambda: RESYNC in {key for _, key in bindings(place)}, "the binding of resync")
    before = bindings(place)
    delete_exchange(place)
    wait_for(lambda: bindings(place) == before, "the bindings back")


def bindings(place: Workspace) -> list[tuple[str, str]]:
    found = management(place.environment, "GET", f"exchanges/{place.name}/{EXCHANGE}/bindings/source")
    return sorted((each["destination"], each["routing_key"]) for each in found or [])


def delete_exchange(place: Workspace) -> None:
    channel = place.channel()
    channel.exchange_delete(EXCHANGE)
    channel.connection.close()
    assert not bindings(place)


def publish_resync(place: Workspace) -> None:
    channel = place.channel()
    channel.basic_publish(EXCHANGE, RESYNC, b"{}")
    channel.connection.close()


def test_connections_and_consumers_have_names_in_the_broker(place: Workspace) -> None:
    async def run() -> None:
        async with opened(parameters(place, name="signal engine")) as session:
            await session.declare_feed()
            await session.consume(SIGNAL, print)
            private = await session.declare_private_queue()
            await session.consume(private, print, label="replies")
            await asyncio.to_thread(wait_for, lambda: names(place) == expected, "the names")

    expected = (
        {"blackbird signal engine"},
        {f"signal-engine-{os.getpid()}-signal", f"signal-engine-{os.getpid()}-replies"},
    )
    asyncio.run(run())


def names(place: Workspace) -> tuple[set[str], set[str]]:
    connections = management(place.environment, "GET", f"vhosts/{place.name}/connections")
    consumers = management(place.environment, "GET", f"consumers/{place.name}")
    return (
        {each.get("client_properties", {}).get("connection_name", "") for each in connections or []},
        {each["consumer_tag"] for each in consumers or []},
    )
