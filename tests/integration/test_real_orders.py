"""REAL_ORDER_SENDING against a stand-in of the exchange's REST interface."""

from __future__ import annotations

import http.server
import json
import threading
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.support.order_client import ACK, Accounts, OrderClient, new_order
from tests.support.workspace import Service, Workspace, wait_for

ACCEPTED = {"retCode": 0, "retMsg": "OK", "result": {"orderId": "1", "orderLinkId": "1"}, "time": 1}
REFUSED = {"retCode": 110007, "retMsg": "ab not enough for new order", "result": {}, "time": 1}
DUPLICATE = {"retCode": 110072, "retMsg": "OrderLinkedID is duplicate", "result": {}, "time": 1}
SECRET = "secret-of-nobody"
STREAMS = {"BYBIT_WS_URL": "ws://127.0.0.1:1"}


class RestStandIn:
    """Takes orders by HTTP and answers each with the next of `answers`, accepting when they are used up.

    An answer is a JSON body, an HTTP status, or `None`: the connection is closed without a word. While `held`
    is clear no answer goes out.
    """

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.answers: deque[dict[str, Any] | int | bytes | None] = deque()
        self.held = threading.Event()
        self.held.set()
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stand_in.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        assert request.path == "/v5/order/create"
        self.orders.append(json.loads(body))
        answer = self.answers.popleft() if self.answers else ACCEPTED
        self.held.wait()
        if answer is None:
            request.close_connection = True
            return
        status = answer if isinstance(answer, int) else 200
        text = (
            b""
            if isinstance(answer, int)
            else answer
            if isinstance(answer, bytes)
            else json.dumps(answer).encode()
        )
        try:
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)
        except OSError:
            request.close_connection = True  # the engine was killed meanwhile

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def rest() -> Iterator[RestStandIn]:
    started = RestStandIn()
    yield started
    started.close()


@pytest.fixture
def engine(place: Workspace, rest: RestStandIn) -> Service:
    place.environment.update(
        REAL_ORDER_SENDING="true",
        API_KEY="key-of-nobody",
        API_SECRET=SECRET,
        BYBIT_REST_URL=rest.url,
        **STREAMS,
    )
    return place.start_engine()


@pytest.fixture
def client(place: Workspace) -> OrderClient:
    return OrderClient(place)


@pytest.mark.usefixtures("engine")
def test_both_legs_go_out_in_base_coin_and_are_stored(
    place: Workspace, rest: RestStandIn, client: OrderClient
) -> None:
    order = new_order(size=0.00001234, buy=["spot", "BTCUSDT"], sell=["linear", "BTCPERP"])
    assert client.ask(order) == client.ask(order) == ACK
    buy, sell = rest.orders
    link = buy.pop("orderLinkId")
    assert len(link) <= 36
    assert link != sell.pop("orderLinkId")
    assert buy == {
        "category": "spot",
        "symbol": "BTCUSDT",
        "side": "Buy",
        "orderType": "Market",
        "qty": "0.00001234",
        "marketUnit": "baseCoin",
    }
    assert sell == {
        "category": "linear",
        "symbol": "BTCPERP",
        "side": "Sell",
        "orderType": "Market",
        "qty": "0.00001234",
    }
    wait_for(lambda: Accounts(place).orders == [order["order_id"]])


def test_refused_buy_leg_sends_no_sell_leg_and_leaves_nothing(
    place: Workspace, rest: RestStandIn, engine: Service, client: OrderClient
) -> None:
    rest.answers.append(REFUSED)
    order = new_order()
    failed = {"status": "NOT ACK", "info": "buy leg failed"}
    assert client.ask(order) == failed
    assert [sent["side"] for sent in rest.orders] == ["Buy"]
    assert client.ask(order) == failed, "asked again, its first answer"
    assert len(rest.orders) == 1
    assert client.open_spreads() == []
    assert "ab not enough for new order" in engine.output
    engine.kill()
    place.start_engine()
    assert client.ask(order) == failed


