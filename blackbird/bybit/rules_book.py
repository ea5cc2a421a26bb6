"""The rules of instruments as the exchange has them: https://bybit-exchange.github.io/docs/v5/market/instrument."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from blackbird.bybit.rest import Refusal, Rest, RestError
from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules, not_tradable
from blackbird.trading.orders import Refused

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 3600.0
CHANNELS = frozenset({"spot", "linear"})
# "symbol invalid" on linear and on spot.
UNKNOWN_SYMBOL_CODES = frozenset({10001, 170121})
PERPETUAL = "LinearPerpetual"
# What perpetuals have whose row says it; a leg that is refused for its value leaves the other one alone.
USUAL_LEAST_VALUE = "5"


class RulesBook:
    """What is known of the instruments that were asked for; renewed every hour and on demand."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._rules: dict[Instrument, InstrumentRules] = {}
        self._refreshing: dict[Instrument, asyncio.Task[None]] = {}

    def get(self, instrument: Instrument) -> InstrumentRules | None:
        """Return what is known of an instrument."""
        return self._rules.get(instrument)

    async def require(self, instrument: Instrument) -> InstrumentRules:
        """Return the rules of an instrument.

        Raises Refused with the reply's text for one that no order is sent for, RestError where the exchange
        does not answer.
        """
        known = self._rules.get(instrument)
        return known if known is not None else await self._fetch(instrument)

    def refresh(self, instrument: Instrument) -> None:
        """Fetch the rules of an instrument again; those that are known hold until then."""
        if instrument not in self._refreshing:
            task = asyncio.ensure_future(self._refresh(instrument))
            self._refreshing[instrument] = task
            task.add_done_callback(lambda _: self._refreshing.pop(instrument, None))

    async def run(self) -> None:
        """Renew every hour what is known."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for instrument in list(self._rules):
                await self._refresh(instrument)

    async def _refresh(self, instrument: Instrument) -> None:
        before = self._rules.get(instrument)
        try:
            rules = await self._fetch(instrument)
        except Refused as refused:
            # It is asked for again when an order needs it.
            self._rules.pop(instrument, None)
            logger.warning("%s", refused)
        except RestError as error:
            logger.warning("%s: its rules could not be renewed: %s", instrument, error)
        else:
            if rules != before:
                logger.info("%s has other rules: %s", instrument, rules)

    async def _fetch(self, instrument: Instrument) -> InstrumentRules:
        category, symbol = instrument
        if category not in CHANNELS:
            raise Refused(not_tradable(instrument, "expected spot or linear"))
        try:
            result = await self._rest.call(
                lambda session: session.get_instruments_info(category=category, symbol=symbol)
            )
        except Refusal as refusal:
            if refusal.code in UNKNOWN_SYMBOL_CODES:
                raise Refused(not_tradable(instrument, "unknown to the exchange")) from None
            raise
        rows = result.get("list")
        if not rows:
            # Those that do not trade are not listed.
            raise Refused(not_tradable(instrument, "not listed as trading"))
        self._rules[instrument] = rules = rules_of(instrument, rows[0])
        return rules


def rules_of(instrument: Instrument, row: Mapping[str, Any]) -> InstrumentRules:
    """Return the rules in a row of the exchange; raises Refused for dated and pre-market contracts."""
    if instrument.channel == "linear" and row.get("contractType", PERPETUAL) != PERPETUAL:
        raise Refused(not_tradable(instrument, f"expected a perpetual, was {row['contractType']}"))
    if row.get("isPreListing"):
        raise Refused(not_tradable(instrument, "pre-market trading"))
    try:
        return (
            _spot_rules(instrument, row) if instrument.channel == "spot" else _linear_rules(instrument, row)
        )
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise RestError(
            f"expected the rules of {instrument}, was a row without ({type(error).__name__}: {error})"
        ) from None


def _spot_rules(instrument: Instrument, row: Mapping[str, Any]) -> InstrumentRules:
    lot = row["lotSizeFilter"]
    return InstrumentRules(
        instrument,
        base=row["baseCoin"],
        quote=row["quoteCoin"],
        settle=row["quoteCoin"],
        step=_above_zero(lot["basePrecision"]),
        tick=_above_zero(row["priceFilter"]["tickSize"]),
        least_quantity=_number(lot.get("minOrderQty")),
        most_quantity=_above_zero(lot.get("maxLimitOrderQty") or lot["maxOrderQty"]),
        most_market_quantity=_above_zero(lot.get("maxMarketOrderQty") or lot["maxOrderQty"]),
        least_value=_number(lot.get("minOrderAmt")),
        status=row["status"],
    )


def _linear_rules(instrument: Instrument, row: Mapping[str, Any]) -> InstrumentRules:
    lot = row["lotSizeFilter"]
    return InstrumentRules(
        instrument,
        base=row["baseCoin"],
        quote=row["quoteCoin"],
        settle=row["settleCoin"],
        step=_above_zero(lot["qtyStep"]),
        tick=_above_zero(row["priceFilter"]["tickSize"]),
        least_quantity=_number(lot["minOrderQty"]),
        most_quantity=_above_zero(lot["maxOrderQty"]),
        most_market_quantity=_above_zero(lot.get("maxMktOrderQty") or lot["maxOrderQty"]),
        least_value=_number(lot.get("minNotionalValue") or USUAL_LEAST_VALUE),
        status=row["status"],
    )


def _number(text: str | None) -> Decimal:
    """Return a number that may be missing, or empty, for zero."""
    number = Decimal(text) if text else ZERO
    if not number.is_finite() or number < ZERO:
        raise ValueError(f"expected a number of at least 0, was {text!r}")
    return number


def _above_zero(text: str) -> Decimal:
    number = _number(text)
    if number == ZERO:
        raise ValueError(f"expected a number above 0, was {text!r}")
    return number
