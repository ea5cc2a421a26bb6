"""The collector as a process, between the local exchange and the real broker."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import select
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from config import Config
from local_exchange.process import ExchangeProcess
from tests.support.book_feed import mutated
from tests.support.certificates import make_certificate
from tests.support.workspace import (
    HERE,
    PYTHON,
    Service,
    Workspace,
    free_port,
    make_virtual_host,
    management,
    wait_for,
)

SPOT = {"channel": "spot", "symbol": "BTCUSDT"}
PERP = {"channel": "linear", "symbol": "BTCPERP"}


class Tap:
    """A third-party client's queue on keys of the exchange, and what came to it."""

    def __init__(self, channel: BlockingChannel, *keys: str) -> None:
        self._channel = channel
        self.queue = channel.queue_declare("", exclusive=True).method.queue
        for key in keys:
            channel.queue_bind(self.queue, "data_feeder", key)
        self.bodies: list[bytes] = []
        self.properties: list[pika.BasicProperties] = []
        self._messages: list[Any] = []
        channel.basic_consume(self.queue, self._on_message, auto_ack=True)

    def _on_message(self, _channel: object, _method: object, properties: Any, body: bytes) -> None:
        self.properties.append(properties)
        self.bodies.append(body)
        self._messages.append(json.loads(body))

    def take(self) -> list[Any]:
        """Return all that came so far, decoded."""
        self._channel.connection.process_data_events(0.02)
        return self._messages

    def clear(self) -> None:
        """Forget what came so far."""
        self.take().clear()

    def wait(self, condition: Callable[[list[Any]], object], what: str = "") -> list[Any]:
        wait_for(lambda: condition(self.take()), what)
        return list(self._messages)


class Collector:
    """A running collector and its HTTP side."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        with contextlib.closing(connection):
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def subscribe(self, instrument: dict[str, str], matching_key: str = "a") -> tuple[int, Any]:
        return self.request("POST", "/subscribe", {**instrument, "matching_key": matching_key})

    def unsubscribe(self, instrument: dict[str, str]) -> tuple[int, Any]:
        return self.request("POST", "/unsubscribe", instrument)

    @property
    def subscriptions(self) -> Any:
        return self.request("GET", "/subscriptions")[1]

    @property
    def health(self) -> tuple[int, Any]:
        return self.request("GET", "/health")

    def answers(self) -> bool:
        """Return whether it listens; fails where it has ended."""
        assert self.service.is_running, f"ended:\n{self.service.output}"
        with contextlib.suppress(OSError):
            self.request("GET", "/health")
            return True
        return False

    @property
    def down(self) -> list[str]:
        """What is down of the collector's own part; no other service runs here."""
        return list(self.health[1]["collector"]["down"])


class Home:
    """A virtual host, and collectors on it and on one exchange."""

    def __init__(self, place: Workspace, exchange: ExchangeProcess) -> None:
        self.place = place
        self.exchange = exchange

    def collector(self, **settings: str) -> Collector:
        """Start a collector and wait until it is with the broker."""
        started = self.start(**settings)
        self.place.await_ready(started.service)
        return started

    def start(self, **settings: str) -> Collector:
        port = free_port()
        settings = {"BYBIT_WS_URL": self.exchange.url, "COLLECTOR_PORT": str(port), **settings}
        collector = Collector(self.place.start("market_data_collector", **settings), port)
        wait_for(collector.answers, "HTTP")
        return collector

    def tap(self, *keys: str) -> Tap:
        return Tap(self.place.channel(), *keys)

    def publish(self, key: str, body: bytes) -> None:
        channel = self.place.channel()
        channel.confirm_delivery()
        channel.basic_publish("data_feeder", key, body)
        channel.connection.close()

    def queued(self, queue: str) -> list[bytes]:
        """Take all messages of a queue."""
        channel = self.place.channel()
        bodies = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            bodies.append(got[2] or b"")
        channel.connection.close()
        return bodies

    def connections(self) -> int:
        """How many connections the exchange has had."""
        return int(self.exchange.get("/counters")["opened"])


@pytest.fixture(scope="module")
def market() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "100", "--instruments", "16") as process:
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = dict(os.environ)
    make_virtual_host(environment, name)
    made = Workspace(tmp_path, name, {})
    try:
        yield made
    finally:
        made.close()
        management(environment, "DELETE", f"vhosts/{name}")


@pytest.fixture
def home(place: Workspace, market: ExchangeProcess) -> Iterator[Home]:
    yield Home(place, market)
    market.fault("clear")


