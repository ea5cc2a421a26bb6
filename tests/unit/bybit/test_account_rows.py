"""Rows of the account, as the exchange has been seen to send them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from blackbird.bybit.account_rows import (
    InvalidRow,
    base_fee_rate,
    read_fill,
    read_order,
    read_position,
    read_wallets,
)
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import Fill, Final, Taken

SPOT_BUY = {
    "category": "spot",
    "symbol": "BTCUSDT",
    "execFee": "0.000000081",
    "execId": "e1",
    "execPrice": "64840.8",
    "execQty": "0.000081",
    "execType": "Trade",
    "feeRate": "0.001",
    "orderLinkId": "l1",
    "side": "Buy",
    "execTime": "1766600379876",
    "extraFees": "",
    "feeCurrency": "BTC",
}
TAXED = {
    "category": "linear",
    "symbol": "SOLUSDT",
    "execFee": "0.0256322",
    "execId": "e2",
    "execPrice": "233.02",
    "execQty": "0.2",
    "execType": "Trade",
    "feeRate": "0.00055",
    "orderLinkId": "l2",
    "side": "Buy",
    "execTime": "1759432560940",
    "feeCurrency": "USDT",
    "extraFees": [{"feeCoin": "USDT", "feeType": "GST", "feeRate": "0.000099", "fee": "0.004613796"}],
}


def order_row(status: str, filled: str) -> dict[str, Any]:
    return {"orderLinkId": "l1", "orderId": "7", "orderStatus": status, "cumExecQty": filled}


@pytest.mark.parametrize(
    ("row", "event"),
    [
        (order_row("New", "0"), Taken("l1", "7")),
        (order_row("PartiallyFilled", "0.1"), Taken("l1", "7")),
        (order_row("Filled", "194.10"), Final("l1", Decimal("194.1"))),
        (order_row("Cancelled", "0"), Final("l1", Decimal(0))),
        (order_row("PartiallyFilledCanceled", "0.000306"), Final("l1", Decimal("0.000306"))),
        (order_row("Rejected", "0.5"), Final("l1", Decimal("0.5"))),
        (order_row("Rejected", ""), Final("l1", Decimal(0))),
    ],
)
def test_order_is_over_by_its_status_and_filled_by_its_quantity(
    row: dict[str, Any], event: Taken | Final
) -> None:
    assert read_order(row) == event


def test_spot_buy_pays_its_fee_in_what_it_buys() -> None:
    assert read_fill(SPOT_BUY, "spot", "USDT") == Fill(
        exec_id="e1",
        link_id="l1",
        instrument=Instrument("spot", "BTCUSDT"),
        side="Buy",
        price=Decimal("64840.8"),
        quantity=Decimal("0.000081"),
        fee=Decimal("0.000000081"),
        fee_coin="BTC",
        time=1766600379876,
    )
    assert base_fee_rate(SPOT_BUY, "BTC") == Decimal("0.001")
    assert base_fee_rate({**SPOT_BUY, "feeCurrency": "MNT"}, "BTC") == 0
    # A rebate of a maker adds to what was bought, and is not counted on.
    assert base_fee_rate({**SPOT_BUY, "feeRate": "-0.0001"}, "BTC") == 0


def test_taxes_come_on_top_and_a_missing_fee_coin_is_that_of_the_settlement() -> None:
    assert read_fill(TAXED, "linear", "USDT").fee == Decimal("0.030245996")
    old = {**TAXED, "feeCurrency": "", "extraFees": ""}
    assert read_fill(old, "linear", "USDC").fee_coin == "USDC"
    other = [{"feeCoin": "USDC", "fee": "1"}]
    assert read_fill({**TAXED, "extraFees": other}, "linear", "USDT").fee == Decimal("0.0256322")


def test_wallets_are_free_of_what_is_set_aside_and_borrowed() -> None:
    coin = {"coin": "BTC", "walletBalance": "1.5", "locked": "0.25", "spotBorrow": "0.5", "equity": ""}
    [wallet] = read_wallets({"coin": [coin]})
    assert (wallet.coin, wallet.free) == ("BTC", Decimal("0.75"))
    assert read_wallets({"coin": [{"coin": "X", "walletBalance": ""}]})[0].free == 0


@pytest.mark.parametrize(("side", "size"), [("Buy", "0.2"), ("Sell", "-0.2"), ("", "0.2")])
def test_side_gives_the_sign_of_a_position(side: str, size: str) -> None:
    row = {"symbol": "BTCPERP", "positionIdx": 0, "side": side, "size": "0.2"}
    assert read_position(row).size == Decimal(size)


@pytest.mark.parametrize("broken", [{}, {"orderLinkId": "l1", "orderStatus": "Filled", "cumExecQty": "x"}])
def test_row_of_another_shape_is_an_error(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidRow):
        read_order(broken)
    with pytest.raises(InvalidRow):
        read_fill({**TAXED, "execQty": "x"} if broken else {}, "linear", "USDT")
    with pytest.raises(InvalidRow):
        read_wallets({"coin": [broken]} if broken else {})
    with pytest.raises(InvalidRow):
        read_position(broken)
