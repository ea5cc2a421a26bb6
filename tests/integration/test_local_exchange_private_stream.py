"""The private WebSocket of the local exchange, with pybit on the other end."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import KEY, SECRET, PrivateStream, Trader, private_stream, until

Message = dict[str, Any]
UNLIMITED = (
    *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
    *("--lookups-per-second", "0", "--ip-requests", "0"),
)
BIDS = [["63999.0", "0.100"], ["63998.0", "0.200"], ["63997.0", "9.000"]]
ASKS = [["64001.0", "0.100"], ["64002.0", "0.200"], ["64003.0", "9.000"]]
SPOT = {"category": "spot", "symbol": "BTCUSDT"}
# websocket-client leaves the socket of a dropped connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeProcess]:
    balances = [f"--balance={coin}=100000" for coin in ("BTC", "USDT", "USDC")]
    with ExchangeProcess("--rate", "0", *UNLIMITED, *balances) as started:
        yield started


@pytest.fixture
def trader(exchange: ExchangeProcess) -> Iterator[Trader]:
    trader = Trader(exchange)
    for category in ("linear", "spot"):
        trader.set_book(category, BIDS, ASKS)
    yield trader
    exchange.fault("clear")


def plain(exchange: ExchangeProcess) -> ClientConnection:
    client: ClientConnection = connect(exchange.private_url, compression=None)
    return client


def ask(client: ClientConnection, **request: Any) -> Message:
    client.send(json.dumps(request))
    answer: Message = json.loads(client.recv(10))
    return answer


def auth_args(key: str = KEY, secret: str = SECRET, *, seconds: float = 5) -> list[Any]:
    expires = int((time.time() + seconds) * 1000)
    text = f"GET/realtime{expires}".encode()
    return [key, expires, hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()]


def of_order(stream: PrivateStream, topic: str, link_id: str) -> list[Message]:
    return [row for row in stream.rows(topic) if row["orderLinkId"] == link_id]


def ended(stream: PrivateStream, link_id: str) -> Message:
    """Wait for the push with which an order is closed, and return its row."""

    def closed() -> list[Message]:
        rows = of_order(stream, "order", link_id)
        return [row for row in rows if row["orderStatus"] not in {"New", "PartiallyFilled"}]

    until(closed, f"the end of {link_id}")
    return closed()[-1]


# Control frames.


def test_authentication_subscription_and_ping_are_answered_in_the_private_words(
    exchange: ExchangeProcess,
) -> None:
    with plain(exchange) as client:
        answer = ask(client, op="auth", args=auth_args())
        assert answer.pop("conn_id")
        assert answer == {"success": True, "ret_msg": "", "op": "auth"}
        answer = ask(client, op="subscribe", args=["order", "wallet"], req_id="7")
        assert answer.pop("conn_id")
        assert answer == {"success": True, "ret_msg": "", "op": "subscribe", "req_id": "7"}
        answer = ask(client, op="ping", req_id="8")
        assert (answer["op"], answer["req_id"]) == ("pong", "8")
        assert abs(int(answer["args"][0]) - time.time() * 1000) < 60_000


@pytest.mark.parametrize(
    "args",
    [
        auth_args(key="someone"),
        auth_args(secret="guess"),
        auth_args(seconds=-1),
        [],
        None,
        [KEY, "soon", "00"],
    ],
)
def test_bad_authentication_is_refused_and_nothing_can_be_subscribed(
    exchange: ExchangeProcess, args: object
) -> None:
    with plain(exchange) as client:
        assert ask(client, op="auth", args=args)["success"] is False
        assert ask(client, op="subscribe", args=["order"])["success"] is False


def test_unknown_topics_and_requests_are_refused(exchange: ExchangeProcess) -> None:
    with plain(exchange) as client:
        assert ask(client, op="auth", args=auth_args())["success"] is True
        for topics in (["order", "orderbook.50.BTCUSDT"], [], ["greeks"]):
            assert ask(client, op="subscribe", args=topics)["success"] is False
        assert ask(client, op="dance")["success"] is False
        assert exchange.get("/sockets")[-1]["topics"] == []


def test_pybit_with_a_wrong_secret_gets_no_push(exchange: ExchangeProcess, trader: Trader) -> None:
    stream = PrivateStream(exchange, ("order",), api_secret="guess")
    try:
        until(lambda: len(stream.replies) == 2, "both answers")
        assert [reply["success"] for reply in stream.replies] == [False, False]
        trader.trade(qty="0.01")
        assert stream.pushes() == []
    finally:
        stream.stream.exit()


# What is pushed.


def test_all_topics_tell_of_an_order_and_agree_with_the_look_ups(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with private_stream(exchange) as stream:
        assert stream.pushes() == [], "nothing is pushed at the start"
        trader.place(qty="0.25", orderLinkId="agree-1")
        row = ended(stream, "agree-1")
        until(lambda: stream.rows("wallet"), "the wallet")
        fills = of_order(stream, "execution", "agree-1")
        until(lambda: stream.rows("position")[-1]["size"] != "0", "the position")
    looked_up = trader.row("linear", row["orderId"])
    assert {**looked_up, "category": "linear"} == row
    assert row["orderStatus"] == "Filled"
    assert sum(Decimal(fill["execQty"]) for fill in fills) == Decimal(row["cumExecQty"])
    query = {"category": "linear", "orderLinkId": "agree-1"}
    listed = trader.http.get_executions(**query)["result"]["list"]
    assert sorted(fill["execId"] for fill in fills) == sorted(fill["execId"] for fill in listed)
    wallet = stream.pushes("wallet")[-1]["data"][0]
    [usdc] = [coin for coin in wallet["coin"] if coin["coin"] == "USDC"]
    assert Decimal(usdc["walletBalance"]) == trader.balance("USDC")
    [push] = [push for push in stream.pushes("order") if push["data"][0] == row]
    assert push["id"] == f"100000001_BTCPERP_{fills[-1]['seq']}"


def test_orders_are_told_in_every_form_that_the_exchange_has(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    statuses: set[tuple[str, ...]] = set()
    groups: set[int] = set()
    first: set[str] = set()
    with private_stream(exchange, ("order", "execution")) as stream:
        for number in range(24):
            trader.set_book("spot", BIDS, ASKS)
            stream.messages.clear()
            link_id = f"form-{number}"
            trader.place(**SPOT, side="Sell", qty="0.03" if number % 2 else "0.12", orderLinkId=link_id)
            ended(stream, link_id)
            quantity = Decimal("0.03" if number % 2 else "0.12")
            until(
                lambda: sum(Decimal(row["execQty"]) for row in stream.rows("execution")) == quantity,  # noqa: B023
                "the executions",
            )
            statuses.add(tuple(row["orderStatus"] for row in stream.rows("order")))
            groups |= {len(push["data"]) for push in stream.pushes("execution")}
            closing = [push for push in stream.pushes() if push["data"][0].get("orderStatus") != "New"]
            first.add(closing[0]["topic"])
    assert statuses == {("Filled",), ("New", "Filled")}
    assert groups == {1, 2}, "rows in one push and in several"
    assert first == {"order", "execution"}


def test_pushes_of_a_topic_keep_their_order_whatever_each_is_late() -> None:
    with ExchangeProcess("--rate", "0", "--fill-delay", "0", "--push-delay", "0,40", *UNLIMITED) as exchange:
        trader = Trader(exchange)
        with private_stream(exchange, ("order",)) as stream:
            for number in range(30):
                trader.place(qty="0.001", orderLinkId=f"order-{number}")
            for number in range(30):
                ended(stream, f"order-{number}")
            statuses: dict[str, list[str]] = {}
            for row in stream.rows("order"):
                statuses.setdefault(row["orderLinkId"], []).append(row["orderStatus"])
    assert {tuple(told) for told in statuses.values()} == {("New", "Filled"), ("Filled",)}


def test_topics_of_a_category_have_only_its_rows_under_their_own_name(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    topics = ("order.spot", "execution.linear", "execution.fast.linear")
    with private_stream(exchange, topics) as stream:
        trader.place(qty="0.01", orderLinkId="own-1")
        trader.place(**SPOT, side="Sell", qty="0.01", orderLinkId="own-2")
        until(lambda: {push["topic"] for push in stream.pushes()} == set(topics), "a push of each topic")
    assert {row["orderLinkId"] for row in stream.rows("order.spot")} == {"own-2"}
    assert {row["orderLinkId"] for row in stream.rows("execution.linear")} == {"own-1"}
    fast = stream.rows("execution.fast.linear")[0]
    assert "execFee" not in fast
    assert fast["execId"] == stream.rows("execution.linear")[0]["execId"]


def test_position_is_pushed_for_each_order_though_nothing_changed(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with private_stream(exchange, ("order", "position", "wallet")) as stream:
        before = trader.position()
        limit = {"orderType": "Limit", "timeInForce": "IOC", "price": "63990.00"}
        trader.place(**limit, qty="0.01", orderLinkId="still-1")
        ended(stream, "still-1")
        until(lambda: len(stream.pushes("position")) == 2, "one for the create and one for the end")
        assert {Decimal(row["size"]) for row in stream.rows("position")} == {abs(before)}
        assert stream.pushes("wallet") == []


def test_nothing_is_repeated_after_a_reconnect(exchange: ExchangeProcess, trader: Trader) -> None:
    with plain(exchange) as client:
        ask(client, op="auth", args=auth_args())
        ask(client, op="subscribe", args=["order"])
        exchange.fault("private_drop", how="fin")
    trader.trade(qty="0.01", orderLinkId="missed-1")
    with plain(exchange) as client:
        ask(client, op="auth", args=auth_args())
        ask(client, op="subscribe", args=["order"])
        trader.place(qty="0.01", orderLinkId="seen-1")
        assert json.loads(client.recv(10))["data"][0]["orderLinkId"] == "seen-1"


def test_pybit_authenticates_and_subscribes_again_after_a_drop(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with private_stream(exchange, ("order",)) as stream:
        exchange.fault("private_drop")
        until(lambda: len(stream.replies) == 4, "authenticated and subscribed again")
        trader.place(qty="0.01", orderLinkId="again-1")
        ended(stream, "again-1")


# Faults.


def test_silent_private_connection_answers_and_pushes_nothing(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with plain(exchange) as client, private_stream(exchange, ("order",)) as other:
        ask(client, op="auth", args=auth_args())
        ask(client, op="subscribe", args=["order"])
        socket = exchange.get("/sockets")[0]["socket"]
        assert exchange.get("/sockets")[0]["topics"] == ["order"]
        assert exchange.fault("silence", socket=socket) == 1
        trader.place(qty="0.01", orderLinkId="hushed-1")
        ended(other, "hushed-1")
        assert ask(client, op="ping")["op"] == "pong"
        assert exchange.fault("private_silence") == 2
        exchange.fault("clear")
        trader.place(qty="0.01", orderLinkId="loud-1")
        assert json.loads(client.recv(10))["data"][0]["orderLinkId"] == "loud-1"


def test_dropped_private_stream_stays_away_as_long_as_told(exchange: ExchangeProcess) -> None:
    def connects(url: str) -> bool:
        try:
            with connect(url):
                return True
        except InvalidStatus:
            return False

    with plain(exchange):
        assert exchange.fault("private_drop", seconds=0.4) == 1
        assert not connects(exchange.private_url)
        assert connects(f"{exchange.url}/v5/public/linear")
        until(lambda: connects(exchange.private_url), "the private stream back")


def test_repeated_pushes(exchange: ExchangeProcess, trader: Trader) -> None:
    with private_stream(exchange, ("execution",)) as stream:
        exchange.fault("private_repeat")
        trader.place(qty="0.01", orderLinkId="twice-1")
        until(lambda: len(of_order(stream, "execution", "twice-1")) == 2, "the same execution twice")
        first, second = of_order(stream, "execution", "twice-1")
        assert first == second


def test_shuffled_pushes_overtake_each_other_within_a_topic(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with private_stream(exchange, ("order",)) as stream:
        exchange.fault("private_shuffle", ms=60)

        def overtaken() -> bool:
            link_id = f"shuffled-{len(stream.messages)}"
            order = {"orderType": "Limit", "price": "63000.00", "timeInForce": "IOC"}
            trader.place(qty="0.001", orderLinkId=link_id, **order)
            ended(stream, link_id)
            # One that came before its end is told as new after it.
            rows = stream.rows("order")
            last = {row["orderLinkId"]: row["orderStatus"] for row in rows}
            return "New" in last.values()

        until(overtaken, "a push that overtook the one before it")


def test_delayed_pushes_come_after_the_look_ups_know(exchange: ExchangeProcess, trader: Trader) -> None:
    with private_stream(exchange, ("order",)) as stream:
        exchange.fault("private_delay", ms=400)
        trader.trade(qty="0.01", orderLinkId="late-1")
        assert of_order(stream, "order", "late-1") == []
        ended(stream, "late-1")


def test_refused_authentication_ends_with_its_count(exchange: ExchangeProcess) -> None:
    exchange.fault("auth_refused", count=1)
    with plain(exchange) as client:
        assert ask(client, op="auth", args=auth_args())["success"] is False
        assert ask(client, op="auth", args=auth_args())["success"] is True