def of(messages: list[Any], instrument: dict[str, str]) -> list[Any]:
    """Books of one instrument, in order."""
    return [
        message
        for message in messages
        if message["channel"] == instrument["channel"] and message["data"]["s"] == instrument["symbol"]
    ]


def without_gaps(messages: list[Any]) -> bool:
    """Whether each delta follows on the message before it; copies are nothing."""
    last = None
    for message in messages:
        u = message["data"]["u"]
        if message["type"] == "delta" and last is not None and u > last + 1:
            return False
        last = u if message["type"] == "snapshot" or last is None else max(last, u)
    return bool(messages)


# --- what is published ---------------------------------------------------------------------------


def test_each_push_is_published_as_it_was_sent_to_both_keys(place: Workspace, tmp_path: Path) -> None:
    record = tmp_path / "pushes.ndjson"
    with ExchangeProcess("--rate", "200", "--record", str(record)) as market:
        home = Home(place, market)
        collector = home.collector()
        storage, signal = home.tap("storage"), home.tap("signal")
        assert collector.subscribe(SPOT, 'ä "quoted" key') == (200, {"status": "ok"})
        storage.wait(lambda messages: len(messages) >= 50)
        assert collector.unsubscribe(SPOT) == (200, {"status": "ok"})
        assert collector.service.stop() == 0
    storage.take()
    signal.take()
    fields = {"channel": "spot", "matching_key": 'ä "quoted" key'}
    ending = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).replace("{", ",", 1)
    assert signal.bodies == storage.bodies
    assert len(storage.bodies) >= 50
    # A recorded line holds the push as it was sent.
    for body, line in zip(storage.bodies, record.read_text().splitlines(), strict=False):
        published = body.decode()
        assert published.endswith(ending)
        assert line.endswith(f'"message":{published.removesuffix(ending)}}}}}')
    for properties in storage.properties:
        assert properties.delivery_mode == 2
        assert properties.headers is not None
        published_at = properties.headers["published_at"]
        assert isinstance(published_at, int)
        assert abs(published_at - time.time() * 1000) < 60_000
    numbers: list[Any] = [(properties.headers or {})["number"] for properties in storage.properties]
    assert all(earlier < later for earlier, later in pairwise(numbers))
    assert abs(numbers[0] - time.time_ns()) < 60 * 10**9
    queued = home.queued("storage")
    assert queued == storage.bodies
    assert home.queued("signal") == storage.bodies


def test_a_subscription_begins_with_a_snapshot_and_has_no_gaps(home: Home) -> None:
    collector = home.collector()
    tap = home.tap("signal")
    assert collector.subscribe(PERP)[0] == 200
    messages = tap.wait(lambda messages: len(messages) >= 20)
    assert messages[0]["type"] == "snapshot"
    assert messages[0]["topic"] == "orderbook.50.BTCPERP"
    assert without_gaps(messages)


def test_the_full_map_is_published_on_every_change(home: Home) -> None:
    collector = home.collector()
    tap = home.tap("subscription")
    collector.subscribe(SPOT)
    collector.subscribe(PERP)
    collector.unsubscribe(SPOT)
    maps = tap.wait(lambda maps: len(maps) >= 3)
    assert maps[-3:] == [
        {"spot": ["BTCUSDT"]},
        {"spot": ["BTCUSDT"], "linear": ["BTCPERP"]},
        {"linear": ["BTCPERP"]},
    ]


def test_option_takes_the_nearest_depth_that_it_has(home: Home) -> None:
    symbol = home.exchange.get("/instruments")["option"][0]
    collector = home.collector()
    tap = home.tap("signal")
    assert collector.subscribe({"channel": "option", "symbol": symbol})[0] == 200
    assert tap.wait(bool)[0]["topic"] == f"orderbook.25.{symbol}"


# --- HTTP ----------------------------------------------------------------------------------------


def test_subscriptions_are_listed_by_channel(home: Home) -> None:
    collector = home.collector()
    assert collector.subscriptions == {}
    collector.subscribe(SPOT, "a")
    collector.subscribe(PERP, "b")
    assert collector.subscriptions == {
        "spot": [{"symbol": "BTCUSDT", "matching_key": "a"}],
        "linear": [{"symbol": "BTCPERP", "matching_key": "b"}],
    }
    wait_for(lambda: not collector.down, "the snapshots")
    assert collector.unsubscribe({**SPOT, "matching_key": "anything"}) == (200, {"status": "ok"})
    assert collector.unsubscribe(SPOT) == (200, {"status": "ok"})
    assert collector.subscriptions == {"linear": [{"symbol": "BTCPERP", "matching_key": "b"}]}


