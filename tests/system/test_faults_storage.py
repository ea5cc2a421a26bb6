"""The storage service when things die: what the queue had is in the table, exactly once."""

from __future__ import annotations

import random

import pytest
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from tests.support.book_feed import BookFeed, book_message, ready, updates
from tests.support.broker_proxy import BrokerProxy
from tests.support.workspace import Workspace, connect, encode, wait_for


class Stream:
    """Publishes messages of two rows each, and knows what must be stored of them."""

    def __init__(self, place: Workspace) -> None:
        self._place = place
        self._feed = BookFeed(place, confirm=False)
        self.sent = 0

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            message = book_message(
                "BTCUSDT", self.sent, bids=[("1", str(self.sent))], asks=[("2", "1")], cts=self.sent
            )
            self._feed.publish("storage", message)

    def wait_until_stored(self) -> None:
        wait_for(lambda: updates(self._place) >= self.sent, "every message stored", 40)
        assert updates(self._place) == self.sent
        counted = self._place.query(
            "SELECT count(*), count(DISTINCT (update_id, side)), sum(size) FILTER (WHERE side = 'bid')"
            " FROM bybit.orderbook"
        )
        assert counted == [(2 * self.sent, 2 * self.sent, self.sent * (self.sent + 1) // 2)]


@pytest.fixture
def stream(place: Workspace) -> Stream:
    return Stream(place)


def test_killed_again_and_again_in_mid_stream_every_message_is_stored_once(
    place: Workspace, stream: Stream
) -> None:
    rng = random.Random(8)
    storage = place.start_storage()
    for _ in range(6):
        stream.send(rng.randint(50, 300))
        # At any moment of the work: waiting, gathering, copying, between commit and acknowledgement.
        if rng.random() < 0.5:
            share = rng.random() * stream.sent
            wait_for(lambda share=share: updates(place) >= share)  # type: ignore[misc]
        storage.kill()
        storage = place.start("data_storage")
    stream.wait_until_stored()
    place.await_ready(storage)
    assert storage.stop() == 0
    assert ready(place, "storage") == 0


def test_database_connection_reset_again_and_again_every_message_is_stored_once(
    place: Workspace, stream: Stream
) -> None:
    place.start_storage()
    for _ in range(15):
        stream.send(60)
        place.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'blackbird data storage'",
            place.name,
        )
    stream.wait_until_stored()


def test_locked_table_is_waited_for_with_few_messages_in_memory(place: Workspace, stream: Stream) -> None:
    storage = place.start_storage()
    stream.send(10)
    stream.wait_until_stored()
    session = connect(place.environment, place.name)
    session.autocommit = False
    session.cursor().execute("LOCK TABLE bybit.orderbook IN ACCESS EXCLUSIVE MODE")
    stream.send(6000)
    first_try = wait_for(lambda: place.lock_wait("data storage"))
    wait_for(lambda: place.lock_wait("data storage") not in {None, first_try}, "another try")
    # What is not in memory waits at the broker.
    wait_for(lambda: ready(place, "storage") > 1000)
    session.rollback()
    session.close()
    stream.wait_until_stored()
    assert storage.output.count("the database takes messages again") == 1


def test_cut_connection_in_mid_stream_every_message_is_stored_once(place: Workspace, stream: Stream) -> None:
    with BrokerProxy(place) as proxy:
        storage = place.start_storage(RABBITMQ_PORT=proxy.port)
        for _ in range(10):
            stream.send(100)
            proxy.cut()
        stream.wait_until_stored()
        assert storage.stop() == 0


@pytest.mark.parametrize("locked", [False, True], ids=["database there", "database hanging"])
def test_stop_under_load_exits_0_within_5_seconds_with_nothing_lost(
    place: Workspace, stream: Stream, locked: bool
) -> None:
    storage = place.start_storage()
    session = connect(place.environment, place.name)
    session.autocommit = False
    if locked:
        session.cursor().execute("LOCK TABLE bybit.orderbook IN ACCESS EXCLUSIVE MODE")
    stream.send(3000)
    assert storage.stop(seconds=5) == 0
    session.rollback()
    session.close()
    place.start_storage()
    stream.wait_until_stored()


def test_stopped_for_minutes_as_a_process_it_goes_on_where_it_was(place: Workspace, stream: Stream) -> None:
    # RABBITMQ_HEARTBEAT=1: the broker gives it up after seconds instead of half a minute.
    storage = place.start_storage(RABBITMQ_HEARTBEAT="1")
    stream.send(500)
    storage.pause()
    stream.send(500)
    given_up = place.channel()
    wait_for(lambda: given_up.queue_declare("storage", passive=True).method.consumer_count == 0)
    given_up.connection.close()
    storage.go_on()
    stream.wait_until_stored()
    assert storage.stop() == 0


@pytest.mark.slow
def test_two_storage_services_share_the_work(place: Workspace, stream: Stream) -> None:
    services = [place.start_storage(), place.start_storage()]
    stream.send(1000)
    stream.wait_until_stored()
    assert [service.stop() for service in services] == [0, 0]


@pytest.mark.parametrize("delete", ["queue", "exchange"])
def test_queue_or_exchange_deleted_is_declared_again(place: Workspace, delete: str) -> None:
    storage = place.start_storage()
    stream = Stream(place)
    stream.send(5)
    stream.wait_until_stored()
    channel = place.channel()
    if delete == "queue":
        channel.queue_delete("storage")
    else:
        channel.exchange_delete("data_feeder")

    # The test must not declare anything: it sends only where something is there to take it.
    def is_there() -> bool:
        asking = place.channel()
        try:
            asking.exchange_declare("data_feeder", passive=True)
            asking.queue_declare("storage", passive=True)
        except ChannelClosedByBroker:
            return False
        finally:
            asking.connection.close()
        return True

    wait_for(is_there, f"the {delete} declared again by the service")
    # The binding may come a moment later than the queue.
    sender = place.channel()
    sender.confirm_delivery()
    message = encode(book_message("LATER", 1, bids=[("1", "1")]))

    def is_routed() -> bool:
        try:
            sender.basic_publish("data_feeder", "storage", message, mandatory=True)
        except UnroutableError:
            return False
        return True

    wait_for(is_routed, "the queue bound again by the service")
    wait_for(lambda: updates(place) == 6)
    assert storage.process.poll() is None
