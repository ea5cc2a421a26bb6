"""Orders of legs: real pybit against the account of the local exchange, with its faults."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from blackbird.bybit.leg_orders import DUPLICATE_CODES, REFUSAL_CODES, LegOrders, Sent, order_body
from blackbird.bybit.rest import Credentials, Rest
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leg_order import LegOrder, LegRefused, Taken, Unknown
from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import KEY, SECRET, Trader

PERP = Instrument("linear", "BTCPERP")
SPOT = Instrument("spot", "BTCUSDT")
UNLIMITED = (
    *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
    *("--lookups-per-second", "0", "--ip-requests", "0"),
)
BIDS = [["63999.0", "0.100"], ["63998.0", "0.200"], ["63000.0", "9.000"]]
ASKS = [["64001.0", "0.100"], ["64002.0", "0.200"], ["65000.0", "9.000"]]
Message = dict[str, Any]


@pytest.fixture(scope="module")
def quiet() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "0", *UNLIMITED) as exchange:
        yield exchange


@pytest.fixture
def exchange(quiet: ExchangeProcess) -> Iterator[ExchangeProcess]:
    trader = Trader(quiet)
    for category in ("linear", "spot"):
        trader.set_book(category, BIDS, ASKS)
    yield quiet
    quiet.fault("clear")
    trader.set_book("linear", BIDS, ASKS)
    trader.flatten()


def rules_of(instrument: Instrument) -> InstrumentRules:
    one = Decimal(1)
    return InstrumentRules(
        instrument, "BTC", "USDC", "USDC", Decimal("0.001"), Decimal("0.1"), one, one, one, one
    )


class Sender:
    """LegOrders on a loop of its own."""

    def __init__(self, url: str, *, offset: int = 0, api_key: str = KEY, timeout: float = 2.0) -> None:
        self.refused_rules: list[Instrument] = []
        self._url, self._offset, self._key, self._timeout = url, offset, api_key, timeout

    def run(self, work: Callable[[LegOrders], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            rest = Rest(self._url, Credentials(self._key, SECRET), timeout=self._timeout)
            return await work(
                LegOrders(
                    rest,
                    now=milliseconds,
                    clock_offset=lambda: self._offset,
                    rules=rules_of,
                    on_rules_refused=self.refused_rules.append,
                    per_second={"linear": 10, "spot": 20},
                )
            )

        return asyncio.run(main())

    def send(self, order: LegOrder, expires_in: int | None = 2000) -> Sent:
        expires_at = None if expires_in is None else milliseconds() + expires_in
        result: Sent = self.run(lambda orders: orders.send(order, expires_at))
        return result


def leg_order(link_id: str, instrument: Instrument = PERP, quantity: str = "0.01", **other: Any) -> LegOrder:
    given = {"side": "Buy", "limit": Decimal(64010), **other}
    return LegOrder(link_id, instrument, quantity=Decimal(quantity), **given)


def market_order(link_id: str, instrument: Instrument, **other: Any) -> LegOrder:
    return leg_order(link_id, instrument, limit=None, slippage_percent=Decimal("0.1"), **other)


def received(exchange: ExchangeProcess, link_id: str) -> list[Message]:
    return [one for one in exchange.get("/orders") if one["link_id"] == link_id]


def test_orders_are_sent_as_the_exchange_expects_them() -> None:
    common = {"qty": "0.01", "side": "Buy"}
    assert order_body(leg_order("a", quantity="0.0100", reduce_only=True)) == {
        **common,
        "category": "linear",
        "symbol": "BTCPERP",
        "orderType": "Limit",
        "price": "64010",
        "timeInForce": "IOC",
        "positionIdx": 0,
        "reduceOnly": True,
        "orderLinkId": "a",
    }
    assert order_body(leg_order("b", SPOT)) == {
        **common,
        "category": "spot",
        "symbol": "BTCUSDT",
        "orderType": "Limit",
        "price": "64010",
        "timeInForce": "IOC",
        "isLeverage": 0,
        "orderLinkId": "b",
    }
    assert order_body(market_order("c", SPOT)) == {
        **common,
        "category": "spot",
        "symbol": "BTCUSDT",
        "orderType": "Market",
        "marketUnit": "baseCoin",
        "slippageToleranceType": "Percent",
        "slippageTolerance": "0.1",
        "isLeverage": 0,
        "orderLinkId": "c",
    }


@pytest.mark.parametrize("kind", ["limit", "market"])
@pytest.mark.parametrize("leg", [PERP, SPOT])
def test_order_is_taken_and_filled(exchange: ExchangeProcess, leg: Instrument, kind: str) -> None:
    make = leg_order if kind == "limit" else market_order
    order = make(f"taken-{leg.channel}-{kind}", leg)
    sent = Sender(exchange.rest_url).send(order)
    assert isinstance(sent, Taken)
    trader = Trader(exchange)
    row = trader.row(leg.channel, sent.order_id)
    assert (row["orderLinkId"], Decimal(row["cumExecQty"])) == (order.link_id, Decimal("0.01"))
    assert Sender(exchange.rest_url).send(order) == Taken(order.link_id), "a duplicate proves the first"


def test_refusal_with_a_proven_code_is_one_and_asks_for_new_rules(exchange: ExchangeProcess) -> None:
    sender = Sender(exchange.rest_url)
    sent = sender.send(leg_order("refused-1", quantity="0.0105"))
    assert isinstance(sent, LegRefused)
    assert (sent.code, sender.refused_rules) == (10001, [PERP])
    exchange.fault("refuse", code=110007, text="ab not enough for new order", count=1)
    sent = sender.send(leg_order("refused-2"))
    assert sent == LegRefused("refused-2", 110007, "ab not enough for new order (110007)")
    assert sender.refused_rules == [PERP]


@pytest.mark.parametrize("code", sorted({10000, 10016, 10019, 20003, 170007, 170035, 500000, 999, -1}))
def test_code_that_proves_nothing_is_unknown(exchange: ExchangeProcess, code: int) -> None:
    assert code not in REFUSAL_CODES | DUPLICATE_CODES
    exchange.fault("refuse", code=code, count=1)
    assert isinstance(Sender(exchange.rest_url).send(leg_order(f"code-{code}")), Unknown)


@pytest.mark.parametrize("fault", ["not_json", "json_list", "json_null", "empty_object"])
def test_reply_of_another_shape_is_unknown(exchange: ExchangeProcess, fault: str) -> None:
    exchange.fault(fault, count=1)
    order = leg_order(f"shape-{fault}")
    assert isinstance(Sender(exchange.rest_url).send(order), Unknown)
    assert Sender(exchange.rest_url).send(order) == Taken(order.link_id), "it had been taken"


@pytest.mark.parametrize("status", [408, 409, 418, 429, 500, 502, 503])
def test_http_status_that_proves_nothing_is_unknown(exchange: ExchangeProcess, status: int) -> None:
    exchange.fault("http", status=status, taken=True, count=1)
    assert isinstance(Sender(exchange.rest_url).send(leg_order(f"status-{status}")), Unknown)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_http_status_that_proves_a_refusal_is_one(exchange: ExchangeProcess, status: int) -> None:
    exchange.fault("http", status=status, taken=False, count=1)
    sent = Sender(exchange.rest_url).send(leg_order(f"status-{status}"))
    assert sent == LegRefused(f"status-{status}", status, f"HTTP status {status}")


@pytest.mark.parametrize("how", ["close", "hang"])
@pytest.mark.parametrize("fault", ["lost_reply", "lost_request"])
def test_order_without_a_reply_is_unknown(exchange: ExchangeProcess, fault: str, how: str) -> None:
    exchange.fault(fault, how=how, count=1)
    order = leg_order(f"{fault}-{how}")
    assert isinstance(Sender(exchange.rest_url, timeout=0.3).send(order), Unknown)
    was_taken = fault == "lost_reply"
    assert (Sender(exchange.rest_url).send(order) == Taken(order.link_id)) is was_taken


def test_exchange_that_cannot_be_reached_has_nothing() -> None:
    sent = Sender("http://127.0.0.1:1").send(leg_order("nowhere"))
    assert sent == LegRefused("nowhere", 0, "no connection to http://127.0.0.1:1")


def test_window_of_an_order_ends_with_its_expiry(exchange: ExchangeProcess) -> None:
    assert Sender(exchange.rest_url).send(leg_order("late"), expires_in=-1) == LegRefused(
        "late", 0, "expired"
    )
    assert received(exchange, "late") == []
    Sender(exchange.rest_url).send(leg_order("in-time"), expires_in=700)
    [one] = received(exchange, "in-time")
    assert 0 < one["recv_window"] <= 700
    Sender(exchange.rest_url).send(leg_order("long"), expires_in=60_000)
    assert received(exchange, "long")[0]["recv_window"] == 2000
    # Measured by the exchange's clock.
    Sender(exchange.rest_url, offset=300).send(leg_order("behind"), expires_in=60_000)
    assert received(exchange, "behind")[0]["recv_window"] == 2300
    sent = Sender(exchange.rest_url, offset=-900).send(leg_order("ahead"), expires_in=500)
    assert sent == LegRefused("ahead", 0, "expired")


def test_request_that_is_stuck_beyond_its_window_is_refused_by_the_exchange(
    exchange: ExchangeProcess,
) -> None:
    exchange.fault("clock", ms=900)
    sent = Sender(exchange.rest_url).send(leg_order("stuck"), expires_in=400)
    assert isinstance(sent, LegRefused)
    assert sent.code == 10002


@pytest.mark.parametrize("header", ["with", "without", "past"])
def test_rate_limit_proves_nothing_and_holds_up_the_orders_that_follow(
    exchange: ExchangeProcess, header: str
) -> None:
    exchange.fault("rate_limit", header=header, count=1)

    async def work(orders: LegOrders) -> tuple[Sent, bool, bool, float]:
        sent = await orders.send(leg_order(f"rate-{header}"), None)
        started = time.monotonic()
        linear, spot = orders.take_room([PERP]), orders.take_room([SPOT])
        await orders.wait_for_room([PERP])
        return sent, linear, spot, time.monotonic() - started

    sent, linear, spot, waited = Sender(exchange.rest_url).run(work)
    assert isinstance(sent, Unknown)
    assert (linear, spot) == (False, True)
    assert waited > 0.5


def test_opens_stay_within_the_rates_and_leave_room_for_closes() -> None:
    async def work(orders: LegOrders) -> tuple[list[bool], bool]:
        taken = [orders.take_room([PERP, SPOT]) for _ in range(9)]
        await orders.wait_for_room([PERP])
        return taken, orders.take_room([SPOT])

    taken, spot = Sender("http://127.0.0.1:1").run(work)
    assert taken == [True] * 8 + [False]
    assert spot, "what found no room on linear took none on spot"


def test_refused_slippage_is_sent_as_a_limit_from_the_best_price(exchange: ExchangeProcess) -> None:
    exchange.fault("refuse", code=110109, text="slippage tolerance invalid", count=1)
    order = market_order("slip-1", PERP, side="Sell")
    assert isinstance(Sender(exchange.rest_url).send(order, None), Taken)
    _, limit = received(exchange, "slip-1")
    # 0.1 % below the best bid of 63999, on the tick.
    assert (limit["body"]["orderType"], limit["body"]["price"]) == ("Limit", "63935")
    assert limit["body"]["timeInForce"] == "IOC"


def test_ban_of_the_address_stops_everything_without_sending(exchange: ExchangeProcess) -> None:
    exchange.fault("http", status=403, count=1)

    async def work(orders: LegOrders) -> tuple[Sent, str | None, Sent]:
        first = await orders.send(leg_order("ban-1"), None)
        return first, orders.trouble, await orders.send(leg_order("ban-2"), None)

    first, trouble, second = Sender(exchange.rest_url).run(work)
    assert first == LegRefused("ban-1", 403, "HTTP status 403")
    assert trouble == "banned by the exchange"
    assert isinstance(second, LegRefused)
    assert received(exchange, "ban-2") == []


def test_slow_reply_of_one_leg_does_not_delay_the_other(exchange: ExchangeProcess) -> None:
    exchange.fault("slow_reply", ms=1000, symbol="BTCPERP", count=1)

    async def work(orders: LegOrders) -> list[str]:
        answered: list[str] = []

        async def send(order: LegOrder) -> None:
            assert isinstance(await orders.send(order, None), Taken)
            answered.append(order.link_id)

        await asyncio.gather(send(leg_order("slow-1")), send(leg_order("slow-2", SPOT)))
        return answered

    assert Sender(exchange.rest_url).run(work) == ["slow-2", "slow-1"]


@pytest.mark.parametrize("key", [KEY, "key-of-another"])
def test_no_secret_is_in_a_log_or_a_reason(
    exchange: ExchangeProcess, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.DEBUG)
    text = f"error sign! origin_string[1700000000000{key}2000{{}}]"
    if key == KEY:
        exchange.fault("refuse", code=10004, text=text, count=1)
    sent = Sender(exchange.rest_url, api_key=key).send(leg_order("secret"))
    assert isinstance(sent, LegRefused)
    assert sent.code == (10004 if key == KEY else 10003)
    shown = caplog.text + msgspec.json.encode(sent).decode()
    assert "secret" in shown, "the order's own link id"
    assert key not in shown
    assert SECRET not in shown
    assert SECRET not in repr(Credentials(KEY, SECRET))
