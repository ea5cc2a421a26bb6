"""What a reply to an order proves, where no exchange answers so."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from blackbird.bybit.leg_orders import LegOrders, Sent, classify
from blackbird.bybit.rest import Call, HttpFailure, NoAnswer, NotSent, Refusal, RestError
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import LegOrder, LegRefused, Taken, Unknown

ORDER = LegOrder("1f3c9a7e-1-b1", Instrument("spot", "BTCUSDT"), "Buy", Decimal(1), limit=Decimal(5))


class Rest:
    """Answers everything with one result."""

    is_banned = False

    def __init__(self, result: dict[str, Any]) -> None:
        self._result = result

    async def call(self, _call: Call) -> dict[str, Any]:
        return self._result


def sent(result: dict[str, Any]) -> Sent:
    async def main() -> Sent:
        orders = LegOrders(
            Rest(result),
            now=lambda: 1,
            clock_offset=lambda: 0,
            rules=lambda _: None,
            on_rules_refused=lambda _: None,
            per_second={"spot": 1, "linear": 1},
        )
        return await orders.send(ORDER, None)

    return asyncio.run(main())


def test_acceptance_names_the_order_that_was_sent() -> None:
    assert sent({"orderId": "7", "orderLinkId": ORDER.link_id}) == Taken(ORDER.link_id, "7")


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"orderId": "7"},
        {"orderId": "7", "orderLinkId": "1f3c9a7e-2-b1"},
        {"orderId": "", "orderLinkId": ORDER.link_id},
        {"orderId": 7, "orderLinkId": ORDER.link_id},
    ],
)
def test_acceptance_of_another_order_proves_nothing(result: dict[str, Any]) -> None:
    assert isinstance(sent(result), Unknown)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotSent("no connection"), LegRefused),
        (NoAnswer("timeout"), Unknown),
        (Refusal(170131, "Insufficient balance."), LegRefused),
        (Refusal(10006, "Too many visits."), Unknown),
        (Refusal(0, ""), Unknown),
        (Refusal(170141, "Duplicate clientOrderId"), Taken),
        (Refusal(110072, "OrderLinkedID is duplicate"), Taken),
        (HttpFailure(404), LegRefused),
        (HttpFailure(408), Unknown),
        (HttpFailure(503), Unknown),
        (RestError("anything else"), Unknown),
    ],
)
def test_only_what_is_proven_is_a_refusal(error: RestError, kind: type[Any]) -> None:
    assert isinstance(classify("a", error), kind)