def test_what_the_exchange_refuses_is_a_400_that_names_it_and_changes_nothing(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    tap = home.tap("subscription")
    for channel in ("spot", "linear", "option"):
        status, answer = collector.subscribe({"channel": channel, "symbol": "NOPE"})
        assert status == 400
        assert "NOPE" in answer["detail"]
    status, answer = collector.subscribe({"channel": "futures", "symbol": "BTCUSDT"})
    assert status == 400
    assert "futures" in answer["detail"]
    assert collector.request("POST", "/unsubscribe", {"channel": "futures", "symbol": "BTCUSDT"})[0] == 400
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "a"}]}
    assert tap.take() == []
    wait_for(lambda: not collector.down, "the snapshot")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"symbol": "BTCUSDT", "channel": "spot"}',
        b'{"symbol": "", "channel": "spot", "matching_key": "a"}',
        b'{"symbol": "BTCUSDT", "channel": "", "matching_key": "a"}',
        b'{"symbol": "BTCUSDT", "channel": "spot", "matching_key": ""}',
        b'{"symbol": 5, "channel": "spot", "matching_key": "a"}',
        b'{"symbol": "' + b"B" * 65 + b'", "channel": "spot", "matching_key": "a"}',
        b'{"symbol": "BTCUSDT", "channel": "spot", "matching_key": "' + b"a" * 65 + b'"}',
        b'{"symbol": "BTC\\u0000USDT", "channel": "spot", "matching_key": "a"}',
        b'{"symbol": "BTCUSDT", "channel": "spot", "matching_key": "a\\nb"}',
        b'{"symbol": "BTCUSDT", "channel": "spot", "matching_key": "\\ud800"}',
    ],
    ids=lambda body: repr(body[:70]),
)
def test_a_malformed_subscription_is_a_422(idle: Collector, body: bytes) -> None:
    status, answer = idle.request("POST", "/subscribe", body)
    assert status == 422
    assert answer["detail"]
    assert idle.subscriptions == {}


def test_a_body_of_ten_megabytes_is_a_413(idle: Collector) -> None:
    status, answer = idle.request("POST", "/subscribe", b"x" * 10_000_000)
    assert status == 413
    assert "65536" in answer["detail"]
    assert idle.request("POST", "/unsubscribe", SPOT)[0] == 200


