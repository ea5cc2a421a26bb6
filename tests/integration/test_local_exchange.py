"""The local exchange as a process, with pybit and a plain WebSocket client on the other end."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pybit import unified_trading
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from local_exchange import LocalExchange, RecordingError, Replay, SyntheticMarket, synthetic
from local_exchange.instrument import now_ms, text_frame
from local_exchange.process import ControlError, ExchangeProcess

SHARED = Path(os.environ.get("BLACKBIRD_SHARED", Path(__file__).parents[3] / "shared"))
PATIENCE = 10.0
Message = dict[str, Any]
# websocket-client leaves the socket of a dropped connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
Start = Callable[..., ExchangeProcess]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.01)


class Follower:
    """A client's book by the letter of the protocol; anything irregular fails the test."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.bids: dict[Decimal, str] = {}
        self.asks: dict[Decimal, str] = {}
        self.u = 0
        self.seq = 0
        self.kinds: list[str] = []

    def apply(self, message: Message) -> None:
        data = message["data"]
        self.kinds.append(message["type"])
        assert message["cts"] <= message["ts"]
        assert self.depth > 1 or message["type"] == "snapshot"
        if self.u:
            assert data["u"] == self.u + 1
            assert data["seq"] > self.seq
        self.u, self.seq = data["u"], data["seq"]
        if message["type"] == "snapshot":
            self.bids.clear()
            self.asks.clear()
        for side, levels in ((self.bids, data["b"]), (self.asks, data["a"])):
            for price, size in levels:
                if Decimal(size) == 0:
                    assert Decimal(price) in side, "removal of a level outside the window"
                    del side[Decimal(price)]
                else:
                    side[Decimal(price)] = size
        assert len(self.bids) <= self.depth
        assert len(self.asks) <= self.depth
        assert max(self.bids) < min(self.asks)

    def levels(self) -> tuple[list[list[object]], list[list[object]]]:
        bids = [[price, self.bids[price]] for price in sorted(self.bids, reverse=True)]
        return bids, [[price, self.asks[price]] for price in sorted(self.asks)]


def own_book(exchange: ExchangeProcess, channel: str, symbol: str, depth: int) -> object:
    book = exchange.get(f"/book?channel={channel}&symbol={symbol}&depth={depth}")
    return tuple([[Decimal(price), size] for price, size in book[side]] for side in "ba")


class PybitClient:
    """pybit in raw mode, and everything that it handed over."""

    def __init__(self, exchange: ExchangeProcess, channel: str, **options: Any) -> None:
        self.messages: list[Message] = []
        self.channel = channel
        url = f"{exchange.url}/v5/public/{{CHANNEL_TYPE}}"
        kept, unified_trading.PUBLIC_WSS = unified_trading.PUBLIC_WSS, url
        try:
            self.stream = unified_trading.WebSocket(
                channel, testnet=False, callback_function=self.messages.append, **options
            )
        finally:
            unified_trading.PUBLIC_WSS = kept

    def subscribe(self, depth: int, *symbols: str) -> None:
        self.stream.orderbook_stream(depth, list(symbols), None)

    @property
    def replies(self) -> list[Message]:
        return [message for message in list(self.messages) if "topic" not in message]

    def pushes(self, topic: str | None = None) -> list[Message]:
        messages = [message for message in list(self.messages) if "topic" in message]
        return [message for message in messages if topic in {None, message["topic"]}]

    def wait_for_pushes(self, count: int, topic: str | None = None) -> None:
        """Wait until exactly this many have come."""
        until(lambda: len(self.pushes(topic)) >= count, f"{count} pushes")
        assert len(self.pushes(topic)) == count


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[ExchangeProcess] = []

    def start_exchange(*arguments: str) -> ExchangeProcess:
        running.append(ExchangeProcess(*arguments))
        return running[-1]

    yield start_exchange
    statuses = [exchange.stop() for exchange in running]
    assert statuses == [0] * len(running)


@pytest.fixture(scope="module")
def quiet() -> Iterator[ExchangeProcess]:
    """A market that moves only when told, for tests that leave nothing behind in it."""
    with ExchangeProcess("--rate", "0") as exchange:
        yield exchange