def test_refused_sell_leg_is_answered_so_and_the_lone_leg_is_said(
    place: Workspace, rest: RestStandIn, engine: Service, client: OrderClient
) -> None:
    rest.answers += [ACCEPTED, REFUSED]
    assert client.ask(new_order()) == {"status": "NOT ACK", "info": "sell leg failed"}
    assert "the bought leg stands alone" in engine.output
    assert client.ask(new_order()) == ACK
    wait_for(lambda: len(Accounts(place).orders) == 1)


@pytest.mark.usefixtures("engine")
def test_unknown_outcome_is_asked_for_with_the_same_link_id(rest: RestStandIn, client: OrderClient) -> None:
    for trouble in (500, 502, None, b"no JSON", b""):
        # The first sending had been taken all the same.
        rest.answers += [trouble, DUPLICATE]
        assert client.ask(new_order()) == ACK, trouble
        first, second, sell = rest.orders
        assert first == second
        assert sell["side"] == "Sell"
        rest.orders.clear()


def test_exchange_that_is_not_there_is_a_failed_leg(
    place: Workspace, rest: RestStandIn, client: OrderClient
) -> None:
    place.start_engine(
        REAL_ORDER_SENDING="true",
        API_KEY="k",
        API_SECRET=SECRET,
        BYBIT_REST_URL="http://127.0.0.1:1",
        **STREAMS,
    )
    assert client.ask(new_order()) == {"status": "NOT ACK", "info": "buy leg failed"}
    assert rest.orders == []


@pytest.mark.usefixtures("engine")
def test_what_is_refused_before_is_not_sent(rest: RestStandIn, client: OrderClient) -> None:
    assert client.ask(new_order(expires_at=1000))["info"] == "expired"
    assert client.ask(new_order(size=1e12))["info"] == "risk limit exceed"
    assert client.ask(new_order(action="Close Spread"))["info"].startswith("invalid order: spread_id")
    assert rest.orders == []


def test_engine_killed_between_the_legs_sends_the_same_order_again_and_stores_it_once(
    place: Workspace, rest: RestStandIn, engine: Service, client: OrderClient
) -> None:
    rest.held.clear()
    order = new_order(size=0.5)
    client.send(order, "asked")
    wait_for(lambda: rest.orders, "the buy leg sent")
    engine.kill()
    rest.held.set()
    rest.answers.append(DUPLICATE)
    place.start_engine()
    client.wait("asked")
    assert client.answer("asked") == ACK
    assert [sent["side"] for sent in rest.orders] == ["Buy", "Buy", "Sell"]
    assert rest.orders[0] == rest.orders[1]
    wait_for(lambda: Accounts(place).orders == [order["order_id"]])
    assert client.open_spreads()[0]["quantity"] == Decimal("0.5")


def test_engine_stays_connected_while_an_order_takes_its_time(
    place: Workspace, rest: RestStandIn, client: OrderClient
) -> None:
    engine = place.start_engine(
        REAL_ORDER_SENDING="1",
        API_KEY="k",
        API_SECRET=SECRET,
        BYBIT_REST_URL=rest.url,
        **STREAMS,
        RABBITMQ_HEARTBEAT="1",
    )
    rest.held.clear()
    client.send(new_order(), "slow")
    # The first sending times out after seconds; more than two heartbeats pass.
    wait_for(lambda: len(rest.orders) == 2, "the leg sent again")
    rest.held.set()
    client.wait("slow")
    assert client.answer("slow") == ACK
    assert engine.output.count("connected to the broker") == 1


def test_secret_stays_out_of_the_log(place: Workspace, rest: RestStandIn, client: OrderClient) -> None:
    engine = place.start_engine(
        REAL_ORDER_SENDING="1",
        API_KEY="key-of-nobody",
        API_SECRET=SECRET,
        BYBIT_REST_URL=rest.url,
        **STREAMS,
        LOG_LEVEL="DEBUG",
    )
    rest.answers += [REFUSED, None, 500, b"no JSON"]
    for _ in range(3):
        client.ask(new_order())
    assert SECRET not in engine.output
    assert "key-of-nobody" not in engine.output
