"""What is decided on a request of the `orders` queue."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pika.spec import BasicProperties

from blackbird.engine.requests import CRASHED, Decision, Request, decide
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import QUESTION, LeftoverRequest, Order, Reply, encode_leftover_request
from blackbird.trading.records import Execution, Record, Refusal

ORDER: dict[str, Any] = {
    "action": "Open Spread",
    "buy": ["linear", "BTCPERP"],
    "buy_price": 99,
    "sell": ["spot", "BTCUSDT"],
    "sell_price": 101,
    "size": 1,
    "ts_buy": 1,
    "ts_sell": 1,
}
PLACED = Reply("ACK", "order placed")


class CrashingEngine(TradingEngine):
    """Crashes on orders of size 666."""

    def execute(self, order: Order, request_key: str | None = None) -> Record:
        if order.size == 666:
            raise ZeroDivisionError
        return super().execute(order, request_key)


@pytest.fixture
def engine() -> TradingEngine:
    return CrashingEngine(limit=Decimal(1000), unique_order=False, clock=lambda: 1000)


def request(
    body: bytes, *, redelivered: bool = False, reply_to: str = "q", correlation_id: str = "c"
) -> Request:
    properties = BasicProperties(reply_to=reply_to, correlation_id=correlation_id)
    return Request(1, redelivered, properties, body)


def order_request(**changes: Any) -> Request:
    about = {name: changes.pop(name) for name in ("redelivered", "correlation_id") if name in changes}
    return request(msgspec.json.encode({**ORDER, **changes}), **about)


def nothing_decided(decision: Decision) -> bool:
    return decision.record is None and decision.order is None


def test_new_order_is_executed_and_recorded(engine: TradingEngine) -> None:
    decision = decide(engine, order_request(order_id="o"))
    assert decision.reply == PLACED
    assert isinstance(decision.record, Execution)
    assert decision.order == msgspec.structs.replace(decision.record.order, spread_id=None)
    assert decision.dead_letter is None


def test_refused_order_is_recorded_with_its_reason(engine: TradingEngine) -> None:
    decision = decide(engine, order_request(order_id="o", size=11))
    assert decision.reply == Reply("NOT ACK", "risk limit exceed")
    assert isinstance(decision.record, Refusal)


@pytest.mark.parametrize("changes", [{}, {"size": 11}, {"size": 666, "redelivered": True}])
def test_known_order_gets_its_first_answer_and_no_record(
    engine: TradingEngine, changes: dict[str, Any]
) -> None:
    first = decide(engine, order_request(order_id="o", **changes))
    again = decide(engine, order_request(order_id="o", buy_price=1))
    assert again.reply == first.reply
    assert nothing_decided(again)
    assert len(engine.spreads) == (1 if first.reply == PLACED else 0)


def test_redelivered_request_without_an_order_id_gets_its_first_answer(engine: TradingEngine) -> None:
    assert decide(engine, order_request(correlation_id="1")).reply == PLACED
    again = decide(engine, order_request(correlation_id="1", redelivered=True))
    assert again.reply == PLACED
    assert nothing_decided(again)
    assert len(engine.spreads) == 1


@pytest.mark.parametrize("about", [{"correlation_id": "2", "redelivered": True}, {"correlation_id": "1"}])
def test_other_request_with_the_same_order_is_a_new_order(
    engine: TradingEngine, about: dict[str, Any]
) -> None:
    decide(engine, order_request(correlation_id="1"))
    assert isinstance(decide(engine, order_request(**about)).record, Execution)
    assert len(engine.spreads) == 2


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "body: expected JSON, was not"),
        (b"[]", "body: expected an object, was list"),
        (msgspec.json.encode({**ORDER, "size": 0}), "size: expected a finite number above zero, was 0"),
    ],
)
def test_body_that_is_not_an_order_is_answered_and_dead_lettered_with_the_reason(
    engine: TradingEngine, body: bytes, why: str
) -> None:
    decision = decide(engine, request(body))
    assert decision.dead_letter is not None
    assert decision.dead_letter.startswith(why)
    assert decision.reply == Reply("NOT ACK", f"invalid order: {decision.dead_letter}")
    assert nothing_decided(decision)


def test_question_is_answered_with_the_open_spreads(engine: TradingEngine) -> None:
    decide(engine, order_request(spread_id="s"))
    decision = decide(engine, request(QUESTION))
    assert decision.reply == Reply("ACK", "open spreads", engine.spreads.listed())
    assert nothing_decided(decision)


def test_leftover_that_is_unknown_is_not_resolved(engine: TradingEngine) -> None:
    decision = decide(engine, request(encode_leftover_request(LeftoverRequest("trade", 1))))
    assert decision.reply == Reply("NOT ACK", "invalid order: leftover: expected an open one, was unknown")
    assert nothing_decided(decision)


def test_order_that_crashes_the_engine_raises_at_first(engine: TradingEngine) -> None:
    with pytest.raises(ZeroDivisionError):
        decide(engine, order_request(size=666))
    assert engine.orders == {}


@pytest.mark.parametrize("identifier", ["o", None])
def test_redelivered_order_that_crashes_the_engine_is_refused_and_dead_lettered(
    engine: TradingEngine, identifier: str | None
) -> None:
    crashing = order_request(size=666, order_id=identifier, redelivered=True)
    decision = decide(engine, crashing)
    assert decision.reply == Reply("NOT ACK", "internal error")
    assert decision.dead_letter == CRASHED
    assert isinstance(decision.record, Refusal)
    assert decision.record.info == "internal error"
    assert decide(engine, crashing).reply == decision.reply