@pytest.fixture(scope="module")
def idle(market: ExchangeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector without a broker and without subscriptions."""
    place = Workspace(tmp_path_factory.mktemp("idle"), "none", {"RABBITMQ_PORT": str(free_port())})
    with contextlib.closing(place):
        yield Home(place, market).start()


def test_health_names_what_is_down(idle: Collector) -> None:
    status, answer = idle.health
    assert status == 503
    assert answer["down"] == ["RabbitMQ"]


def test_every_answer_is_in_the_schema(idle: Collector) -> None:
    paths = idle.request("GET", "/openapi.json")[1]["paths"]
    assert set(paths["/subscribe"]["post"]["responses"]) == {"200", "202", "400", "413", "422"}
    assert set(paths["/unsubscribe"]["post"]["responses"]) == {"200", "400", "413", "422"}
    assert set(paths["/health"]["get"]["responses"]) == {"200", "503"}


# --- subscriptions and streams -------------------------------------------------------------------


def test_the_same_subscription_again_restarts_nothing(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    before = home.connections()
    tap = home.tap("signal")
    assert collector.subscribe(SPOT) == (200, {"status": "ok"})
    messages = tap.wait(lambda messages: len(messages) >= 20)
    assert home.connections() == before
    assert {message["type"] for message in messages} == {"delta"}


def test_many_subscriptions_at_once_of_one_instrument_are_one_stream(home: Home) -> None:
    collector = home.collector()
    before = home.connections()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: collector.subscribe(SPOT), range(10)))
    assert answers == [(200, {"status": "ok"})] * 10
    assert home.connections() == before + 1
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "a"}]}


def test_another_matching_key_holds_without_a_new_connection(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT, "a")
    before = home.connections()
    tap = home.tap("signal")
    assert collector.subscribe(SPOT, "b") == (200, {"status": "ok"})
    messages = tap.wait(lambda m: any(one["matching_key"] == "b" and one["type"] == "snapshot" for one in m))
    keys = [message["matching_key"] for message in messages]
    assert keys == sorted(keys)
    assert without_gaps(messages)
    assert home.connections() == before
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "b"}]}


def test_streams_that_stay_miss_nothing_while_others_come_and_go(home: Home) -> None:
    collector = home.collector()
    tap = home.tap("signal")
    collector.subscribe(SPOT)
    tap.wait(bool)
    others = [s for s in home.exchange.get("/instruments")["linear"] if s.startswith("T")][:8]
    for symbol in others:
        assert collector.subscribe({"channel": "linear", "symbol": symbol})[0] == 200
    for symbol in others:
        assert collector.unsubscribe({"channel": "linear", "symbol": symbol})[0] == 200
    count = len(tap.take())
    messages = of(tap.wait(lambda messages: len(messages) > count + 10), SPOT)
    assert [message["type"] for message in messages].count("snapshot") == 1
    assert without_gaps(messages)


def test_an_unsubscribed_stream_is_closed(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    open_before = home.exchange.get("/counters")["open"]
    collector.unsubscribe(SPOT)
    wait_for(lambda: home.exchange.get("/counters")["open"] == open_before - 1, "the socket's end")
    tap = home.tap("signal")
    assert tap.take() == []


def test_a_restarted_collector_takes_up_its_subscriptions(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT, "a")
    collector.subscribe(PERP, "b")
    collector.service.kill()
    tap, maps = home.tap("signal"), home.tap("subscription")
    collector = home.collector()
    messages = tap.wait(lambda m: of(m, SPOT) and of(m, PERP))
    assert of(messages, SPOT)[0]["type"] == of(messages, PERP)[0]["type"] == "snapshot"
    assert collector.subscriptions == {
        "spot": [{"symbol": "BTCUSDT", "matching_key": "a"}],
        "linear": [{"symbol": "BTCPERP", "matching_key": "b"}],
    }
    assert maps.wait(bool)[0] == {"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}


def test_a_restarted_collector_without_restoring_starts_from_nothing(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    assert collector.service.stop() == 0
    assert home.collector(RESTORE_SUBSCRIPTIONS="0").subscriptions == {}


def test_what_is_saved_and_not_understood_stops_nothing(home: Home) -> None:
    home.collector().service.stop()
    channel = home.place.channel()
    channel.basic_publish("", "collector.subscriptions", b'{"moon": 5}')
    collector = home.collector()
    assert collector.subscriptions == {}
    assert collector.subscribe(SPOT)[0] == 200


def test_numbers_rise_over_restarts_however_the_clock_was_set(home: Home) -> None:
    home.collector().service.stop()
    channel = home.place.channel()
    # As after a restart on a clock that was an hour ahead until it was set right.
    ahead = time.time_ns() + 3600 * 10**9
    channel.basic_publish("", "collector.numbers", b"%d" % ahead)
    tap = home.tap("storage")
    for _ in range(2):
        collector = home.collector(RESTORE_SUBSCRIPTIONS="0")
        before = len(tap.take())
        collector.subscribe(SPOT)
        tap.wait(lambda messages, before=before: len(messages) >= before + 5)  # type: ignore[misc]
        collector.service.kill()
    tap.take()
    numbers: list[Any] = [(properties.headers or {})["number"] for properties in tap.properties]
    assert len(numbers) >= 10
    assert numbers[0] >= ahead
    assert all(earlier < later for earlier, later in pairwise(numbers))


# --- resync --------------------------------------------------------------------------------------


def test_many_requests_for_a_snapshot_are_one(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    tap = home.tap("signal")
    tap.wait(bool)
    before = home.exchange.get("/counters")
    channel = home.place.channel()
    channel.confirm_delivery()
    # They come at once, however slowly they are sent.
    collector.service.pause()
    for _ in range(50):
        channel.basic_publish("data_feeder", "resync", json.dumps(SPOT).encode())
    collector.service.go_on()
    messages = tap.wait(lambda m: any(one["type"] == "snapshot" for one in m))
    count = len(messages)
    messages = tap.wait(lambda messages: len(messages) > count + 20)
    after = home.exchange.get("/counters")
    assert without_gaps(messages)
    assert after["opened"] == before["opened"]
    assert 1 <= after["subscribes"] - before["subscribes"] <= 5


def test_requests_that_are_none_are_put_aside(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    tap = home.tap("signal")
    bodies = [b"no JSON", b"{}", b'{"channel": "moon", "symbol": "X"}', b"\xff" * 1000]
    for body in [*bodies, b'{"channel": "spot", "symbol": "UNKNOWN"}', json.dumps(SPOT).encode()]:
        home.publish("resync", body)
    tap.wait(lambda m: any(one["type"] == "snapshot" for one in m))
    assert home.queued("resync.dead") == bodies
    # The publishes that follow are still confirmed one by one.
    assert collector.subscribe(PERP) == (200, {"status": "ok"})
    assert collector.service.stop() == 0
    assert "messages end with this process" not in collector.service.output


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_requests_leave_the_collector_able_to_take_the_next_good_one(home: Home, count: int) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    tap = home.tap("signal")
    channel = home.place.channel()
    good = json.dumps(SPOT).encode()
    for body in mutated(random.Random(13), good, count):
        channel.basic_publish("data_feeder", "resync", body)
    before = home.exchange.get("/counters")["subscribes"]

    def asked_again() -> bool:
        channel.basic_publish("data_feeder", "resync", good)
        return bool(home.exchange.get("/counters")["subscribes"] > before)

    wait_for(asked_again, seconds=60)
    assert without_gaps(tap.wait(lambda messages: messages and messages[-1]["type"] == "delta"))
    assert collector.subscribe(PERP) == (200, {"status": "ok"})
    assert collector.service.stop() == 0
    assert "Traceback" not in collector.service.output


def test_depth_one_gets_its_snapshot_too(home: Home) -> None:
    collector = home.collector(ORDERBOOK_DEPTH="1")
    tap = home.tap("signal")
    collector.subscribe(SPOT)
    tap.wait(lambda messages: len(messages) >= 5)
    before = home.exchange.get("/counters")["subscribes"]
    home.publish("resync", json.dumps(SPOT).encode())
    wait_for(lambda: home.exchange.get("/counters")["subscribes"] == before + 1, "a subscribe")
    assert {message["type"] for message in tap.take()} == {"snapshot"}
    assert collector.down == []


# --- faults of the exchange ----------------------------------------------------------------------


FAULTS: list[tuple[str, dict[str, str]]] = [
    ("drop", {"how": "close"}),
    ("drop", {"how": "fin"}),
    ("drop", {"how": "rst"}),
    *(
        ("garbage", {"kind": kind})
        for kind in ("text", "list", "null", "empty", "object", "cut", "nan", "binary", "huge")
    ),
    ("send", {"text": '{"topic":"orderbook.50.SYMBOL","type":"delta","data":{}}'}),
]


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=lambda number: "-".join(map(str, FAULTS[number])))
def test_a_broken_stream_comes_back_and_disturbs_no_other(running: Running, number: int) -> None:
    fault, given = FAULTS[number]
    # Each has an instrument of its own: pauses grow with the faults of a stream.
    instrument = {"channel": "spot", "symbol": running.symbols[number]}
    given = {name: value.replace("SYMBOL", instrument["symbol"]) for name, value in given.items()}
    assert running.collector.subscribe(instrument)[0] == 200
    tap = running.home.tap("signal")
    before = running.home.connections()
    assert running.home.exchange.fault(fault, **instrument, **given) == 1
    tap.wait(lambda m: any(one["type"] == "snapshot" for one in of(m, instrument)), "a fresh snapshot")
    messages = tap.wait(lambda m: len(of(m, PERP)) >= 10)
    broken = of(messages, instrument)
    assert without_gaps(broken[[message["type"] for message in broken].index("snapshot") :])
    assert without_gaps(of(messages, PERP))
    assert {message["type"] for message in of(messages, PERP)} == {"delta"}
    assert running.home.connections() == before + 1
    wait_for(lambda: not running.collector.down, "health")


class Running:
    """A collector that is used by several tests."""

    def __init__(self, home: Home, collector: Collector) -> None:
        self.home = home
        self.collector = collector
        self.symbols = [s for s in home.exchange.get("/instruments")["spot"] if s.startswith("T")]


@pytest.fixture(scope="module")
def running(market: ExchangeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    make_virtual_host(dict(os.environ), name)
    place = Workspace(tmp_path_factory.mktemp("running"), name, {})
    home = Home(place, market)
    collector = home.collector()
    assert collector.subscribe(SPOT)[0] == collector.subscribe(PERP)[0] == 200
    try:
        yield Running(home, collector)
    finally:
        place.close()
        management(dict(os.environ), "DELETE", f"vhosts/{name}")


def test_blanks_round_a_push_are_no_harm(running: Running) -> None:
    tap = running.home.tap("storage")
    data = '{"s":"BTCUSDT","b":[],"a":[],"u":7,"seq":7}'
    push = f'{{"topic":"orderbook.50.BTCUSDT","type":"delta","ts":1,"data":{data},"cts":1}}'

    def is_published() -> bool:
        # Again where the stream was not there: one of the tests before may have cut it.
        running.home.exchange.fault("send", **SPOT, text=f" {push} \r\n")
        return any(one["data"]["u"] == 7 for one in tap.take())

    wait_for(is_published, "the push")
    body = next(body for body in tap.bodies if b'"u":7,' in body)
    assert body == f' {push[:-1]},"channel":"spot","matching_key":"a"}}'.encode()


def test_pushes_that_are_read_together_are_published_in_the_order_of_their_time(place: Workspace) -> None:
    with ExchangeProcess("--rate", "0") as market:
        home = Home(place, market)
        collector = home.collector(STREAM_SILENCE_MS="60000")
        for instrument in (PERP, SPOT):
            assert collector.subscribe(instrument)[0] == 200
        tap = home.tap("signal")
        # Both sockets have something by the time that the collector looks.
        collector.service.pause()
        for instrument, numbers in ((PERP, (20, 40, 60, 50)), (SPOT, (10, None, 30))):
            for number in numbers:
                symbol = instrument["symbol"]
                ts = '"no number"' if number is None else str(10**13 + number)
                data = f'{{"s":"{symbol}","b":[],"a":[],"u":7,"seq":7}}'
                push = f'{{"topic":"orderbook.50.{symbol}","type":"delta","ts":{ts},"data":{data},"cts":1}}'
                market.fault("send", **instrument, text=push)
        collector.service.go_on()
        messages = tap.wait(lambda messages: len(messages) >= 7)
        came = [(message["channel"], message["ts"]) for message in messages]
        # What has no time, or an earlier one than the push before it, stays behind that.
        assert came == [
            ("spot", 10**13 + 10),
            ("spot", "no number"),
            ("linear", 10**13 + 20),
            ("spot", 10**13 + 30),
            ("linear", 10**13 + 40),
            ("linear", 10**13 + 60),
            ("linear", 10**13 + 50),
        ]
        assert collector.down == []


def test_a_silent_stream_gets_a_snapshot_then_a_new_connection(home: Home) -> None:
    collector = home.collector(STREAM_SILENCE_MS="300")
    collector.subscribe(SPOT)
    collector.subscribe(PERP)
    before = home.exchange.get("/counters")
    tap = home.tap("signal")
    # The subscription is silent, a new one on the same socket is not.
    home.exchange.fault("silence", **SPOT)
    tap.wait(lambda m: any(one["type"] == "snapshot" for one in of(m, SPOT)), "a snapshot")
    assert home.connections() == before["opened"]
    # The whole socket is silent: only a new one helps.
    number = next(s["socket"] for s in home.exchange.get("/sockets") if s["channel"] == "spot")
    home.exchange.fault("silence", socket=number)
    wait_for(lambda: home.connections() > before["opened"], "a new connection")
    count = len(of(tap.take(), SPOT))
    messages = tap.wait(lambda m: len(of(m, SPOT)) > count, "pushes again")
    assert without_gaps(of(messages, PERP))
    assert {message["type"] for message in of(messages, PERP)} == {"delta"}


@pytest.mark.parametrize("fault", ["refuse_tcp", "refuse_handshake", "hang_handshake"])
def test_a_subscription_waits_for_an_exchange_that_is_away(home: Home, fault: str) -> None:
    collector = home.collector()
    home.exchange.fault(fault)
    started = time.monotonic()
    status, answer = collector.subscribe(SPOT)
    assert time.monotonic() - started < 10
    assert status == 202
    assert answer["status"] == "pending"
    assert "spot:BTCUSDT" in answer["detail"]
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "a"}]}
    assert collector.down
    assert "spot:BTCUSDT" in collector.health[1]["down"][0]
    tap = home.tap("signal")
    home.exchange.fault("clear")
    tap.wait(bool, "pushes")
    assert collector.subscribe(SPOT) == (200, {"status": "ok"})


def test_a_symbol_that_the_exchange_refuses_when_it_is_back_is_removed(home: Home) -> None:
    collector = home.collector()
    home.exchange.fault("refuse_handshake")
    assert collector.subscribe({"channel": "spot", "symbol": "NOPE"})[0] == 202
    assert collector.subscribe(SPOT)[0] == 202
    maps = home.tap("subscription")
    home.exchange.fault("clear")
    maps.wait(lambda maps: maps and maps[-1] == {"spot": ["BTCUSDT"]}, "a map without the symbol")
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "a"}]}
    wait_for(lambda: not collector.down, "the one that is left")


def test_a_confirmed_topic_that_sends_nothing_keeps_its_connection(home: Home) -> None:
    collector = home.collector(STREAM_SILENCE_MS="200")
    home.exchange.fault("silence", new=True, **SPOT)
    assert collector.subscribe(SPOT) == (200, {"status": "ok"})
    assert collector.subscribe(PERP) == (200, {"status": "ok"})
    before = home.exchange.get("/counters")
    # Long enough for the request, its deadline and the next request.
    wait_for(lambda: home.exchange.get("/counters")["subscribes"] > before["subscribes"], "asked again", 30)
    assert home.connections() == before["opened"]
    assert collector.down
    home.exchange.fault("clear")
    home.exchange.fault("snapshot", **SPOT)
    wait_for(lambda: not collector.down, "its first snapshot")
    assert home.connections() == before["opened"]


def test_a_kept_subscription_that_is_refused_later_is_tried_on(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    tap = home.tap("signal")
    tap.wait(bool)
    tap.clear()
    home.exchange.fault("refuse_subscription", **SPOT, count=2)
    home.exchange.fault("drop", **SPOT)
    tap.wait(lambda m: any(one["type"] == "snapshot" for one in m), "pushes again")
    assert collector.subscriptions == {"spot": [{"symbol": "BTCUSDT", "matching_key": "a"}]}


def test_an_exchange_behind_tls_is_read_whole(home: Home, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    relay = Relay("127.0.0.1", int(home.exchange.url.rpartition(":")[2]), certificate.server)
    relay.open()
    try:
        collector = home.collector(
            BYBIT_WS_URL=f"wss://localhost:{relay.port}", WEBSOCKET_CLIENT_CA_BUNDLE=str(certificate.file)
        )
        tap = home.tap("signal")
        assert collector.subscribe(SPOT) == (200, {"status": "ok"})
        tap.wait(bool)
        # Longer than several records of TLS; of an older `u`, so that it makes no gap.
        data = '{"s":"BTCUSDT","b":[],"a":[],"u":0,"seq":7}'
        long = f'{{"topic":"orderbook.50.BTCUSDT","type":"delta","ts":1,"data":{data},"cts":{" " * 60_000}1}}'
        home.exchange.fault("send", **SPOT, text=long)
        messages = tap.wait(lambda _: any(len(body) > 60_000 for body in tap.bodies))
        count = len(messages)
        messages = tap.wait(lambda m: len(m) > count + 50)
        assert without_gaps(messages)
        assert collector.service.stop() == 0
    finally:
        relay.cut()


# --- faults of the broker ------------------------------------------------------------------------


class Relay:
    """A way to a server that can be cut; with a context it speaks TLS to those who come."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self._target = (host, port)
        self._context = context
        self._listening: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._held = threading.Event()
        self._held.set()

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and reset those that are."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        self._held.set()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def hold(self) -> None:
        """Forward nothing for now."""
        self._held.clear()

    def go_on(self) -> None:
        self._held.set()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            if self._context is not None:
                near = self._context.wrap_socket(near, server_side=True)
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError, ValueError):
            while True:
                waiting = [near] if isinstance(near, ssl.SSLSocket) and near.pending() else []
                for ready in waiting or select.select([near, far], [], [])[0]:
                    self._held.wait()
                    chunk = ready.recv(65536)
                    if not chunk:
                        return
                    (far if ready is near else near).sendall(chunk)


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay(Config.RABBITMQ_HOST, Config.RABBITMQ_PORT)
    yield made
    made.cut()