@pytest.fixture
def pybit_client() -> Iterator[Callable[..., PybitClient]]:
    clients: list[PybitClient] = []

    def make(exchange: ExchangeProcess, channel: str, **options: Any) -> PybitClient:
        clients.append(PybitClient(exchange, channel, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.stream.exit()
    clients.clear()
    gc.collect()


def plain(exchange: ExchangeProcess, channel: str, **options: Any) -> ClientConnection:
    url = f"{exchange.url}/v5/public/{channel}"
    options.setdefault("close_timeout", 1)
    client: ClientConnection = connect(url, compression=None, max_size=None, **options)
    return client


def open_and_close(url: str, **options: Any) -> None:
    with connect(url, **options):
        pass


def raw_handshake(exchange: ExchangeProcess, channel: str) -> socket.socket:
    """A TCP connection that has asked for a WebSocket, and does nothing by itself."""
    one = socket.create_connection(("127.0.0.1", int(exchange.url.rsplit(":", 1)[1])))
    head = f"GET /v5/public/{channel} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    one.sendall(f"{head}\r\n{key}\r\n\r\n".encode())
    return one


def masked(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def ask(client: ClientConnection, **request: Any) -> Message:
    client.send(json.dumps(request))
    return receive(client)


def receive(client: ClientConnection) -> Message:
    message: Message = json.loads(client.recv(PATIENCE))
    return message


def send_subscribe(client: ClientConnection, *topics: str) -> None:
    client.send(json.dumps({"op": "subscribe", "args": topics}))


def subscribe(client: ClientConnection, *topics: str) -> list[Message]:
    """Subscribe, wait for the acknowledgement, and return the pushes that came before it."""
    send_subscribe(client, *topics)
    pushes: list[Message] = []
    while "topic" in (message := receive(client)):
        pushes.append(message)
    assert message["success"] is True, message
    return pushes


def receive_push(client: ClientConnection) -> Message:
    """Return the next push; acknowledgements may come between."""
    while "topic" not in (message := receive(client)):
        assert message["success"] is True, message
    return message


def subscribed(client: ClientConnection, topic: str) -> Message:
    """Subscribe, and return the snapshot; the acknowledgement has come, too."""
    snapshot = (subscribe(client, topic) or [receive(client)])[0]
    assert (snapshot["topic"], snapshot["type"]) == (topic, "snapshot")
    return snapshot


def refusal(client: ClientConnection, *topics: str) -> Message:
    """Subscribe in vain, and return the answer."""
    answer = ask(client, op="subscribe", args=topics)
    assert answer["success"] is False, answer
    return answer


def silent(exchange: ExchangeProcess, client: ClientConnection) -> bool:
    """Whether nothing but the answer to a ping comes, though the market moves on."""
    exchange.post("/step", channel="linear", symbol="BTCPERP", count=3)
    return ask(client, op="ping").get("ret_msg") == "pong"


def best(side: str, symbol: str = "BTCPERP") -> Message:
    """A book for `POST /book` with one level a side."""
    return {"channel": "linear", "symbol": symbol, "b": [["99.50", side]], "a": [["100.50", "2.000"]]}


def write_recording(path: Path, lines: list[tuple[float, str, str, str, int, list[Any], list[Any]]]) -> None:
    """Lines of (seconds, channel, topic, kind, u, bids, asks)."""
    with gzip.open(path, "wt") as file:
        for number, (seconds, channel, topic, kind, u, bids, asks) in enumerate(lines):
            symbol = topic.rsplit(".", 1)[1]
            data = {"s": symbol, "b": bids, "a": asks, "u": u, "seq": 9000 + 7 * number}
            message = {"topic": topic, "type": kind, "ts": 1_700_000_000_000 + number, "data": data}
            message["cts"] = message["ts"]
            line = {"t": int(seconds * 1e9), "category": channel, "message": message}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "small.ndjson.gz"
    spot, linear = "orderbook.50.BTCUSDT", "orderbook.50.BTCPERP"
    write_recording(
        path,
        [
            (
                0.00,
                "spot",
                spot,
                "snapshot",
                500,
                [["100", "1"], ["99.5", "2"]],
                [["101", "3"], ["102", "1"]],
            ),
            (0.01, "linear", linear, "snapshot", 70, [["98.0", "1.5"]], [["99.0", "0.5"], ["99.5", "4"]]),
            (0.02, "spot", spot, "delta", 501, [["100", "0"], ["99", "7"]], [["100.5", "2"]]),
            (0.03, "linear", linear, "delta", 71, [["98.5", "2"]], [["99.0", "0"]]),
            (0.04, "linear", linear, "delta", 72, [["98.5", "1"]], []),
            (0.05, "spot", spot, "delta", 502, [], [["102", "0"]]),
        ],
    )
    return path


# Requests and replies.


def test_subscribe_is_answered_in_each_channels_words_and_order(quiet: ExchangeProcess) -> None:
    expected = {
        "spot": {"success": True, "ret_msg": "subscribe", "req_id": "a1", "op": "subscribe"},
        "linear": {"success": True, "ret_msg": "", "req_id": "a1", "op": "subscribe"},
        "inverse": {"success": True, "ret_msg": "", "req_id": "a1", "op": "subscribe"},
    }
    for channel, reply in expected.items():
        symbol = quiet.get("/instruments")[channel][0]
        with plain(quiet, channel) as client:
            first = ask(client, op="subscribe", req_id="a1", args=[f"orderbook.50.{symbol}"])
            second = receive(client)
            answer, snapshot = (first, second) if channel == "spot" else (second, first)
            assert answer.pop("conn_id")
            assert answer == reply
            assert snapshot["type"] == "snapshot"
            assert len(snapshot["data"]["b"]) == len(snapshot["data"]["a"]) == 50
    topic = f"orderbook.25.{quiet.get('/instruments')['option'][0]}"
    with plain(quiet, "option") as client:
        answer = ask(client, op="subscribe", args=[topic])
        assert answer.pop("conn_id")
        data = {"failTopics": [], "successTopics": [topic]}
        assert answer == {"success": True, "data": data, "type": "COMMAND_RESP"}
        assert len(receive(client)["data"]["a"]) == 25


@pytest.mark.parametrize("delay", ["0", "10"])
@pytest.mark.parametrize(
    ("channel", "topic", "first"),
    [
        ("spot", "orderbook.50.BTCUSDT", "ack"),
        ("linear", "orderbook.50.BTCPERP", "snapshot"),
        ("inverse", "orderbook.50.BTCUSD", "snapshot"),
        ("option", "orderbook.25.BTC-25DEC26-64000-C", "ack"),
    ],
)
def test_snapshot_or_acknowledgement_comes_first_as_on_the_channel_or_as_told(
    start: Start, channel: str, topic: str, first: str, delay: str
) -> None:
    other = {"ack": "snapshot", "snapshot": "ack"}[first]

    def answers(exchange: ExchangeProcess) -> list[str]:
        with plain(exchange, channel) as client:
            send_subscribe(client, topic)
            return ["snapshot" if "topic" in receive(client) else "ack" for _ in range(2)]

    exchange = start("--rate", "0", "--answer-delay", delay)
    assert answers(exchange) == [first, other]
    exchange.fault("answer_order", first=other, channel=channel, count=1)
    assert answers(exchange) == [other, first]
    assert answers(exchange) == [first, other]
    assert answers(start("--rate", "0", "--answer-order", other, "--answer-delay", delay)) == [other, first]


def test_pushes_come_between_the_snapshot_and_a_late_acknowledgement(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("slow_ack", delay=0.3, only_ack=True, count=1)
    exchange.fault("slow_ack", only_ack=True, symbol="ETHPERP")
    with plain(exchange, "linear") as client:
        send_subscribe(client, "orderbook.50.BTCPERP")
        assert receive(client)["type"] == "snapshot"
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        assert receive(client)["type"] == "delta"
        assert receive(client)["op"] == "subscribe"
        send_subscribe(client, "orderbook.50.ETHPERP")
        assert receive(client)["type"] == "snapshot"
        with pytest.raises(TimeoutError):
            client.recv(0.3)


def test_answers_keep_the_order_of_the_requests(start: Start) -> None:
    exchange = start("--rate", "0", "--instruments", "40", "--answer-delay", "20")
    topics = [f"orderbook.50.{symbol}" for symbol in exchange.get("/instruments")["spot"]]
    with plain(exchange, "spot") as client:
        for number, topic in enumerate(topics):
            client.send(json.dumps({"op": "subscribe", "req_id": f"s{number}", "args": [topic]}))
            client.send(json.dumps({"op": "unsubscribe", "req_id": f"u{number}", "args": [topic]}))
        answers = [receive(client) for _ in range(3 * len(topics))]
    expected = [(f"s{number}", topic, f"u{number}") for number, topic in enumerate(topics)]
    got = [answer.get("req_id") or answer["topic"] for answer in answers]
    assert got == [name for names in expected for name in names]


def test_pybit_in_its_documented_mode_survives_150_subscriptions(start: Start) -> None:
    exchange = start("--rate", "0", "--instruments", "75")
    listed = exchange.get("/instruments")
    kept = unified_trading.PUBLIC_WSS
    unified_trading.PUBLIC_WSS = f"{exchange.url}/v5/public/{{CHANNEL_TYPE}}"
    streams = []
    pushes: list[Message] = []
    try:
        for channel in ("spot", "linear"):
            stream = unified_trading.WebSocket(testnet=False, channel_type=channel)
            streams.append(stream)
            for symbol in listed[channel][:75]:
                pushes.clear()
                stream.orderbook_stream(50, symbol, pushes.append)
                until(lambda: pushes, f"a snapshot of {symbol} on {channel}")
                assert pushes[0]["topic"] == f"orderbook.50.{symbol}"
    finally:
        unified_trading.PUBLIC_WSS = kept
        for stream in streams:
            stream.exit()
    assert exchange.get("/counters")["subscribes"] == 150


def test_number_as_req_id_comes_back_as_text(quiet: ExchangeProcess) -> None:
    for channel in ("spot", "linear", "option"):
        with plain(quiet, channel) as client:
            assert ask(client, op="subscribe", req_id=17, args=["orderbook.7.X"])["req_id"] == "17"
            if channel != "option":
                assert ask(client, op="ping", req_id=18)["req_id"] == "18"


def test_option_topic_of_an_unserved_depth_is_accepted_and_silent(start: Start) -> None:
    exchange = start("--rate", "0")
    symbol = exchange.get("/instruments")["option"][0]
    topic = f"orderbook.50.{symbol}"
    with plain(exchange, "option") as client:
        assert subscribe(client, topic) == []
        exchange.post("/step", channel="option", symbol=symbol, count=3)
        assert ask(client, op="ping")["op"] == "pong"
        assert refusal(client, topic)["ret_msg"] == f"error:already subscribed,topic:{topic}"
        assert exchange.get("/sockets")[0]["topics"] == [topic]
        assert ask(client, op="unsubscribe", args=[topic])["success"] is True
        assert subscribe(client, topic) == []
        assert exchange.get("/counters")["sent"] == 0


def test_option_pushes_have_an_id_of_topic_sequence_and_time(start: Start) -> None:
    exchange = start("--rate", "0")
    symbol = exchange.get("/instruments")["option"][0]
    with plain(exchange, "option") as client:
        pushes = [subscribed(client, f"orderbook.25.{symbol}")]
        exchange.post("/step", channel="option", symbol=symbol)
        pushes.append(receive(client))
    for push in pushes:
        assert list(push) == ["topic", "ts", "type", "id", "data", "cts"]
        assert push["id"] == f"{push['topic']}-{push['data']['seq']}-{push['ts']}"


def test_empty_book_is_a_snapshot_with_update_id_0_and_a_snapshot_follows(start: Start) -> None:
    exchange = start("--rate", "0", "--repeat-after", "0.2")
    exchange.post("/book", channel="linear", symbol="NEWPERP", b=[], a=[])
    with plain(exchange, "linear") as client, plain(exchange, "linear") as quick:
        empty = [subscribed(client, "orderbook.50.NEWPERP"), subscribed(quick, "orderbook.1.NEWPERP")]
        empty.append(receive(quick))
        for push in empty:
            assert (push["data"]["b"], push["data"]["a"], push["data"]["u"]) == ([], [], 0)
        exchange.post("/book", **best("1.000", "NEWPERP"))
        follower = Follower(50)
        follower.apply(receive(client))
        assert follower.kinds == ["snapshot"]
        exchange.post("/book", **best("2.000", "NEWPERP"))
        follower.apply(receive(client))
        assert follower.kinds == ["snapshot", "delta"]


def test_text_ping_is_answered_in_each_channels_words(quiet: ExchangeProcess) -> None:
    with plain(quiet, "spot") as client:
        answer = ask(client, op="ping")
        assert answer.pop("conn_id")
        assert answer == {"success": True, "ret_msg": "pong", "op": "ping"}
    with plain(quiet, "linear") as client:
        answer = ask(client, op="ping")
        assert answer.pop("conn_id")
        assert answer == {"success": True, "ret_msg": "pong", "req_id": "", "op": "ping"}
    with plain(quiet, "option") as client:
        answer = ask(client, op="ping")
        assert answer["op"] == "pong"
        assert abs(int(answer["args"][0]) - time.time() * 1000) < 60_000


@pytest.mark.parametrize(
    ("channel", "args", "text"),
    [
        ("linear", ["orderbook.30.BTCPERP"], "error:handler not found,topic:orderbook.30.BTCPERP"),
        ("linear", ["orderbook.500.BTCPERP"], "error:handler not found,topic:orderbook.500.BTCPERP"),
        ("linear", ["orderbook.1.btcperp"], "error:handler not found,topic:orderbook.1.btcperp"),
        ("linear", ["order"], "error:handler not found,topic:order"),
        ("linear", ["orderbook.050.BTCPERP"], "error:handler not found,topic:orderbook.050.BTCPERP"),
        ("spot", ["orderbook.1.NOPE"], "Invalid symbol :[orderbook.1.NOPE]"),
        ("spot", ["orderbook.1.BTCPERP"], "Invalid symbol :[orderbook.1.BTCPERP]"),
        ("spot", [f"orderbook.1.S{number}" for number in range(11)], "args size >10"),
        ("option", ["orderbook.50.BTC"], "error:handler not found,topic:orderbook.50.BTC"),
    ],
)
def test_bad_subscription_is_refused_with_its_text(
    quiet: ExchangeProcess, channel: str, args: list[str], text: str
) -> None:
    with plain(quiet, channel) as client:
        answer = ask(client, op="subscribe", req_id="x", args=args)
        assert answer["success"] is False
        assert answer["ret_msg"] == text
        assert answer["req_id"] == "x"


def test_one_bad_topic_refuses_the_whole_frame_and_the_socket_stays_open(quiet: ExchangeProcess) -> None:
    with plain(quiet, "linear") as client:
        bad = refusal(client, "orderbook.50.BTCPERP", "orderbook.7.BTCPERP")
        assert bad["ret_msg"] == "error:handler not found,topic:orderbook.7.BTCPERP"
        assert silent(quiet, client)
        subscribed(client, "orderbook.50.BTCPERP")


def test_duplicate_topic_is_refused_and_the_first_keeps_delivering(quiet: ExchangeProcess) -> None:
    with plain(quiet, "linear") as client:
        u = subscribed(client, "orderbook.50.BTCPERP")["data"]["u"]
        assert (
            refusal(client, "orderbook.50.BTCPERP")["ret_msg"]
            == "error:already subscribed,topic:orderbook.50.BTCPERP"
        )
        quiet.post("/step", channel="linear", symbol="BTCPERP")
        delta = receive(client)
        assert (delta["type"], delta["data"]["u"]) == ("delta", u + 1)


def test_frames_that_are_no_request_are_answered_and_the_socket_stays_open(quiet: ExchangeProcess) -> None:
    with plain(quiet, "linear") as client:
        client.send("no JSON")
        answer = receive(client)
        assert answer["success"] is False
        assert answer["ret_msg"].startswith("Failed to decode incoming data:")
        assert ask(client, op="dance")["ret_msg"] == "error:invalid op"
        for args in (None, [], [1], "orderbook.50.BTCPERP"):
            assert ask(client, op="subscribe", args=args)["success"] is False
        client.send("[1]")
        assert receive(client)["success"] is False
        assert ask(client, op="ping")["ret_msg"] == "pong"


def test_unsubscribe_stops_the_pushes_and_a_new_subscribe_brings_a_newer_snapshot(
    quiet: ExchangeProcess,
) -> None:
    with plain(quiet, "linear") as client:
        u = subscribed(client, "orderbook.50.BTCPERP")["data"]["u"]
        answer = ask(client, op="unsubscribe", req_id="u1", args=["orderbook.50.BTCPERP"])
        assert (answer["success"], answer["op"], answer["req_id"]) == (True, "unsubscribe", "u1")
        assert silent(quiet, client)
        assert subscribed(client, "orderbook.50.BTCPERP")["data"]["u"] > u


def test_protocol_ping_and_close_are_answered(quiet: ExchangeProcess) -> None:
    with plain(quiet, "spot") as client:
        assert client.ping().wait(PATIENCE)
        client.close()
        assert client.close_code == 1000
    until(lambda: quiet.get("/counters")["open"] == 0, "socket forgotten")


@pytest.mark.parametrize("path", ["/v5/trade", "/v5/public/private", "/v5/public/margin", "/v5/public", "/"])
def test_other_paths_are_not_found(quiet: ExchangeProcess, path: str) -> None:
    url = quiet.url + path
    with pytest.raises(InvalidStatus) as refusal:
        open_and_close(url)
    assert refusal.value.response.status_code == 404


# The synthetic market.


@pytest.mark.parametrize("depth", [1, 50, 200, 1000])
@pytest.mark.parametrize(("channel", "symbol"), [("spot", "BTCUSDT"), ("linear", "BTCPERP")])
def test_book_followed_by_pybit_is_the_exchanges_own(
    start: Start, pybit_client: Callable[..., PybitClient], channel: str, symbol: str, depth: int
) -> None:
    exchange = start("--rate", "500", "--levels", "220")
    client = pybit_client(exchange, channel)
    client.subscribe(depth, symbol)
    until(lambda: len(client.pushes()) > 300, "300 pushes")
    exchange.post("/pause")
    sent = exchange.get("/counters")["sent"]
    client.wait_for_pushes(sent)
    follower = Follower(depth)
    for message in client.pushes():
        follower.apply(message)
    assert follower.levels() == own_book(exchange, channel, symbol, depth)
    assert follower.kinds.count("snapshot") == (sent if depth == 1 else 1)


def test_spot_is_unpadded_with_ts_first_and_linear_is_padded_with_type_first(quiet: ExchangeProcess) -> None:
    with plain(quiet, "spot") as spot, plain(quiet, "linear") as linear:
        unpadded = subscribed(spot, "orderbook.50.BTCUSDT")
        padded = subscribed(linear, "orderbook.50.BTCPERP")
    assert list(unpadded) == ["topic", "ts", "type", "data", "cts"]
    assert list(padded) == ["topic", "type", "ts", "data", "cts"]
    for price, size in unpadded["data"]["b"] + unpadded["data"]["a"]:
        assert not (price + " ").endswith("0 ") or "." not in price
        assert not (size + " ").endswith("0 ") or "." not in size
    for price, size in padded["data"]["b"] + padded["data"]["a"]:
        assert len(price.partition(".")[2]) == 2
        assert len(size.partition(".")[2]) == 3
    bids = [Decimal(price) for price, _ in padded["data"]["b"]]
    assert bids == sorted(bids, reverse=True)


def test_quiet_depth_1_repeats_its_snapshot_with_the_same_u(start: Start) -> None:
    exchange = start("--rate", "0", "--repeat-after", "0.2")
    with plain(exchange, "linear") as client:
        first = subscribed(client, "orderbook.1.BTCPERP")
        repeat = receive(client)
        assert repeat["data"] == first["data"]
        assert repeat["ts"] > first["ts"]
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        while (push := receive(client))["data"]["u"] == first["data"]["u"]:
            pass
        assert push["data"]["u"] == first["data"]["u"] + 1


def test_late_subscriber_gets_the_book_as_it_is_now(quiet: ExchangeProcess) -> None:
    with plain(quiet, "linear") as early, plain(quiet, "linear") as late:
        follower = Follower(50)
        follower.apply(subscribed(early, "orderbook.50.BTCPERP"))
        quiet.post("/step", channel="linear", symbol="BTCPERP", count=40)
        for _ in range(40):
            follower.apply(receive(early))
        latecomer = Follower(50)
        latecomer.apply(subscribed(late, "orderbook.50.BTCPERP"))
        assert latecomer.levels() == follower.levels()
        quiet.post("/step", channel="linear", symbol="BTCPERP")
        follower.apply(receive(early))
        latecomer.apply(receive(late))
        assert latecomer.levels() == follower.levels()


def test_same_symbol_on_two_channels_is_two_instruments(quiet: ExchangeProcess) -> None:
    with plain(quiet, "spot") as spot, plain(quiet, "linear") as linear:
        first = subscribed(spot, "orderbook.50.BTCUSDT")
        second = subscribed(linear, "orderbook.50.BTCUSDT")
    assert first["data"]["b"] != second["data"]["b"]


def tops(market: SyntheticMarket, pushes: int) -> Iterator[tuple[Message, Message]]:
    """Best prices of the two legs of the BTC pair after each push."""
    legs: dict[str, Message] = {}
    topics = [("spot", "orderbook.1.BTCUSDT"), ("linear", "orderbook.1.BTCPERP")]
    for channel, message in market.stream(topics, pushes):
        data = message["data"]
        legs[channel] = {"bid": Decimal(data["b"][0][0]), "ask": Decimal(data["a"][0][0])}
        if len(legs) == 2:
            yield legs["spot"], legs["linear"]


def test_pairs_cross_both_ways_and_uncross_so_that_a_spread_opens_and_closes_with_profit() -> None:
    best_entry: dict[str, Decimal] = {"short spot": Decimal(0), "short linear": Decimal(0)}
    profits: dict[str, Decimal] = dict.fromkeys(best_entry, Decimal("-Infinity"))
    for spot, linear in tops(SyntheticMarket(seed=5), 5000):
        for name, short, long in (("short spot", spot, linear), ("short linear", linear, spot)):
            best_entry[name] = max(best_entry[name], short["bid"] - long["ask"])
            if best_entry[name] > 0:
                profits[name] = max(profits[name], best_entry[name] + long["bid"] - short["ask"])
    assert min(best_entry.values()) > 0
    assert min(profits.values()) > 0


def test_without_crossing_no_pair_ever_crosses() -> None:
    for spot, linear in tops(SyntheticMarket(seed=5, crossing=False), 5000):
        assert spot["bid"] < linear["ask"]
        assert linear["bid"] < spot["ask"]


def test_share_of_the_swings_makes_the_pairs_cross_in_that_share_of_the_time() -> None:
    def crossed(swings: float) -> int:
        """How many of the pushes leave the pair crossed."""
        looks = tops(SyntheticMarket(seed=5, swings=swings), 40_000)
        return sum(int(spot["bid"] > linear["ask"] or linear["bid"] > spot["ask"]) for spot, linear in looks)

    assert crossed(0) == 0
    assert 0.1 < crossed(0.2) / crossed(1) < 0.3


def test_same_seed_makes_the_same_market_and_another_seed_another() -> None:
    def levels(seed: int) -> list[Any]:
        topics = [("spot", "orderbook.50.BTCUSDT"), ("linear", "orderbook.50.BTCPERP")]
        stream = SyntheticMarket(seed=seed).stream(topics, 200)
        return [(channel, message["data"]["b"], message["data"]["a"]) for channel, message in stream]

    assert levels(3) == levels(3)
    assert levels(3) != levels(4)


def test_generic_pairs_are_listed_and_every_push_reaches_its_socket(
    start: Start, pybit_client: Callable[..., PybitClient]
) -> None:
    exchange = start("--instruments", "12", "--rate", "50")
    listed = exchange.get("/instruments")
    symbols = [symbol for symbol in listed["spot"] if symbol.endswith("USDT")][:10]
    assert len(listed["spot"]) == 12
    assert {"BTCPERP", "ETHPERP", "T003PERP", "T012PERP"} <= set(listed["linear"])
    client = pybit_client(exchange, "spot")
    client.subscribe(50, *symbols)
    until(lambda: len(client.pushes()) > 200, "200 pushes")
    exchange.post("/pause")
    for topic in exchange.get("/counters")["topics"]:
        client.wait_for_pushes(topic["sent"], topic["topic"])
        follower = Follower(50)
        for message in client.pushes(topic["topic"]):
            follower.apply(message)
    assert {push["topic"] for push in client.pushes()} == {f"orderbook.50.{s}" for s in symbols}


def test_book_set_by_hand_is_pushed_as_the_difference(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        follower = Follower(50)
        follower.apply(subscribed(client, "orderbook.50.BTCPERP"))
        exchange.post("/book", **best("1.000"))
        follower.apply(receive(client))
        assert follower.levels() == own_book(exchange, "linear", "BTCPERP", 50)
        exchange.post("/book", **best("3.000"))
        delta = receive(client)
        assert (delta["data"]["b"], delta["data"]["a"]) == ([["99.50", "3.000"]], [])
        exchange.post("/book", **best("3.000"))
        assert ask(client, op="ping")["ret_msg"] == "pong"


# Recordings.


def naive_books(path: Path) -> dict[tuple[str, str], Follower]:
    books: dict[tuple[str, str], Follower] = {}
    with gzip.open(path, "rt") as file:
        for text in file:
            line = json.loads(text)
            message = line["message"]
            depth = int(message["topic"].split(".")[1])
            books.setdefault((line["category"], message["topic"]), Follower(depth)).apply(message)
    return books


def recorded(path: Path) -> list[tuple[str, Message, str]]:
    """Channel, message, and message text of each line."""
    with gzip.open(path, "rt") as file:
        texts = [text.rstrip("\n") for text in file]
    lines = [json.loads(text) for text in texts]
    cut = [text[text.index('"message":') + 10 : -1] for text in texts]
    return [(line["category"], line["message"], text) for line, text in zip(lines, cut, strict=True)]


def test_replay_once_delivers_every_line_with_fresh_numbers(
    start: Start, pybit_client: Callable[..., PybitClient], recording: Path
) -> None:
    begun = time.time() * 1000 - 1
    exchange = start("--recording", str(recording), "--once", "--speed", "max", "--wait-for", "2")
    clients = {channel: pybit_client(exchange, channel) for channel in ("spot", "linear")}
    clients["spot"].subscribe(50, "BTCUSDT")
    clients["linear"].subscribe(50, "BTCPERP")
    until(lambda: exchange.get("/counters")["finished"], "the recording played")
    books = naive_books(recording)
    for (channel, topic), book in books.items():
        expected = [message for ch, message, _ in recorded(recording) if ch == channel]
        clients[channel].wait_for_pushes(len(expected))
        follower = Follower(50)
        for message, original in zip(clients[channel].pushes(topic), expected, strict=True):
            follower.apply(message)
            assert message["type"] == original["type"]
            assert (message["data"]["b"], message["data"]["a"]) == (
                original["data"]["b"],
                original["data"]["a"],
            )
            assert begun < message["cts"] <= message["ts"]
        assert follower.levels() == book.levels()


def test_verbatim_replay_is_byte_for_byte_the_recording(start: Start, recording: Path) -> None:
    exchange = start("--recording", str(recording), "--verbatim", "--speed", "0", "--wait-for", "2")
    with plain(exchange, "spot") as spot, plain(exchange, "linear") as linear:
        refusal(spot, "orderbook.1.BTCUSDT")
        subscribe(spot, "orderbook.50.BTCUSDT")
        send_subscribe(linear, "orderbook.50.BTCPERP")
        for channel, _, text in recorded(recording):
            client = spot if channel == "spot" else linear
            while '"op":"subscribe"' in (received := client.recv(PATIENCE)):
                pass
            assert received == text
        until(lambda: exchange.get("/counters")["finished"], "the recording played")
        with plain(exchange, "spot") as late:
            snapshot = subscribed(late, "orderbook.50.BTCUSDT")
            assert (snapshot["data"]["u"], snapshot["data"]["seq"]) == (502, 9035)
        with pytest.raises(ControlError, match="verbatim"):
            exchange.fault("snapshot")


def test_looping_replay_stays_one_consistent_stream(start: Start, recording: Path) -> None:
    exchange = start("--recording", str(recording), "--speed", "2", "--wait-for", "1")
    with plain(exchange, "linear") as client:
        send_subscribe(client, "orderbook.50.BTCPERP")
        follower = Follower(50)
        for _ in range(9):
            follower.apply(receive_push(client))
    assert exchange.get("/counters")["rounds"] >= 2
    assert follower.kinds == ["snapshot", "delta", "delta"] * 3
    assert follower.levels() == naive_books(recording)["linear", "orderbook.50.BTCPERP"].levels()


@pytest.mark.parametrize("depth", [1, 200, 1000])
def test_depths_that_are_not_recorded_are_cut_from_the_recorded_one(
    start: Start, recording: Path, depth: int
) -> None:
    exchange = start("--recording", str(recording), "--speed", "2", "--wait-for", "2")
    with plain(exchange, "spot") as client, plain(exchange, "linear") as other:
        send_subscribe(other, "orderbook.50.BTCPERP")
        send_subscribe(client, f"orderbook.{depth}.BTCUSDT")
        follower = Follower(depth)
        tops = []
        for _ in range(6):
            follower.apply(receive_push(client))
            tops.append((max(follower.bids), min(follower.asks)))
    # The third line moves both best prices, and a new round moves them back.
    assert (Decimal(100), Decimal(101)) in tops
    assert (Decimal("99.5"), Decimal("100.5")) in tops


def test_depth_50_is_cut_from_a_depth_1_recording(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "top.ndjson.gz"
    topic = "orderbook.1.BTCUSDT"
    write_recording(
        path,
        [
            (0.0, "spot", topic, "snapshot", 9, [["100", "1"]], [["101", "3"]]),
            (0.01, "spot", topic, "snapshot", 10, [["100", "2"]], [["101", "3"]]),
            (0.02, "spot", topic, "snapshot", 11, [["102", "2"]], [["103", "1"]]),
        ],
    )
    exchange = start("--recording", str(path), "--once", "--wait-for", "1")
    with plain(exchange, "spot") as client:
        send_subscribe(client, "orderbook.50.BTCUSDT")
        follower = Follower(50)
        for _ in range(3):
            follower.apply(receive_push(client))
    # A feed that had no book yet begins with a snapshot.
    assert follower.kinds == ["snapshot", "delta", "delta"]
    assert follower.levels() == ([[Decimal(102), "2"]], [[Decimal(103), "1"]])


def test_depth_cut_from_the_recorded_one_in_mid_recording_goes_on_from_the_book_as_it_is(
    recording: Path,
) -> None:
    replay = Replay(recording)
    replay.play(0.0)
    replay.play(0.025)
    feed = replay.feed("spot", "orderbook.200.BTCUSDT")
    assert feed is not None
    payloads: list[bytes] = []
    feed.tap = lambda _feed, payload, _sockets: payloads.append(payload)
    replay.open(replay.subscribe(feed, 1, lambda _frame: None))
    replay.play(0.055)
    snapshot, delta = map(json.loads, payloads)
    assert snapshot["data"]["b"] == [["99.5", "2"], ["99", "7"]]
    assert snapshot["data"]["a"] == [["100.5", "2"], ["101", "3"], ["102", "1"]]
    assert (delta["type"], delta["data"]["u"]) == ("delta", snapshot["data"]["u"] + 1)
    assert (delta["data"]["b"], delta["data"]["a"]) == ([], [["102", "0"]])


def test_late_pushes_carry_the_time_at_which_they_were_due_and_time_never_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    market = SyntheticMarket(pairs=1, rate=100)
    pushes: list[Message] = []
    subscriptions = []
    for channel, symbol in (("spot", "BTCUSDT"), ("linear", "BTCPERP")):
        feed = market.feed(channel, f"orderbook.50.{symbol}")
        assert feed is not None
        feed.tap = lambda _feed, payload, _sockets: pushes.append(json.loads(payload))
        subscriptions.append(market.subscribe(feed, 1, lambda _frame: None))
    begun = now_ms()
    # The second look at the clock of the day came late, the third did not.
    for seconds, clock in ((0.0, 0), (0.0201, 30), (0.0401, 40)):
        monkeypatch.setattr(synthetic, "now_ms", lambda clock=clock: begun + 1000 + clock)
        market.play(seconds)
    times = [push["ts"] - begun - 1000 for push in pushes]
    assert times == [15, 20, 25, 30, 30, 30, 35, 40]
    # Nor does it where a snapshot is asked for before what is late has come.
    monkeypatch.setattr(synthetic, "now_ms", lambda: begun + 1055)
    market.open(subscriptions[0])
    market.play(0.0551)
    assert [push["ts"] - begun - 1000 for push in pushes[8:]] == [55, 55, 55, 55]
    assert all(push["cts"] <= push["ts"] for push in pushes)


def test_recording_that_begins_again_says_so_once(recording: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "local_exchange.replay")
    replay = Replay(recording, speed=0)
    for _ in range(5):
        replay.play(0.0)
    assert replay.rounds > 1
    assert caplog.text.count("begins again") == 1
    caplog.clear()
    Replay(recording, verbatim=True)
    assert "ignores what is older" in caplog.text


def test_after_once_the_books_stay_and_depth_1_goes_on_repeating(start: Start, recording: Path) -> None:
    exchange = start("--recording", str(recording), "--once", "--speed", "0", "--repeat-after", "0.2")
    until(lambda: exchange.get("/counters")["finished"], "the recording played")
    with plain(exchange, "spot") as client:
        first = subscribed(client, "orderbook.1.BTCUSDT")
        assert first["data"]["b"] == [["99.5", "2"]]
        assert receive(client)["data"] == first["data"]


def test_what_record_writes_is_what_the_client_got_and_can_be_replayed(
    start: Start, pybit_client: Callable[..., PybitClient], tmp_path: Path
) -> None:
    path = tmp_path / "sent.ndjson"
    exchange = start("--rate", "200", "--record", str(path))
    client = pybit_client(exchange, "linear")
    client.subscribe(50, "BTCPERP", "ETHPERP")
    until(lambda: len(client.pushes()) > 100, "100 pushes")
    exchange.post("/pause")
    sent = exchange.get("/counters")["sent"]
    client.wait_for_pushes(sent)
    exchange.fault("cross", symbol="ETHPERP")
    until(lambda: len(client.pushes()) == sent + 1, "the crossing push")
    exchange.stop()
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line["message"] for line in lines] == client.pushes()
    assert {(line["category"], tuple(line["sockets"])) for line in lines} == {("linear", (1,))}
    assert len(Replay(path).lines) == sent + 1


def test_a_malformed_recording_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_text('{"t": 0}\n')
    with pytest.raises(RecordingError, match=r"line 1: expected an order-book message"):
        Replay(path)
    path.write_text("")
    with pytest.raises(RecordingError, match="was empty"):
        Replay(path)
    with pytest.raises(RuntimeError, match="ended with 1"):
        ExchangeProcess("--recording", str(path))


@pytest.mark.skipif(not (SHARED / "recordings").is_dir(), reason="the shared recordings are not here")
def test_real_recording_at_full_speed_arrives_whole_through_pybit(
    start: Start, pybit_client: Callable[..., PybitClient]
) -> None:
    path = SHARED / "recordings" / "btc_depth50.ndjson.gz"
    exchange = start("--recording", str(path), "--once", "--speed", "max", "--wait-for", "2")
    clients = {channel: pybit_client(exchange, channel) for channel in ("spot", "linear")}
    clients["spot"].subscribe(50, "BTCUSDT")
    clients["linear"].subscribe(50, "BTCPERP")
    until(lambda: exchange.get("/counters")["finished"], "the recording played")
    for (channel, topic), book in naive_books(path).items():
        expected = [m["data"] for ch, m, _ in recorded(path) if ch == channel]
        clients[channel].wait_for_pushes(len(expected))
        got = [message["data"] for message in clients[channel].pushes(topic)]
        assert [(d["b"], d["a"]) for d in got] == [(d["b"], d["a"]) for d in expected]
        symbol = topic.rsplit(".", 1)[1]
        assert own_book(exchange, channel, symbol, 50) == book.levels()


# Faults.


@pytest.mark.parametrize("how", ["close", "fin", "rst"])
def test_pybit_comes_back_after_each_kind_of_drop(
    start: Start, pybit_client: Callable[..., PybitClient], how: str
) -> None:
    exchange = start("--rate", "50")
    client = pybit_client(exchange, "linear")
    client.subscribe(50, "BTCPERP")
    until(lambda: client.pushes() and client.replies, "snapshot and acknowledgement")
    assert exchange.fault("drop", channel="spot", how=how) == 0
    assert exchange.fault("drop", symbol="BTCPERP", how=how) == 1
    until(lambda: len(client.replies) == 2, "a second acknowledgement")
    until(lambda: [m["type"] for m in client.pushes()].count("snapshot") == 2, "a second snapshot")
    assert exchange.get("/counters")["opened"] == 2


@pytest.mark.parametrize(("how", "code"), [("close", 1012), ("fin", 1006), ("rst", 1006)])
def test_drop_ends_the_socket_the_way_it_was_asked(start: Start, how: str, code: int) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")
        assert exchange.fault("drop", how=how, code=1012) == 1
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert client.close_code == code
        if how == "rst":
            assert isinstance(closed.value.__cause__, ConnectionResetError)


def test_gap_loses_updates_and_leaves_a_hole_in_u(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        u = subscribed(client, "orderbook.50.BTCPERP")["data"]["u"]
        exchange.fault("gap", symbol="BTCPERP", count=2)
        exchange.post("/step", channel="linear", symbol="BTCPERP", count=4)
        assert [receive(client)["data"]["u"] for _ in range(2)] == [u + 3, u + 4]
        assert exchange.get("/counters")["sent"] == 3


def test_repeat_restart_and_snapshot_push_the_book_with_the_u_they_are_about(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        delta = receive(client)
        assert exchange.fault("repeat") == 1
        assert receive(client)["data"] == delta["data"]
        exchange.fault("snapshot", channel="linear")
        snapshot = receive(client)
        assert (snapshot["type"], snapshot["data"]["u"]) == ("snapshot", delta["data"]["u"] + 1)
        exchange.fault("restart", symbol="BTCPERP")
        restarted = receive(client)
        assert (restarted["type"], restarted["data"]["u"]) == ("snapshot", 1)
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        assert receive(client)["data"]["u"] == 2


@pytest.mark.parametrize("depth", [1, 50])
def test_cross_makes_the_clients_book_crossed_until_a_snapshot(start: Start, depth: int) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        follower = Follower(depth)
        follower.apply(subscribed(client, f"orderbook.{depth}.BTCPERP"))
        exchange.fault("cross")
        crossing = receive(client)
        assert Decimal(crossing["data"]["b"][0][0]) > min(follower.asks)
        exchange.fault("snapshot")
        healed = Follower(depth)
        healed.apply(receive(client))
        assert healed.levels() == follower.levels()


def test_delete_absent_removes_a_level_that_nobody_has(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        snapshot = subscribed(client, "orderbook.50.BTCPERP")
        assert exchange.fault("delete_absent") == 1
        delta = receive(client)
        [[price, size]] = delta["data"]["a"]
        assert size == "0"
        assert price not in [level[0] for level in snapshot["data"]["a"]]
        assert delta["data"]["u"] == snapshot["data"]["u"] + 1


def test_silence_withholds_pushes_on_one_socket_only_and_ends(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as quiet, plain(exchange, "linear") as other:
        u = subscribed(quiet, "orderbook.50.BTCPERP")["data"]["u"]
        subscribed(other, "orderbook.50.BTCPERP")
        number = min(one["socket"] for one in exchange.get("/sockets"))
        assert exchange.fault("silence", socket=number) == 1
        assert silent(exchange, quiet)
        assert receive(other)["data"]["u"] == u + 1
        subscribe(quiet, "orderbook.1.BTCPERP")
        assert silent(exchange, quiet)
        exchange.fault("clear")
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        assert {receive(quiet)["data"]["u"] for _ in range(2)} >= {u + 7}


def test_silence_of_new_sockets_lasts_its_time(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("silence", new=True)
    with plain(exchange, "linear") as client:
        subscribe(client, "orderbook.50.BTCPERP")
        assert silent(exchange, client)
    exchange.fault("clear")
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")


def test_refused_tcp_ends_by_itself_and_open_sockets_stay(start: Start) -> None:
    exchange = start("--rate", "0")
    address = ("127.0.0.1", int(exchange.url.rsplit(":", 1)[1]))

    def connects() -> bool:
        try:
            socket.create_connection(address, timeout=1).close()
        except ConnectionRefusedError:
            return False
        return True

    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")
        exchange.fault("refuse_tcp", seconds=0.3)
        assert not connects()
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        assert receive(client)["type"] == "delta"
        until(connects, "connections accepted again")
    exchange.fault("refuse_tcp")
    assert not connects()
    exchange.fault("clear")
    assert connects()
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")


def test_refused_handshake_answers_its_status_as_often_as_asked(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("refuse_handshake", channel="linear", status=502, count=2)
    open_and_close(f"{exchange.url}/v5/public/spot")
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refusal:
            open_and_close(f"{exchange.url}/v5/public/linear")
        assert refusal.value.response.status_code == 502
    open_and_close(f"{exchange.url}/v5/public/linear")
    assert exchange.get("/counters")["refused"] == 2


def test_hanging_handshake_is_answered_only_when_the_fault_ends(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("hang_handshake", channel="linear")
    with raw_handshake(exchange, "linear") as hanging:
        hanging.settimeout(0.2)
        with pytest.raises(TimeoutError):
            hanging.recv(1)
        open_and_close(f"{exchange.url}/v5/public/spot")
        exchange.fault("clear")
        hanging.settimeout(PATIENCE)
        assert hanging.recv(1000).startswith(b"HTTP/1.1 101")
    exchange.fault("hang_handshake", count=1)
    with pytest.raises(TimeoutError):
        open_and_close(f"{exchange.url}/v5/public/linear", open_timeout=0.3)
    open_and_close(f"{exchange.url}/v5/public/linear")


def test_refused_subscription_has_the_text_given_and_narrows_to_its_symbol(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("refuse_subscription", channel="linear", symbol="BTCPERP", text="closed today", count=1)
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.ETHPERP")
        assert refusal(client, "orderbook.50.BTCPERP")["ret_msg"] == "closed today"
        subscribed(client, "orderbook.50.BTCPERP")
        exchange.fault("refuse_subscription", count=1)
        assert (
            refusal(client, "orderbook.1.BTCPERP")["ret_msg"]
            == "error:handler not found,topic:orderbook.1.BTCPERP"
        )


def test_slow_acknowledgement_lets_pings_pass_and_none_never_comes(start: Start) -> None:
    exchange = start("--rate", "0")
    exchange.fault("slow_ack", delay=0.3, count=1)
    exchange.fault("slow_ack", symbol="ETHPERP")
    with plain(exchange, "linear") as client:
        send_subscribe(client, "orderbook.50.BTCPERP")
        assert ask(client, op="ping")["ret_msg"] == "pong"
        assert receive(client)["type"] == "snapshot"
        assert receive(client)["op"] == "subscribe"
        send_subscribe(client, "orderbook.50.ETHPERP")
        assert ask(client, op="ping")["ret_msg"] == "pong"
        with pytest.raises(TimeoutError):
            client.recv(0.3)


@pytest.mark.parametrize(
    ("kind", "received"),
    [
        ("text", "this is not JSON"),
        ("list", "[1,2,3]"),
        ("null", "null"),
        ("empty", ""),
        ("binary", bytes(range(256))),
    ],
)
def test_garbage_is_one_frame_and_the_stream_goes_on(start: Start, kind: str, received: str | bytes) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")
        assert exchange.fault("garbage", kind=kind) == 1
        assert client.recv(PATIENCE) == received
        exchange.post("/step", channel="linear", symbol="BTCPERP")
        assert receive(client)["type"] == "delta"


def test_huge_and_hand_made_frames_arrive(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        exchange.fault("garbage", kind="huge", size=3_000_000)
        assert len(client.recv(PATIENCE)) == 3_000_000
        exchange.fault("send", text='{"topic": "orderbook.50.X"}')
        assert receive(client) == {"topic": "orderbook.50.X"}


def test_unanswered_ping_makes_pybit_reconnect(
    start: Start, pybit_client: Callable[..., PybitClient]
) -> None:
    exchange = start("--rate", "0")
    client = pybit_client(exchange, "linear", ping_interval=0.3, ping_timeout=0.2)
    client.subscribe(50, "BTCPERP")
    until(client.pushes, "a snapshot")
    exchange.fault("no_pong")
    until(lambda: len(client.pushes()) == 2, "a snapshot on a new connection")


def test_unanswered_close_leaves_the_client_waiting(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear", close_timeout=0.4) as client:
        subscribed(client, "orderbook.50.BTCPERP")
        exchange.fault("no_close_answer")
        client.close()
        assert client.close_code == 1006


def test_a_fault_of_one_symbol_leaves_the_others_alone(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as btc, plain(exchange, "linear") as eth:
        subscribed(btc, "orderbook.50.BTCPERP")
        u = subscribed(eth, "orderbook.50.ETHPERP")["data"]["u"]
        assert exchange.fault("drop", symbol="BTCPERP") == 1
        assert exchange.fault("gap", symbol="BTCPERP") == 0
        exchange.post("/step", channel="linear", symbol="ETHPERP")
        assert receive(eth)["data"]["u"] == u + 1


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_client_that_vanishes_leaves_the_others_streaming(start: Start, how: str) -> None:
    exchange = start("--rate", "2000")
    with plain(exchange, "linear") as staying:
        subscribed(staying, "orderbook.50.BTCPERP")
        for _ in range(10):
            with raw_handshake(exchange, "linear") as vanishing:
                vanishing.sendall(masked(b'{"op":"subscribe","args":["orderbook.50.BTCPERP"]}'))
                received = b""
                while b"snapshot" not in received:
                    received = received[-20:] + vanishing.recv(4096)
                if how == "rst":
                    vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    vanishing.shutdown(socket.SHUT_WR)
        until(lambda: exchange.get("/counters")["open"] == 1, "the vanished forgotten")
        sent = exchange.get("/counters")["sent"]
        until(lambda: exchange.get("/counters")["sent"] > sent, "pushes to the one that stays")


def test_client_that_half_closes_with_much_unread_holds_nobody_up(start: Start, recording: Path) -> None:
    exchange = start("--recording", str(recording), "--speed", "max", "--wait-for", "2")
    with raw_handshake(exchange, "linear") as leaving, plain(exchange, "spot") as staying:
        leaving.sendall(masked(b'{"op":"subscribe","args":["orderbook.50.BTCPERP"]}'))
        send_subscribe(staying, "orderbook.50.BTCUSDT")
        until(lambda: exchange.get("/counters")["open"] == 2, "both sockets")
        follower = Follower(50)
        for _ in range(2000):
            follower.apply(receive_push(staying))
        until(lambda: max(one["unread"] for one in exchange.get("/sockets")) > 0, "unread pushes")
        leaving.shutdown(socket.SHUT_WR)
        for _ in range(3000):
            follower.apply(receive_push(staying))
        assert [one["channel"] for one in exchange.get("/sockets")] == ["spot"]


# The control interface, the process, the Python entry.


@pytest.mark.parametrize(
    ("path", "given", "reason"),
    [
        ("/faults/earthquake", {}, "expected a fault of"),
        ("/faults/gap", {"cuont": 1}, "unexpected keyword"),
        ("/faults/gap", {"count": 0}, "expected count to be at least 1"),
        ("/faults/gap", {"count": "two"}, "expected count to be a number"),
        ("/faults/silence", {"seconds": "long"}, "expected seconds to be a number"),
        ("/faults/drop", {"code": 1006}, "expected a close code"),
        ("/faults/drop", {"how": "softly"}, "close, fin, rst"),
        ("/faults/garbage", {"kind": "odd"}, "expected kind"),
        ("/nothing", {}, "expected one of"),
        ("/pace", {"pace": -1}, "at least 0"),
        ("/step", {"channel": "linear", "symbol": "NOPE"}, "expected an instrument"),
        ("/book", {"channel": "linear", "symbol": "X", "b": [["1"]], "a": []}, "expected"),
    ],
)
def test_control_request_that_makes_no_sense_is_answered_with_the_reason(
    quiet: ExchangeProcess, path: str, given: Message, reason: str
) -> None:
    with plain(quiet, "linear") as client:
        subscribed(client, "orderbook.50.BTCPERP")
        with pytest.raises(ControlError, match=reason):
            quiet.post(path, **given)
        assert ask(client, op="ping")["ret_msg"] == "pong"


def test_pace_and_pause_change_the_market_at_once(start: Start) -> None:
    exchange = start("--rate", "0")
    with plain(exchange, "linear") as client:
        u = subscribed(client, "orderbook.50.BTCPERP")["data"]["u"]
        exchange.post("/pace", pace=200)
        assert receive(client)["data"]["u"] == u + 1
        exchange.post("/pause")
        assert exchange.get("/counters")["sent"] == exchange.get("/counters")["sent"]
        exchange.post("/resume")
        sent = exchange.get("/counters")["sent"]
        until(lambda: exchange.get("/counters")["sent"] > sent, "pushes after resume")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_status_0_though_clients_do_not_answer(
    start: Start, number: signal.Signals
) -> None:
    exchange = start("--rate", "100")
    exchange.fault("hang_handshake", channel="spot")
    with raw_handshake(exchange, "linear"), raw_handshake(exchange, "spot"):
        until(lambda: exchange.get("/counters")["open"] == 1, "the one that is answered")
        with plain(exchange, "linear") as client:
            subscribed(client, "orderbook.50.BTCPERP")
            exchange.process.send_signal(number)
            assert exchange.process.wait(5) == 0
            for _ in client:
                pass
            assert client.close_code == 1001


def test_slow_client_is_waited_for_at_full_speed(start: Start, recording: Path) -> None:
    exchange = start("--recording", str(recording), "--speed", "max", "--wait-for", "1")
    with plain(exchange, "linear", max_queue=1) as client:
        send_subscribe(client, "orderbook.50.BTCPERP")

        def stands() -> bool:
            sent = exchange.get("/counters")["sent"]
            time.sleep(0.05)
            return bool(sent and sent == exchange.get("/counters")["sent"])

        until(stands, "the exchange waiting for the client")
        follower = Follower(50)
        for _ in range(2000):
            follower.apply(receive_push(client))


def test_exchange_in_the_tests_own_event_loop() -> None:
    async def use() -> list[Message]:
        market = SyntheticMarket(rate=0)
        async with LocalExchange(market) as exchange:

            def exchange_once() -> list[Message]:
                with connect(f"{exchange.url}/v5/public/spot") as client:
                    snapshot = subscribed(client, "orderbook.1.BTCUSDT")
                    loop.call_soon_threadsafe(market.step, "spot", "BTCUSDT")
                    return [snapshot, receive(client)]

            loop = asyncio.get_running_loop()
            assert await exchange.faults.gap() == 0
            return await asyncio.to_thread(exchange_once)

    first, second = asyncio.run(use())
    assert second["data"]["u"] == first["data"]["u"] + 1


def test_port_that_is_taken_ends_it_with_one_clear_line(start: Start) -> None:
    taken = int(start("--rate", "0").url.rsplit(":", 1)[1])
    with pytest.raises(RuntimeError, match="ended with 1"):
        ExchangeProcess(port=taken)


@pytest.mark.parametrize(("length", "header"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_frame_header_grows_with_the_payload(length: int, header: int) -> None:
    assert len(text_frame(b"x" * length)) == length + header
