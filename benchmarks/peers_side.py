"""What peers.py runs in the environment of nautilus_trader and hftbacktest: their books on exported files.

    python peers_side.py FILE.csv.gz...

Prints a line of JSON for each program: messages per second, and the best prices at the end of each file. What
is timed begins with the objects that each has in memory after loading: nautilus_trader's deltas grouped by
message, hftbacktest's array of events.
"""

import gzip
import json
import sys
import time
from itertools import groupby
from typing import Any

import hftbacktest  # type: ignore[import-not-found]
from hftbacktest.data.utils import tardis  # type: ignore[import-not-found]
from nautilus_trader.adapters.tardis.loaders import TardisCSVDataLoader  # type: ignore[import-not-found]
from nautilus_trader.model.book import OrderBook  # type: ignore[import-not-found]
from nautilus_trader.model.data import OrderBookDeltas  # type: ignore[import-not-found]
from nautilus_trader.model.enums import BookType  # type: ignore[import-not-found]
from nautilus_trader.model.identifiers import InstrumentId  # type: ignore[import-not-found]
from numba import njit  # type: ignore[import-not-found]

TICK, LOT = 0.01, 0.000001
PRICE_DIGITS, SIZE_DIGITS = 2, 6
END_OF_DATA, MARKET_FEED = 1, 2


def nautilus(path: str) -> tuple[float, int, list[float]]:
    """Apply the deltas message by message and ask for the best prices after each."""
    instrument = InstrumentId.from_str("BTC.BYBIT")
    deltas = TardisCSVDataLoader(
        price_precision=PRICE_DIGITS, size_precision=SIZE_DIGITS, instrument_id=instrument
    ).load_deltas(path)
    messages = [OrderBookDeltas(instrument, list(each)) for _, each in groupby(deltas, lambda d: d.ts_init)]
    book = OrderBook(instrument, BookType.L2_MBP)
    began = time.process_time()
    for message in messages:
        book.apply_deltas(message)
        book.best_bid_price()
        book.best_ask_price()
    took = time.process_time() - began
    return took, len(messages), [float(book.best_bid_price()), float(book.best_ask_price())]


@njit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _run(market: Any) -> tuple[int, float, float]:
    """Step from one message (all events of one local time) to the next and read the best prices."""
    steps = 0
    bid = ask = 0.0
    while market.wait_next_feed(False, 3_600_000_000_000) == MARKET_FEED:
        depth = market.depth(0)
        bid, ask = depth.best_bid, depth.best_ask
        steps += 1
    return steps, bid, ask


def _backtest(events: Any) -> Any:
    asset = (
        hftbacktest.BacktestAsset()
        .data(events)
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0)
        .tick_size(TICK)
        .lot_size(LOT)
    )
    return hftbacktest.HashMapMarketDepthBacktest([asset])


def hft(path: str) -> tuple[float, int, list[float]]:
    """Run the events through a backtest without orders."""
    with gzip.open(path) as lines:
        count = sum(1 for _ in lines)
    # Room for the events that it adds: one that clears each side at a snapshot.
    events = tardis.convert([path], buffer_size=2 * count)
    messages = len(set(events["local_ts"].tolist()))
    compiled = _backtest(events[:1000].copy())
    _run(compiled)  # compiles it
    compiled.close()
    market = _backtest(events)
    began = time.process_time()
    _, bid, ask = _run(market)
    took = time.process_time() - began
    market.close()
    return took, messages, [bid, ask]


def main() -> None:
    for name, run in (("nautilus_trader", nautilus), ("hftbacktest", hft)):
        results = [run(path) for path in sys.argv[1:]]
        print(
            json.dumps(
                {
                    "name": name,
                    "messages": sum(messages for _, messages, _ in results),
                    "seconds": sum(took for took, _, _ in results),
                    "best": [best for _, _, best in results],
                }
            )
        )


if __name__ == "__main__":
    main()