def test_subscriptions_made_without_a_broker_reach_it_when_it_comes(home: Home, relay: Relay) -> None:
    home.collector().service.stop()
    tap, maps = home.tap("signal"), home.tap("subscription")
    collector = home.start(RABBITMQ_PORT=str(relay.port))
    status, answer = collector.subscribe(SPOT)
    assert (status, answer["status"]) == (200, "ok")
    assert "kept by the collector" in answer["detail"]
    wait_for(lambda: collector.health[1]["down"] == ["RabbitMQ"], "the snapshot")
    relay.open()
    assert maps.wait(bool)[-1] == {"spot": ["BTCUSDT"]}
    messages = tap.wait(lambda m: len(m) >= 20)
    assert messages[0]["type"] == "snapshot"
    assert without_gaps(messages)


def test_no_push_is_lost_when_the_broker_goes_for_a_moment(home: Home, relay: Relay) -> None:
    relay.open()
    collector = home.collector(RABBITMQ_PORT=str(relay.port))
    tap = home.tap("storage")
    collector.subscribe(SPOT)
    for _ in range(3):
        count = len(tap.take())
        tap.wait(lambda m, count=count: len(m) > count + 20)  # type: ignore[misc]
        relay.cut()
        wait_for(lambda: collector.down, "the loss")
        relay.open()
        wait_for(lambda: not collector.down, "the broker again")
    count = len(tap.take())
    messages = tap.wait(lambda m: len(m) > count + 20)
    assert [message["type"] for message in messages].count("snapshot") == 1
    assert without_gaps(messages)


