"""The rules in rows of the exchange, and rows that are not fit for trading."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from blackbird.bybit.rest import RestError
from blackbird.bybit.rules_book import rules_of
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import Refused

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "1000PEPEUSDT")


def spot_row(**lot: str | None) -> dict[str, Any]:
    filters = {
        "basePrecision": "0.000001",
        "minOrderQty": "0.000011",
        "minOrderAmt": "5",
        "maxLimitOrderQty": "83",
        "maxMarketOrderQty": "41.5",
        **lot,
    }
    return {
        "symbol": "BTCUSDT",
        "baseCoin": "BTC",
        "quoteCoin": "USDT",
        "status": "Trading",
        "lotSizeFilter": {name: value for name, value in filters.items() if value is not None},
        "priceFilter": {"tickSize": "0.1"},
    }


def linear_row(**changes: Any) -> dict[str, Any]:
    return {
        "symbol": "1000PEPEUSDT",
        "contractType": "LinearPerpetual",
        "baseCoin": "1000PEPE",
        "quoteCoin": "USDT",
        "settleCoin": "USDT",
        "status": "Trading",
        "lotSizeFilter": {
            "qtyStep": "100",
            "minOrderQty": "100",
            "maxOrderQty": "37000000",
            "maxMktOrderQty": "5000000",
            "minNotionalValue": "5",
        },
        "priceFilter": {"tickSize": "0.0000001"},
        **changes,
    }


def test_both_channels_have_the_same_rules_under_other_names() -> None:
    spot, linear = rules_of(SPOT, spot_row()), rules_of(PERP, linear_row())
    assert (spot.step, spot.tick, spot.least_quantity, spot.least_value) == (
        *(Decimal("0.000001"), Decimal("0.1")),
        *(Decimal("0.000011"), Decimal(5)),
    )
    assert (spot.most_quantity, spot.most_market_quantity) == (Decimal(83), Decimal("41.5"))
    assert (spot.settle, linear.settle) == ("USDT", "USDT")
    assert (linear.base, linear.step, linear.least_quantity) == ("1000PEPE", Decimal(100), Decimal(100))
    assert (linear.most_quantity, linear.most_market_quantity) == (
        Decimal(37_000_000),
        Decimal(5_000_000),
    )


def test_filters_that_are_going_out_of_use_may_be_missing() -> None:
    old = rules_of(SPOT, spot_row(maxLimitOrderQty=None, maxMarketOrderQty=None, maxOrderQty="71"))
    assert (old.most_quantity, old.most_market_quantity) == (Decimal(71), Decimal(71))
    assert rules_of(SPOT, spot_row(minOrderQty="", minOrderAmt=None)).least_value == 0
    lot = {**linear_row()["lotSizeFilter"], "minNotionalValue": ""}
    assert rules_of(PERP, linear_row(lotSizeFilter=lot)).least_value == 5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"contractType": "LinearFutures"}, "expected a perpetual, was LinearFutures"),
        ({"isPreListing": True}, "pre-market trading"),
    ],
)
def test_contract_that_ends_or_has_not_begun_is_not_traded(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=f"^instrument not tradable: linear:1000PEPEUSDT: {why}$"):
        rules_of(PERP, linear_row(**changes))


@pytest.mark.parametrize(
    "row",
    [
        {},
        spot_row(basePrecision="0"),
        spot_row(basePrecision="-1"),
        spot_row(basePrecision="NaN"),
        spot_row(basePrecision="many"),
        spot_row(basePrecision=None),
        {**spot_row(), "priceFilter": None},
        {**spot_row(), "lotSizeFilter": []},
    ],
)
def test_row_of_another_shape_is_an_error(row: dict[str, Any]) -> None:
    with pytest.raises(RestError, match=r"^expected the rules of spot:BTCUSDT"):
        rules_of(SPOT, row)
