"""What may be ordered of each instrument: ticks, steps, least and most, and the status.

Fields and the values of BTCUSDT: https://bybit-exchange.github.io/docs/v5/market/instrument. Those of the
other instruments are made after them; their quantity steps are those of the sizes in the synthetic books.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.api import ApiError
from local_exchange.private.decimals import plain

if TYPE_CHECKING:
    from local_exchange.source import Source

CATEGORIES = ("spot", "linear")
STATUSES = ("PreLaunch", "Trading", "Delivering", "Closed")
_SYMBOL = re.compile(r"(?P<base>[A-Z0-9]+?)(?P<quote>USDT|USDC|PERP)")
TICKS = {"BTC": "0.1", "ETH": "0.01"}


@dataclass
class InstrumentRules:
    """The rules of one instrument; quantities are in base coin."""

    category: str
    symbol: str
    base: str
    quote: str
    tick: Decimal
    step: Decimal
    least_qty: Decimal
    least_value: Decimal
    most_limit_qty: Decimal
    most_market_qty: Decimal
    # How far from the market a limit price may be, as a fraction.
    price_ratio: Decimal
    # Step of a quantity in quote coin.
    quote_step: Decimal = Decimal("0.0000001")
    status: str = "Trading"

    @property
    def is_usdc_perpetual(self) -> bool:
        """Whether it is settled in USDC; such a contract is traded in one-way mode only."""
        return self.category == "linear" and self.quote == "USDC"

    def row(self) -> dict[str, Any]:
        """Return the row of `/v5/market/instruments-info`."""
        ratio = {
            "priceLimitRatioX": plain(self.price_ratio),
            "priceLimitRatioY": plain(2 * self.price_ratio),
        }
        common = {
            "symbol": self.symbol,
            "status": self.status,
            "baseCoin": self.base,
            "quoteCoin": self.quote,
            "symbolType": "",
        }
        return {**common, **(self._spot() if self.category == "spot" else self._linear())} | {
            "riskParameters": ratio
        }

    def _spot(self) -> dict[str, Any]:
        return {
            "innovation": "0",
            "marginTrading": "utaOnly",
            "stTag": "0",
            "lotSizeFilter": {
                "basePrecision": str(self.step),
                "quotePrecision": f"{self.quote_step:f}",
                "minOrderQty": str(self.least_qty),
                "maxOrderQty": str(self.most_limit_qty),
                "minOrderAmt": str(self.least_value),
                "maxOrderAmt": "8000000",
                "maxLimitOrderQty": str(self.most_limit_qty),
                "maxMarketOrderQty": str(self.most_market_qty),
                "postOnlyMaxLimitOrderSize": "60000",
            },
            "priceFilter": {"tickSize": str(self.tick)},
        }

    def _linear(self) -> dict[str, Any]:
        return {
            "contractType": "LinearPerpetual",
            "launchTime": "1585526400000",
            "deliveryTime": "0",
            "deliveryFeeRate": "",
            "priceScale": "2",
            "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
            "priceFilter": {
                "minPrice": f"{self.tick:f}",
                "maxPrice": "1999999.80",
                "tickSize": f"{self.tick:f}",
            },
            "lotSizeFilter": {
                "maxOrderQty": str(self.most_limit_qty),
                "minOrderQty": str(self.least_qty),
                "qtyStep": str(self.step),
                "postOnlyMaxOrderQty": str(self.most_limit_qty),
                "maxMktOrderQty": str(self.most_market_qty),
                "minNotionalValue": str(self.least_value),
            },
            "unifiedMarginTrade": True,
            "fundingInterval": 480,
            "settleCoin": self.quote,
            "copyTrading": "none",
            "upperFundingRate": "0.00375",
            "lowerFundingRate": "-0.00375",
            "isPreListing": False,
            "preListingInfo": None,
        }


def default_rules(category: str, symbol: str) -> InstrumentRules | None:
    """Return the rules of an instrument, None where the symbol is not one of a coin against USDT or USDC."""
    parts = _SYMBOL.fullmatch(symbol)
    if category not in CATEGORIES or parts is None:
        return None
    base, quote = parts["base"], parts["quote"]
    tick = TICKS.get(base, "0.01")
    if category == "spot":
        if quote == "PERP":
            return None
        return InstrumentRules(
            category,
            symbol,
            base,
            quote,
            tick=Decimal(tick),
            step=Decimal("0.000001"),
            least_qty=Decimal("0.000011"),
            least_value=Decimal(5),
            most_limit_qty=Decimal(83) if base == "BTC" else Decimal(100_000),
            most_market_qty=Decimal("41.5") if base == "BTC" else Decimal(50_000),
            price_ratio=Decimal("0.005"),
        )
    return InstrumentRules(
        category,
        symbol,
        base,
        "USDC" if quote == "PERP" else quote,
        tick=Decimal(tick).quantize(Decimal("0.01")),
        step=Decimal("0.001"),
        least_qty=Decimal("0.001"),
        least_value=Decimal(5),
        most_limit_qty=Decimal("1190.000") if base == "BTC" else Decimal("100000.000"),
        most_market_qty=Decimal("500.000") if base == "BTC" else Decimal("50000.000"),
        price_ratio=Decimal("0.01"),
    )


class RuleBook:
    """The rules of all instruments that a source has."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rules: dict[tuple[str, str], InstrumentRules] = {}

    def find(self, category: str, symbol: str) -> InstrumentRules | None:
        """Return the rules of an instrument, None where there is no such instrument."""
        key = (category, symbol)
        if key not in self._source.instruments:
            return None
        if key not in self._rules:
            rules = default_rules(category, symbol)
            if rules is None:
                return None
            self._rules[key] = rules
        return self._rules[key]

    def of(self, category: str, symbol: str) -> InstrumentRules:
        """Return the rules of an instrument.

        Raises:
            ApiError: there is no such instrument, or no such category here.
        """
        if category not in CATEGORIES:
            # Not confirmed.
            raise ApiError(10001, "params error: category invalid")
        rules = self.find(category, symbol)
        if rules is None and category == "spot":
            raise ApiError(170121, "Invalid symbol.")
        if rules is None:
            raise ApiError(10001, "symbol invalid")
        return rules

    def reset(self) -> None:
        """Give every instrument its first rules again."""
        self._rules.clear()

    def listed(self, category: str) -> list[InstrumentRules]:
        """Return the rules of all instruments of a category."""
        found = [self.find(channel, symbol) for channel, symbol in list(self._source.instruments)]
        return [rules for rules in found if rules is not None and rules.category == category]