@pytest.mark.parametrize("way", ["cut", "hold"])
def test_what_does_not_fit_the_buffer_is_counted_and_mended_by_a_snapshot(
    home: Home, relay: Relay, way: str
) -> None:
    relay.open()
    collector = home.collector(RABBITMQ_PORT=str(relay.port), PUBLISH_BUFFER="100", RABBITMQ_HEARTBEAT="600")
    tap = home.tap("signal")
    home.exchange.post("/pace", pace=2000)
    try:
        collector.subscribe(SPOT)
        tap.wait(bool)
        if way == "cut":
            relay.cut()
        else:
            relay.hold()
        wait_for(lambda: collector.health[1]["dropped"] > 500, "dropped pushes")
    finally:
        home.exchange.post("/pace", pace=100)
    if way == "cut":
        relay.open()
    else:
        relay.go_on()
    messages = tap.wait(lambda m: [one["type"] for one in m].count("snapshot") >= 2, "a fresh snapshot")
    count = len(messages)
    messages = tap.wait(lambda m: len(m) > count + 10)
    last = max(i for i, message in enumerate(messages) if message["type"] == "snapshot")
    assert without_gaps(messages[last:])
    assert not without_gaps(messages)
    assert "pushes dropped" in collector.service.output


def test_a_deleted_exchange_and_deleted_queues_are_declared_again(home: Home) -> None:
    collector = home.collector()
    collector.subscribe(SPOT)
    channel = home.place.channel()
    channel.queue_delete("storage")
    channel.exchange_delete("data_feeder")

    def flows() -> bool:
        probe = home.place.channel()
        with contextlib.suppress(pika.exceptions.AMQPError):
            return probe.queue_declare("storage", passive=True).method.message_count > 10
        return False

    wait_for(flows, "pushes in the queue again")
    assert collector.subscribe(PERP) == (200, {"status": "ok"})


