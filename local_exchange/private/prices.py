"""Prices of the exchange's own books."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_exchange.instrument import Instrument
    from local_exchange.private.rules import InstrumentRules
    from local_exchange.source import Source

DOLLARS = {"USDT", "USDC", "USD"}


class Prices:
    """What the instruments of a source cost now."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last: dict[tuple[str, str], Decimal] = {}

    def instrument(self, category: str, symbol: str) -> Instrument:
        """Return an instrument of the source; raises KeyError where there is no such instrument."""
        return self._source.instruments[category, symbol]

    def best(self, category: str, symbol: str, *, bid: bool) -> Decimal | None:
        """Return the best price of one side, None where it is empty."""
        for _, price, _ in self.instrument(category, symbol).side(bid=bid).sizes():
            return Decimal(price)
        return None

    def last(self, category: str, symbol: str) -> Decimal:
        """Return the price of the last trade; the middle of the book where we have not traded.

        It is the mark and the index price, too.
        """
        key = (category, symbol)
        bid, ask = self.best(*key, bid=True), self.best(*key, bid=False)
        if bid is not None and ask is not None:
            return (bid + ask) / 2
        return bid or ask or self._last.get(key, Decimal(0))

    def traded(self, category: str, symbol: str, price: Decimal) -> None:
        """Note a trade; its price holds while the book is empty."""
        self._last[category, symbol] = price

    def dollars(self, coin: str) -> Decimal:
        """Return what one coin is worth in USD, 0 where no spot market says so."""
        if coin in DOLLARS:
            return Decimal(1)
        key = ("spot", f"{coin}USDT")
        return self.last(*key) if key in self._source.instruments else Decimal(0)

    def ticker(self, rules: InstrumentRules) -> dict[str, Any]:
        """Return the row of `/v5/market/tickers`; what a market without history has not is empty or 0.

        https://bybit-exchange.github.io/docs/v5/market/tickers
        """
        instrument = self.instrument(rules.category, rules.symbol)
        best = [next(instrument.side(bid=bid).sizes(), (0.0, "", "")) for bid in (True, False)]
        last = f"{self.last(rules.category, rules.symbol).quantize(rules.tick):f}"
        row = {
            "symbol": rules.symbol,
            "bid1Price": best[0][1],
            "bid1Size": best[0][2],
            "ask1Price": best[1][1],
            "ask1Size": best[1][2],
            "lastPrice": last,
            "prevPrice24h": last,
            "price24hPcnt": "0",
            "highPrice24h": last,
            "lowPrice24h": last,
            "turnover24h": "0",
            "volume24h": "0",
        }
        if rules.category == "spot":
            return row | {"usdIndexPrice": last}
        return row | {
            "indexPrice": last,
            "markPrice": last,
            "prevPrice1h": last,
            "openInterest": "0",
            "openInterestValue": "0",
            "fundingRate": "0.0001",
            "nextFundingTime": "0",
            "predictedDeliveryPrice": "",
            "basisRate": "",
            "deliveryFeeRate": "",
            "deliveryTime": "0",
        }

    def orderbook(self, rules: InstrumentRules, limit: int, now_ms: int) -> dict[str, Any]:
        """Return the result of `/v5/market/orderbook`; its `u` is that of the 1000-level stream."""
        instrument = self.instrument(rules.category, rules.symbol)
        bids, asks = instrument.window(limit)
        return {
            "s": rules.symbol,
            "b": json.loads(f"[{bids}]"),
            "a": json.loads(f"[{asks}]"),
            "ts": now_ms,
            "u": instrument.feed(1000).u,
            "seq": instrument.seq,
            "cts": instrument.cts,
        }