# --- the process ---------------------------------------------------------------------------------


def test_a_stop_under_load_hands_over_everything_and_ends_with_zero(home: Home) -> None:
    collector = home.collector()
    home.exchange.post("/pace", pace=1000)
    try:
        tap = home.tap("storage")
        collector.subscribe(SPOT)
        collector.subscribe(PERP)
        tap.wait(lambda m: len(m) > 500)
        started = time.monotonic()
        assert collector.service.stop() == 0
        assert time.monotonic() - started < 5
    finally:
        home.exchange.post("/pace", pace=100)
    messages = tap.take()
    assert without_gaps(of(messages, SPOT))
    assert without_gaps(of(messages, PERP))
    assert "messages end with this process" not in collector.service.output
    assert "Traceback" not in collector.service.output


def test_a_stop_ends_in_time_with_nothing_there(home: Home) -> None:
    home.exchange.fault("hang_handshake")
    collector = home.start(RABBITMQ_PORT=str(free_port()))
    collector.subscribe(SPOT)
    assert collector.service.stop(5) == 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"ORDERBOOK_DEPTH": "25"}, "setting ORDERBOOK_DEPTH: expected one of 1, 50, 200, 1000, was 25"),
        (
            {"BYBIT_WS_URL": "http://127.0.0.1:1"},
            "setting BYBIT_WS_URL: expected ws://... or wss://..., was 'http://127.0.0.1:1'",
        ),
        (
            {"BYBIT_WS_URL": "ws:///x"},
            "setting BYBIT_WS_URL: expected scheme://host or scheme://host:port, was 'ws:///x'",
        ),
        (
            {"BYBIT_WS_URL": "wss://localhost:99999"},
            "setting BYBIT_WS_URL: expected scheme://host or scheme://host:port, was 'wss://localhost:99999'",
        ),
        (
            {"BYBIT_WS_URL": "ws://localhost/?a=b"},
            (
                "setting BYBIT_WS_URL: expected ws://... or wss://..., was 'ws://localhost/?a=b'"
                " (a base URL: /v5/public/... is appended)"
            ),
        ),
        (
            {"WEBSOCKET_CLIENT_CA_BUNDLE": "/nowhere.pem"},
            (
                "setting WEBSOCKET_CLIENT_CA_BUNDLE: expected a file of certificates (PEM; No such file or"
                " directory), was '/nowhere.pem'"
            ),
        ),
    ],
)
def test_a_setting_that_makes_no_sense_ends_it_with_one_line(settings: dict[str, str], line: str) -> None:
    ended = run_collector(**settings)
    assert (ended.returncode, ended.stderr.strip()) == (78, line)


def test_a_port_that_is_taken_ends_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_collector(COLLECTOR_PORT=str(port))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "COLLECTOR_PORT" in ended.stderr


def run_collector(**settings: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, str(HERE / "market_data_collector_service.py")]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=20, check=False
    )
